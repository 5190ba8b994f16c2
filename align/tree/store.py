"""Prompt trees on disk: written as they are encoded, read in any order from a file mapped into memory.

The file is Arrow IPC, which pyarrow, pandas and `datasets` open. It has a column for each part of a tree, and three
columns of numbers from which the plan of a run is made without reading a tree. Writing and reading need memory for one
record batch and some bytes for each tree, however many trees there are.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa

from align.chat.protocol import starts_of
from align.files import whole_file
from align.tree.encode import PromptTree, Segment

FORMAT = "align prompt trees 1"
"""Written into each file and into its key: a file of another format is made again."""

BATCH_TREES = 1024
"""Trees in a record batch."""

_FORGET_READS = 64
"""After this many reads the process releases the pages that it has read; they stay in the system's cache. One read may
load some hundred kilobytes, since the system also maps the neighbors of a page."""

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("level", pa.string()),
        ("tokens", pa.int32()),
        ("labels", pa.int32()),  # tokens under the loss mask
        ("attended", pa.int64()),  # pairs of a token and a token that it sees
        ("lengths", pa.list_(pa.int32())),  # tokens of each branch
        ("prompt", pa.list_(pa.int32())),
        ("branches", pa.list_(pa.int32())),  # ids of all branches, one after the other, as are the masks
        ("loss_mask", pa.list_(pa.uint8())),
        ("contrast_mask", pa.list_(pa.uint8())),
    ]
)


def write_trees(path: Path, trees: Iterable[PromptTree], key: str) -> None:
    """Write trees to `path`, whole or not at all. key: see `write_batches`."""
    iterator = iter(trees)
    write_batches(path, map(batch_of, iter(lambda: list(islice(iterator, BATCH_TREES)), [])), key)


def write_batches(path: Path, batches: Iterable[pa.RecordBatch], key: str) -> None:
    """Write trees that are columns already (`batch_of`) to `path`, whole or not at all.

    batches: of any sizes.
    key: what the trees were made from; `stored_key` gives it back.
    """
    for left in path.parent.glob(f".{path.name}.*.part"):  # by a process that was killed while it wrote
        left.unlink()
    schema = _SCHEMA.with_metadata({"format": FORMAT, "key": key})
    with whole_file(path, "wb") as handle, pa.ipc.new_file(handle, schema) as writer:
        for batch in _full(batches):
            writer.write_batch(batch)


def _full(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same trees in batches of `BATCH_TREES`; the last one has the rest."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        while count >= BATCH_TREES:
            joined = _joined(waiting)
            yield joined.slice(0, BATCH_TREES)
            waiting, count = [joined.slice(BATCH_TREES)], count - BATCH_TREES
    if count:
        yield _joined(waiting)


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    (found,) = pa.Table.from_batches(batches, _SCHEMA).combine_chunks().to_batches()
    return found


def stored_key(path: Path) -> str | None:
    """The key of the trees at `path`; None if there is no such file."""
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            metadata = reader.schema.metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    return metadata.get(b"key", b"").decode() if metadata.get(b"format") == FORMAT.encode() else None


class TreeStore(Sequence[PromptTree]):
    """The trees of a file that `write_trees` made.

    A tree's arrays are views of the mapped file: nothing is copied, and they cannot be written to. The file may be
    removed while they are in use.
    """

    tokens: np.ndarray  # [trees] int64
    unshared_tokens: np.ndarray  # [trees] int64, tokens if each branch had a copy of the prompt
    labels: np.ndarray  # [trees] int64, tokens under the loss mask
    attended: np.ndarray  # [trees] int64, pairs of a token and a token that it sees

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key = stored_key(path)
        with path.open("rb") as handle:
            self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        self._map.madvise(mmap.MADV_RANDOM)  # or the system would read far beyond a tree
        reader = pa.ipc.open_file(pa.py_buffer(self._map))
        self._read = 0
        self._batches: list[pa.RecordBatch] = []
        numbers: dict[str, list[np.ndarray]] = {"tokens": [], "labels": [], "attended": []}
        copies: list[np.ndarray] = []
        for place in range(reader.num_record_batches):
            batch = reader.get_batch(place)
            self._batches.append(batch)
            for name, parts in numbers.items():
                parts.append(batch.column(name).to_numpy().astype(np.int64))
            prompts, branches = (np.diff(batch.column(name).offsets.to_numpy()) for name in ("prompt", "lengths"))
            copies.append(prompts.astype(np.int64) * (branches - 1))
            self._forget_now_and_then()
        rows = [batch.num_rows for batch in self._batches]
        assert set(rows[:-1]) <= {BATCH_TREES}, "all batches but the last are full"
        self._count: int = sum(rows)
        self.tokens, self.labels, self.attended = map(np.concatenate, numbers.values())
        self.unshared_tokens = self.tokens + np.concatenate(copies)
        self._views: dict[int, _Views] = {}

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> PromptTree: ...
    @overload
    def __getitem__(self, place: slice) -> list[PromptTree]: ...
    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if not -self._count <= place < self._count:
            raise IndexError(place)
        self._forget_now_and_then()
        number, row = divmod(place % self._count, BATCH_TREES)
        if number not in self._views:
            self._views[number] = _Views.of(self._batches[number])
        return self._views[number].tree(row)

    def __iter__(self) -> Iterator[PromptTree]:
        return (self[place] for place in range(len(self)))

    def _forget_now_and_then(self) -> None:
        self._read += 1
        if self._read % _FORGET_READS == 0:
            self._map.madvise(mmap.MADV_DONTNEED)


class _List(NamedTuple):
    """A list column: `values[starts[row] : starts[row + 1]]` is the row's."""

    starts: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, column: pa.ListArray) -> _List:
        return cls(column.offsets.to_numpy(), column.values.to_numpy())

    def __getitem__(self, row: Any) -> Any:
        return self.values[self.starts[row] : self.starts[row + 1]]


