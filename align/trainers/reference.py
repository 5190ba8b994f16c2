"""Reference log-probabilities, taken in one pass before training and kept on disk beside the run.

The pass uses the very model that will train, wrapped and sharded as it will be, so that policy and
reference agree at step 0. A resumed run reads them: by then the weights have moved.
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
from align.tree.pack import RunPlan, TreeBatch, collate


def reference_logps(
    path: Path,
    trees: Sequence[PromptTree],
    plan: RunPlan,
    logps_of: Callable[[TreeBatch], torch.Tensor],
    *,
    device: torch.device,
    resumed: bool,
) -> dict[str, list[float]]:
    """Contrasted log-probability of each branch, by tree id, for every tree that the plan trains on.

    logps_of: a batch to one value for each branch, [B]. The batches are the very ones of the plan's first epoch: with
    the same shapes the policy's first values are the reference's to the bit, in bfloat16 too. Every process comes here.
    Raises CheckpointError where a resumed run does not find what it began with.
    """
    key = fingerprint_of(*(part for tree in trees for part in (tree.id, tree.prompt, tree.branches)))
    if resumed:
        return _read(path, key)
    steps = min(len(plan), plan.steps_per_epoch)
    mine: dict[str, list[float]] = {}
    progress = Progress("reference", steps)
    with torch.no_grad():
        for step in range(steps):
            for members in plan[step].bins:
                batch = collate([trees[member] for member in members or plan[step].rows[:1]]).to(device)
                values = logps_of(batch).tolist()
                for tree_id, count in zip(batch.tree_ids, batch.branch_counts, strict=True):
                    mine.setdefault(tree_id, values[:count])
                    values = values[count:]
            progress.advance()
    found = mine
    if plan.processes > 1:
        found = {}
        for part in gather_object([mine]):
            found |= {tree_id: values for tree_id, values in part.items() if tree_id not in found}
    if plan.process == 0:
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
