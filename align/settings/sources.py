"""Where records and rows come from, and what happens to those that cannot be used. Read by `align/records/`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from align.config import Section
from align.config_values import usable_path
from align.settings.paths import INPUT, InputPath


def _path_text(value: Any) -> Any:
    """A path as text, and a home folder written out; an address stays what it is."""
    if not isinstance(value, str | Path):
        return value
    return str(value) if "://" in str(value) else usable_path(str(value))


class RoundSelection(Section):
    """Which rounds of post-training rows are read of. Read by `align/records/selection.py`."""

    up_to: int = Field(ge=0)
    """Rows of this round and of all earlier ones. In a file of rounds: `"{round}"`."""
    latest: int | None = Field(None, gt=0)
    """Of these, rows of the last rounds only: with up_to 5, `latest: 2` reads rounds 4 and 5. None for all."""

    def __contains__(self, number: int) -> bool:
        return number <= self.up_to and (self.latest is None or number > self.up_to - self.latest)

    def __str__(self) -> str:
        """`up to 5`, `4 to 5` or `5`."""
        first = 0 if self.latest is None else max(0, self.up_to - self.latest + 1)
        if self.latest is None:
            return f"up to {self.up_to}"
        return f"{self.up_to}" if first == self.up_to else f"{first} to {self.up_to}"


class Source(Section):
    """Where records are read from: files, a folder of `datasets.save_to_disk`, or a dataset on the Hub.

    Read by `align/records/`. A path alone may be written as text; the other settings need this section.
    """

    path: Annotated[str, BeforeValidator(_path_text), INPUT] = Field(min_length=1)
    """A file (JSONL, JSON array, CSV, TSV, Parquet; each text form also as .gz), a pattern such as rows/*.jsonl, a
    folder, owner/name of a dataset on the Hub, or hf://datasets/owner/name/file. See docs/formats.md."""
    split: str | None = None
    """Which split of a folder or Hub dataset, such as `train`. Required if there is more than one."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""
    name: str | None = None
    """Configuration of a Hub dataset, such as `main`."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Renames columns: this project's name -> the name in the records, such as {prompt: question}."""
    ignore_columns: tuple[str, ...] = ()
    """Columns of the records to ignore."""
    rounds: RoundSelection | None = None
    """Read only rows of these rounds, by their column `round`; a row without one is a bad row. What else the files hold
    does not count: a stage of a finished round is not run again when rows of a later round are appended. None for all
    rows."""
    batches: tuple[str, ...] = ()
    """Read only rows of these batches, by their column `batch`; a row without one is a bad row. Empty for all rows."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """How often each row is used: 2 repeats every row, 0.5 keeps a seeded half, 1.5 repeats a seeded half."""

    @model_validator(mode="before")
    @classmethod
    def _a_path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        theirs = list(self.columns.values())
        for name in theirs:
            if theirs.count(name) > 1:
                raise ValueError(f"columns names the column {name!r} twice")
            if name in self.ignore_columns:
                raise ValueError(f"the column {name!r} is both in columns and in ignore_columns")
        return self

    @property
    def is_selective(self) -> bool:
        """Whether only some of the records are read: those of certain rounds or batches."""
        return self.rounds is not None or bool(self.batches)


def _form_of_source(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "<list>"
    # pathlib would turn hf://datasets into hf:/datasets
    return "<section>" if isinstance(value, dict | Source) or "://" in str(value) else "<path>"


def _not_empty(sources: tuple[Any, ...]) -> tuple[Any, ...]:
    if not sources:
        raise ValueError("names no file; give at least one")
    return sources


InputSource = Annotated[
    Annotated[InputPath, Tag("<path>")] | Annotated[Source, Tag("<section>")],
    Discriminator(lambda value: "<path>" if (form := _form_of_source(value)) == "<list>" else form),
]
"""One source of records: a path, or a section with split, columns and other settings."""


InputSources = Annotated[
    Annotated[InputPath, Tag("<path>")]
    | Annotated[Source, Tag("<section>")]
    | Annotated[tuple[InputSource, ...], AfterValidator(_not_empty), Tag("<list>")],
    Discriminator(_form_of_source),
]
"""One source of records, or a list of them."""


class BadRows(Section):
    """What to do with records that cannot be used. Included in every config that reads records."""

    bad_rows: Literal["stop", "drop"] = "stop"
    """stop: a record that cannot be read ends the run with an error that names file, line, field and reason. drop: it
    is dropped and counted by its reason. Start with stop, to learn what is wrong with the data."""


class Reading(BadRows):
    """What to do with records that become rows. Included in every config that reads rows."""

    duplicates: Literal["drop", "keep", "error"] = "drop"
    """Exact repeats of a row. drop: they are dropped and counted. keep: they are kept, each with an id of its own.
    error: the run ends."""
    ignore_columns: tuple[str, ...] = ()
    """Columns to ignore in the records of every source. Any other column that is neither read nor known to be
    harmless (docs/formats.md) makes its record a bad row."""
