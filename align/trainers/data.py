"""Encode the rows on disk as trees: once, by one process, into a file of the run that all processes read.

Rows, tokens and trees stream through; what stays in memory is some bytes a row. Rows that are held out for validation
have a file of their own.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from align.chat.protocol import ChatProtocol
from align.effective_time import ENCODING, begun_clock
from align.errors import AlignError, RowError
from align.files import fingerprint_of, whole_file
from align.jsonl import Admission, Drops, LeftOut, count_rows, found_records
from align.manifest import SEAL, code_fingerprint
from align.records import identities_of, key_of, sources_of
from align.reporting import Progress, duration, logger
from align.rows import PreferenceRow, SFTRow
from align.settings import PreferenceDataConfig, SFTConfig, TrainingConfig, TreeDataConfig
from align.trainers.encoding import Encoder, encoded, in_chunks, processes_for
from align.trainers.output import CHECKPOINT
from align.trainers.processes import Processes
from align.tree.encode import Dropped, PromptTree, count_dropped, preference_ask, require_trees, sft_ask
from align.tree.store import FORMAT, TreeStore, stored_key, write_batches

log = logger(__name__)

TREES = "trees.arrow"
"""In the run's folder until the run is finished."""

DROPPED = "dropped.json"
"""What was dropped and why, and from which inputs."""

EVAL_TREES, EVAL_DROPPED = "eval_trees.arrow", "eval_dropped.json"
"""The same of the held-out rows."""

STAGES = ("sft", "dpo", "reward")
"""The recipes that train."""

HELD_OUT = "held out for validation"
"""Why a row is not trained on with `data.eval_ratio`, in the record of what was dropped."""

POLL_SECONDS = 0.2
SAY_SECONDS = 60.0
"""How often a process that waits for another's file says so."""


@dataclass(frozen=True)
class Part:
    """Some of a run's rows, which make one file of trees: those that are trained on, or those that are held out."""

    sources: Any
    """The setting `data.path` or `data.eval_path`."""
    limit: int | None
    """Read this many records of the sources: a seeded choice. None for all."""
    ratio: float | None = None
    """The ratio of the prompts of these sources that is held out; None for none."""
    held_out: bool = False
    most: int | None = None
    """Keep this many held-out rows; None for all."""

    @property
    def names(self) -> tuple[str, str]:
        """Of the file of trees and of the record of what was dropped."""
        return (EVAL_TREES, EVAL_DROPPED) if self.held_out else (TREES, DROPPED)

    def rows_of(self, rows: Iterable[_Row], seed: int, drops: Drops) -> Iterable[_Row]:
        """The rows of this part among those of its sources.

        A prompt is held out by its hash, as `align/splits.py` has it, and `most` rows are those with the smallest
        hashes of their ids: neither choice depends on how many other rows there are.
        """
        if self.ratio is not None:
            rows = self._of_this_side(rows, drops)
        return rows if self.most is None else _with_smallest_hashes(rows, self.most, seed)

    def _of_this_side(self, rows: Iterable[_Row], drops: Drops) -> Iterator[_Row]:
        for row in rows:
            if row.held_out == self.held_out:
                yield row
            elif not self.held_out:
                drops.reasons[HELD_OUT] += 1


class _Row(NamedTuple):
    """A row that is kept so far, in the chunk that it came in."""

    id: str
    held_out: bool
    dropped: Dropped | None
    trees: pa.RecordBatch
    place: int
    """Of its tree in `trees`, if it is not dropped."""


def _with_smallest_hashes(rows: Iterable[_Row], most: int, seed: int) -> list[_Row]:
    """The `most` rows with the smallest hashes of their ids, in the order of the rows."""
    chosen: list[tuple[int, int, _Row]] = []  # a heap with the largest hash at its top
    for number, row in enumerate(rows):
        key = -int(fingerprint_of(seed, row.id), 16), -number
        if len(chosen) < most:
            heapq.heappush(chosen, (*key, row._replace(trees=_alone(row), place=0)))
        elif key > chosen[0][:2]:
            heapq.heapreplace(chosen, (*key, row._replace(trees=_alone(row), place=0)))
    return [row for _, _, row in sorted(chosen, key=lambda entry: -entry[1])]


