"""The gradients of an optimizer step: forward and backward passes over its packed rows, and their norm.

The loss of each packed row (a bin) is a sum over its trees divided by a count over all rows of the step, so neither
packing nor the number of bins or processes changes the gradient. Example, SFT on two processes: a step has 40 labels,
30 of them in the bins of process 0. The losses are sum_30 / 40 and sum_10 / 40, each times 2, and the processes average
their gradients: (2 sum_30 / 40 + 2 sum_10 / 40) / 2 = sum_40 / 40, the mean over all labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from align.trainers.metrics import RunMetrics
from align.trainers.processes import Processes
from align.trainers.step_times import DATA, WORK
from align.trainers.weights import sharded_norm
from align.tree.encode import PromptTree
from align.tree.pack import StepPlan, TreeBatch


class BinLoss(NamedTuple):
    """The loss of one packed row, and the rows in it."""

    loss: Tensor
    ids: Sequence[str]


class Differentiated(Protocol):
    """What gradients need of a trainer."""

    trees: Sequence[PromptTree]
    processes: Processes
    metrics: RunMetrics
    is_deepspeed_enabled: bool
    accelerator: Any

    def denominators(self, rows: Sequence[PromptTree]) -> dict[str, float]: ...
    def batch_loss(self, model: nn.Module, batch: TreeBatch, denominators: dict[str, float]) -> Tensor: ...
    def batch(self, members: Sequence[int], weight: float = 1.0) -> TreeBatch: ...


class Gradients:
    """Compute the gradients of a trainer's steps. Every process makes the same calls."""

    def __init__(self, trainer: Differentiated) -> None:
        self.trainer = trainer

    def compute(self, model: nn.Module, planned: StepPlan) -> list[BinLoss]:
        """Forward and backward passes of a step's packed rows. The gradients are complete afterwards, and unused."""
        model.train()
        trainer, times = self.trainer, self.trainer.processes.times
        with times.spent(DATA):
            denominators = trainer.denominators([trainer.trees[row] for row in planned.rows])
        losses = []
        for place, members in enumerate(planned.bins):
            last = place == len(planned.bins) - 1
            # A process without a bin in this round repeats a row with weight 0: ZeRO-3 gathers weights in every pass.
            with times.spent(DATA):
                batch = trainer.batch(members or planned.rows[:1], weight=1.0 if members else 0.0)
            trainer.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last or trainer.is_deepspeed_enabled else trainer.accelerator.no_sync(model):
                # Processes average their gradients; the denominators are global, so the average is scaled back.
                # Those that share a row all have its whole loss: their average is one of them.
                with times.spent(WORK):
                    loss = trainer.batch_loss(model, batch, denominators) * trainer.processes.groups
                self._backward(loss, last)
            losses.append(BinLoss(loss.detach(), batch.tree_ids))
            trainer.metrics.count_packed_row(batch.input_ids.shape[1], members)
        return losses

    def _backward(self, loss: Tensor, last: bool) -> None:
        if not self.trainer.is_deepspeed_enabled:
            self.trainer.accelerator.backward(loss)
            return
        # Not by accelerate, which would use the gradients at once.
        self._engine.set_gradient_accumulation_boundary(is_boundary=last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def norm(self, model: nn.Module) -> float:
        """The norm of the complete gradients over all processes, before clipping."""
        if self.trainer.is_deepspeed_enabled:
            return sharded_norm(model, self.trainer.processes)
        return float(self.trainer.accelerator.clip_grad_norm_(model.parameters(), math.inf))

    def clear(self, model: nn.Module) -> None:
        """Forget the gradients of a step that is not used."""
        (self._engine.optimizer if self.trainer.is_deepspeed_enabled else model).zero_grad()

    def use_sharded(self) -> None:
        """Make DeepSpeed's optimizer step. Without DeepSpeed transformers makes it."""
        self._engine.step()

    @property
    def _engine(self) -> Any:
        """DeepSpeed's engine."""
        return self.trainer.accelerator.deepspeed_engine_wrapped.engine
