"""Objectives against formulas that were reached by another road, and what must always hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import pytest
import torch

from align.losses import (
    centering_loss,
    conservative_dpo_loss,
    dpo_loss,
    ipo_loss,
    nll_loss,
    reward_loss,
    simpo_loss,
    sum_by_sequence,
)

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


def test_conservative_dpo_is_the_cross_entropy_to_a_label_that_may_be_wrong() -> None:
    """From the two probabilities of the odds, in plain floats: -(1 - e) ln p - e ln(1 - p)."""
    expected = []
    for policy_chosen, policy_rejected, reference_chosen, reference_rejected in PAIRS:
        odds = (math.exp(policy_chosen - policy_rejected) / math.exp(reference_chosen - reference_rejected)) ** 0.3
        chance = odds / (1 + odds)
        expected.append(-0.8 * math.log(chance) - 0.2 * math.log(1 - chance))
    found = conservative_dpo_loss(*columns(PAIRS), beta=0.3, label_smoothing=0.2)
    torch.testing.assert_close(found.loss, torch.tensor(expected, dtype=torch.float64))
    plain = dpo_loss(*columns(PAIRS), beta=0.3)
    torch.testing.assert_close(found.margin, plain.margin)
    assert torch.equal(conservative_dpo_loss(*columns(PAIRS), beta=0.3, label_smoothing=0.0).loss, plain.loss)


def test_conservative_dpo_rests_where_the_chance_is_that_of_a_right_label() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    chosen = torch.tensor([math.log(0.8 / 0.2) / 0.5], dtype=torch.float64, requires_grad=True)
    loss, margin = conservative_dpo_loss(chosen, zero, zero, zero, beta=0.5, label_smoothing=0.2)
    loss.sum().backward()
    assert margin.item() == pytest.approx(math.log(4))
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(0, abs=1e-12)


def test_ipo_is_the_squared_distance_to_half_of_one_over_beta_in_exact_fractions() -> None:
    beta = Fraction(1, 4)
    expected = []
    for pair in PAIRS:  # every number there is a binary fraction
        a, b, c, d = map(Fraction, pair)
        expected.append(float(((a - c) - (b - d) - 1 / (2 * beta)) ** 2))
    loss, margin = ipo_loss(*columns(PAIRS), beta=float(beta))
    assert loss.tolist() == expected
    assert margin.tolist() == dpo_loss(*columns(PAIRS), beta=float(beta)).margin.tolist()


def test_ipo_rests_at_a_margin_of_one_half_and_pushes_back_beyond() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    chosen = torch.tensor([4.0, 5.0, 6.0], dtype=torch.float64, requires_grad=True)
    loss, margin = ipo_loss(chosen, zero, zero, zero, beta=0.1)
    loss.sum().backward()
    assert margin.tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert chosen.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-2, 0, 2])


def test_simpo_equals_the_odds_of_geometric_mean_probabilities() -> None:
    expected = []
    for chosen, rejected, _, _ in PAIRS:
        odds = (math.exp(chosen) / math.exp(rejected)) ** 2.5 / math.exp(1.2)
        expected.append(-math.log(odds / (1 + odds)))
    chosen, rejected, _, _ = columns(PAIRS)
    loss, margin = simpo_loss(chosen, rejected, beta=2.5, gamma=1.2)
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(margin, 2.5 * (chosen - rejected))
    equal = simpo_loss(chosen, chosen, beta=2.5, gamma=1.2).loss
    torch.testing.assert_close(equal, torch.full_like(equal, math.log(1 + math.exp(1.2))))


PAIRWISE: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "dpo": lambda a, b: dpo_loss(a, b, a.detach() * 0 - 1, b.detach() * 0 - 2, beta=0.3).loss,
    "conservative": lambda a, b: (
        conservative_dpo_loss(a, b, a.detach() * 0 - 1, b.detach() * 0 - 2, beta=0.3, label_smoothing=0.1).loss
    ),
    "ipo": lambda a, b: ipo_loss(a, b, a.detach() * 0 - 1, b.detach() * 0 - 2, beta=0.3).loss,
    "simpo": lambda a, b: simpo_loss(a, b, beta=2.0, gamma=1.0).loss,
    "reward": lambda a, b: reward_loss(a, b).loss,
    "reward with a margin": lambda a, b: reward_loss(a, b, target_margins=0.7).loss,
    "centering": centering_loss,
}


@pytest.mark.parametrize("name", PAIRWISE)
def test_gradients_equal_finite_differences(name: str) -> None:
    loss = PAIRWISE[name]
    chosen, rejected, _, _ = columns(PAIRS)
    chosen.requires_grad_()
    rejected.requires_grad_()
    gradients = torch.autograd.grad(loss(chosen, rejected).sum(), (chosen, rejected))
    step = 1e-6
    with torch.no_grad():
        by_chosen = (loss(chosen + step, rejected) - loss(chosen - step, rejected)) / (2 * step)
        by_rejected = (loss(chosen, rejected + step) - loss(chosen, rejected - step)) / (2 * step)
    torch.testing.assert_close(gradients[0], by_chosen, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradients[1], by_rejected, atol=1e-6, rtol=1e-6)
    sign = 1 if name == "centering" else -1
    torch.testing.assert_close(gradients[0], sign * gradients[1])
    if name not in ("ipo", "conservative", "centering"):  # those push back beyond their target
        assert (gradients[0] < 0).all()


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_margin_of_minus_1000_costs_a_finite_price_with_a_finite_gradient(name: str) -> None:
    losses = PAIRWISE | {
        "dpo": lambda a, b: dpo_loss(a, b, b * 0, b * 0, beta=1.0).loss,
        "conservative": lambda a, b: conservative_dpo_loss(a, b, b * 0, b * 0, beta=1.0, label_smoothing=0.1).loss,
        "ipo": lambda a, b: ipo_loss(a, b, b * 0, b * 0, beta=1.0).loss,
        "simpo": lambda a, b: simpo_loss(a, b, beta=1.0, gamma=1.0).loss,
    }
    expected = {"dpo": 1000, "conservative": 900, "ipo": 1000.5**2, "simpo": 1001, "reward": 1000}
    expected |= {"reward with a margin": 1000.7, "centering": 1000**2}
    chosen = torch.tensor([-1000.0], requires_grad=True)
    loss = losses[name](chosen, torch.zeros(1))
    loss.sum().backward()
    assert loss.item() == pytest.approx(expected[name])
    assert chosen.grad is not None
    assert chosen.grad.isfinite().all()


@pytest.mark.parametrize(
    "loss, price",
    [
        (partial(dpo_loss, beta=0.3), math.log(2)),
        (partial(conservative_dpo_loss, beta=0.3, label_smoothing=0.2), math.log(2)),
        (partial(ipo_loss, beta=0.25), 4.0),
    ],
)
def test_policy_and_reference_that_are_one_pay_what_the_check_expects(loss: Callable, price: float) -> None:
    chosen, rejected, _, _ = columns(PAIRS)
    found = loss(chosen, rejected, chosen, rejected)
    torch.testing.assert_close(found.loss, torch.full_like(found.loss, price))
    assert not found.margin.any()


def test_a_target_margin_is_taken_off_before_the_ranking() -> None:
    better, worse = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    targets = torch.tensor([1.0, 1 / 3])
    loss, margin = reward_loss(better, worse, target_margins=targets)
    torch.testing.assert_close(loss, reward_loss(better - targets, worse).loss)
    torch.testing.assert_close(margin, better - worse)


def test_centering_costs_nothing_where_scores_mirror_each_other() -> None:
    better, worse = torch.tensor([1.5, 2.0, -1.0]), torch.tensor([-1.5, 1.0, -3.0])
    assert centering_loss(better, worse).tolist() == [0, 9, 16]


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
