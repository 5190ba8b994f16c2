"""The attention of packed prompt trees, registered with transformers under the name `prompt_tree`.

A prompt attends to itself; a branch attends to its prompt and to itself; nothing else is seen. Exact on CPU and GPU
through `scaled_dot_product_attention`: a large tree takes a call for each prompt and branch, small ones go many at a
time under one small mask. No mask over the whole row is ever built.

Dimension letters: H heads, G key/value heads, T tokens of the packed row, D head size, S tokens of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "prompt_tree"

BLOCK = 128
"""Small trees that follow each other share a call while they have at most so many tokens together."""

Span = tuple[int, int]
Tree = tuple[int, int, tuple[Span, ...]]
"""Start of the prompt, its end, (start, end) of each branch. Ends are exclusive; nothing stands between them."""


@dataclass(frozen=True, slots=True)
class Block:
    """A run of the packed row that is attended to in one go: several small trees, or one large one."""

    start: int
    end: int
    trees: tuple[Tree, ...]
    mask: Tensor | None
    """[S, S], True where a token may look; None for one large tree."""


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """How a packed row is attended to: its blocks, in order."""

    blocks: tuple[Block, ...]

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
        return cls(tuple([*blocks, _block(held)]))

    def to(self, device: torch.device | str) -> TreeLayout:
        return TreeLayout(
            tuple(Block(b.start, b.end, b.trees, None if b.mask is None else b.mask.to(device)) for b in self.blocks)
        )


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: TreeLayout | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attention of one packed row.

    Shapes: query [1, H, T, D]; key and value [1, G, T, D]; result [1, T, H, D].
    Gradient: reaches query, key and value.
    Edge: without a layout (plain use of the model) this is transformers' own SDPA attention.
    """
    if tree is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    assert query.shape[0] == 1, "trees are packed into one row"
    assert dropout == 0.0, "a dropped attention weight would differ between branches that share a prompt"
    grouped = query.shape[1] != key.shape[1]

    def attend(queries: Span, keys: Sequence[Span], mask: Tensor | None = None) -> Tensor:
        seen = [(key[:, :, a:b], value[:, :, a:b]) for a, b in keys]
        return scaled_dot_product_attention(
            query[:, :, queries[0] : queries[1]],
            torch.cat([k for k, _ in seen], dim=2) if len(seen) > 1 else seen[0][0],
            torch.cat([v for _, v in seen], dim=2) if len(seen) > 1 else seen[0][1],
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=grouped,
        )

    parts = []
    for block in tree.blocks:
        if block.mask is not None:
            # On a CPU the plain products are several times faster than the fused kernel's backward pass at this size.
            with sdpa_kernel(SDPBackend.MATH) if query.device.type == "cpu" else nullcontext():
                parts.append(attend((block.start, block.end), [(block.start, block.end)], block.mask))
            continue
        ((start, end, branches),) = block.trees
        if len(branches) == 1:
            parts.append(attend((start, block.end), [(start, block.end)]))  # one branch goes on as a plain causal row
            continue
        parts.append(attend((start, end), [(start, end)]))
        for first, last in branches:
            mask = _causal_after(end - start, last - first).to(query.device)
            parts.append(attend((first, last), [(start, end), (first, last)], mask))
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _end(tree: Tree) -> int:
    return tree[2][-1][1]


def _block(trees: Sequence[Tree]) -> Block:
    start, end = trees[0][0], _end(trees[-1])
    if end - start > BLOCK:
        assert len(trees) == 1
        return Block(start, end, tuple(trees), None)
    mask = torch.zeros(end - start, end - start, dtype=torch.bool)
    for begin, stop, branches in trees:
        length = stop - begin
        mask[begin - start : stop - start, begin - start : stop - start] = _causal_after(0, length)
        for first, last in branches:
            mask[first - start : last - start, begin - start : stop - start] = True
            mask[first - start : last - start, first - start : last - start] = _causal_after(0, last - first)
    return Block(start, end, tuple(trees), mask)


def _causal_after(prompt: int, branch: int) -> Tensor:
    """[branch, prompt + branch], True where a branch token may look: all of the prompt, and itself up to there."""
    return torch.ones(branch, prompt + branch, dtype=torch.bool).tril_(diagonal=prompt)


AttentionInterface.register(NAME, tree_attention)
