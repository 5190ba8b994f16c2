"""The attention of packed prompt trees, registered with transformers under the name `prompt_tree`.

A prompt attends to itself; a branch attends to its prompt and to itself; nothing else is seen. Exact on CPU and GPU
through `scaled_dot_product_attention`, one call for each prompt and branch; no mask over the whole row is ever built.

Dimension letters: H heads, G key/value heads, T tokens of the packed row, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "prompt_tree"

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """Where the trees of a packed row stand.

    trees: for each tree (start of the prompt, its end, ((start, end) of each branch, ...)). Ends are exclusive; a
    tree's prompt and branches follow each other without a gap.
    """

    trees: tuple[tuple[int, int, tuple[Span, ...]], ...]


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
    parts = []
    for start, end, branches in tree.trees:
        if len(branches) == 1:
            # One branch continues its prompt: the tree is a plain causal row.
            end, branches = branches[0][1], ()
        parts.append(
            scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                is_causal=True,
                scale=scaling,
                enable_gqa=grouped,
            )
        )
        for first, last in branches:
            keys = torch.cat((key[:, :, start:end], key[:, :, first:last]), dim=2)
            values = torch.cat((value[:, :, start:end], value[:, :, first:last]), dim=2)
            parts.append(
                scaled_dot_product_attention(
                    query[:, :, first:last],
                    keys,
                    values,
                    attn_mask=_branch_mask(end - start, last - first, query.device),
                    scale=scaling,
                    enable_gqa=grouped,
                )
            )
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _branch_mask(prompt: int, branch: int, device: torch.device) -> Tensor:
    """[branch, prompt + branch], True where a branch token may look: all of the prompt, and itself up to there."""
    mask = torch.ones(branch, prompt + branch, dtype=torch.bool, device=device)
    return mask.tril_(diagonal=prompt)


AttentionInterface.register(NAME, tree_attention)
