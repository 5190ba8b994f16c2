"""A judge whose score is the log-probability that a language model gives to a completion.

Dimension letters: N label positions, B branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from align.chat.protocol import ChatProtocol
from align.judges.judge import ScoreRequest
from align.judges.reward_model import RewardModelJudge
from align.models.loading import load_policy, load_tokenizer_for
from align.models.logps import TreePolicy
from align.settings import ModelConfig
from align.tree.encode import Ask, PromptTree, Segment, encode_completions
from align.tree.pack import TreeBatch


class Continuation(NamedTuple):
    """Token ids that may follow others, such as an answer to a multiple-choice question."""

    context: tuple[int, ...]
    """At least one token."""
    ids: tuple[int, ...]


class BranchLogps(TreePolicy):
    """A causal language model whose forward pass gives one number for each branch, as a reward model's does.

    The number is a sum over the content of the assistant's messages, without the token that ends them. So the score of
    "I don't know" is the log-probability that an answer begins with these words.
    """

    def forward(self, batch: TreeBatch) -> Tensor:
        """Summed log-probabilities, [B] float32 nats, in branch order. A branch without content has 0.

        The batch has label positions of all branches one after the other. With label_counts [2, 3], branch_of is
        [0, 0, 1, 1, 1], so logps 0 and 1 are added to branch 0, and logps 2, 3 and 4 to branch 1.
        """
        logps = super().forward(batch)
        branch_of = torch.repeat_interleave(batch.label_counts.to(logps.device))
        sums = torch.zeros(len(batch.label_counts), dtype=logps.dtype, device=logps.device)
        return sums.index_add_(0, branch_of, torch.where(batch.contrast_mask, logps, 0.0))


class LikelihoodJudge(RewardModelJudge):
    """Scores are nats: the log-probability of a completion's content given its prompt.

    A completion's text is encoded again, so its tokens may differ from those that a model sampled.
    """

    def __init__(self, policy: TreePolicy, protocol: ChatProtocol, token_budget: int) -> None:
        super().__init__(BranchLogps(policy.model, policy.precision), protocol, token_budget)  # type: ignore[arg-type]

    @classmethod
    def from_settings(cls, config: ModelConfig, token_budget: int) -> Self:
        """The judge of a `model` section."""
        _, protocol = load_tokenizer_for(config)
        return cls(load_policy(config), protocol, token_budget)

    def token_counts(self, requests: Sequence[ScoreRequest]) -> list[list[int]]:
        """How many tokens each completion's score sums over."""
        asks = [Ask(str(number), *request) for number, request in enumerate(requests) if request.completions]
        counts: list[list[int]] = [[] for _ in requests]
        for tree in encode_completions(asks, self.protocol):
            counts[int(tree.id)] = [int(branch.contrast_mask.sum()) for branch in tree.branches]
        return counts

    def continuation_logps(self, continuations: Sequence[Continuation]) -> list[float]:
        """The summed log-probability of each continuation after its context, in nats, without a chat protocol.

        Continuations of the same context become the branches of one tree, so the context is computed once. For example,
        the contexts a, b, a have two trees, and the places of their branches are {a: [0, 2], b: [1]}.
        """
        places: dict[tuple[int, ...], list[int]] = {}
        for place, (context, _) in enumerate(continuations):
            places.setdefault(context, []).append(place)
        trees = [
            PromptTree(
                str(number), np.array(context, np.int32), tuple(_segment(continuations[place].ids) for place in own)
            )
            for number, (context, own) in enumerate(places.items())
        ]
        found = [0.0] * len(continuations)
        for own, scores in zip(places.values(), self.score_trees(trees), strict=True):
            for place, score in zip(own, scores, strict=True):
                found[place] = score
        return found

    @property
    def identity(self) -> dict[str, str]:
        """See `Judge.identity`. token_budget is left out: it changes scores by rounding only."""
        found = super().identity
        return {"policy": found["reward_model"], "protocol": found["protocol"]}


def _segment(ids: Sequence[int]) -> Segment:
    """A branch of which every token counts."""
    counts = np.ones(len(ids), bool)
    return Segment(np.array(ids, np.int32), counts, counts)
