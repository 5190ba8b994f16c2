"""Guards during training: values that are not finite stop the run with one message.

A step that fails a guard is never saved: the loss is checked before the backward pass, the gradient norm before the
optimizer uses the gradients, and the weights before every save. What is checked before the first step is
in `align/trainers/checks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from align.errors import CheckError
from align.models.fitting import is_finite
from align.settings import TrainingConfig
from align.trainers.processes import Processes
from align.tree.encode import PromptTree

_NAMED_ROWS = 8
"""At most this many rows are named in an error."""


@dataclass
class StepGuards:
    """Refuse values of an optimizer step that are not finite. Messages name the step and its rows."""

    trees: Sequence[PromptTree]
    training: TrainingConfig
    rows: tuple[int, ...] = ()
    """Indices into `trees` of the current step's rows, over all processes. The trainer sets them in each step."""

    def require_finite_loss(self, loss: Tensor, step: int, tree_ids: Sequence[str]) -> None:
        """Raise CheckError if the loss of one batch is NaN or infinite. tree_ids: the batch's rows."""
        if not math.isfinite(loss.item()):
            what = f"the loss is {loss.item()} on rows {', '.join(tree_ids)}"
            raise CheckError(f"step {step}", what, "Look at these rows, or lower the learning rate")

    def require_finite_gradients(self, norm: float | Tensor | None, step: int, *, skipped: bool) -> None:
        """Raise CheckError if the norm of the complete gradients is NaN or infinite.

        skipped: whether DeepSpeed has skipped the update for that reason. Gradients are sums over processes, so all
            processes raise together.
        """
        if skipped or norm is None or not math.isfinite(norm):
            raise CheckError(
                f"step {step}",
                f"the gradient norm is {norm if norm is None else float(norm)}, with a finite loss, on rows "
                f"{self._named_rows()}",
                f"Nothing of this step was saved. {self._what_to_change()}",
            )

    def require_finite_weights(self, model: nn.Module, step: int, processes: Processes) -> None:
        """Raise CheckError on all processes if a trained weight of any process is NaN or infinite."""
        # Under ZeRO-3 ds_tensor is this process's part of the weight.
        parts = (
            (name, getattr(weight, "ds_tensor", weight))
            for name, weight in model.named_parameters()
            if weight.requires_grad
        )
        broken = [name for name, part in parts if not is_finite(part)]
        if processes.anywhere(bool(broken)):
            raise CheckError(
                f"step {step}",
                f"the weight {broken[0] if broken else 'of another process'} is not finite after the update on rows "
                f"{self._named_rows()}",
                f"Nothing of this step was saved. {self._what_to_change()}",
            )

    def _named_rows(self) -> str:
        named = ", ".join(self.trees[row].id for row in self.rows[:_NAMED_ROWS])
        more = len(self.rows) - _NAMED_ROWS
        return f"{named} and {more} more" if more > 0 else named

    def _what_to_change(self) -> str:
        rate = f"training.learning_rate ({self.training.learning_rate:g})"
        return f"Look at these rows, or lower {rate} or training.max_grad_norm ({self.training.max_grad_norm:g})"
