"""Log-probabilities of packed trees, from hidden states, at label positions only.

Dimension letters: T tokens of the packed row, N label positions, E hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from align.tree.pack import TreeBatch

CHUNK = 256
"""Label positions whose logits exist at one time: [CHUNK, V] instead of [T, V], forward and backward."""


class LabelHead(nn.Linear):
    """An output head that can also give the log-probabilities of labels, without ever holding [N, V].

    All chunks run inside one call of the module. ZeRO-3 gathers a weight when its module's forward runs, and all
    processes must gather equally often: with a call for each chunk, one with more labels would wait for ever.
    """

    @classmethod
    def of(cls, model: Any) -> LabelHead:
        """The model's own output head, made one of these in place: names, tying and hooks of its weight stay."""
        head: Any = model.get_output_embeddings()
        assert type(head) in (nn.Linear, cls), f"the output head is a {type(head).__name__}"
        head.__class__ = cls
        return cast(LabelHead, head)

    def forward(self, hidden: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [.., V] as ever, or with labels [N] and hidden [N, E] their log-probabilities.

        Shapes: hidden [N, E], the state that predicts each label; labels [N]; result [N], float32.
        Units: nats.
        Gradient: reaches hidden and the weight. Each chunk's logits are computed again in the backward pass.
        Edge: N = 0 gives an empty tensor.
        """
        if labels is None:
            return super().forward(hidden)
        parts = []
        for states, chunk in zip(hidden.split(CHUNK), labels.split(CHUNK), strict=True):
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._logps, states, chunk, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._logps(states, chunk))
        return torch.cat(parts)

    def _logps(self, hidden: Tensor, labels: Tensor) -> Tensor:
        logits = super().forward(hidden).float()
        return logits.gather(-1, labels[:, None]).squeeze(-1) - logits.logsumexp(dim=-1)


class TreeModel(nn.Module):
    """A Hugging Face model (`.model`) that reads packed trees. What the trainers train, and what is saved is `.model`.

    precision: "bf16" runs matrix products in bfloat16 over float32 weights; "fp32" runs in the weights' own type.
    """

    def __init__(self, model: Any, precision: str = "fp32") -> None:
        super().__init__()
        self.model: Any = model
        self.precision = precision

    @property
    def config(self):
        return self.model.config

    def hidden_states(self, batch: TreeBatch) -> Tensor:
        """Last hidden state of every token, [T, E]."""
        output = self.model.base_model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, tree=batch.layout, use_cache=False
        )
        return output.last_hidden_state[0]

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
        """Log-probabilities, [N] float32 nats, in the batch's label order."""
        with self.autocast(batch):
            hidden = self.hidden_states(batch)[batch.sources]
            return self.model.get_output_embeddings()(hidden, batch.labels)


class TreeScorer(TreeModel):
    """A reward model: one score for each branch, read at the branch's last token.

    The score head runs in the weights' own type, outside bfloat16: pairs differ by small amounts.
    """

    def forward(self, batch: TreeBatch) -> Tensor:
        """Scores, [B] float32, in branch order."""
        with self.autocast(batch):
            hidden = self.hidden_states(batch)[batch.ends]
        head = self.model.score
        with torch.autocast(hidden.device.type, enabled=False):
            return head(hidden.to(head.weight.dtype)).float().squeeze(-1)
