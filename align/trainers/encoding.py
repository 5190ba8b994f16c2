"""Encode records in several processes: what each of them does, and how their results come back in order.

Records are cut into chunks, in the order of the sources. A chunk becomes rows and trees in whichever process is free;
what depends on the rows before it (repeats, ids, what is held out, counts) is decided afterwards by the first process,
chunk by chunk. So the file of trees has the same bytes with any number of processes:

    records      r0 r1 r2 | r3 r4 r5 | r6 r7            read by the first process
    process A    chunk 0              chunk 2           rows, token ids, masks, columns
    process B    chunk 1
    first        chunk 0, chunk 1, chunk 2              r4 repeats r1: dropped; all others are written
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from align.chat.protocol import ChatProtocol
from align.errors import AlignError, RowError, StageError
from align.hardware import cpus_of_process
from align.jsonl import Found, LeftOut, Read, content_of, row_from
from align.rows import Messages, PreferenceRow, Row, SFTRow
from align.settings import TreeDataConfig
from align.splits import part_of, prompt_identity
from align.tree.encode import CHUNK_ROWS, AskOf, Dropped, PromptTree, encode_rows
from align.tree.store import batch_of

ROWS_OF_A_PROCESS = 8192
"""With fewer rows for each, another process takes longer to start than it saves: it imports the tokenizer's library and
reads a vocabulary."""
CHUNK_BYTES = 8 * 2**20
"""A chunk of lines ends after this many bytes, or after `CHUNK_ROWS` rows."""
_AHEAD = 2
"""Chunks for each process that are read before their turn."""

Item = Found | LeftOut | AlignError
"""Records of a chunk. An error belongs to the records that would come next."""


class EncodedRow(NamedTuple):
    """What is known of a row, apart from its tree."""

    read: Read
    held_out: bool
    """By the hash of its prompt, with `Encoder.ratio`."""
    dropped: Dropped | None
    """Why it has no tree; None if it has one."""


class EncodedChunk(NamedTuple):
    """What became of the records of a chunk."""

    rows: list[EncodedRow | RowError]
    """One for each `Found`, in order."""
    trees: pa.RecordBatch
    """Of the rows that have one, in order."""


@dataclass(frozen=True)
class Encoder:
    """All that a process needs to make trees of records."""

    kind: type[Row]
    ask_of: AskOf
    protocol: ChatProtocol
    data: TreeDataConfig
    ratio: float | None
    """The ratio of the prompts that is held out; None for none."""
    seed: int

    def encode(self, items: Sequence[Item]) -> EncodedChunk:
        """The rows and trees of a chunk, in one call of the tokenizer."""
        read: list[tuple[Row, bool] | RowError] = []
        for item in items:
            if isinstance(item, Found):
                try:
                    read.append(row_from(item.entry, self.kind, item.where, self.data.ignore_columns))
                except RowError as error:
                    read.append(error)
        found = encode_rows(
            [each[0] for each in read if isinstance(each, tuple)], self.ask_of, self.protocol, self.data
        )
        rows: list[EncodedRow | RowError] = []
        trees: list[PromptTree] = []
        for each in read:
            if isinstance(each, RowError):
                rows.append(each)
                continue
            row, ours = each
            tree = next(found)
            if isinstance(tree, PromptTree):
                trees.append(tree)
            dropped = tree if isinstance(tree, Dropped) else None
            rows.append(EncodedRow(Read(row.id, content_of(row), ours), self._is_held_out(row), dropped))
        return EncodedChunk(rows, batch_of(trees))

    def _is_held_out(self, row: Row) -> bool:
        if self.ratio is None:
            return False
        return part_of(prompt_identity(_messages_of(row)), (self.ratio,), self.seed) == 0


def _messages_of(row: Row) -> Messages:
    assert isinstance(row, SFTRow | PreferenceRow), "other rows are not trained on"
    return row.messages if isinstance(row, SFTRow) else row.prompt


def processes_for(data: TreeDataConfig, rows: int) -> int:
    """How many processes encode that many records: `data.encode_processes`, or the CPUs that this process has."""
    if data.encode_processes is not None:
        return data.encode_processes
    return max(1, min(cpus_of_process(), rows // ROWS_OF_A_PROCESS))


def in_chunks(records: Iterator[Found | LeftOut]) -> Iterator[list[Item]]:
    """Records in chunks. An error in reading them ends the last chunk, so that errors come in the order of the records.

    Where a chunk ends depends on the records alone.
    """
    chunk: list[Item] = []
    rows = size = 0
    try:
        for record in records:
            chunk.append(record)
            if isinstance(record, Found):
                rows += 1
                size += len(record.entry) if isinstance(record.entry, bytes) else 0
            if rows >= CHUNK_ROWS or size >= CHUNK_BYTES:
                yield chunk
                chunk, rows, size = [], 0, 0
    except AlignError as error:
        chunk.append(error)
    if chunk:
        yield chunk


def encoded(
    encoder: Encoder, chunks: Iterable[list[Item]], processes: int
) -> Iterator[tuple[list[Item], EncodedChunk]]:
    """Each chunk with what became of its records, in order. processes: 1 for this process alone.

    Raises what `Encoder.encode` raises, and StageError if a process is killed.
    """
    gc.freeze()  # see `_begin`
    try:
        yield from _encoded(encoder, chunks, processes)
    finally:
        gc.unfreeze()


def _encoded(
    encoder: Encoder, chunks: Iterable[list[Item]], processes: int
) -> Iterator[tuple[list[Item], EncodedChunk]]:
    if processes == 1:
        for chunk in chunks:
            yield chunk, encoder.encode(chunk)
        return
    # Spawned: forked processes would share open files, the threads of torch and a context of CUDA.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(encoder,))
    waiting: deque[tuple[list[Item], Future[EncodedChunk]]] = deque()
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_encode, chunk)))
            if len(waiting) > _AHEAD * processes:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    except BrokenProcessPool:
        what = f"one of the {processes} processes that encode rows was killed, perhaps for want of memory"
        how = "Set data.encode_processes to a smaller number; the same command starts encoding again"
        raise StageError("data.encode_processes", what, how) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _next(waiting: deque[tuple[list[Item], Future[EncodedChunk]]]) -> tuple[list[Item], EncodedChunk]:
    chunk, future = waiting.popleft()
    return chunk, future.result()


_encoder: Encoder
"""Of this process, if it is one of a pool."""


def _begin(encoder: Encoder) -> None:
    global _encoder
    _encoder = encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process is one thread's worth
    gc.freeze()  # or each full collection walks the million objects of imported libraries: a third of the time
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process with the one that started it. If that one was killed, nothing else would."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)


def _encode(chunk: list[Item]) -> EncodedChunk:
    return _encoder.encode(chunk)
