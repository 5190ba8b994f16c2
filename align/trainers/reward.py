"""The reward model: every better completion against every worse one of its prompt (Llama 3, arXiv:2407.21783, 4.1.2).

Two ranked completions make one comparison, three make three. Llama 3 scores a prompt's completions in one row and calls
that an approximation, since later ones see earlier ones; in a tree they do not, so it is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from align.errors import ProofError
from align.losses import reward_loss
from align.trainers.base import TreeTrainer
from align.tree.encode import PromptTree
from align.tree.pack import TreeBatch


class RewardTrainer(TreeTrainer):
    """Mean ranking loss over all comparisons of the step."""

    stage = "reward"

    def denominators(self, rows: Sequence[PromptTree]) -> dict[str, float]:
        return {"comparisons": sum(math.comb(len(tree.branches), 2) for tree in rows)}

    def batch_loss(self, model: torch.nn.Module, batch: TreeBatch, denominators: dict[str, float]) -> Tensor:
        scores = model(batch)
        better, worse, weights = comparisons(batch)
        loss, margin = reward_loss(scores[better], scores[worse])
        weights = weights.to(loss.device)
        self.count(
            rows=weights.sum(),
            accuracy_sum=(((margin > 0) + 0.5 * (margin == 0)) * weights).sum(),
            margin_sum=(margin * weights).sum(),
        )
        return (loss * weights).sum() / denominators["comparisons"]

    def prove_first_step(self, totals: dict[str, float]) -> None:
        if not math.isfinite(totals["margin_sum"]):
            what = f"scores differ by {totals['margin_sum']} before any training"
            raise ProofError("step 0", what, "Check the checkpoint's score head")


def comparisons(batch: TreeBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Branch indices of every better and worse completion of a prompt, [P] each, and each comparison's weight, [P]."""
    better, worse, weights = [], [], []
    first = 0
    for count, weight in zip(batch.branch_counts, batch.weights.tolist(), strict=True):
        for a, b in combinations(range(first, first + count), 2):
            better.append(a)
            worse.append(b)
            weights.append(weight)
        first += count
    return torch.tensor(better), torch.tensor(worse), torch.tensor(weights)
