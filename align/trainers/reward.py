"""The reward model: every better completion against every worse one of its prompt (Llama 3, arXiv:2407.21783, 4.1.2).

Two ranked completions make one comparison, three make three. Llama 3 scores a prompt's completions in one row and calls
that an approximation, since later ones see earlier ones; in a tree they do not, so it is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from align.losses import centering_loss, reward_loss
from align.settings import RewardConfig
from align.trainers.base import TreeTrainer
from align.tree.encode import PromptTree, Segment
from align.tree.pack import TreeBatch


class RewardTrainer(TreeTrainer):
    """Mean ranking loss over all comparisons of the step."""

    stage = "reward"

    def __init__(self, *arguments: Any, reward: RewardConfig, **settings: Any) -> None:
        self.reward = reward
        super().__init__(*arguments, **settings)

    def denominators(self, rows: Sequence[PromptTree]) -> dict[str, float]:
        return {"comparisons": sum(math.comb(len(tree.branches), 2) for tree in rows)}

    def supervised(self, branch: Segment) -> Sequence[bool] | np.ndarray:
        return [False] * (len(branch.ids) - 1) + [True]  # the score is read at the last token

    def batch_loss(self, model: torch.nn.Module, batch: TreeBatch, denominators: dict[str, float]) -> Tensor:
        scores = model(batch)
        pairs = comparisons(batch, self.reward.margins)
        better, worse = scores[pairs.better], scores[pairs.worse]
        weights = pairs.weights.to(scores.device)
        loss, margin = reward_loss(better, worse, target_margins=pairs.target_margins.to(scores.device))
        self.count(
            rows=weights.sum(),
            accuracy_sum=(((margin > 0) + 0.5 * (margin == 0)) * weights).sum(),
            margin_sum=(margin * weights).sum(),
            score_sum=((better + worse).detach() / 2 * weights).sum(),
        )
        if self.reward.centering:
            loss = loss + self.reward.centering * centering_loss(better, worse)
        return (loss * weights).sum() / denominators["comparisons"]


class Comparisons(NamedTuple):
    """Every better and worse completion of a prompt, [P] each."""

    better: Tensor  # branch indices
    worse: Tensor  # branch indices
    weights: Tensor  # 1; 0 for a tree that only fills an empty place
    target_margins: Tensor  # log-odds


def comparisons(batch: TreeBatch, margins: Mapping[Any, float] | None = None) -> Comparisons:
    """The comparisons of a batch.

    margins: level -> target margin. The level grades chosen against rejected, which is the last branch. An edited
    completion beats the chosen one, so it beats the rejected one by as much at least, and is asked for the same; how
    much better it is than the chosen one nobody graded, and that comparison is asked for 0.
    """
    better, worse, weights, targets = [], [], [], []
    first = 0
    for count, weight, level in zip(batch.branch_counts, batch.weights.tolist(), batch.levels, strict=True):
        rejected = first + count - 1
        for a, b in combinations(range(first, first + count), 2):
            better.append(a)
            worse.append(b)
            weights.append(weight)
            targets.append((margins or {}).get(level or "", 0.0) if b == rejected else 0.0)
        first += count
    return Comparisons(torch.tensor(better), torch.tensor(worse), torch.tensor(weights), torch.tensor(targets))
