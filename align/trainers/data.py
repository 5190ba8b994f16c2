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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from align.chat.protocol import ChatProtocol
from align.effective_time import ENCODING, clock_of
from align.errors import RowError
from align.files import fingerprint_of, whole_file
from align.jsonl import Drops, count_rows, stream_rows
from align.manifest import SEAL, code_fingerprint
from align.records import identities_of, key_of, sources_of
from align.reporting import Progress, duration, logger
from align.rows import Messages, PreferenceRow, Row, SFTRow
from align.settings import PreferenceDataConfig, SFTConfig, TrainingConfig, TreeDataConfig
from align.splits import part_of, prompt_identity
from align.trainers.output import CHECKPOINT
from align.trainers.processes import Processes
from align.tree.encode import PromptTree, encode_preferences, encode_sft, require_trees
from align.tree.store import FORMAT, TreeStore, stored_key, write_trees

log = logger(__name__)

TREES = "trees.arrow"
"""In the run's folder until the run is finished."""

DROPPED = "dropped.json"
"""What was dropped and why, and from which inputs."""

EVAL_TREES, EVAL_DROPPED = "eval_trees.arrow", "eval_dropped.json"
"""The same of the held-out rows."""

HELD_OUT = "held out for validation"
"""Why a row is not trained on with `data.eval_ratio`, in the record of what was dropped."""

POLL_SECONDS = 0.2
SAY_SECONDS = 60.0
"""How often a process that waits for another's file says so."""

R = TypeVar("R", bound=Row)


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

    def rows_of(self, rows: Iterable[R], seed: int, drops: Drops) -> Iterable[R]:
        """The rows of this part among those of its sources.

        A prompt is held out by its hash, as `align/splits.py` has it, and `most` rows are those with the smallest
        hashes of their ids: neither choice depends on how many other rows there are.
        """
        if self.ratio is not None:
            rows = self._of_this_side(rows, self.ratio, seed, drops)
        if self.most is None:
            return rows
        kept = heapq.nsmallest(self.most, enumerate(rows), key=lambda item: (fingerprint_of(seed, item[1].id), item[0]))
        return (row for _, row in sorted(kept, key=lambda item: item[0]))

    def _of_this_side(self, rows: Iterable[R], ratio: float, seed: int, drops: Drops) -> Iterator[R]:
        for row in rows:
            if (part_of(prompt_identity(_messages_of(row)), (ratio,), seed) == 0) == self.held_out:
                yield row
            elif not self.held_out:
                drops.reasons[HELD_OUT] += 1


def _messages_of(row: Row) -> Messages:
    assert isinstance(row, SFTRow | PreferenceRow), "other rows are not trained on"
    return row.messages if isinstance(row, SFTRow) else row.prompt


def _training_part(data: TreeDataConfig) -> Part:
    return Part(data.path, data.limit, data.eval_ratio)


def _eval_part(data: TreeDataConfig) -> Part | None:
    if data.eval_path is not None:
        return Part(data.eval_path, None, held_out=True, most=data.eval_limit)
    if data.eval_ratio is not None:
        return Part(data.path, data.limit, data.eval_ratio, held_out=True, most=data.eval_limit)
    return None


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
    encode = partial(encode_sft, protocol=protocol, data=data, train_on=train_on)
    return _prepared(part, SFTRow, encode, data, training, protocol, f"sft {train_on}")


def _preference_part(
    part: Part, data: PreferenceDataConfig, training: TrainingConfig, protocol: ChatProtocol, pairs: bool
) -> TreeStore:
    encode = partial(encode_preferences, protocol=protocol, data=data, pairs=pairs)
    return _prepared(part, PreferenceRow, encode, data, training, protocol, f"preferences {pairs}")


def _prepared(
    part: Part,
    kind: type[R],
    encode: Callable[..., Iterator[PromptTree]],
    data: TreeDataConfig,
    training: TrainingConfig,
    protocol: ChatProtocol,
    what: str,
) -> TreeStore:
    """The trees of a part, from `<output_dir>/trees.arrow` where they were made of the same rows in the same way.

    Otherwise rank zero encodes `data.limit` rows of a seeded choice (all without a limit) and writes the file, with
    what was dropped and why in `<output_dir>/dropped.json` and the log; the other processes wait for it. In a folder
    that holds what a run has saved, both files get temporary names until `keep_trees`: see there.
    Raises RowError if no row is left.
    """
    folder = training.output_dir
    name, record_name = part.names
    inputs = identities_of(part.sources)
    key = _key(part, data, inputs, training, protocol, what)
    found = [path for path in (folder / name, _temporary(folder, name)) if stored_key(path) == key]

    def encoded() -> Path:
        if found:
            log.info("%s was made of the same rows in the same way: nothing is encoded again", found[0])
            return found[0]
        path = _temporary(folder, name) if _holds_saved(folder) else folder / name
        record = path.with_name(path.name.replace(name, record_name))
        drops = Drops()
        count = count_rows(part.sources)
        places = _chosen_places(count, part.limit, training.seed)
        progress = Progress("encode", count if places is None else len(places))
        rows = stream_rows(part.sources, kind, places, reading=data, drops=drops, seed=training.seed)
        kept = part.rows_of(_watched(rows, progress), training.seed, drops)
        trees_made = encode(kept, dropped=drops.reasons)
        clock = clock_of(folder)
        if not _holds_saved(folder):  # otherwise the run may be refused, and then leaves nothing
            clock.record()
        with clock.phase(ENCODING):
            write_trees(path, _recorded(trees_made, drops, inputs, record, part), key)
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


def _holds_saved(folder: Path) -> bool:
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
    settings = data.model_dump_json(exclude={"path", "limit", "eval_path", "eval_ratio", "eval_limit"})
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


def _watched(rows: Iterable[R], progress: Progress) -> Iterator[R]:
    for row in rows:
        yield row
        progress.advance()


def _recorded(
    trees: Iterable[PromptTree], drops: Drops, inputs: Mapping[str, str], record: Path, part: Part
) -> Iterator[PromptTree]:
    """Pass the trees through. After the last one, write what was dropped, or raise RowError if no tree is left."""
    count = tokens = 0
    for tree in trees:
        count += 1
        tokens += tree.tokens
        yield tree
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
