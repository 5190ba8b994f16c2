"""Compare the outputs of two models: the check after an adapter is merged, on disk or in memory.

Dimension letters in this file: T token positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

LARGEST_SHARE = {"float32": 1e-4, "bfloat16": 0.05}
"""Weights' type -> the largest difference that merging may make to an output, relative to the largest output. Rounding
alone makes: 3e-6 and 0.011, measured on a 135M model with an adapter of rank 16."""
EFFECT_SHARE = {"float32": 1e-2, "bfloat16": 0.25}
"""How far merging may move the outputs, as a share of how far the adapter moves them (root mean squares). An adapter
that is small next to the rounding of bfloat16 weights is lost in them, and refused here. Measured as above: 6e-5 and
0.14 after six steps of SFT at 2e-4; 0.002 and 7.8 after two at 1e-5, of which bfloat16 keeps nothing."""


class Difference(NamedTuple):
    """The differences between some outputs and those of base and adapter."""

    largest: float
    """Largest difference of one output: logits, or scores of a reward model."""
    largest_share: float
    """The same as a share of the largest output."""
    effect_share: float
    """Root mean square of the differences, as a share of that between the base with its adapter and without."""


@torch.no_grad()
def outputs(model: Any, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits [T, V] of each prompt, or a reward model's scores [T, 1], at every token; float32 on the CPU."""
    found = []
    for ids in prompts:
        row = torch.tensor([ids], device=model.device)
        if hasattr(model, "score"):
            output = model.score(model.base_model(row)[0].to(model.score.weight.dtype))
        else:
            output = model(row).logits
        found.append(output[0].float().cpu())
    return found


@contextmanager
def without_adapter(model: PeftModel) -> Iterator[None]:
    """The base alone. A reward model keeps its trained head: scores of another head would not show the adapter."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    yield
    for layer in layers:
        layer.enable_adapters(True)


def difference(found: list[Tensor], expected: list[Tensor], alone: list[Tensor]) -> Difference:
    """`found` against `expected` (base and adapter) and `alone` (the base without its adapter)."""
    apart, effect, whole = (
        torch.cat([(a - b).flatten() for a, b in zip(expected, other, strict=True)])
        for other in (found, alone, [torch.zeros(()) for _ in expected])
    )
    largest = apart.abs().max().item()
    return Difference(largest, largest / whole.abs().max().item(), (apart.norm() / effect.norm()).item())
