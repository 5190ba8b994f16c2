"""Win rates at equal length, checked by autograd, and with simulations whose rate is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eval.intervals import share
from eval.length_control import RIDGE, length_controlled, length_effect


def simulated(model: float, length: float, n: int, seed: int = 0, longer: float = 50.0) -> tuple[list, list]:
    """n prompts whose wins follow the model of the formula, with answers that are longer by `longer` on average."""
    generator = np.random.default_rng(seed)
    longer_by = generator.normal(longer, 200, n)
    chances = 1 / (1 + np.exp(-(model + length * np.tanh(longer_by / longer_by.std()))))
    return (generator.random(n) < chances).astype(float).tolist(), longer_by.tolist()


def gradient(model: float, length: float, points: list[float], longer_by: list[float]) -> list[float]:
    """The gradient of the objective by torch's own loss and autograd. The objective is strictly convex."""
    wins, differences = (torch.tensor(values, dtype=torch.float64) for values in (points, longer_by))
    lengths = torch.tanh(differences / differences.std(correction=0))
    at = torch.tensor([model, length], dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(at[0] + at[1] * lengths, wins, reduction="sum")
    (loss + RIDGE / 2 * at.square().sum()).backward()
    assert at.grad is not None
    return at.grad.tolist()


@pytest.mark.parametrize("seed, ties", [(0, False), (1, True)])
def test_the_fit_is_the_minimum_of_the_objective(seed: int, ties: bool) -> None:
    points, longer_by = simulated(0.4, 1.2, 80, seed)
    if ties:
        points[::5] = [0.5] * len(points[::5])
    found = length_controlled(points, longer_by)
    assert found is not None
    model, length = math.log(found.value / (1 - found.value)), length_effect(points, longer_by)
    assert gradient(model, length, points, longer_by) == pytest.approx([0, 0], abs=1e-7)
    assert max(map(abs, gradient(model + 0.001, length, points, longer_by))) > 1e-3


def test_wins_that_come_from_length_alone_are_half_at_equal_length_and_real_ones_stay() -> None:
    points, longer_by = simulated(0.0, 2.0, 800, longer=150.0)
    found = length_controlled(points, longer_by)
    assert found is not None
    assert sum(points) / len(points) > 0.65
    assert found.low < 0.5 < found.high
    points, longer_by = simulated(1.0, 2.0, 800, longer=-150.0)
    found = length_controlled(points, longer_by)
    assert found is not None
    assert found.low < 1 / (1 + np.exp(-1.0)) < found.high


def test_exchanging_the_models_gives_one_minus_the_rate() -> None:
    points, longer_by = simulated(0.7, 1.0, 60)
    straight = length_controlled(points, longer_by)
    exchanged = length_controlled([1 - point for point in points], [-one for one in longer_by])
    assert straight is not None
    assert exchanged is not None
    assert straight.value == pytest.approx(1 - exchanged.value, abs=1e-9)
    itself = length_controlled([0.5] * 20, [0] * 20)
    assert itself is not None
    assert itself.value == pytest.approx(0.5)


def test_without_a_difference_in_length_it_is_the_plain_rate() -> None:
    found = length_controlled([1.0] * 70 + [0.0] * 30, [0] * 100)
    assert found is not None
    assert found.value == pytest.approx(0.7, abs=0.0005)
    assert found.n == 100


def test_all_wins_have_a_finite_rate_and_a_width() -> None:
    found = length_controlled([1.0] * 30, list(range(30)))
    assert found is not None
    assert 0.99 < found.value < 1
    plain = share(30, 30)
    assert plain is not None
    assert found.low < plain.low + 0.01 < 0.95


def test_there_is_no_rate_if_length_and_quality_cannot_be_separated() -> None:
    assert length_controlled([], []) is None
    assert length_controlled([1.0, 1.0, 0.0], [40, 40, 40]) is None
