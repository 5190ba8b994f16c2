"""Guards during training: values that are not finite stop the run with one message.

A step that fails a guard is never saved: the loss is checked before the backward pass, the gradient norm before the
optimizer uses the gradients, and the weights before every save. Weights that `training.save_dtype` cannot hold are
refused before the first step; what else is checked there is in `align/trainers/checks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from align.errors import CheckError, ConfigError
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
        broken = [name for name, part in _trained_parts(model) if not is_finite(part)]
        if processes.anywhere(bool(broken)):
            raise CheckError(
                f"step {step}",
                f"the weight {broken[0] if broken else 'of another process'} is not finite after the update on rows "
                f"{self._named_rows()}",
                f"Nothing of this step was saved. {self._what_to_change()}",
            )

    def require_storable_weights(self, model: nn.Module, processes: Processes) -> None:
        """Raise ConfigError on all processes if `training.save_dtype` cannot hold a weight that is about to be trained.

        It would be found when the finished model is converted, after the last step. Weights that grow out of the range
        during training are still found there.
        """
        dtype = self.training.save_dtype
        if dtype != "float16":
            return  # bfloat16 has the range of float32
        outside = [name for name, part in _trained_parts(model) if not _fits(part, torch.float16)]
        if processes.anywhere(bool(outside)):
            weight = f"the weight {outside[0]}" if outside else "a weight"
            largest = torch.finfo(torch.float16).max
            what = f"is {dtype}, and {weight} has values outside its range, which ends at {largest:.0f}"
            raise ConfigError("training.save_dtype", what, "Set it to bfloat16")

    def _named_rows(self) -> str:
        named = ", ".join(self.trees[row].id for row in self.rows[:_NAMED_ROWS])
        more = len(self.rows) - _NAMED_ROWS
        return f"{named} and {more} more" if more > 0 else named

    def _what_to_change(self) -> str:
        rate = f"training.learning_rate ({self.training.learning_rate:g})"
        return f"Look at these rows, or lower {rate} or training.max_grad_norm ({self.training.max_grad_norm:g})"


def _trained_parts(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and values of each trained weight. Under ZeRO-3 the values are this process's part, `ds_tensor`."""
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield name, getattr(weight, "ds_tensor", weight).detach()


def _fits(values: Tensor, dtype: torch.dtype) -> bool:
    """Whether all values stay finite in a type. Rounding keeps their order, so the smallest and the largest tell."""
    return values.numel() == 0 or all(bool(torch.isfinite(value.to(dtype))) for value in torch.aminmax(values))
