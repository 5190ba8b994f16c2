"""Runs rows of any number through the steps of the quality pipeline: in shards, by several processes, resumable.

    sources -> pass 0: read, examine (one file for each shard) -> choose -> pass 1: examine ... -> Outcome

Rows are numbered over all sources. Shard s is the rows s * shard_rows to (s + 1) * shard_rows of one source. A process
reads a shard, has the steps examine it, and writes one Arrow file with the rows, with what became of each of them, and
with the columns that the steps keep. Which process takes which shard is up to the engine (`shards.py`): with the local
one, any number of processes, on any nodes that share the folder, work on the same shards and then make the same
choices; with Ray, one process hands them out. The result is the same for one process and for several, and after any of
them was killed.

In memory are the rows of one shard, and some 40 bytes for each row of all shards while a step chooses.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from blake3 import blake3
from numpy.typing import NDArray

from align.errors import RowError, UnusableRow
from align.files import fingerprint_of
from align.jsonl import REPEATED, SAME_ID, reason_of, row_from
from align.records import Entry, SourceLike, count_of, entries_of, identities_of, label_of, sources_of
from align.rows import Row
from align.settings import Source
from align.source_code import code_of
from data_builders.quality.shards import Engine, ShardFiles, claimed_shards
from data_builders.quality.steps import Choice, Drop, ExaminedRows, Kept, Step

R = TypeVar("R", bound=Row)

READING = "reading"
"""The gate of rows that cannot be read, or that have the id of another row."""

_TEXT = pa.string()
_OF_EACH_ROW = pa.schema(
    [
        ("where", _TEXT),  # path:line
        ("id", _TEXT),
        ("source", _TEXT),
        ("row", _TEXT),  # JSON; null if there is none
        ("id_hash", pa.uint64()),
        ("content", pa.uint64()),  # a hash of all but id and source
    ]
)
_OF_EACH_DROP = pa.schema([("gate", _TEXT), ("reason", _TEXT), ("detail", _TEXT), ("cause", _TEXT)])


_BATCH_ROWS = 512


class Decision(NamedTuple):
    """What became of one row."""

    where: str
    id: str
    source: str
    file: str
    """The name of its source in the config, after which the file is named that its kept rows are in."""
    row: str
    """Its JSON text; empty for a record that cannot be read."""
    gate: str
    """The step that dropped it; empty if it is kept."""
    reason: str = ""
    detail: str = ""
    cause: str = ""
    tags: Mapping[str, str] = {}
    """What steps say about it, by name, such as its topic."""


class Job(NamedTuple, Generic[R]):
    """What is read, as what, and where the shards are."""

    sources: Mapping[str, SourceLike | Sequence[SourceLike]]
    """By their names in the config."""
    kind: type[R]
    folder: Path
    shard_rows: int = 4096
    bad_rows: Literal["stop", "drop"] = "stop"
    ignore_columns: tuple[str, ...] = ()


class _Slice(NamedTuple):
    """The records of a shard: of which source, from which record on, and how many."""

    source: int
    first: int
    rows: int


class Pipeline(Generic[R]):
    """The passes over the rows, and what comes out of them."""

    def __init__(self, job: Job[R], steps: Sequence[Step], engine: Engine = claimed_shards) -> None:
        self._job, self._steps, self._engine = job, steps, engine
        named = [(name, source) for name, given in job.sources.items() for source in sources_of(given)]
        self._names, self._sources = [name for name, _ in named], [source for _, source in named]
        for source in self._sources:
            if source.weight != 1:
                what = f"is {source.weight:g}; the rows are cleaned before they are weighed"
                raise RowError(f"{source.path}: weight", what, "Remove weight, and weigh the rows that come out")
        self._slices = [part for number, source in enumerate(self._sources) for part in self._parts(number, source)]
        self.starts: NDArray[np.int64] = np.cumsum([0, *(part.rows for part in self._slices)])
        self._passes: list[tuple[list[Step], ShardFiles]] = []
        self._choices: list[tuple[str, Choice]] = []
        self._tagging: list[tuple[Step, ExaminedRows]] = []
        self.kept: Kept = np.ones(int(self.starts[-1]), bool)
        """[rows]: whether the row is kept, after `complete`."""

    def complete(self) -> None:
        """Examine all shards that are not examined yet, together with other processes, and choose."""
        self._plan_passes()
        reader = _Reader(self._sources)
        for number, (steps, files) in enumerate(self._passes):
            if number == 0:
                files.complete(lambda shard: self._read_and_examine(reader, shard), "reading and rules")
            else:
                files.complete(lambda shard, steps=steps: self._examine_again(steps, shard), steps[0].name)  # type: ignore[misc]
            for shard in range(files.count):
                dropped = files.column(shard, "gate").is_valid().to_numpy(zero_copy_only=False)
                self.kept[self.starts[shard] : self.starts[shard + 1]] &= ~dropped
            if number == 0:
                self._choose(READING, self._repeated_ids(files))
            for step in steps:
                data = ExaminedRows(step.name, self._rows, files, self.starts, self.kept)
                self._choose(step.name, step.choose(data))
                step.release()
                if step.tag_names:
                    self._tagging.append((step, data))

    @property
    def gates(self) -> list[str]:
        """The names of all gates, in their order."""
        return [READING, *(step.name for step in self._steps)]

    @property
    def names(self) -> list[str]:
        """The names of the sources in the config."""
        return list(self._job.sources)

    @property
    def tag_names(self) -> list[str]:
        """The names of the tags that steps give."""
        return [name for step in self._steps for name in step.tag_names]

    @property
    def inputs(self) -> dict[str, str]:
        """Label of each source -> what tells its content apart."""
        return identities_of(self._sources)

    def decisions(self) -> Iterator[Decision]:
        """What became of each row, in the order of the sources."""
        ids = self._ids_of_causes()
        choices = [(gate, choice, np.argsort(choice.numbers)) for gate, choice in self._choices]
        for shard in range(len(self._slices)):
            first, end = int(self.starts[shard]), int(self.starts[shard + 1])
            chosen: dict[int, tuple[str, Drop]] = {}
            for gate, choice, order in choices:
                low, high = np.searchsorted(choice.numbers, [first, end], sorter=order)
                for place in order[low:high]:
                    cause = "" if choice.causes is None else ids[int(choice.causes[place])]
                    detail = "" if choice.details is None else choice.details[place]
                    chosen[int(choice.numbers[place])] = gate, Drop(choice.reason, detail, cause)
            yield from self._decisions_of(shard, first, chosen)

    def notes(self) -> dict[str, Any]:
        """Name of a step -> what it says in addition to its counts."""
        found = {step.name: step.notes() for step in self._steps}
        return {name: notes for name, notes in found.items() if notes}

    @property
    def _rows(self) -> ShardFiles:
        return self._passes[0][1]

    def _parts(self, number: int, source: Source) -> Iterator[_Slice]:
        count = count_of(source)
        if count == 0:
            next(entries_of(source), None)  # raises RowError, unless its manifest says that it has no rows
        for first in range(0, count, self._job.shard_rows):
            yield _Slice(number, first, min(self._job.shard_rows, count - first))

    def _plan_passes(self) -> None:
        """Group the steps, and find the folder of each pass by all that its files depend on.

        Folders of other settings or rows are deleted: they would only fill the disk.
        """
        groups: list[list[Step]] = [[]]
        for step in self._steps:
            if step.starts_pass and groups[-1]:
                groups.append([])
            groups[-1].append(step)
        job = self._job
        key: list[Any] = [
            [identities_of(self._sources), [source.model_dump_json(exclude={"path"}) for source in self._sources]],
            [job.kind.__name__, job.shard_rows, job.bad_rows, job.ignore_columns],
            code_of("data_builders.quality.pipeline"),
        ]
        self._passes = []
        for group in groups:
            key += [[step.name, step.settings(), code_of(type(step).__module__)] for step in group]
            work = fingerprint_of(json.dumps(key, sort_keys=True, default=str))
            self._passes.append((group, ShardFiles(job.folder / work[:16], work, len(self._slices), self._engine)))
        used = {files.folder for _, files in self._passes}
        for old in job.folder.glob("[0-9a-f]" * 16):
            if old not in used:
                shutil.rmtree(old, ignore_errors=True)

    def _read_and_examine(self, reader: _Reader, shard: int) -> pa.Table:
        job, part = self._job, self._slices[shard]
        rows: list[R | None] = []
        columns: dict[str, list[Any]] = {name: [] for name in _OF_EACH_ROW.names}
        drops: dict[int, tuple[str, Drop]] = {}
        for place, (where, entry) in enumerate(reader.read(part)):
            try:
                row, _ = row_from(entry, job.kind, where, job.ignore_columns)
            except UnusableRow as error:
                row, drops[place] = None, (READING, Drop(error.reason, str(error)))
            except RowError as error:
                if job.bad_rows == "stop":
                    raise
                row, drops[place] = None, (READING, Drop(f"bad row: {reason_of(error)}", str(error)))
            rows.append(row)
            for name, value in _columns_of(row, where).items():
                columns[name].append(value)
        if len(rows) != part.rows:
            source = label_of(self._sources[part.source])
            raise RowError(source, f"has fewer than {part.first + part.rows} rows now", "Do not change it meanwhile")
        table = pa.table(columns, schema=_OF_EACH_ROW)
        for name, column in self._examined(self._passes[0][0], rows, drops).items():
            table = table.append_column(name, column)
        return table

    def _examine_again(self, steps: Sequence[Step], shard: int) -> pa.Table:
        first, texts = int(self.starts[shard]), self._rows.column(shard, "row")
        kept = self.kept[first : int(self.starts[shard + 1])]
        rows = [
            self._job.kind.model_validate_json(texts[place].as_py()) if is_kept else None
            for place, is_kept in enumerate(kept)
        ]
        return pa.table(self._examined(steps, rows, {}))

    def _examined(
        self, steps: Sequence[Step], rows: Sequence[R | None], drops: dict[int, tuple[str, Drop]]
    ) -> dict[str, pa.Array]:
        """The columns of all steps, and why rows are dropped. A step sees the rows that the steps before it keep.

        Steps that look at the same texts take turns after a few rows each: what one of them has normalized is then
        still at hand (`align.text.normalize`). A step with a model sees the whole shard.
        """
        found: dict[str, list[pa.Array]] = {}
        size = max(len(rows), 1) if steps[0].starts_pass else _BATCH_ROWS
        for start in range(0, max(len(rows), 1), size):
            batch = range(start, min(start + size, len(rows)))
            for step in steps:
                places = [place for place in batch if rows[place] is not None and place not in drops]
                examined = step.examine([row for place in places if (row := rows[place]) is not None])
                drops |= {places[among]: (step.name, drop) for among, drop in examined.drops.items()}
                among_places = pa.array(_places_among(places, batch), pa.int64())
                for name, column in examined.columns.items():
                    found.setdefault(f"{step.name}.{name}", []).append(column.take(among_places))
        columns = {name: pa.concat_arrays(parts) for name, parts in found.items()}
        listed = [drops.get(place) for place in range(len(rows))]
        columns["gate"] = pa.array([each and each[0] for each in listed], _TEXT)
        for name in _OF_EACH_DROP.names[1:]:
            columns[name] = pa.array([each and getattr(each[1], name) for each in listed], _TEXT)
        return columns

    def _choose(self, gate: str, choices: Sequence[Choice]) -> None:
        for choice in choices:
            if len(choice.numbers):
                assert self.kept[choice.numbers].all(), f"{gate} drops rows that were dropped before"
                self.kept[choice.numbers] = False
                self._choices.append((gate, choice))

    def _repeated_ids(self, files: ShardFiles) -> list[Choice]:
        """Rows with the id of a row before them: with the same content they are repeats, with another one bad rows."""
        data = [files.column(shard, "id_hash").fill_null(0).to_numpy() for shard in range(files.count)]
        ids = np.concatenate([np.zeros(0, np.uint64), *data])
        numbers = np.flatnonzero(self.kept)
        order = numbers[np.argsort(ids[numbers], kind="stable")]
        firsts = first_of_each(ids[order])
        again = firsts != np.arange(len(order))
        later, earlier = order[again], order[firsts[again]]
        if not len(later):
            return []
        parts = [files.column(shard, "content").fill_null(0).to_numpy() for shard in range(files.count)]
        contents = np.concatenate(parts)
        same = contents[later] == contents[earlier]
        if not same.all() and self._job.bad_rows == "stop":
            number = int(later[~same].min())
            other = int(earlier[later == number][0])
            (name, here), (_, there) = self._place_of(number), self._place_of(other)
            what = f"{name!r} is already the id of another row, {there}"
            raise RowError(f"{here}: id", what, "Give each row its own id, or set bad_rows: drop")
        return [
            Choice(REPEATED, later[same], earlier[same]),
            Choice(SAME_ID, later[~same], earlier[~same]),
        ]

    def _place_of(self, number: int) -> tuple[str, str]:
        """Id and place of a row."""
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        place = number - int(self.starts[shard])
        id_of, where = (self._rows.column(shard, name)[place].as_py() for name in ("id", "where"))
        return id_of, where

    def _ids_of_causes(self) -> dict[int, str]:
        """Number -> id of the rows that others are dropped for."""
        causes = [choice.causes for _, choice in self._choices if choice.causes is not None]
        numbers = np.unique(np.concatenate([np.zeros(0, np.int64), *causes]))
        found: dict[int, str] = {}
        for shard in range(len(self._slices)):
            low, high = np.searchsorted(numbers, self.starts[shard : shard + 2])
            if low < high:
                ids = self._rows.column(shard, "id")
                first = int(self.starts[shard])
                found |= {int(number): ids[int(number) - first].as_py() for number in numbers[low:high]}
        return found

    def _decisions_of(self, shard: int, first: int, chosen: Mapping[int, tuple[str, Drop]]) -> Iterator[Decision]:
        table = self._rows.table(shard)
        rows = zip(*(table.column(name).to_pylist() for name in ("where", "id", "source", "row")), strict=True)
        examined = [
            list(zip(*(files.table(shard).column(name).to_pylist() for name in _OF_EACH_DROP.names), strict=True))
            for _, files in self._passes
        ]
        file = self._names[self._slices[shard].source]
        tagged = [column for step, data in self._tagging for column in step.tags(data, shard).items()]
        for place, (where, name, source, row) in enumerate(rows):
            here = where, name or "", source or "", file, row or ""
            tags = {tag: value for tag, values in tagged if (value := values[place]) is not None}
            found = next((drops[place] for drops in examined if drops[place][0] is not None), None)
            if found is not None:
                gate, reason, detail, cause = found
                yield Decision(*here, gate, reason, detail, cause, tags)
            elif first + place in chosen:
                gate, drop = chosen[first + place]
                yield Decision(*here, gate, drop.reason, drop.detail, drop.cause, tags)
            else:
                yield Decision(*here, "", tags=tags)


def _places_among(places: Sequence[int], batch: range) -> list[int | None]:
    """For each place of a batch its number among `places`: 4 and 6 of the batch 4, 5, 6 give 0, None, 1."""
    numbers = {place: number for number, place in enumerate(places)}
    return [numbers.get(place) for place in batch]


def first_of_each(ordered: NDArray[Any]) -> NDArray[np.int64]:
    """For each place of a sorted array the first place with the same value: [3, 3, 5, 7, 7] gives [0, 0, 2, 3, 3]."""
    is_first = np.ones(len(ordered), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    found: NDArray[np.int64] = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    return found


class _Reader:
    """Reads slices of sources. The source that is open stays open, so slices in their order cost one reading of it."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._open: Iterator[tuple[str, Entry]] = iter(())
        self._source, self._next = -1, 0

    def read(self, part: _Slice) -> Iterator[tuple[str, Entry]]:
        if part.source != self._source or part.first < self._next:
            self._open = entries_of(self._sources[part.source])
            self._source, self._next = part.source, 0
        skipped = part.first - self._next
        self._next = part.first + part.rows
        return islice(self._open, skipped, skipped + part.rows)


def _columns_of(row: Row | None, where: str) -> dict[str, Any]:
    if row is None:
        return {name: where if name == "where" else None for name in _OF_EACH_ROW.names}
    content = row.model_dump_json(exclude={"id", "source"}, exclude_defaults=True)
    return {
        "where": where,
        "id": row.id,
        "source": row.source,
        "row": row.model_dump_json(exclude_defaults=True),
        "id_hash": number_of(row.id),
        "content": number_of(content),
    }


def number_of(text: str) -> int:
    """64 bits of the BLAKE3 of a text. Two of a million texts have the same one with a probability of 3e-8."""
    return int.from_bytes(blake3(text.encode("utf-8", "surrogatepass")).digest(length=8), "little")
