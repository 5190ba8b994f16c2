"""The values of the trained weights, seen from one process."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from align.errors import ConfigError
from align.trainers.processes import Processes


def trained_parts(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and values of each trained weight. Under ZeRO-3 the values are this process's part, `ds_tensor`."""
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield name, getattr(weight, "ds_tensor", weight).detach()


def require_storable_weights(model: nn.Module, save_dtype: str, processes: Processes) -> None:
    """Raise ConfigError on all processes if `training.save_dtype` cannot hold a weight that is about to be trained.

    It would be found when the finished model is converted, after the last step. Weights that grow out of the range
    during training are still found there.
    """
    if save_dtype != "float16":
        return  # bfloat16 has the range of float32
    outside = [name for name, part in trained_parts(model) if not _fits(part, torch.float16)]
    if processes.anywhere(bool(outside)):
        weight = f"the weight {outside[0]}" if outside else "a weight"
        largest = torch.finfo(torch.float16).max
        what = f"is {save_dtype}, and {weight} has values outside its range, which ends at {largest:.0f}"
        raise ConfigError("training.save_dtype", what, "Set it to bfloat16")


def sharded_norm(model: nn.Module, processes: Processes) -> float:
    """The norm of the complete gradients under ZeRO-3, between `backward` and `step` of DeepSpeed's engine."""
    from deepspeed.utils import safe_get_local_grad

    squares = [
        safe_get_local_grad(weight).square().sum().double() for weight in model.parameters() if weight.requires_grad
    ]
    here = float(torch.stack(squares).sum()) if squares else 0.0
    return math.sqrt(sum(each[0] for each in processes.gathered([here])))


def _fits(values: Tensor, dtype: torch.dtype) -> bool:
    """Whether all values stay finite in a type. Rounding keeps their order, so the smallest and the largest tell."""
    return values.numel() == 0 or all(bool(torch.isfinite(value.to(dtype))) for value in torch.aminmax(values))
