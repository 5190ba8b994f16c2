"""Log-probabilities of packed trees, from hidden states, at label positions only.

Dimension letters: T tokens of the packed row, N label positions, E hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from align.tree.pack import TreeBatch

CHUNK = 256
"""Label positions whose logits exist at one time: [CHUNK, V] instead of [T, V], forward and backward."""


def token_logps(hidden_NE: Tensor, head: nn.Module, labels: Tensor) -> Tensor:
    """Log-probability of each label.

    Shapes: hidden_NE [N, E], the state that predicts each label; labels [N]; result [N], float32.
    Units: nats.
    Gradient: reaches hidden_NE and the head. Each chunk's logits are computed again in the backward pass.
    Edge: N = 0 gives an empty tensor.
    The head is called as a module, never through its weight: ZeRO-3 gathers a weight only while its module runs.
    """
    recompute = torch.is_grad_enabled()
    parts = []
    for hidden, label in zip(hidden_NE.split(CHUNK), labels.split(CHUNK), strict=True):
        if recompute:
            parts.append(checkpoint(_chunk_logps, hidden, head, label, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_chunk_logps(hidden, head, label))
    return torch.cat(parts)


def _chunk_logps(hidden: Tensor, head: nn.Module, labels: Tensor) -> Tensor:
    logits = head(hidden).float()
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

    def forward(self, batch: TreeBatch) -> Tensor:
        """Log-probabilities, [N] float32 nats, in the batch's label order."""
        with self.autocast(batch):
            hidden = self.hidden_states(batch)[batch.sources]
            return token_logps(hidden, self.model.get_output_embeddings(), batch.labels)


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
            return head(hidden.to(self.model.dtype)).float().squeeze(-1)