def _alone(row: _Row) -> pa.RecordBatch:
    """The row's tree without its chunk, which would otherwise stay in memory."""
    return row.trees.take(pa.array([] if row.dropped else [row.place], pa.int64()))


def _training_part(data: TreeDataConfig) -> Part:
    return Part(data.path, data.limit, data.eval_ratio)


def _eval_part(data: TreeDataConfig) -> Part | None:
    if data.eval_path is not None:
        return Part(data.eval_path, None, held_out=True, most=data.eval_limit)
    if data.eval_ratio is not None:
        return Part(data.path, data.limit, data.eval_ratio, held_out=True, most=data.eval_limit)
    return None


def trees_of_run(stage: str, recipe: Any, protocol: ChatProtocol) -> tuple[TreeStore, TreeStore | None]:
    """What a run trains on, and what is held out of it. stage: one of `STAGES`. recipe: the config of its recipe."""
    data, training = recipe.data, recipe.training
    if stage == "sft":
        return sft_trees(data, training, protocol, recipe.sft), sft_eval_trees(data, training, protocol, recipe.sft)
    pairs = stage == "dpo"
    trees = preference_trees(data, training, protocol, pairs=pairs)
    return trees, preference_eval_trees(data, training, protocol, pairs=pairs)


def sft_trees(
    data: TreeDataConfig, training: TrainingConfig, protocol: ChatProtocol, sft: SFTConfig | None = None
) -> TreeStore:
    """The trees that an SFT run trains on. See `_prepared`."""
    return _sft_part(_training_part(data), data, training, protocol, sft)


def sft_eval_trees(
    data: TreeDataConfig, training: TrainingConfig, protocol: ChatProtocol, sft: SFTConfig | None = None
) -> TreeStore | None:
    """The held-out trees of an SFT run; None if there are none."""
    part = _eval_part(data)
    return None if part is None else _sft_part(part, data, training, protocol, sft)


def preference_trees(
    data: PreferenceDataConfig, training: TrainingConfig, protocol: ChatProtocol, *, pairs: bool = False
) -> TreeStore:
    """The trees that a DPO run (pairs: the best and the worst completion only) or a reward model is trained on."""
    return _preference_part(_training_part(data), data, training, protocol, pairs)


def preference_eval_trees(
    data: PreferenceDataConfig, training: TrainingConfig, protocol: ChatProtocol, *, pairs: bool = False
) -> TreeStore | None:
    """The held-out trees of the same; None if there are none."""
    part = _eval_part(data)
    return None if part is None else _preference_part(part, data, training, protocol, pairs)


def _sft_part(
    part: Part, data: TreeDataConfig, training: TrainingConfig, protocol: ChatProtocol, sft: SFTConfig | None
) -> TreeStore:
    train_on = (sft or SFTConfig()).train_on
    encoder = Encoder(SFTRow, partial(sft_ask, train_on=train_on), protocol, data, part.ratio, training.seed)
    return _prepared(part, encoder, training, f"sft {train_on}")


def _preference_part(
    part: Part, data: PreferenceDataConfig, training: TrainingConfig, protocol: ChatProtocol, pairs: bool
) -> TreeStore:
    ask_of = partial(preference_ask, data=data, pairs=pairs)
    encoder = Encoder(PreferenceRow, ask_of, protocol, data, part.ratio, training.seed)
    return _prepared(part, encoder, training, f"preferences {pairs}")


