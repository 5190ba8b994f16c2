"""Attention of one large prompt tree on a CPU, forward and backward; `align/tree/attention.py` is what calls it.

Dimension letters: H heads, G key/value heads, T tokens of the tree, D head size.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from align.tree.flex import Span


class TreeOnCPU(torch.autograd.Function):
    """One large tree on a CPU.

    The prompt with its first branch is a plain causal row. The other branches attend to the prompt in one call without
    a mask, and to themselves in one causal call each; the two results are joined by their log-sum-exp. A prompt of 3
    tokens with branches of 2, 2 and 2:

        place          0 1 2 | 3 4 | 5 6 | 7 8
        call 1         queries 0 to 4, keys 0 to 4, causal          the prompt and branch 0
        call 2         queries 5 to 8, keys 0 to 2                  the branches 1 and 2 to the prompt
        calls 3 and 4  queries 5 to 6, keys 5 to 6, causal          each of them to itself;
                       queries 7 to 8, keys 7 to 8, causal

    The join. If all scores are 0, query 5 sees the prompt with log-sum-exp ln 3, and itself with ln 1; joined ln 4. The
    prompt's part of the result weighs exp(ln 3 - ln 4) = 3/4, its own 1/4. With the place of each key as its value:
    3/4 * mean(0, 1, 2) + 1/4 * 5 = 2, which is mean(0, 1, 2, 5), the attention over all four keys at once.

    The backward kernel recomputes the attention weights as exp(score - log-sum-exp). Given the joined log-sum-exp, it
    gives for each part the gradient of the whole, so the gradients of the parts are added (Dao 2023, arXiv:2307.08691,
    section 3.1). PyTorch has no public function that returns the log-sum-exp on a CPU; its fused CPU kernel does.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, prompt: int, branches: list[Span], scaling: float | None
    ) -> Tensor:
        q, k, v = _by_group(query, key, value)
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        row = branches[0][1]
        out, lse = attend(q[:, :, :row], k[:, :, :row], v[:, :, :row], 0.0, True, scale=scaling)
        if len(branches) > 1:
            to_prompt, to_prompt_lse = attend(q[:, :, row:], k[:, :, :prompt], v[:, :, :prompt], scale=scaling)
            outs, lses = [out], [lse]
            for first, last in branches[1:]:
                own, own_lse = attend(*(t[:, :, first:last] for t in (q, k, v)), 0.0, True, scale=scaling)
                theirs, theirs_lse = (t[:, :, first - row : last - row] for t in (to_prompt, to_prompt_lse))
                joined = torch.logaddexp(theirs_lse, own_lse)
                weight = (theirs_lse - joined).exp_()[..., None]  # of the prompt's part; 3/4 in the example
                outs.append(torch.lerp(own.float(), theirs.float(), weight).to(own.dtype))
                lses.append(joined)
            out, lse = torch.cat(outs, dim=2), torch.cat(lses, dim=2)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.prompt, ctx.branches, ctx.scaling = prompt, branches, scaling
        return cast(Tensor, out.flatten(0, 1)[None])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # The backward kernel is faster in float32 than in bfloat16, up to twice for short segments.
        *saved, out, lse = ctx.saved_tensors
        q, k, v = _by_group(*(tensor.float() for tensor in saved))
        gradient, out = gradients[0][0].float().unflatten(0, q.shape[:2]), out.float()
        prompt, row = ctx.prompt, ctx.branches[0][1]
        dq, dk, dv = (torch.empty_like(out) for _ in range(3))

        def backward(queries: slice, keys: slice, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
            asked = (t[:, :, queries] for t in (gradient, q))
            seen = (t[:, :, keys] for t in (k, v))
            found = (t[:, :, queries] for t in (out, lse))
            run = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
            dq, dk, dv = run(*asked, *seen, *found, 0.0, causal, scale=ctx.scaling)
            return dq, dk, dv

        first = slice(0, row)
        dq[:, :, first], dk[:, :, first], dv[:, :, first] = backward(first, first, True)
        if len(ctx.branches) > 1:
            dq[:, :, row:], dk_prompt, dv_prompt = backward(slice(row, None), slice(0, prompt), False)
            dk[:, :, :prompt] += dk_prompt
            dv[:, :, :prompt] += dv_prompt
        for span in ctx.branches[1:]:
            part = slice(*span)
            own, dk[:, :, part], dv[:, :, part] = backward(part, part, True)
            dq[:, :, part] += own
        found = (dq.flatten(0, 1), dk.sum(1), dv.sum(1))
        return *(part.to(saved[0].dtype)[None] for part in found), None, None, None


def _by_group(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[G, H/G, T, D] each, without copying: the H/G query heads of a group share one key/value head."""
    q = query[0].unflatten(0, (key.shape[1], -1))
    k, v = (tensor[0, :, None].expand(-1, q.shape[1], -1, -1) for tensor in (key, value))
    return q, k, v
