"""What a step of the quality pipeline is: it looks at rows, and says which of them are dropped and why.

A step has two parts, and may have either alone:

    examine    sees the rows of one shard, in any process. It drops rows for what they are (a rule), and keeps columns
               of the others for the second part (a hash, a score, an embedding)
    choose     sees the columns of all rows that are still kept, and drops rows because of others (duplicates, shares)

A step may also tag rows (a topic, a grade) without dropping any; the tags are in the files next to the decisions.

To add a step, write a class with these two methods, and add it to `steps_of` in `data_builders/quality/builder.py`.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from align.rows import Row

if TYPE_CHECKING:
    from data_builders.quality.shards import ShardFiles


Kept = NDArray[np.bool_]


class Drop(NamedTuple):
    """Why a row is dropped."""

    reason: str
    """What is counted: the same text for all rows with the same fault."""
    detail: str = ""
    """What was found in this row."""
    cause: str = ""
    """The id of what the row is dropped for: the kept duplicate, or the evaluation prompt."""


class Examined(NamedTuple):
    """What a step found in the rows of a shard."""

    drops: Mapping[int, Drop]
    """Place of a row among the given ones -> why it is dropped."""
    columns: Mapping[str, pa.Array] = {}
    """Name -> what the step keeps of each given row. Values of dropped rows are ignored. An array has the same type for
    any rows, also for none. Rows have no column of their texts here: those are in the shard's file already."""


class Choice(NamedTuple):
    """Rows that a step drops because of other rows."""

    reason: str
    numbers: NDArray[np.int64]
    """The rows, by their numbers over all sources."""
    causes: NDArray[np.int64] | None = None
    """For each of them the number of the kept row that it repeats."""
    details: Sequence[str] | None = None
    """For each of them what was found."""


class Step(ABC):
    """One gate. Made once in each process, from its settings."""

    name: str
    """Of the gate, in counts and decisions."""
    starts_pass = False
    """Whether the rows are examined only after all choices of the steps before are made, and not together with these
    steps: for a step that costs more than to read the rows again, such as one with a model."""

    models: tuple[str, ...] = ()
    """The cached properties that hold models."""
    tag_names: tuple[str, ...] = ()
    """What the step says about rows, by name: the names of `tags`."""

    def settings(self) -> dict[str, Any]:
        """All that the results depend on in addition to the rows and the code, as JSON values."""
        return {}

    def examine(self, rows: Sequence[Row]) -> Examined:
        """Drop rows of a shard for what they are, and keep columns for `choose`.

        The result for a row must not depend on the other rows, nor on the process.
        """
        return Examined({})

    def choose(self, data: ExaminedRows) -> list[Choice]:
        """Drop rows because of others. Every process makes the same choice; work that takes long is shared with
        `data.units`.
        """
        return []

    def release(self) -> None:
        """Free the models that `examine` loaded; it is called once the step has chosen."""
        for name in self.models:
            self.__dict__.pop(name, None)

    def tags(self, data: ExaminedRows, shard: int) -> Mapping[str, Sequence[str | None]]:
        """What the step says about each row of a shard, once it has chosen: for each of `tag_names`. None for rows
        that it was not given, and where it could not tell.
        """
        return {}

    def notes(self) -> dict[str, Any]:
        """What the manifest says of the step in addition to its counts, once it has chosen."""
        return {}


class ExaminedRows:
    """All rows, in the order of the sources, as a step's `choose` sees them. Nothing of a row's text is in memory."""

    def __init__(self, step: str, rows: ShardFiles, files: ShardFiles, starts: NDArray[np.int64], kept: Kept) -> None:
        """rows: the files with the rows themselves. files: those with the columns of the step's pass."""
        self._step, self._rows, self._files = step, rows, files
        self.starts = starts
        """[shards + 1]: shard s has the rows starts[s] to starts[s + 1]."""
        self.kept = kept
        """[rows]: whether the row is kept by all steps before this one. Not to be written to."""

    @property
    def shards(self) -> int:
        return len(self.starts) - 1

    def shard_of(self, number: int) -> int:
        """The shard that a row is in."""
        return int(np.searchsorted(self.starts, number, side="right")) - 1

    def column(self, name: str, shard: int) -> pa.Array:
        """What `examine` kept of the rows of a shard under `name`; null for rows that were dropped."""
        return self._files.column(shard, f"{self._step}.{name}")

    def numbers(self, name: str) -> NDArray[Any]:
        """A column of numbers, of all rows: [rows]. Rows without a value have 0."""
        parts = [self.column(name, shard).fill_null(0).to_numpy(zero_copy_only=False) for shard in range(self.shards)]
        return np.concatenate(parts)

    def rows(self, shard: int) -> Iterator[tuple[int, str]]:
        """Number and JSON text of each row of a shard that is kept."""
        texts = self._rows.column(shard, "row")
        first = int(self.starts[shard])
        for place in np.flatnonzero(self.kept[first : int(self.starts[shard + 1])]):
            yield first + int(place), texts[int(place)].as_py()

    def units(self, name: str, count: int) -> ShardFiles:
        """Files for work of the step that processes share, see `ShardFiles.complete`. They may depend on `kept`."""
        from data_builders.quality.shards import ShardFiles

        files = self._files
        return ShardFiles(files.folder / f"{self._step}-{name}", files.work, count, files.engine)
