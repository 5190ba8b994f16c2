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
    margin: Tensor  # [P], reward of chosen minus that of rejected, detached for logging; each loss says in which unit


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
    Units: logps are nats summed over the completion's contrasted tokens; `beta` is per nat, so the margin is log-odds
        that chosen beats rejected.
    Gradient: reaches the policy logps only; reference logps arrive without a graph.
    Edge: an untrained policy pays ln 2; a margin of -1000 costs 1000, not infinity.
    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7. Llama 3 leaves header and terminator tokens out of the sums
        (arXiv:2407.21783, section 4.1.4); which tokens are summed is the caller's business. On means over the tokens in
        the place of sums, for policy and reference, it is Tulu 3's length-normalized DPO (arXiv:2411.15124).
    """
    chosen_reward = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_reward = beta * (policy_rejected_logps - reference_rejected_logps)
    margin = chosen_reward - rejected_reward
    return PairwiseLoss(-logsigmoid(margin), margin.detach())


def conservative_dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float,
    label_smoothing: float,
) -> PairwiseLoss:
    """Conservative DPO (cDPO): assumes that a ratio `label_smoothing` of the pairs is labelled the wrong way round.

    Shapes: every argument and both results are [P].
    Units: those of `dpo_loss`; `label_smoothing` is a probability below 0.5.
    Gradient: reaches the policy logps only; it vanishes at the margin ln((1 - e) / e), where DPO's never does.
    Edge: an untrained policy pays ln 2; a margin of -1000 costs (1 - e) * 1000, one of 1000 costs e * 1000.
    Source: Mitchell 2023, A note on DPO with noisy preferences and relationship to IPO.
    """
    chosen_reward = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_reward = beta * (policy_rejected_logps - reference_rejected_logps)
    margin = chosen_reward - rejected_reward
    loss = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    return PairwiseLoss(loss, margin.detach())


def ipo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float,
) -> PairwiseLoss:
    """Identity preference optimization: the difference of logratios is drawn to 1 / (2 beta), not to infinity.

    Shapes: every argument and both results are [P].
    Units: logps are nats summed over the completion's contrasted tokens, as the paper writes them; the loss is in
        nats squared. The margin is beta times the difference of logratios, which is drawn to 1/2.
    Gradient: reaches the policy logps only, and changes sign where the margin is 1/2.
    Edge: an untrained policy pays (1 / (2 beta))**2, which is 25 for beta = 0.1; a margin of -1000 at that beta costs
        about 1e8: far pairs weigh more than in any other loss here.
    Source: Azar et al. 2023, arXiv:2310.12036, eq. 17, whose tau is `beta`. TRL passes means over the tokens, where
        the same difference is drawn to 1 / (2 beta) nats per token.
    """
    chosen_logratio = policy_chosen_logps - reference_chosen_logps
    rejected_logratio = policy_rejected_logps - reference_rejected_logps
    difference = chosen_logratio - rejected_logratio
    return PairwiseLoss((difference - 1 / (2 * beta)) ** 2, beta * difference.detach())


def simpo_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, *, beta: float, gamma: float
) -> PairwiseLoss:
    """Simple preference optimization: the policy's own mean log-probabilities are the rewards, without a reference.

    Shapes: both logps and both results are [P].
    Units: logps are means over the completion's contrasted tokens, nats per token; `gamma` is log-odds, and so is the
        margin, before gamma is subtracted.
    Gradient: reaches both logps, with opposite sign and equal size.
    Edge: equal logps pay ln(1 + e**gamma); a margin of -1000 costs 1000 + gamma, not infinity.
    Source: Meng et al. 2024, arXiv:2405.14734, eq. 6.
    """
    margin = beta * policy_chosen_logps - beta * policy_rejected_logps
    return PairwiseLoss(-logsigmoid(margin - gamma), margin.detach())


def reward_loss(better_scores: Tensor, worse_scores: Tensor, *, target_margins: Tensor | float = 0.0) -> PairwiseLoss:
    """Pairwise ranking loss of the reward model.

    Shapes: [P] each, and both results.
    Units: scores are log-odds on no absolute scale: adding a constant to both changes nothing. `target_margins` are
        log-odds too: by how much better should beat worse before the pair costs ln 2.
    Gradient: reaches both scores, with opposite sign and equal size.
    Edge: equal scores without a target pay ln 2; a margin of -1000 costs 1000, not infinity.
    Source: Llama 2, arXiv:2307.09288, eq. 1, and eq. 2 with targets that grow with the rating; Llama 3 has it without
        (arXiv:2407.21783, section 4.1.2).
    """
    margin = better_scores - worse_scores
    return PairwiseLoss(-logsigmoid(margin - target_margins), margin.detach())


def centering_loss(better_scores: Tensor, worse_scores: Tensor) -> Tensor:
    """Keep the mean score of a pair near 0, since the ranking loss does not fix the level of the scores.

    Shapes: [P] each, and the result.
    Units: squared log-odds.
    Gradient: reaches both scores, with equal sign and equal size: the pair's difference is left alone.
    Edge: scores of opposite sign and equal size pay 0.
    Source: Eisenstein et al. 2023, arXiv:2312.09244, the regularizer that makes reward models identifiable.
    """
    return (better_scores + worse_scores) ** 2


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
    """Sums over runs of `values`. Shapes: values [N], lengths [S] adding up to N, result [S].

    Summed in float64: one after the other in float32, some hundred log-probabilities would be wrong by 0.001 nats.
    """
    sums = torch.segment_reduce(values.double(), "sum", lengths=lengths, unsafe=True, initial=0)
    return sums.to(values.dtype)
