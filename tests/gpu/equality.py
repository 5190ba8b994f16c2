"""Packed trees against a row for each completion, in values and gradients: exact in float32, no farther in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from align.tree.encode import PromptTree
from align.tree.pack import collate
from tests.gpu import shapes
from tests.gpu.measure import Check, Skipped

VALUE, GRADIENT = 1e-3, 1e-3
"""In float32: nats of a log-probability, and the norm of the gradients' difference over the norm of the gradients."""

OF_ROWS = 1.5
"""How much farther than plain rows in bfloat16 packed trees in bfloat16 may be from rows in float32."""

Gradients = Mapping[str, Tensor]


def cases(check: Check) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        f"equality, {attention}, {name}": lambda a=attention, d=dtype: compare(check, a, d)
        for attention in shapes.ATTENTION
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }


def compare(check: Check, attention: str, dtype: torch.dtype) -> dict[str, Any]:
    require_attention(check, attention)
    trees = shapes.pairs(8, 150, 90, shapes.LLAMAS[check.sizes.compared]["vocab_size"], branches=3)
    small = shapes.pairs(8, 12, 9, shapes.LLAMAS[check.sizes.compared]["vocab_size"], branches=3, seed=1)
    trees = [*small, *trees] if not check.dry else [*small[:3], trees[0]]
    exact = _rows(check, trees, torch.float32)
    packed = _packed(check, trees, dtype, attention)
    found = {"packed trees": _apart(packed, exact)}
    if dtype == torch.float32:
        bounds = {"value": VALUE, "gradient": GRADIENT}
    else:
        found["plain rows"] = _apart(_rows(check, trees, dtype), exact)
        bounds = {name: OF_ROWS * apart for name, apart in found["plain rows"].items()}
    over = {name: apart for name, apart in found["packed trees"].items() if not apart <= bounds[name]}
    if over:
        raise AssertionError(f"packed trees differ from rows by {over}, expected at most {bounds}")
    return {"differences": found, "bounds": bounds}


def require_attention(check: Check, attention: str) -> None:
    if attention == "flex" and not check.on_gpu:
        raise Skipped("flex requires a GPU: FlexAttention has no backward pass on a CPU")


def _packed(check: Check, trees: Sequence[PromptTree], dtype: torch.dtype, attention: str) -> tuple[Tensor, Gradients]:
    model = shapes.llama(check.sizes.compared, dtype, check.device, attention=shapes.ATTENTION[attention])
    batch = collate(trees).to(check.device)
    logps = shapes.tree_model(model)(batch)
    logps.sum().backward()
    return logps.detach(), _gradients(model)


def _rows(check: Check, trees: Sequence[PromptTree], dtype: torch.dtype) -> tuple[Tensor, Gradients]:
    """One completion at a time, with plain products for attention, full logits and a float32 log-softmax."""
    model = shapes.llama(check.sizes.compared, dtype, check.device, attention="eager")
    found = []
    for tree in trees:
        for branch in tree.branches:
            row = torch.tensor([[*tree.prompt, *branch.ids]], device=check.device)
            logps = model(input_ids=row, use_cache=False).logits[0, len(tree.prompt) - 1 : -1].float().log_softmax(-1)
            of_labels = logps.gather(1, row[0, len(tree.prompt) :, None])[:, 0]
            of_labels.sum().backward()
            found.append(of_labels.detach())
    return torch.cat(found), _gradients(model)


def _gradients(model: Any) -> Gradients:
    return {name: weight.grad.float() for name, weight in model.named_parameters()}


def _apart(found: tuple[Tensor, Gradients], expected: tuple[Tensor, Gradients]) -> dict[str, float]:
    """The root mean square of log-probabilities' differences, and the relative difference of all gradients."""
    values, gradients = found
    exact, exact_gradients = expected
    return {
        "value": (values - exact).square().mean().sqrt().item(),
        "gradient": relative_difference(gradients, exact_gradients),
    }


def relative_difference(found: Gradients, expected: Gradients) -> float:
    assert found.keys() == expected.keys(), "a gradient is missing"
    apart = sum(
        (value.float() - expected[name].to(value.device).float()).square().sum().item() for name, value in found.items()
    )
    whole = sum(value.float().square().sum().item() for value in expected.values())
    return float((apart / whole) ** 0.5)