def _prepared(part: Part, encoder: Encoder, training: TrainingConfig, what: str) -> TreeStore:
    """The trees of a part, from `<output_dir>/trees.arrow` where they were made of the same rows in the same way.

    Otherwise rank zero encodes `data.limit` rows of a seeded choice (all without a limit) and writes the file, with
    what was dropped and why in `<output_dir>/dropped.json` and the log; the other processes wait for it. In a folder
    that holds what a run has saved, both files get temporary names until `keep_trees`: see there.
    Raises RowError if no row is left.
    """
    folder, data = training.output_dir, encoder.data
    name, record_name = part.names
    inputs = identities_of(part.sources)
    key = _key(part, data, inputs, training, encoder.protocol, what)
    found = [path for path in (folder / name, _temporary(folder, name)) if stored_key(path) == key]

    def encoded() -> Path:
        if found:
            log.info("%s was made of the same rows in the same way: nothing is encoded again", found[0])
            return found[0]
        path = _temporary(folder, name) if holds_saved(folder) else folder / name
        record = path.with_name(path.name.replace(name, record_name))
        drops = Drops()
        count = count_rows(part.sources)
        places = _chosen_places(count, part.limit, training.seed)
        count = count if places is None else len(places)
        rows = _read(part, encoder, places, drops, Progress("encode", count), processes_for(data, count))
        batches = _trees_of(part.rows_of(rows, training.seed, drops), drops)
        clock = begun_clock(folder)
        if clock is not None and not holds_saved(folder):  # otherwise the run may be refused, and then leaves nothing
            clock.record()
        with nullcontext() if clock is None else clock.phase(ENCODING):
            write_batches(path, _recorded(batches, drops, inputs, record, part), key)
        return path

    path = _from_rank_zero(encoded, folder, name, key)
    trees = TreeStore(path)
    alone = int((trees.tokens > data.token_budget).sum())
    if alone:
        largest = int(trees.tokens.max())
        log.info("%d rows over token_budget make a packed row each, the largest of %d tokens", alone, largest)
    return trees


def keep_trees(trees: Sequence[PromptTree]) -> None:
    """Give trees that were encoded for a folder with saved work, and their record, their usual names. Rank zero only.

    trees: those of one part of the rows.

    Example: rows.jsonl has changed since checkpoint-100 was written. The new trees are `.trees.arrow.part` when the
    checkpoint's manifest refuses them, and are deleted; `trees.arrow` and `dropped.json` still fit the checkpoint.
    """
    if not isinstance(trees, TreeStore):
        return
    folder = trees.path.parent
    for name, record in ((TREES, DROPPED), (EVAL_TREES, EVAL_DROPPED)):
        if trees.path == _temporary(folder, name):
            for each in (record, name):  # the trees last: they count as encoded from then on
                with suppress(FileNotFoundError):  # the record of a run that was killed between the two
                    _temporary(folder, each).rename(folder / each)
            trees.path = folder / name


def discard_temporary(folder: Path) -> None:
    """Delete what `keep_trees` has not kept. Rank zero only."""
    for name in (DROPPED, TREES, EVAL_DROPPED, EVAL_TREES):
        _temporary(folder, name).unlink(missing_ok=True)


def _temporary(folder: Path, name: str) -> Path:
    return folder / f".{name}.part"


def holds_saved(folder: Path) -> bool:
    """Whether the folder has a checkpoint or a finished model."""
    return (folder / SEAL).exists() or any(folder.glob(f"{CHECKPOINT}*/{SEAL}"))


def _key(
    part: Part,
    data: TreeDataConfig,
    inputs: Mapping[str, str],
    training: TrainingConfig,
    protocol: ChatProtocol,
    what: str,
) -> str:
    """Everything that the trees depend on. inputs: what identifies each source."""
    chosen = {"path", "limit", "eval_path", "eval_ratio", "eval_limit"}
    settings = data.model_dump_json(exclude={*chosen, "encode_processes"})
    weighed = any(source.weight != 1 for source in sources_of(part.sources))
    seed = training.seed if part.limit or part.most or part.ratio or weighed else None
    return fingerprint_of(
        FORMAT,
        code_fingerprint("align.trainers.data"),
        what,
        settings,
        (part.limit, part.ratio, part.held_out, part.most),
        seed,
        *protocol.identity,
        protocol.tokenizer_fingerprint,
        key_of(part.sources, inputs),
    )


def _chosen_places(count: int, limit: int | None, seed: int) -> list[int] | None:
    """Which rows are trained on: `limit` of them by a seeded choice, in their order; None for all."""
    if limit is None or limit >= count:
        return None
    return sorted(random.Random(seed).sample(range(count), limit))