class _Views(NamedTuple):
    """The columns of one record batch."""

    ids: pa.StringArray
    levels: pa.StringArray
    lengths: _List
    prompts: _List
    branches: _List
    loss_masks: _List
    contrast_masks: _List

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> _Views:
        names = ("lengths", "prompt", "branches", "loss_mask", "contrast_mask")
        lists = [_List.of(batch.column(name)) for name in names]
        return cls(batch.column("id"), batch.column("level"), *lists)

    def tree(self, row: int) -> PromptTree:
        ids, loss_mask, contrast_mask = self.branches[row], self.loss_masks[row], self.contrast_masks[row]
        loss_mask, contrast_mask = loss_mask.view(bool), contrast_mask.view(bool)
        branches: list[Segment] = []
        start = 0
        for length in self.lengths[row].tolist():
            end = start + length
            branches.append(Segment(ids[start:end], loss_mask[start:end], contrast_mask[start:end]))
            start = end
        return PromptTree(self.ids[row].as_py(), self.prompts[row], tuple(branches), self.levels[row].as_py())


def batch_of(trees: Sequence[PromptTree]) -> pa.RecordBatch:
    """Trees as columns."""
    branches = [branch for tree in trees for branch in tree.branches]
    lengths = np.fromiter((len(branch.ids) for branch in branches), np.int64, len(branches))
    counts = np.fromiter((len(tree.branches) for tree in trees), np.int64, len(trees))
    prompts = np.fromiter((len(tree.prompt) for tree in trees), np.int64, len(trees))
    # Branches of the tree in row r: firsts[r] to firsts[r + 1]; tokens of branch b: starts[b] to starts[b + 1].
    firsts, starts = starts_of(counts), starts_of(lengths)
    of_tree = starts[firsts]
    loss_mask = _concatenated([branch.loss_mask for branch in branches], np.bool_)
    trained = starts_of(loss_mask)[of_tree]
    # Pairs of tokens in `PromptTree.attended`, for each branch: n * prompt + n * (n + 1) / 2.
    pairs = starts_of(lengths * np.repeat(prompts, counts) + lengths * (lengths + 1) // 2)[firsts]
    contrast_mask = _concatenated([branch.contrast_mask for branch in branches], np.bool_)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([tree.id for tree in trees], pa.string()),
            pa.array([tree.level for tree in trees], pa.string()),
            pa.array((prompts + np.diff(of_tree)).astype(np.int32)),
            pa.array(np.diff(trained).astype(np.int32)),
            pa.array(prompts * (prompts + 1) // 2 + np.diff(pairs)),
            _lists(lengths.astype(np.int32), firsts),
            _lists(_concatenated([tree.prompt for tree in trees], np.int32), starts_of(prompts)),
            _lists(_concatenated([branch.ids for branch in branches], np.int32), of_tree),
            _lists(loss_mask.view(np.uint8), of_tree),
            _lists(contrast_mask.view(np.uint8), of_tree),
        ],
        schema=_SCHEMA,
    )


def _concatenated(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _lists(values: np.ndarray, starts: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), pa.array(values))
