"""Supervised fine-tuning: cross-entropy on the assistant's tokens (Llama 3, arXiv:2407.21783, section 4.1.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.losses import nll_loss
from align.trainers.base import TreeTrainer
from align.tree.encode import PromptTree
from align.tree.pack import TreeBatch


class SFTTrainer(TreeTrainer):
    """Fine-tune a policy: the mean negative log-likelihood over all trained tokens of the step.

    Args: those of `TreeTrainer`.
    """

    stage = "sft"

    def denominators(self, rows: Sequence[PromptTree]) -> dict[str, float]:
        return {"tokens": sum(tree.labels for tree in rows)}

    def batch_loss(self, model: torch.nn.Module, batch: TreeBatch, denominators: dict[str, float]) -> Tensor:
        sums = nll_loss(model(batch), batch.label_counts, normalization="token_mean")
        self.sums.add(rows=batch.weights.sum(), trained_tokens=(batch.label_counts * batch.weights).sum())
        return (sums * batch.weights).sum() / denominators["tokens"]