def _read(
    part: Part, encoder: Encoder, places: Collection[int] | None, drops: Drops, progress: Progress, processes: int
) -> Iterator[_Row]:
    """The rows of a part's sources in order, without repeats and bad ones."""
    data = encoder.data
    admission = Admission(part.sources, encoder.kind, data, drops)
    chunks = in_chunks(found_records(part.sources, places, encoder.seed))
    for chunk, (rows, trees) in encoded(encoder, chunks, processes):
        known = iter(rows)
        place = 0
        for item in chunk:
            if isinstance(item, AlignError):
                raise item
            if isinstance(item, LeftOut):
                admission.leave_out(item)
                continue
            row = next(known)
            if isinstance(row, RowError):
                admission.ids(item, row)
                continue
            for row_id in admission.ids(item, row.read):
                yield _Row(row_id, row.held_out, row.dropped, trees, place)
                progress.advance()
            place += row.dropped is None


def _trees_of(rows: Iterable[_Row], drops: Drops) -> Iterator[pa.RecordBatch]:
    """The trees of the rows that have one; the others are counted."""
    for _, group in groupby(rows, key=lambda row: id(row.trees)):  # rows of one chunk
        kept = []
        for row in group:
            if row.dropped is None:
                kept.append(row)
            else:
                count_dropped(row.id, row.dropped, drops.reasons)
        if kept:
            trees = kept[0].trees.take(pa.array([row.place for row in kept], pa.int64()))
            yield trees.set_column(0, "id", pa.array([row.id for row in kept], pa.string()))


def _recorded(
    batches: Iterable[pa.RecordBatch], drops: Drops, inputs: Mapping[str, str], record: Path, part: Part
) -> Iterator[pa.RecordBatch]:
    """Pass the trees through. After the last one, write what was dropped, or raise RowError if no tree is left."""
    count = tokens = 0
    for batch in batches:
        count += batch.num_rows
        tokens += int(batch.column("tokens").to_numpy().sum(dtype=np.int64))
        yield batch
    dropped = drops.reasons
    if part.held_out and not count:
        reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.most_common())
        what = f"no held-out row is left ({reasons})" if reasons else "no prompt is held out"
        how = "Bring more rows, raise data.eval_ratio or the limits under data"
        raise RowError("data.eval_path" if part.ratio is None else "data.eval_ratio", what, how)
    require_trees(count, dropped, record.parent)
    purpose = "held out" if part.held_out else "to train on"
    log.info("%d rows %s, %d tokens; dropped: %s", count, purpose, tokens, dict(dropped) or "none")
    for error in drops.bad[:3]:
        log.info("dropped: %s", error)
    with whole_file(record) as handle:
        json.dump(
            {"rows": count, "tokens": tokens, "dropped": dict(dropped), "inputs": dict(inputs), **drops.counts}, handle
        )


def _from_rank_zero(encoded: Callable[[], Path], folder: Path, name: str, key: str) -> Path:
    """Call `encoded` on rank zero. The other processes wait for its file, and raise its error if it has one.

    They also end if rank zero is killed: no launcher would end those on another machine.
    """
    rank = int(os.environ.get("RANK", "0"))
    together = Processes.launched()
    if together.count == 1:
        return encoded() if rank == 0 else _wait_for(folder, name, key)
    path = together.agree(encoded)
    return path if rank == 0 else _wait_for(folder, name, key)  # a network file system may show it later


def _wait_for(folder: Path, name: str, key: str) -> Path:
    """Wait until the trees that rank zero has written are here."""
    began = said = time.monotonic()
    places = (folder / name, _temporary(folder, name))
    while True:
        for path in places:
            if stored_key(path) == key:
                return path
        time.sleep(POLL_SECONDS)
        now = time.monotonic()
        if now - said > SAY_SECONDS:
            said = now
            waited = duration(now - began)
            log.warning(
                "rank %s has waited %s for rank 0 to encode the rows into %s. Every process must see that folder, and "
                "the same rows and tokenizer",
                os.environ["RANK"],
                waited,
                places[0],
            )
