"""Log-probabilities and scores of packed trees: computed from hidden states, at the positions that are read only.

Dimension letters: T tokens of the packed row, N label positions, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from align.errors import ConfigError
from align.models.devices import choose_kernels
from align.models.exactness import (
    length_limit,
    logit_scale,
    named,
    own_attention,
    refusal,
    refuse_inexact,
    require_reached,
    require_within,
)
from align.tree.pack import TreeBatch
from align.tree.sequence_parallel import SequenceGroup

TILE = {"cpu": (256, 2048), "cuda": (2048, 4096)}
"""How many label positions and vocabulary entries have their logits in memory at one time, instead of [T, V]. A tile of
the CPU fits into its cache."""


def require_plain_head(model: Any) -> tuple[Any, float]:
    """The output head, and the factor of its logits. Raises ConfigError for a head with a bias, or that is followed by
    more than a factor.
    """
    head: Any = model.get_output_embeddings()
    if type(head) not in (nn.Linear, LabelHead) or head.bias is not None:
        kind = "no output head" if head is None else f"an output head of the kind {head}"
        why = "log-probabilities are computed from a linear layer without a bias"
        raise refusal(model.config, named(model), kind, why)
    return head, logit_scale(model)


class LabelHead(nn.Linear):
    """An output head that also computes the log-probabilities of labels, without ever having [N, V] in memory.

    All tiles run inside one call of the module. ZeRO-3 gathers a weight when the forward of its module runs, and all
    processes must gather equally often: with one call for each tile, a process with more labels would wait forever.
    """

    scale = 1.0
    """What the model multiplies logits by before its softmax (Granite, Cohere)."""

    @classmethod
    def of(cls, model: Any) -> LabelHead:
        """Turn the model's own output head into one of these, in place: names, tying and hooks of its weight stay.

        Raises ConfigError for a head with a bias, or that is followed by more than a factor.
        """
        head, scale = require_plain_head(model)
        head.__class__ = cls
        head.scale = scale
        return cast(LabelHead, head)

    def forward(self, hidden: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [.., V] as ever, or with labels [N] and hidden [N, E] their log-probabilities.

        Shapes: hidden [N, E], the state that predicts each label; labels [N]; result [N], float32.
        Units: nats.
        Gradient: reaches hidden, and the weight where it is trained. Logits are computed again in the backward pass.
        Edge: N = 0 gives an empty tensor.
        """
        if labels is None:
            return super().forward(hidden)
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.weight.dtype
        if self.scale != 1:
            hidden = hidden * self.scale
        return cast(Tensor, _LabelLogps.apply(hidden, self.weight, labels, dtype))


