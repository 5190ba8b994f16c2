"""A fixed batch that is computed twice now and then, to find a machine that computes wrongly without a spike.

Every process computes the same rows with the same weights. Each compares the values of its two passes one by one, and
the sum of its values with those of the other processes: they must be the same to the last bit on a CPU, and within
PROBE_TOLERANCE elsewhere. Under DDP a difference between processes also shows weights that differ between them.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from statistics import median
from typing import Any, Protocol

import torch
from torch import nn
from transformers import TrainerState, TrainingArguments

from align.settings import TrainingConfig
from align.trainers.guards import corruption, is_same
from align.trainers.processes import Processes
from align.tree.encode import PromptTree
from align.tree.pack import RunPlan, TreeBatch, collate

PROBE_TOLERANCE = {False: 1e-4, True: 5e-2}
"""Whether products run in bfloat16 -> the largest allowed difference between two computations of a value on a GPU: in
nats for a log-probability, in units of the score for a reward model; and
between the sums of processes, relative to the sum of the absolute values."""


class Probed(Protocol):
    """What a probe needs of a trainer."""

    trees: Sequence[PromptTree]
    training: TrainingConfig
    plan: RunPlan
    processes: Processes
    args: TrainingArguments
    state: TrainerState
    model: Any


class Probe:
    """Compute the first rows of the run twice, and compare."""

    def __init__(self, trainer: Probed) -> None:
        self.trainer = trainer
        self._batch: TreeBatch | None = None

    def is_due(self) -> bool:
        """Whether the next step is one that a probe comes before: the first, and each `probe_steps` after it."""
        every = self.trainer.training.guards.probe_steps
        return every is not None and self.trainer.state.global_step % every == 0

    @torch.no_grad()
    def check(self, model: nn.Module) -> None:
        """Raise CorruptionError, which names step and rank, if two computations differ. Every process calls it."""
        trainer = self.trainer
        model.eval()
        first, second = (model(self.batch).float() for _ in range(2))
        on_cpu = trainer.args.device.type == "cpu"
        tolerance = 0.0 if on_cpu else PROBE_TOLERANCE[trainer.model.low_precision]
        gap = float((first - second).abs().nan_to_num(0.0, 0.0, 0.0).max())
        differs = not torch.equal(first.isfinite(), second.isfinite()) or gap > tolerance
        values = first.double()
        found = trainer.processes.gathered([float(differs), gap, float(values.sum()), float(values.abs().sum())])
        step = trainer.state.global_step
        if ranks := [rank for rank, each in enumerate(found) if each[0]]:
            what = f"two computations of one batch differ by {found[ranks[0]][1]:.3g} in a value"
            raise corruption(step, self._places(ranks), what)
        middle, scale = (median(each[place] for each in found) for place in (2, 3))
        if ranks := [rank for rank, each in enumerate(found) if not is_same(each[2], middle, tolerance, scale)]:
            what = f"the values of one batch sum up to {found[ranks[0]][2]:.9g}, and to {middle:.9g} on other ranks"
            raise corruption(step, self._places(ranks), what)

    @property
    def batch(self) -> TreeBatch:
        """The first rows of the plan that fit into one packed row. The same on every process."""
        if self._batch is None:
            trees: list[PromptTree] = []
            room = self.trainer.plan.token_budget
            for row in self.trainer.plan.first_with_rows().rows:
                tree = self.trainer.trees[row]
                if not trees or tree.tokens <= room:
                    trees.append(tree)
                    room -= tree.tokens
            self._batch = collate(trees).to(self.trainer.args.device)
        return self._batch

    def _places(self, ranks: Sequence[int]) -> list[tuple[int, str]]:
        machines = self.trainer.processes.gathered_objects(platform.node())
        return [(rank, machines[rank]) for rank in ranks]
