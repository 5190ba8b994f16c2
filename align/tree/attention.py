"""The attention of packed prompt trees, known to transformers as `prompt_tree` and `prompt_tree_flex`.

A prompt attends to itself; a branch attends to its prompt and to itself; nothing else is visible. A tree with a prompt
of two tokens (p) and branches of one (a) and two (b):

                 key  p0 p1 a2 b3 b4
        query p0      x
              p1      x  x
              a2      x  x  x
              b3      x  x  .  x           b does not see a
              b4      x  x  .  x  x

`prompt_tree` computes segment by segment with PyTorch's own attention, on CPU and GPU. A large tree takes a few calls
without a mask; small trees share a call under one small mask. `prompt_tree_flex` is a single FlexAttention call under a
block mask: faster on a GPU, and forward only on a CPU. Neither ever builds a mask of the whole row.

Dimension letters: H heads, G key/value heads, T tokens of the packed row, D head size, S tokens of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from align.errors import ConfigError

NAME = "prompt_tree"
FLEX_NAME = "prompt_tree_flex"

BLOCK = 128
"""Consecutive small trees share a call if they have at most this many tokens together."""

Span = tuple[int, int]
Tree = tuple[int, int, tuple[Span, ...]]
"""Start of the prompt, its end, (start, end) of each branch. Ends are exclusive; there are no gaps."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the packed row whose attention is computed together: several small trees, or one large tree."""

    start: int
    end: int
    trees: tuple[Tree, ...]
    mask: Tensor | None
    """[S, S], True where a token may look; None for one large tree."""


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """Which tokens of a packed row see which: the row's blocks, in order."""

    blocks: tuple[Block, ...]
    longest: int
    """Tokens of the longest prompt with one of its branches."""
    reached: set[str] = field(default_factory=set, compare=False, repr=False)
    """Class names of the attention modules that have used this layout; empty if the model does not pass it on."""
    _flex: dict[torch.device, BlockMask] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> TreeLayout:
        """The layout of trees that follow each other without a gap."""
        blocks: list[Block] = []
        held: list[Tree] = []
        for tree in trees:
            if held and _end(tree) - held[0][0] > BLOCK:
                blocks.append(_block(held))
                held = []
            held.append(tree)
        longest = max(end - start + max(last - first for first, last in branches) for start, end, branches in trees)
        return cls(tuple([*blocks, _block(held)]), longest)

    def to(self, device: torch.device | str) -> TreeLayout:
        blocks = (Block(b.start, b.end, b.trees, None if b.mask is None else b.mask.to(device)) for b in self.blocks)
        return TreeLayout(tuple(blocks), self.longest)

    def segments(self) -> Iterator[tuple[Span, Span]]:
        """(A prompt's or branch's span, its prompt's span) in order; a prompt's own prompt is itself."""
        for block in self.blocks:
            for start, end, branches in block.trees:
                yield (start, end), (start, end)
                for branch in branches:
                    yield branch, (start, end)

    def flex_mask(self, device: torch.device) -> BlockMask:
        """FlexAttention's block mask, made once for all layers."""
        if device not in self._flex:
            self._flex[device] = _flex_mask(self, device)
        return self._flex[device]


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: TreeLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one packed row, segment by segment.

    Shapes: query [1, H, T, D]; key and value [1, G, T, D]; result [1, T, H, D].
    Gradient: reaches query, key and value.
    Edge: without a layout (plain use of the model) this is transformers' own SDPA attention. Values that are narrower
        than keys (multi-head latent attention) are padded with zeros, which leaves the result as it is.
    Errors: ConfigError for an argument that would change the result, such as a window that is shorter than a sequence.
    """
    if tree is None:
        out = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return cast(Tensor, out[0]), None
    _check(module, query, attention_mask, dropout, tree, kwargs)
    if value.shape[-1] < key.shape[-1]:
        scaling = key.shape[-1] ** -0.5 if scaling is None else scaling
        wide = pad(value, (0, key.shape[-1] - value.shape[-1]))
        return tree_attention(module, query, key, wide, None, scaling, tree=tree)[0][..., : value.shape[-1]], None
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast the rotation leaves them in float32
    # Split once: slices would each fill a gradient of the whole row.
    sizes = [block.end - block.start for block in tree.blocks]
    splits = zip(tree.blocks, *(tensor.split(sizes, dim=2) for tensor in (query, key, value)), strict=True)
    attended = [
        _one_tree(q, k, v, block, scaling) if block.mask is None else _under_mask(q, k, v, block.mask, scaling)
        for block, q, k, v in splits
    ]
    return torch.cat([part.transpose(1, 2) for part in attended], dim=1), None


def flex_tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: TreeLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The same as `tree_attention` in one call of FlexAttention. Source: Dong et al. 2024, arXiv:2412.05496."""
    if tree is None:
        return tree_attention(module, query, key, value, attention_mask, scaling, dropout, **kwargs)
    _check(module, query, attention_mask, dropout, tree, kwargs)
    mask: Any = tree.flex_mask(query.device)
    return flex_attention_forward(module, query, key, value, mask, scaling=scaling)[0], None


_WITHOUT_EFFECT = {"position_ids", "cache_position", "position_embeddings", "use_cache", "output_router_logits"}
"""Arguments that models pass to an attention function, and that no attention function of transformers reads."""

_CAUSES = {"softcap": "attn_logit_softcapping", "s_aux": "attention sinks", "sinks": "attention sinks"}