class ScoreHead(nn.Linear):
    """A reward model's head, computed in float32 whatever type the weights and hidden states have.

    The completions of a prompt differ by small amounts: between 4 and 8 bfloat16 knows multiples of 1/32 only, and of
    16 candidates some would tie. The conversion is inside the module's forward, where ZeRO-3 has gathered the weight.
    """

    @classmethod
    def of(cls, model: Any) -> None:
        """The model's own head, made one of these in place, also where peft trains a copy of it (modules_to_save).

        Raises ConfigError for a model without a linear layer `score`.
        """
        if not isinstance(getattr(model, "score", None), nn.Module):
            what = f"{named(model)} is a {type(model).__name__}, which has no layer `score`"
            raise ConfigError("model.path", what, "Name a decoder that transformers gives a linear score head")
        for module in model.score.modules():
            if type(module) is nn.Linear:
                module.__class__ = cls

    def forward(self, hidden: Tensor) -> Tensor:
        """Shapes: hidden [.., E], result [.., labels], float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return nn.functional.linear(hidden.float(), self.weight.float(), bias)


class _LabelLogps(torch.autograd.Function):
    """log softmax(hidden @ weight.T)[labels], tile by tile, forward and backward.

    Example: 3 positions, a vocabulary of 5, tiles of 2 positions and 3 vocabulary entries, so 2 x 2 tiles:

                     v0   v1   v2 |  v3   v4
        position 0   tile 0, 0    |  tile 0, 1
                 1                |
                 ---------------------------
                 2   tile 1, 0    |  tile 1, 1

    If position 0 has the logits ln 1, ln 2, ln 1 | ln 3, ln 1 and the label v3, each of its tiles has the log-sum-exp
    ln 4. Joined, logsumexp(ln 4, ln 4) = ln 8, and the log-probability is ln 3 - ln 8 = ln 3/8.

    Matrix products are computed in `dtype`; sums over the vocabulary and over tiles in float32, since sums of many
    bfloat16 parts are biased. The logit of a label is a single float32 number, used in the numerator and as a term of
    the log-sum-exp. With two differently rounded numbers a log-probability near 0 could be above 0: bfloat16 logits
    between 16 and 32 are multiples of 0.125. The backward pass computes the logits again. Saved for it
    are the hidden states, and for each position its log-sum-exp and the logit of its label.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            states = hidden.to(dtype)
            chosen = (states.float() * weight[labels].to(dtype).float()).sum(1)
            # The log-sum-exp of a tile is what log_softmax subtracted from each of its logits. In the example
            # ln 1 - (ln 1 - ln 4) = ln 4. Tiles are joined once at the end: a running sum would round at every tile.
            tiles = -(-len(weight) // _tile(states)[1])
            of_tiles = torch.empty(len(labels), tiles, device=hidden.device)
            for rows, words, _, logits in _tiles(states, weight, labels, chosen):
                tile_lse = logits[:, 0] - logits.log_softmax(1)[:, 0]
                of_tiles[rows, words.start // _tile(states)[1]] = tile_lse
            lse = of_tiles.logsumexp(1)
        ctx.save_for_backward(hidden, weight, labels, lse, chosen)
        ctx.dtype = dtype
        # The label is a term of the sum, so the difference is at most 0, except for the last bit of the float32 sum.
        return (chosen - lse).clamp_(max=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, labels, lse, chosen = ctx.saved_tensors
        gradient = gradients[0][:, None]
        states = hidden.to(ctx.dtype)
        scaled = (hidden.float() * gradient).to(ctx.dtype)
        d_hidden, d_weight = (
            torch.zeros(tensor.shape, device=hidden.device) if needed else None
            for tensor, needed in zip((hidden, weight), ctx.needs_input_grad[:2], strict=True)
        )
        # d logp(label) / d logit(v) = [v is the label] - p(v). In the example -1/8, -2/8, -1/8, 5/8, -1/8. The loop
        # subtracts the p(v) part; the lines after it add the label's 1.
        for rows, words, part, logits in _tiles(states, weight, labels, chosen):
            probabilities = logits.sub_(lse[rows, None]).exp_().to(ctx.dtype)
            if d_hidden is not None:
                _subtract_product(d_hidden[rows], probabilities, part)
            if d_weight is not None:
                _subtract_product(d_weight[words], probabilities.t(), scaled[rows])
        if d_hidden is not None:
            d_hidden = d_hidden.add_(weight[labels].to(ctx.dtype)).mul_(gradient).to(hidden.dtype)
        if d_weight is not None:
            d_weight = d_weight.index_add_(0, labels, scaled.float()).to(weight.dtype)
        return d_hidden, d_weight, None, None


def _tiles(
    states: Tensor, weight: Tensor, labels: Tensor, chosen: Tensor
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Go through all tiles: the slices of positions and of the vocabulary, its weights, and the tile's float32 logits.

    The weights have the type of `states`. The logits may be overwritten by the caller, and are by the next tile.
    chosen: [N], the logit of each label, which replaces the one of the matrix product.

    Example, as in `_LabelLogps`, labels 1, 4 and 0, in the tiles of v3 and v4 (first = 3): label - first is -2, 1 and
    -3, so only position 1 has its label in these tiles, in column 1. The other two are clamped to column 0 and written
    back as they are.
    """
    height, width = _tile(states)
    reused = torch.empty(min(height, len(states)) * width, device=states.device)
    for first in range(0, len(weight), width):
        words = slice(first, first + width)
        part = weight[words].to(states.dtype)
        place = (labels - first)[:, None]  # the column of each label; negative or too large if it is in another tile
        inside = (place >= 0) & (place < len(part))
        place = place.clamp(0, len(part) - 1)
        for start in range(0, len(states), height):
            rows = slice(start, start + height)
            logits = _product(states[rows], part, reused)
            own = torch.where(inside[rows], chosen[rows, None], logits.gather(1, place[rows]))
            yield rows, words, part, logits.scatter_(1, place[rows], own)


def _product(states: Tensor, part: Tensor, reused: Tensor) -> Tensor:
    """states @ part.T in float32, in the memory of `reused` where a product can be written there."""
    if states.is_cuda and states.dtype != torch.float32 and _WIDE_PRODUCT:
        return torch.mm(states, part.t(), out_dtype=torch.float32)  # tensor cores sum in float32; nothing is rounded
    logits = reused[: len(states) * len(part)].view(len(states), len(part))
    if states.dtype == torch.float32:
        return torch.mm(states, part.t(), out=logits)
    return logits.copy_(states @ part.t())


_WIDE_PRODUCT = "dtype" in torch.ops.aten.mm.overloads() and torch.version.hip is None
"""Whether this torch multiplies bfloat16 matrices into a float32 one on CUDA (since 2.8)."""


def _tile(states: Tensor) -> tuple[int, int]:
    return TILE.get(states.device.type, TILE["cuda"])


def _subtract_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total -= left @ right, where total is float32."""
    if left.dtype == torch.float32:
        total.addmm_(left, right, alpha=-1)
    else:
        total.sub_(left @ right)


class TreeModel(nn.Module):
    """A Hugging Face model (`.model`) that reads packed trees. Trainers train this module, and save `.model`.

    precision: "bf16" runs matrix products in bfloat16 over float32 weights; "fp32" runs in the weights' own type.
    """

    def __init__(self, model: Any, precision: str = "fp32") -> None:
        super().__init__()
        choose_kernels()
        refuse_inexact(model)
        self.model: Any = model
        self.limit = length_limit(model)
        self.precision = precision
        self.shared_by: SequenceGroup | None = None
        """The processes that have a part of each packed row (sequence parallelism); None if this one has all of it."""

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def low_precision(self) -> bool:
        """Whether products run in bfloat16."""
        return self.precision == "bf16" or self.model.dtype == torch.bfloat16

    def hidden_states(self, batch: TreeBatch) -> Tensor:
        """Last hidden state of every token, [T, E], or of this process's part of a shared row. Raises ConfigError for
        a sequence that is longer than the model's attention window, or than a switch of its positions.
        """
        assert batch.layout is not None, "a plain row goes through the model's own forward pass"
        require_within(self.limit, batch.layout.longest)
        ids, positions = batch.input_ids, batch.position_ids
        if self.shared_by is not None:
            ids, positions = self.shared_by.cut(ids), self.shared_by.cut(positions)
        layout = batch.layout.over(self.shared_by)
        output = self.model.base_model(input_ids=ids, position_ids=positions, tree=layout, use_cache=False)
        require_reached(self.model, layout)
        return cast(Tensor, output.last_hidden_state[0])

    def read(self, batch: TreeBatch, places: Tensor, values_of: Callable[[Tensor, Tensor | slice], Tensor]) -> Tensor:
        """Values at some places of the row, [N], in every process that shares it.

        places: [N]. values_of: gives the values of hidden states [n, E]; which of the N places they are from is its
            second argument, [n] or a slice.
        """
        hidden = self.hidden_states(batch)
        if self.shared_by is None:
            return values_of(hidden[places], slice(None))
        tokens = batch.input_ids.shape[1]
        return self.shared_by.joined(tokens, places, lambda here, which: values_of(hidden[here], which))

    def own_logits(self, batch: TreeBatch) -> Tensor:
        """Logits of a plain causal row by the model's own forward pass, [1, T, V], or [1, 1] of a reward model."""
        with own_attention(self.model):
            return cast(Tensor, self.model(input_ids=batch.input_ids, use_cache=False).logits)

    def autocast(self, batch: TreeBatch) -> torch.autocast:
        # Without the cache: under ZeRO-3 a weight is gone once its module has run, and its cached copy would stay.
        enabled = self.precision == "bf16"
        return torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


class TreePolicy(TreeModel):
    """A causal language model: log-probabilities of a batch's labels."""

    def __init__(self, model: Any, precision: str = "fp32") -> None:
        super().__init__(model, precision)
        LabelHead.of(model)

    def forward(self, batch: TreeBatch) -> Tensor:
        """Log-probabilities, [N] float32 nats, in the batch's label order.

        Edge: a batch without a layout is a plain causal row, and goes through the model's own forward pass, logits and
        log-softmax.
        """
        with self.autocast(batch):
            if batch.layout is None:
                logits = self.own_logits(batch)[0, batch.sources]
                return logits.float().log_softmax(-1).gather(1, batch.labels[:, None])[:, 0]
            head: Any = self.model.get_output_embeddings()
            return self.read(batch, batch.sources, lambda hidden, which: head(hidden, batch.labels[which]))


class TreeScorer(TreeModel):
    """A reward model: one score for each branch, read at the branch's last token."""

    def __init__(self, model: Any, precision: str = "fp32") -> None:
        super().__init__(model, precision)
        ScoreHead.of(model)

    def forward(self, batch: TreeBatch) -> Tensor:
        """Scores, [B] float32, in branch order.

        Edge: a batch without a layout is one branch as a plain causal row, and goes through the model's own forward
        pass. That reads the last token that is no padding; without a padding id it reads the last one.
        """
        with self.autocast(batch):
            if batch.layout is None:
                config = self.model.config.get_text_config()
                padding, config.pad_token_id = config.pad_token_id, None
                try:
                    return self.own_logits(batch)[:, 0].float()
                finally:
                    config.pad_token_id = padding
            return self.read(batch, batch.ends, lambda hidden, which: self.model.score(hidden).squeeze(-1))
