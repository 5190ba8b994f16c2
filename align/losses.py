"""Training objectives as plain functions of tensors: no model, no config, no logging.

Dimension letters in this file: P pairs, N label positions, S sequences. The trainer sums and divides, by the
count of the whole optimizer step's rows; nothing here averages over a batch.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

NLLNormalization = Literal["sequence_mean", "token_mean", "sequence_sum"]


class PairwiseLoss(NamedTuple):
    """One value per pair."""

    loss: Tensor  # [P], nats
    margin: Tensor  # [P], log-odds that chosen beats rejected, detached for logging


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float,
) -> PairwiseLoss:
    """Direct preference optimization, one loss per pair.

    Shapes: every argument and both results are [P].
    Units: logps are nats summed over the completion's contrasted tokens; `beta` is per nat, so the margin is log-odds.
    Gradient: reaches the policy logps only; reference logps arrive without a graph.
    Edge: an untrained policy pays ln 2; a margin of -1000 costs 1000, not infinity.
    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7. Llama 3 leaves header and terminator tokens out of the sums
        (arXiv:2407.21783, section 4.1.4); which tokens are summed is the caller's business.
    """
    chosen_reward = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_reward = beta * (policy_rejected_logps - reference_rejected_logps)
    margin = chosen_reward - rejected_reward
    return PairwiseLoss(-logsigmoid(margin), margin.detach())


def reward_loss(better_scores: Tensor, worse_scores: Tensor) -> PairwiseLoss:
    """Pairwise ranking loss of the reward model.

    Shapes: [P] each, and both results.
    Units: scores are log-odds on no absolute scale: adding a constant to both changes nothing.
    Gradient: reaches both scores, with opposite sign and equal size.
    Edge: equal scores pay ln 2.
    Source: Llama 2, arXiv:2307.09288, eq. 1; Llama 3 has it without the margin term (arXiv:2407.21783, section 4.1.2).
    """
    margin = better_scores - worse_scores
    return PairwiseLoss(-logsigmoid(margin), margin.detach())


def nll_loss(logps: Tensor, lengths: Tensor, *, normalization: NLLNormalization) -> Tensor:
    """Negative log-likelihood of sequences, one value per sequence.

    Shapes: logps [N], the label positions of S sequences one after the other; lengths [S], their numbers; result [S].
    Units: nats; `sequence_mean` nats per token of that sequence. `token_mean` returns sums, like `sequence_sum`: its
        caller divides by the tokens of the whole batch, where the other two are divided by its sequences.
    Gradient: reaches logps.
    Edge: a sequence without label positions gives 0.
    Source: the NLL term of Pang et al. 2024, arXiv:2404.19733, eq. 3, which divides by the sequence's length.
    """
    sums = sum_by_sequence(-logps, lengths)
    return sums / lengths.clamp(min=1) if normalization == "sequence_mean" else sums


def sum_by_sequence(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums over runs of `values`. Shapes: values [N], lengths [S] adding up to N, result [S]."""
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True, initial=0)
