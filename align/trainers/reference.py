"""Reference log-probabilities, taken in one pass before training and kept on disk beside the run.

The pass uses the very model that will train, wrapped and sharded as it will be, so policy and reference agree at step 0.
A resumed run reads them: by then the weights have moved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate.utils import gather_object

from align.errors import CheckpointError
from align.files import fingerprint_of, whole_file
from align.reporting import Progress
from align.tree.encode import PromptTree
from align.tree.pack import TreeBatch, bins_under_budget, collate


def reference_logps(
    path: Path,
    trees: Sequence[PromptTree],
    logps_of: Callable[[TreeBatch], torch.Tensor],
    *,
    token_budget: int,
    processes: int,
    process: int,
    device: torch.device,
    resumed: bool,
) -> dict[str, list[float]]:
    """Contrasted log-probability of each branch, by tree id.

    logps_of: a batch to one value for each branch, [B]. Every process comes here, and makes as many passes as the others.
    Raises CheckpointError where a resumed run does not find what it began with.
    """
    key = fingerprint_of(*(part for tree in trees for part in (tree.id, tree.prompt, tree.branches)))
    if resumed:
        return _read(path, key)
    bins = bins_under_budget([tree.tokens for tree in trees], token_budget)
    rounds = -(-len(bins) // processes)
    mine: dict[str, list[float]] = {}
    progress = Progress("reference", rounds)
    with torch.no_grad():
        for place in range(rounds):
            members = bins[min(place * processes + process, len(bins) - 1)]  # a spare pass repeats the last bin
            batch = collate([trees[member] for member in members]).to(device)
            values = logps_of(batch).tolist()
            for tree_id, count in zip(batch.tree_ids, batch.branch_counts, strict=True):
                mine[tree_id], values = values[:count], values[count:]
            progress.advance()
    found = mine if processes == 1 else {k: v for part in gather_object([mine]) for k, v in part.items()}
    if process == 0:
        with whole_file(path) as handle:
            json.dump({"key": key, "logps": found}, handle)
    return found


def _read(path: Path, key: str) -> dict[str, list[float]]:
    if not path.exists():
        what = "the reference log-probabilities of the run to be resumed are not there"
        raise CheckpointError(path, what, "Take the checkpoint folders away to start over")
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["key"] != key:
        raise CheckpointError(path, "was made for other rows", "Take the checkpoint folders away to start over")
    return stored["logps"]
