"""One SFT file out of several: named sources with weights and limits, without duplicates and evaluation prompts."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from align.config import Section, dump
from align.jsonl import iterate_rows
from align.reporting import logger
from align.rows import SFTRow, row_id
from align.settings import InputPath
from data_builders.counted import Counted, evaluation_keys


class MixSource(Section):
    """One source of the mix."""

    path: InputPath | tuple[InputPath, ...]
    """JSONL of SFT rows: one file, or a list of files."""
    weight: float = Field(1.0, gt=0)
    """How often each row stands in the mix: 2 repeats every row, 0.5 keeps a seeded half."""
    limit: int | None = Field(None, gt=0)
    """At most so many rows before the weight acts, taken by a seeded shuffle."""


class SFTMixConfig(Section):
    """Named sources that become one `sft.jsonl`."""

    sources: dict[str, MixSource] = Field(min_length=1)
    """Name -> source. Of rows that say the same, the one of the source named first is kept."""
    evaluation: tuple[InputPath, ...] = ()
    """JSONL of evaluation prompts, of any kind of row. Rows that match one are dropped, and counted."""
    seed: int = 0
    """Limits, weights and the order of the rows."""


def build(config: SFTMixConfig, output: Path) -> Path:
    """Write `sft.jsonl` into the folder `output`, and return the folder. The manifest counts rows by source name."""
    mixed: Counted[SFTRow] = Counted()
    origin: dict[str, str] = {}
    paths: list[Path] = []
    for name, source in config.sources.items():
        for path in [source.path] if isinstance(source.path, Path) else source.path:
            paths.append(path)
            for row in iterate_rows(path, SFTRow):
                row = row if row.id not in origin else row.model_copy(update={"id": row_id(name, str(path), row.id)})
                origin[row.id] = name
                mixed.keep(row)
    mixed.drop_duplicates()
    mixed.drop_matches(evaluation_keys(config.evaluation))
    by_source: dict[str, Counted[SFTRow]] = {name: Counted() for name in config.sources}
    for row in mixed.rows:
        by_source[origin[row.id]].keep(row)
    mixed.rows = []
    for name, part in by_source.items():
        source = config.sources[name]
        part.limit(source.limit, config.seed)
        part.weigh(source.weight, config.seed)
        mixed.add(part)
    mixed.shuffle(config.seed)
    mix = {name: len(part.rows) for name, part in by_source.items()}
    mixed.write(output / "sft.jsonl", config=dump(config), inputs=[*paths, *config.evaluation], notes={"mix": mix})
    logger("data_builders").info("%-20s %s: %s", "sft mix", mixed.summary(), mix)
    return output
