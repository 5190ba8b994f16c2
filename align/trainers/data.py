"""Encode the rows on disk as trees: once, by one process, into a file of the run that all processes read.

Rows, tokens and trees stream through; what stays in memory is some bytes a row.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from align.chat.protocol import ChatProtocol
from align.files import fingerprint_of, whole_file
from align.jsonl import Drops, count_rows, stream_rows
from align.manifest import SEAL, code_fingerprint
from align.records import identities_of, key_of, sources_of
from align.reporting import Progress, duration, logger
from align.rows import PreferenceRow, Row, SFTRow
from align.settings import PreferenceDataConfig, SFTConfig, TrainingConfig, TreeDataConfig
from align.trainers.output import CHECKPOINT
from align.tree.encode import PromptTree, encode_preferences, encode_sft, require_trees
from align.tree.store import FORMAT, TreeStore, stored_key, write_trees

log = logger(__name__)

TREES = "trees.arrow"
"""In the run's folder until the run is finished."""

DROPPED = "dropped.json"
"""What was dropped and why, and from which inputs."""

POLL_SECONDS = 0.2
SAY_SECONDS = 60.0
"""How often a process that waits for another's file says so."""

R = TypeVar("R", bound=Row)


def sft_trees(
    data: TreeDataConfig, training: TrainingConfig, protocol: ChatProtocol, sft: SFTConfig | None = None
) -> TreeStore:
    """The trees of an SFT run. See `_prepared`."""
    train_on = (sft or SFTConfig()).train_on
    encode = partial(encode_sft, protocol=protocol, data=data, train_on=train_on)
    return _prepared(SFTRow, encode, data, training, protocol, f"sft {train_on}")


def preference_trees(
    data: PreferenceDataConfig, training: TrainingConfig, protocol: ChatProtocol, *, pairs: bool = False
) -> TreeStore:
    """The trees of a DPO run (pairs: the best and the worst completion only) or a reward model's. See `_prepared`."""
    encode = partial(encode_preferences, protocol=protocol, data=data, pairs=pairs)
    return _prepared(PreferenceRow, encode, data, training, protocol, f"preferences {pairs}")


def _prepared(
    kind: type[R],
    encode: Callable[..., Iterator[PromptTree]],
    data: TreeDataConfig,
    training: TrainingConfig,
    protocol: ChatProtocol,
    what: str,
) -> TreeStore:
    """The run's trees, from `<output_dir>/trees.arrow` where they were made of the same rows in the same way.

    Otherwise rank zero encodes `data.limit` rows of a seeded choice (all without a limit) and writes the file, with
    what was dropped and why in `<output_dir>/dropped.json` and the log; the other processes wait for it. In a folder
    that holds what a run has saved, both files get temporary names until `keep_trees`: see there.
    Raises RowError if no row is left.
    """
    folder = training.output_dir
    inputs = identities_of(data.path)
    key = _key(data, inputs, training, protocol, what)
    found = [path for path in (folder / TREES, _temporary(folder, TREES)) if stored_key(path) == key]
    if int(os.environ.get("RANK", "0")) != 0:
        path = found[0] if found else _wait_for(folder, key)
    elif found:
        path = found[0]
        log.info("%s was made of the same rows in the same way: nothing is encoded again", path)
    else:
        path = _temporary(folder, TREES) if _holds_saved(folder) else folder / TREES
        record = path.with_name(path.name.replace(TREES, DROPPED))
        drops = Drops()
        count = count_rows(data.path)
        places = _chosen_places(count, data.limit, training.seed)
        progress = Progress("encode", count if places is None else len(places))
        rows = stream_rows(data.path, kind, places, reading=data, drops=drops, seed=training.seed)
        trees_made = encode(_watched(rows, progress), dropped=drops.reasons)
        write_trees(path, _recorded(trees_made, drops, inputs, record), key)
    trees = TreeStore(path)
    alone = int((trees.tokens > data.token_budget).sum())
    if alone:
        largest = int(trees.tokens.max())
        log.info("%d rows over token_budget make a packed row each, the largest of %d tokens", alone, largest)
    return trees


def keep_trees(trees: Sequence[PromptTree]) -> None:
    """Give trees that were encoded for a folder with saved work, and their record, their usual names. Rank zero only.

    Example: rows.jsonl has changed since checkpoint-100 was written. The new trees are `.trees.arrow.part` when the
    checkpoint's manifest refuses them, and are deleted; `trees.arrow` and `dropped.json` still fit the checkpoint.
    """
    if isinstance(trees, TreeStore) and trees.path.name != TREES:
        folder = trees.path.parent
        for name in (DROPPED, TREES):  # the trees last: they count as encoded from then on
            with suppress(FileNotFoundError):  # the record of a run that was killed between the two
                _temporary(folder, name).rename(folder / name)
        trees.path = folder / TREES


def discard_temporary(folder: Path) -> None:
    """Delete what `keep_trees` has not kept. Rank zero only."""
    for name in (DROPPED, TREES):
        _temporary(folder, name).unlink(missing_ok=True)


def _temporary(folder: Path, name: str) -> Path:
    return folder / f".{name}.part"


def _holds_saved(folder: Path) -> bool:
    return (folder / SEAL).exists() or any(folder.glob(f"{CHECKPOINT}*/{SEAL}"))


def _key(
    data: TreeDataConfig, inputs: Mapping[str, str], training: TrainingConfig, protocol: ChatProtocol, what: str
) -> str:
    """Everything that the trees depend on. inputs: what identifies each source."""
    settings = data.model_dump_json(exclude={"path"})
    weighed = any(source.weight != 1 for source in sources_of(data.path))
    seed = training.seed if data.limit or weighed else None
    return fingerprint_of(
        FORMAT,
        code_fingerprint("align.trainers.data"),
        what,
        settings,
        seed,
        protocol.name,
        protocol.syntax,
        protocol.tokenizer_fingerprint,
        key_of(data.path, inputs),
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
    trees: Iterable[PromptTree], drops: Drops, inputs: Mapping[str, str], record: Path
) -> Iterator[PromptTree]:
    """Pass the trees through. After the last one, write what was dropped, or raise RowError if no tree is left."""
    count = tokens = 0
    for tree in trees:
        count += 1
        tokens += tree.tokens
        yield tree
    dropped = drops.reasons
    require_trees(count, dropped, record.parent)
    log.info("%d rows to train on, %d tokens; dropped: %s", count, tokens, dict(dropped) or "none")
    for error in drops.bad[:3]:
        log.info("dropped: %s", error)
    with whole_file(record) as handle:
        json.dump(
            {"rows": count, "tokens": tokens, "dropped": dict(dropped), "inputs": dict(inputs), **drops.counts}, handle
        )


def _wait_for(folder: Path, key: str) -> Path:
    """Wait until rank zero has written the trees. Without a collective operation, which could time out."""
    began = said = time.monotonic()
    places = (folder / TREES, _temporary(folder, TREES))
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
