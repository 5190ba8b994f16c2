"""Objectives against formulas that were reached by another road, and what must always hold."""

from __future__ import annotations

import math

import pytest
import torch

from align.losses import dpo_loss, nll_loss, reward_loss, sum_by_sequence

PAIRS = [
    (-10.0, -12.0, -11.0, -11.5),
    (-3.0, -2.0, -2.5, -2.5),
    (-80.5, -20.25, -79.0, -22.0),
    (-0.5, -0.5, -0.5, -0.5),
]


def columns(pairs: list[tuple[float, ...]]) -> list[torch.Tensor]:
    return [torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True)]


def bradley_terry_loss(pair: tuple[float, ...], beta: float) -> float:
    """Minus log of the chance that chosen wins, from odds in plain floats, without a sigmoid."""
    policy_chosen, policy_rejected, reference_chosen, reference_rejected = pair
    chosen = math.exp(policy_chosen - reference_chosen) ** beta
    rejected = math.exp(policy_rejected - reference_rejected) ** beta
    return -math.log(chosen / (chosen + rejected))


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_dpo_equals_the_bradley_terry_odds(beta: float) -> None:
    expected = torch.tensor([bradley_terry_loss(pair, beta) for pair in PAIRS], dtype=torch.float64)
    torch.testing.assert_close(dpo_loss(*columns(PAIRS), beta=beta).loss, expected)


def test_swapping_a_pair_shifts_the_dpo_loss_by_the_margin() -> None:
    chosen, rejected, reference_chosen, reference_rejected = columns(PAIRS)
    straight = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=0.1)
    swapped = dpo_loss(rejected, chosen, reference_rejected, reference_chosen, beta=0.1)
    torch.testing.assert_close(swapped.loss - straight.loss, straight.margin)


def test_an_untrained_policy_pays_ln_2_at_margin_0() -> None:
    logps = torch.tensor([-5.0, -700.0])
    loss, margin = dpo_loss(logps, logps - 3, logps, logps - 3, beta=0.1)
    torch.testing.assert_close(loss, torch.full((2,), math.log(2)))
    assert margin.tolist() == [0.0, 0.0]


def test_a_margin_of_minus_1000_costs_1000_and_has_a_finite_gradient() -> None:
    chosen = torch.tensor([-10_000.0], requires_grad=True)
    zero = torch.zeros(1)
    loss = dpo_loss(chosen, zero, zero, zero, beta=0.1).loss
    loss.sum().backward()
    assert loss.item() == pytest.approx(1000)
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.1)


def test_the_dpo_gradient_is_beta_times_the_chance_of_being_wrong() -> None:
    chosen, rejected, reference_chosen, reference_rejected = columns(PAIRS)
    chosen.requires_grad_()
    rejected.requires_grad_()
    loss, margin = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=0.3)
    loss.sum().backward()
    wrong = 1 / (1 + margin.exp())  # eq. 7's gradient: beta * sigmoid(-margin)
    torch.testing.assert_close(chosen.grad, -0.3 * wrong)
    torch.testing.assert_close(rejected.grad, 0.3 * wrong)


def test_the_reward_loss_is_minus_log_of_the_share_of_exponentiated_scores() -> None:
    better, worse = torch.tensor([1.0, -2.0, 0.25]), torch.tensor([0.5, 3.0, 0.25])
    loss, margin = reward_loss(better, worse)
    shares = torch.stack([better, worse]).softmax(0)[0]  # two-way softmax in the place of a sigmoid
    torch.testing.assert_close(loss, -shares.log())
    torch.testing.assert_close(reward_loss(better + 7, worse + 7).loss, loss)
    assert not margin.requires_grad


def test_sequence_mean_divides_each_sequence_by_its_own_length() -> None:
    logps = torch.tensor([-1.0, -2.0, -3.0, -10.0])
    lengths = torch.tensor([3, 1])
    assert nll_loss(logps, lengths, normalization="sequence_mean").tolist() == [2.0, 10.0]
    assert nll_loss(logps, lengths, normalization="sequence_sum").tolist() == [6.0, 10.0]
    assert nll_loss(logps, lengths, normalization="token_mean").tolist() == [6.0, 10.0]


def test_sums_by_sequence_equal_a_loop_in_values_and_gradients() -> None:
    values = torch.randn(11, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([4, 0, 1, 6])
    sums = sum_by_sequence(values, lengths)
    looped = torch.stack([part.sum() for part in values.split(lengths.tolist())])
    torch.testing.assert_close(sums, looped)
    weights = torch.tensor([1.0, 5.0, 2.0, 3.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((sums * weights).sum(), values)
    torch.testing.assert_close(gradient, weights.repeat_interleave(lengths))