def _check(
    module: Any, query: Tensor, mask: Tensor | None, dropout: float, tree: TreeLayout, more: dict[str, Any]
) -> None:
    """Raise ConfigError if the model's own attention would give other values than this one."""
    assert query.shape[0] == 1, "trees are packed into one row"
    tree.reached.add(type(module).__name__)
    window = more.get("sliding_window")
    if dropout:
        cause = f"attention_dropout={dropout:g}: a dropped weight would differ between branches that share a prompt"
    elif mask is not None:
        cause = "an attention mask of its own, which packed trees do not apply"
    elif more.get("is_causal") is False or (more.get("is_causal") is None and not getattr(module, "is_causal", True)):
        cause = "bidirectional attention, and in packed trees a token sees what is before it only"
    elif window is not None and window < tree.longest:
        cause = f"sliding_window={window}, and packed trees attend to the whole prompt: a sequence has {tree.longest}"
    else:
        known = _WITHOUT_EFFECT | {"sliding_window", "is_causal"}
        unknown = [
            name for name, value in more.items() if name not in known and value is not None and value is not False
        ]
        if not unknown:
            return
        named = ", ".join(_CAUSES.get(name, name) for name in unknown)
        cause = f"{named}, and packed trees attend without"
    how = "Name a model without it, or remove it from the checkpoint's config.json if the model does not need it"
    raise ConfigError("model.path", f"the attention of {type(module).__name__} has {cause}", how)


def _under_mask(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    # On a CPU the plain products are several times faster than the fused kernel's backward pass at this size.
    with sdpa_kernel(SDPBackend.MATH) if _on_cpu(query) else nullcontext():
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )


def _one_tree(query: Tensor, key: Tensor, value: Tensor, block: Block, scaling: float | None) -> Tensor:
    """One large tree. The prompt with its first branch is a plain causal row; each other branch is one more call."""
    ((start, end, spans),) = block.trees
    prompt = end - start
    branches = [(first - start, last - start) for first, last in spans]
    if _on_cpu(query):
        return cast(Tensor, _TreeOnCPU.apply(query, key, value, prompt, branches, scaling))
    row, grouped = branches[0][1], query.shape[1] != key.shape[1]
    parts = [
        scaled_dot_product_attention(
            query[:, :, :row], key[:, :, :row], value[:, :, :row], is_causal=True, scale=scaling, enable_gqa=grouped
        )
    ]
    for first, last in branches[1:]:
        k, v = (torch.cat([tensor[:, :, :prompt], tensor[:, :, first:last]], dim=2) for tensor in (key, value))
        # Aligned to the lower right, causal means all of the prompt: flash kernels need no mask for it.
        seen: Any = causal_lower_right(last - first, k.shape[2])
        parts.append(
            scaled_dot_product_attention(
                query[:, :, first:last], k, v, attn_mask=seen, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(parts, dim=2)


class _TreeOnCPU(torch.autograd.Function):
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


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _by_group(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[G, H/G, T, D] each, without copying: the H/G query heads of a group share one key/value head."""
    q = query[0].unflatten(0, (key.shape[1], -1))
    k, v = (tensor[0, :, None].expand(-1, q.shape[1], -1, -1) for tensor in (key, value))
    return q, k, v


def _flex_mask(layout: TreeLayout, device: torch.device) -> BlockMask:
    """FlexAttention's block mask: which blocks of 128 keys a block of 128 queries reads, and the rule inside them.

    Example: a prompt of 128 tokens with branches of 256 and 128, so blocks 0 | 1 2 | 3. The blocks to read are

        query block 0   0
                    1   0 1
                    2   0 1 2
                    3   0 . . 3      branch 1 skips the blocks of branch 0

    `numbers` counts them (1, 2, 3, 2), and `order` lists them first in each row: the last row is 0 3 1 2, of which the
    first two are read.
    """
    size = 128
    spans = list(layout.segments())
    length = spans[-1][0][1]
    count = -(-length // size)
    seen = torch.zeros(count, count, dtype=torch.bool)
    segment = torch.empty(length, dtype=torch.int32)
    parent = torch.empty(length, dtype=torch.int32)
    of_prompt: dict[Span, int] = {}  # span of a prompt -> number of its segment
    for number, ((start, end), prompt) in enumerate(spans):
        if prompt == (start, end):
            of_prompt[prompt] = number
        segment[start:end], parent[start:end] = number, of_prompt[prompt]
        rows = slice(start // size, (end - 1) // size + 1)  # the blocks that the segment touches
        seen[rows, rows] = True
        seen[rows, prompt[0] // size : (prompt[1] - 1) // size + 1] = True
    seen.tril_()
    segment, parent = segment.to(device), parent.to(device)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & ((segment[key] == segment[query]) | (segment[key] == parent[query]))

    numbers = seen.sum(1, dtype=torch.int32)[None, None].to(device)
    order = seen.int().argsort(dim=1, descending=True, stable=True).int()[None, None].to(device)
    return BlockMask.from_kv_blocks(numbers, order, BLOCK_SIZE=size, mask_mod=visible, seq_lengths=(length, length))


def _end(tree: Tree) -> int:
    return tree[2][-1][1]


def _block(trees: Sequence[Tree]) -> Block:
    start, end = trees[0][0], _end(trees[-1])
    if end - start > BLOCK:
        assert len(trees) == 1
        return Block(start, end, tuple(trees), None)
    mask = torch.zeros(end - start, end - start, dtype=torch.bool)  # drawn at the top of this file, for one tree
    for begin, stop, branches in trees:
        length = stop - begin
        mask[begin - start : stop - start, begin - start : stop - start] = _causal(length)
        for first, last in branches:
            mask[first - start : last - start, begin - start : stop - start] = True
            mask[first - start : last - start, first - start : last - start] = _causal(last - first)
    return Block(start, end, tuple(trees), mask)


def _causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril_()


AttentionInterface.register(NAME, tree_attention)
AttentionInterface.register(FLEX_NAME, flex_tree_attention)
