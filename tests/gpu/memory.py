"""Memory of a training step against what the planner says beforehand."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from align.settings import ModelConfig
from align.tree.pack import collate
from tests.gpu import shapes
from tests.gpu.measure import Check, Skipped

PLANNER = "align.trainers.activations"
BOUNDS = (0.8, 1.25)
"""Planned over measured. The planner's 10% are of all memory of a process; activations are a part of it, in which the
workspaces of matrix products and of attention kernels count too, which nothing plans."""


def cases(check: Check) -> dict[str, Callable[[], dict[str, Any]]]:
    return {f"memory, {name}": lambda n=name: compare(check, n) for name in check.sizes.llamas}  # type: ignore[misc]


def compare(check: Check, name: str) -> dict[str, Any]:
    """The most that activations take in a step, with gradient checkpointing, and the planner's figure for this row."""
    try:
        planner: Any = importlib.import_module(PLANNER)
    except ModuleNotFoundError as error:
        raise Skipped(f"there is no planner in this version ({PLANNER})") from error
    trees = shapes.pairs(
        check.sizes.trees, check.sizes.prompt, check.sizes.completion, shapes.LLAMAS[name]["vocab_size"]
    )
    dtype = "bfloat16" if check.dtype == torch.bfloat16 else "float32"
    settings = ModelConfig(path=name, dtype=dtype, gradient_checkpointing=True)
    planned = planner.activations(shapes.llama_config(name), settings, trees, on_gpu=check.on_gpu)
    found: dict[str, Any] = {"planned_gib": planned.peak / 2**30, "measured_gib": None}
    if not check.on_gpu:
        return found | {"note": "memory is measured on a GPU only"}
    model = shapes.llama(name, check.dtype, check.device, attention=shapes.ATTENTION["segments"])
    model.activation_checkpointing_enable({"use_reentrant": False})
    for weight in model.parameters():  # as ZeRO-3 does, which takes a gradient as soon as it is there
        weight.register_post_accumulate_grad_hook(_drop_gradient)
    policy = shapes.tree_model(model)
    weights = torch.cuda.memory_allocated(check.device)
    timed = check.timed(lambda: policy(collate(trees).to(check.device)).sum().backward(), repeats=1)
    found["measured_gib"] = timed["peak_gib"] - weights / 2**30
    found["planned / measured"] = found["planned_gib"] / found["measured_gib"]
    require_planned(found["planned / measured"])
    return found


def require_planned(ratio: float) -> None:
    """Raise AssertionError if the planner is too far from what was measured."""
    if not BOUNDS[0] <= ratio <= BOUNDS[1]:
        raise AssertionError(f"planned over measured memory is {ratio:.2f}, expected {BOUNDS[0]} to {BOUNDS[1]}")


def _drop_gradient(weight: torch.Tensor) -> None:
    weight.grad = None
