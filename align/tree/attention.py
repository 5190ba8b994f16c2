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
without a mask; small trees share a call under small masks. `prompt_tree_flex` is a single FlexAttention call under a
block mask, for GPUs: on a CPU it is forward only. Neither ever builds a mask of the whole row.

Dimension letters: H heads, G key/value heads, T tokens of the packed row, D head size, S tokens of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
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
from align.tree.cpu import TreeOnCPU
from align.tree.flex import Span, flex_mask
from align.tree.sequence_parallel import SequenceGroup

NAME = "prompt_tree"
FLEX_NAME = "prompt_tree_flex"

BLOCK = 128
"""Consecutive small trees share a call if they have at most this many tokens together."""

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
    shared: SequenceGroup | None = None
    """The processes that have a part of the row each; None if this one has all of it."""
    reached: set[str] = field(default_factory=set, compare=False, repr=False)
    """Class names of the attention modules that have used this layout; empty if the model does not pass it on."""
    _flex: dict[torch.device, BlockMask] = field(default_factory=dict, compare=False, repr=False)
    _small: dict[torch.device, SmallTrees] = field(default_factory=dict, compare=False, repr=False)

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
        """The layout for tensors of a device, not used so far. Masks are moved there when they are first read."""
        return TreeLayout(self.blocks, self.longest)

    def over(self, group: SequenceGroup | None) -> TreeLayout:
        """The same layout of a row that a group of processes shares."""
        return replace(self, shared=group)

    @property
    def tokens(self) -> int:
        return self.blocks[-1].end

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
            self._flex[device] = flex_mask(list(self.segments()), device)
        return self._flex[device]

    def small_trees(self, device: torch.device) -> SmallTrees:
        """The blocks of small trees as one batch, made once for all layers."""
        if device not in self._small:
            self._small[device] = _small_trees(self.blocks, device)
        return self._small[device]


@dataclass(frozen=True, slots=True)
class SmallTrees:
    """The C blocks of small trees in a packed row as one batch, each filled up to S tokens.

    Example: a row of a block of 2 tokens, a large tree of 4, and a block of 3, so S = 3 (in fact a multiple of 8):

        places    0 1 0 | 6 7 8        block 0 is filled up with the token of place 0
        order     0 1 | 6 7 8 9 | 3 4 5

    `order` says where each token of the row is if the tokens of the batch (0 to 5) are followed by those of the large
    trees (6 to 9).
    """

    places: Tensor  # [C * S]
    mask: Tensor  # [C, 1, S, S], True where a token may look; what is filled up looks at the first token of its block
    order: Tensor  # [T]


def _of_shared_rows(attention: Callable[..., tuple[Tensor, None]]) -> Callable[..., tuple[Tensor, None]]:
    """`attention` that also takes this process's part of a row that a group of processes shares.

    Shapes: as for `tree_attention`, with the tokens of the part in the place of T.
    """

    @wraps(attention)
    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *more: Any,
        tree: TreeLayout | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        if tree is None or tree.shared is None:
            return attention(module, query, key, value, attention_mask, *more, tree=tree, **kwargs)
        whole = tree.over(None)

        def of_whole_row(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(module, q, k, v, attention_mask, *more, tree=whole, **kwargs)[0]

        return tree.shared.attend(of_whole_row, query, key, value, tree.tokens), None

    return attend


@_of_shared_rows
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
    splits = list(zip(tree.blocks, *(tensor.split(sizes, dim=2) for tensor in (query, key, value)), strict=True))
    if _on_cpu(query):
        attended = [
            _tree_on_cpu(q, k, v, block, scaling) if block.mask is None else _under_mask(q, k, v, block.mask, scaling)
            for block, q, k, v in splits
        ]
        return torch.cat([part.transpose(1, 2) for part in attended], dim=1), None
    attended = [_one_tree(q, k, v, block, scaling) for block, q, k, v in splits if block.mask is None]
    if len(attended) < len(splits):
        small = tree.small_trees(query.device)
        whole = torch.cat([_together(query, key, value, small, scaling), *attended], dim=2)
        return whole.index_select(2, small.order).transpose(1, 2), None
    return torch.cat(attended, dim=2).transpose(1, 2), None


@_of_shared_rows
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
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast the rotation leaves them in float32
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
    """A block of small trees on a CPU."""
    # The plain products are several times faster than the fused kernel's backward pass at this size.
    with sdpa_kernel(SDPBackend.MATH):
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )


def _tree_on_cpu(query: Tensor, key: Tensor, value: Tensor, block: Block, scaling: float | None) -> Tensor:
    return cast(Tensor, TreeOnCPU.apply(query, key, value, *_parts(block), scaling))


def _one_tree(query: Tensor, key: Tensor, value: Tensor, block: Block, scaling: float | None) -> Tensor:
    """One large tree on a GPU: the prompt with its first branch is a plain causal row, each other branch one call."""
    prompt, branches = _parts(block)
    row = branches[0][1]
    parts = [_attend(query[:, :, :row], key[:, :, :row], value[:, :, :row], scaling)]
    for first, last in branches[1:]:
        k, v = (torch.cat([tensor[:, :, :prompt], tensor[:, :, first:last]], dim=2) for tensor in (key, value))
        parts.append(_attend(query[:, :, first:last], k, v, scaling))
    return torch.cat(parts, dim=2)


def _together(query: Tensor, key: Tensor, value: Tensor, small: SmallTrees, scaling: float | None) -> Tensor:
    """All small trees of a row on a GPU, in one call. Shapes: those of the row; result [1, H, C * S, D]."""
    count, size = small.mask.shape[0], small.mask.shape[-1]
    q, k, v = (
        tensor.index_select(2, small.places)[0].unflatten(1, (count, size)).transpose(0, 1)
        for tensor in (query, key, value)
    )
    return _attend(q, k, v, scaling, mask=small.mask).transpose(0, 1).flatten(1, 2)[None]


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, *, mask: Tensor | None = None) -> Tensor:
    """One call of PyTorch's attention on a GPU: under the mask, or else the last query sees all keys, the one before
    it all but the last, and so on.

    Only flash kernels share a key/value head among the query heads of its group, and they take neither a mask nor
    float32. The memory-efficient kernel takes both, but a key/value head for each query head. With neither of the two,
    PyTorch would compute plain products, which hold the whole matrix of scores.
    """
    grouped = query.shape[1] != key.shape[1]
    if grouped and (mask is not None or query.dtype == torch.float32):
        key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for tensor in (key, value))
        grouped = False
    seen: Any = mask
    if mask is None and query.shape[2] < key.shape[2]:
        seen = causal_lower_right(query.shape[2], key.shape[2])  # no tensor: flash kernels know it by the sizes
    return scaled_dot_product_attention(
        query, key, value, attn_mask=seen, is_causal=seen is None, scale=scaling, enable_gqa=grouped
    )


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _parts(block: Block) -> tuple[int, list[Span]]:
    """Tokens of the prompt of one large tree, and where its branches are in it."""
    ((start, end, spans),) = block.trees
    return end - start, [(first - start, last - start) for first, last in spans]


def _small_trees(blocks: Sequence[Block], device: torch.device) -> SmallTrees:
    """Sizes are multiples of 8, since the memory-efficient kernel would copy another mask for alignment."""
    masks = [(block, block.mask) for block in blocks if block.mask is not None]
    size = -(-max(block.end - block.start for block, _ in masks) // 8) * 8
    places = torch.zeros(len(masks), size, dtype=torch.long)
    mask = torch.zeros(len(masks), 1, size, size, dtype=torch.bool)
    mask[..., 0] = True
    order = torch.empty(blocks[-1].end, dtype=torch.long)
    for number, (block, own) in enumerate(masks):
        length = block.end - block.start
        places[number, :length] = torch.arange(block.start, block.end)
        mask[number, 0, :length, :length] = own
        order[block.start : block.end] = torch.arange(number * size, number * size + length)
    first = len(masks) * size
    for block in blocks:
        if block.mask is None:
            order[block.start : block.end] = torch.arange(first, first := first + block.end - block.start)
    return SmallTrees(places.flatten().to(device), mask.to(device), order.to(device))


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
