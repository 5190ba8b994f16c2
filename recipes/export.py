"""Write rows in the form of another toolkit: TRL, OpenAI, ShareGPT (LLaMA-Factory), or Parquet.

python recipes/export.py runs/rehearsal/data/preferences.jsonl --to trl

The first argument may be the rows themselves, or a YAML file as for every recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from align.config import Recipe, dump, main
from align.settings import InputSources, OutputPath, Reading


class ExportRecipe(Recipe, Reading):
    """Rows as a file that others train on. What the form has no place for is counted, and said at the end."""

    argument: ClassVar[str] = "rows"

    rows: InputSources
    """The rows: a file, a Hub dataset, or a list of them, in any form that is read (docs/formats.md)."""
    to: Literal["trl", "openai", "sharegpt", "parquet"]
    """trl: JSON lines of TRL's conversational forms. openai: those of OpenAI's fine-tuning API. sharegpt: conversations
    as LLaMA-Factory and axolotl read them. parquet: the rows as they are, every field, for `datasets`."""
    output: OutputPath | None = None
    """The file to write. None: next to the rows, `sft.trl.jsonl` for `sft.jsonl`. Required if the rows are not one
    file."""
    kind: Literal["auto", "sft", "preferences"] = "auto"
    """What the rows are. auto: decided by the first row. A record that can be read as either is a preference row."""
    train_on: Literal["final", "all"] = "final"
    """Which messages of a dialog are the target, as sft.train_on. final: trl has prompt and completion, openai has
    weight 0 on earlier answers. all: trl has messages, and openai no weights."""
    inexact: Literal["keep", "drop"] = "keep"
    """Rows that the other toolkit would train on differently, because its form cannot mask a message or hold a third
    completion. keep: they are written and counted. drop: they are dropped and counted."""


def run(recipe: ExportRecipe) -> Path:
    """Write the file and its manifest, and return the file."""
    from align.records import inputs_of
    from align.row_export import export_rows

    return export_rows(
        recipe.rows,
        recipe.to,
        recipe.output,
        kind=recipe.kind,
        train_on=recipe.train_on,
        inexact=recipe.inexact,
        reading=recipe,
        config=dump(recipe),
        inputs=inputs_of(recipe),
    )


if __name__ == "__main__":
    main(ExportRecipe, run)
