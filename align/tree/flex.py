"""FlexAttention's block mask of packed prompt trees; `align/tree/attention.py` has the attention itself.

Source: Dong et al. 2024, arXiv:2412.05496.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

Span = tuple[int, int]
"""Start and end of a run of tokens; the end is exclusive."""


def flex_mask(segments: Sequence[tuple[Span, Span]], device: torch.device) -> BlockMask:
    """FlexAttention's block mask: which blocks of 128 keys a block of 128 queries reads, and the rule inside them.

    segments: the span of each prompt and branch, with that of its prompt (a prompt's own is itself), in order and
        without gaps.

    Example: a prompt of 128 tokens with branches of 256 and 128, so blocks 0 | 1 2 | 3. The blocks to read are

        query block 0   0*
                    1   0  1*
                    2   0  1  2*
                    3   0  .  .  3*      branch 1 skips the blocks of branch 0

    Those with a star are partial: the rule says which of their keys a query sees. The others are full, and read without
    the rule, which would allow every key. `_listed` writes both down: partial 1 1 1 1 with the last row 3 0 1 2, full
    0 1 2 1 with the last row 0 1 2 3. The first of each row are read, as many as the counts say.
    """
    size = 128
    length = segments[-1][0][1]
    count = -(-length // size)
    seen = torch.zeros(count, count, dtype=torch.bool)
    full = torch.ones(count, count, dtype=torch.bool).tril_(-1)
    full[length // size :] = False  # the last block of queries, if it is cut
    segment = torch.empty(length, dtype=torch.int32)
    parent = torch.empty(length, dtype=torch.int32)
    of_prompt: dict[Span, int] = {}  # span of a prompt -> number of its segment
    for number, ((start, end), prompt) in enumerate(segments):
        if prompt == (start, end):
            of_prompt[prompt] = number
        segment[start:end], parent[start:end] = number, of_prompt[prompt]
    firsts, lasts = segment[::size], segment[torch.arange(size - 1, count * size, size).clamp(max=length - 1)]
    for number, ((start, end), prompt) in enumerate(segments):
        rows = slice(start // size, (end - 1) // size + 1)  # the blocks that the segment touches
        seen[rows, rows] = True
        seen[rows, prompt[0] // size : (prompt[1] - 1) // size + 1] = True
        # A query of this segment sees a whole block if the block's first and last token are its own or its prompt's,
        # unless there is another branch of the prompt between these two.
        own, theirs = number, of_prompt[prompt]
        inside = ((firsts == own) | (firsts == theirs)) & ((lasts == own) | (lasts == theirs))
        full[rows] &= inside & ((firsts == lasts) | (own == theirs + 1))
    seen.tril_()
    segment, parent = segment.to(device), parent.to(device)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & ((segment[key] == segment[query]) | (segment[key] == parent[query]))

    partial, whole = _listed(seen & ~full, device), _listed(full, device)
    return BlockMask.from_kv_blocks(*partial, *whole, BLOCK_SIZE=size, mask_mod=visible, seq_lengths=(length, length))


def _listed(blocks: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many key blocks each query block reads, and which: these first, in their order, and then the others.

    Shapes: blocks [C, C] bool, results [1, 1, C] and [1, 1, C, C] int32.
    """
    numbers = blocks.sum(1, dtype=torch.int32)[None, None]
    order = blocks.int().argsort(dim=1, descending=True, stable=True).int()[None, None]
    return numbers.to(device), order.to(device)
