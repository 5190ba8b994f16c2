"""The reward model: every better completion is compared with every worse one of its prompt.

Source: Llama 3, arXiv:2407.21783, section 4.1.2. Two ranked completions make one comparison, three make three. Llama 3
scores the completions of a prompt in one row and calls that an approximation, because later completions attend to
earlier ones. In a prompt tree they do not, so the scores are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import TrainingArguments

from align.chat.protocol import ChatProtocol
from align.config import Section
from align.losses import centering_loss, reward_loss
from align.models.logps import TreeScorer
from align.settings import ModelConfig, RewardConfig, TrainingConfig
from align.trainers.base import TreeTrainer
from align.tree.encode import PromptTree, Segment
from align.tree.pack import TreeBatch


class RewardTrainer(TreeTrainer):
    """Train a reward model: the mean ranking loss over all comparisons of the step.

    Args: those of `TreeTrainer`, and
        reward: target margins by level, and the weight of the centering term.
    """

    stage = "reward"

    def __init__(
        self,
        model: TreeScorer,
        arguments: TrainingArguments,
        trees: Sequence[PromptTree],
        protocol: ChatProtocol,
        *,
        start: ModelConfig,
        training: TrainingConfig,
        token_budget: int,
        recipe: Section,
        eval_trees: Sequence[PromptTree] | None = None,
        reward: RewardConfig,
    ) -> None:
        self.reward = reward
        super().__init__(
            model,
            arguments,
            trees,
            protocol,
            start=start,
            training=training,
            token_budget=token_budget,
            recipe=recipe,
            eval_trees=eval_trees,
        )

    def denominators(self, rows: Sequence[PromptTree]) -> dict[str, float]:
        return {"comparisons": sum(math.comb(len(tree.branches), 2) for tree in rows)}

    def supervised(self, branch: Segment) -> Sequence[bool] | np.ndarray:
        return [False] * (len(branch.ids) - 1) + [True]  # the score is read at the last token

    def batch_loss(self, model: torch.nn.Module, batch: TreeBatch, denominators: dict[str, float]) -> Tensor:
        scores = model(batch)
        pairs = comparisons(batch, self.reward.margins)
        better, worse, weights = scores[pairs.better], scores[pairs.worse], pairs.weights
        loss, margin = reward_loss(better, worse, target_margins=pairs.target_margins)
        self.sums.add(
            rows=weights.sum(),
            accuracy_sum=(((margin > 0) + 0.5 * (margin == 0)) * weights).sum(),
            margin_sum=(margin * weights).sum(),
            mean_reward_sum=((better + worse).detach() / 2 * weights).sum(),
        )
        if self.reward.centering:
            loss = loss + self.reward.centering * centering_loss(better, worse)
        return (loss * weights).sum() / denominators["comparisons"]


class Comparisons(NamedTuple):
    """Every better and worse completion of a prompt, [P] each, on the device of the batch."""

    better: Tensor  # branch indices
    worse: Tensor  # branch indices
    weights: Tensor  # 1; 0 for a tree that only fills an empty place
    target_margins: Tensor  # log-odds


def comparisons(batch: TreeBatch, margins: Mapping[Any, float] | None = None) -> Comparisons:
    """The comparisons of a batch.

    margins: level -> target margin, None for no targets. The level grades chosen against rejected, the last branch. An
        edited completion is better than the chosen one, so it is at least as much better than the rejected one, and has
        the same target against it. How much better it is than the chosen one has not been graded: target 0.

    Example: the trees (chosen, rejected) and (edited, chosen, rejected), both of the level "better" with margin 0.67.
    Branches are numbered over the batch: tree 0 has 0 and 1, tree 1 has 2, 3 and 4.

        better          [0,    2, 2,    3   ]
        worse           [1,    3, 4,    4   ]
        target_margins  [0.67, 0, 0.67, 0.67]
    """
    better, worse, trees, targets = [], [], [], []
    first = 0
    for tree, (count, level) in enumerate(zip(batch.branch_counts, batch.levels, strict=True)):
        rejected = first + count - 1
        for a, b in combinations(range(first, first + count), 2):
            better.append(a)
            worse.append(b)
            trees.append(tree)
            targets.append((margins or {}).get(level or "", 0.0) if b == rejected else 0.0)
        first += count
    device = batch.weights.device  # weights are taken there: reading them on the CPU would wait for the GPU
    indices = torch.tensor([better, worse, trees], device=device)
    return Comparisons(indices[0], indices[1], batch.weights[indices[2]], torch.tensor(targets, device=device))
