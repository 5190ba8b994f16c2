"""Attention alone: one layer's call for a packed row, forward and backward, as segments and as FlexAttention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from align.tree.attention import TreeLayout, flex_tree_attention, tree_attention
from align.tree.pack import collate
from tests.gpu import shapes
from tests.gpu.equality import relative_difference, require_attention
from tests.gpu.measure import Check, Skipped

HEADS, GROUPS, SIZE = 32, 8, 128
"""Of Llama 3.1 8B."""

FUNCTIONS = {"segments": tree_attention, "flex": flex_tree_attention}
BOUND = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def cases(check: Check) -> dict[str, Callable[[], dict[str, Any]]]:
    return {f"attention, {name}": lambda n=name: measure(check, n) for name in check.sizes.attention}


def measure(check: Check, name: str) -> dict[str, Any]:
    trees, prompt, completion = check.sizes.attention[name]
    layout = collate(shapes.pairs(trees, prompt, completion, 97)).layout
    assert layout is not None
    length = layout.blocks[-1].end
    torch.manual_seed(0)
    states = [
        torch.randn(1, length, heads, SIZE, device=check.device, dtype=check.dtype).transpose(1, 2).requires_grad_()
        for heads in (HEADS, GROUPS, GROUPS)
    ]
    arms: dict[str, Any] = {}
    outcomes: dict[str, dict[str, torch.Tensor]] = {}
    for attention in FUNCTIONS:
        try:
            require_attention(check, attention)
        except Skipped as reason:
            arms[attention] = {"skipped": str(reason)}
            continue
        outcome = _outcome(attention, states, layout)
        outcomes[attention] = {name: value.cpu() for name, value in outcome.items()}
        del outcome  # it would count as memory of the timed calls
        arms[attention] = check.timed(lambda a=attention: _outcome(a, states, layout))
    found: dict[str, Any] = {"tokens": length, "arms": arms}
    if len(outcomes) == 2:
        found["difference"] = relative_difference(outcomes["segments"], outcomes["flex"])
        found["segments / flex"] = arms["segments"]["seconds"] / arms["flex"]["seconds"]
        if not found["difference"] <= BOUND[check.dtype]:
            raise AssertionError(f"segments and flex differ by {found['difference']:.2g}")
    return found


class _Trained(nn.Module):
    """What transformers asks of an attention module: whether it is trained, and how many heads share keys."""

    num_key_value_groups = HEADS // GROUPS
    is_causal = True


def _outcome(attention: str, states: list[torch.Tensor], layout: TreeLayout) -> dict[str, torch.Tensor]:
    function: Any = FUNCTIONS[attention]
    out = function(_Trained().train(), *states, None, scaling=SIZE**-0.5, tree=layout)[0]
    upstream = torch.linspace(-1, 1, SIZE, device=out.device, dtype=out.dtype).expand_as(out)
    gradients = torch.autograd.grad(out, states, upstream)
    return {"out": out.detach(), **dict(zip(("query", "key", "value"), gradients, strict=True))}
