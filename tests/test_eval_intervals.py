"""Intervals of shares, against the equation they solve and against the paper's own figures."""

from __future__ import annotations

import math

import pytest

from eval.intervals import bootstrapped, paper_half_width, share


def wilson_by_search(hits: float, n: int, z: float) -> tuple[float, float]:
    """The shares p at which the observed share lies exactly z standard errors of p away, by bisection."""

    def distance(p: float) -> float:
        return abs(hits / n - p) - z * math.sqrt(p * (1 - p) / n)

    def edge(inside: float, outside: float) -> float:
        for _ in range(200):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if distance(middle) <= 0 else (inside, middle)
        return inside

    value = hits / n
    return edge(value, 0.0), edge(value, 1.0)


@pytest.mark.parametrize("hits, n", [(1, 3), (5, 10), (19, 20), (37.5, 120), (2, 1000), (999, 1000)])
def test_the_edges_are_where_the_share_lies_z_standard_errors_away(hits: float, n: int) -> None:
    found = share(hits, n)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(wilson_by_search(hits, n, 1.96), abs=1e-9)
    assert found.low < found.value == hits / n < found.high


@pytest.mark.parametrize("n", [1, 7, 500])
def test_none_and_all_still_have_a_width(n: int) -> None:
    none, every = share(0, n), share(n, n)
    assert none is not None
    assert every is not None
    assert none.low == 0 < none.high == pytest.approx(1.96**2 / (n + 1.96**2))
    assert every.high == 1
    assert every.low == pytest.approx(1 - none.high)


def test_the_interval_holds_the_truth_in_95_percent_of_all_experiments() -> None:
    """Exact over all outcomes of 40 draws, averaged over many true shares."""
    n, covered = 40, []
    for step in range(1, 200):
        truth = step / 200
        shares = [share(hits, n) for hits in range(n + 1)]
        holds = [found is not None and found.low <= truth <= found.high for found in shares]
        weights = [math.comb(n, k) * truth**k * (1 - truth) ** (n - k) for k in range(n + 1)]
        covered.append(sum(weight for weight, held in zip(weights, holds, strict=True) if held))
    assert 0.94 < sum(covered) / len(covered) < 0.965


def test_no_cases_no_share() -> None:
    assert share(0, 0) is None


@pytest.mark.parametrize("value, n, half", [(0.885, 2000, 1.4), (0.587, 555, 4.1)])
def test_the_papers_half_width(value: float, n: int, half: float) -> None:
    assert 100 * paper_half_width(value, n) == pytest.approx(half, abs=0.05)
    found = share(value * n, n)
    assert found is not None
    assert (found.high - found.low) / 2 == pytest.approx(paper_half_width(value, n), rel=0.01)


def test_a_bootstrapped_mean_has_about_the_interval_of_the_normal_approximation() -> None:
    cases = [1.0] * 120 + [0.0] * 280
    found = bootstrapped(lambda some: sum(some) / len(some), cases)
    assert found is not None
    assert found.value == 0.3
    assert found.n == 400
    half = paper_half_width(0.3, 400)
    assert (found.low, found.high) == (pytest.approx(0.3 - half, abs=0.01), pytest.approx(0.3 + half, abs=0.01))
    assert bootstrapped(lambda some: sum(some) / len(some), cases) == found, "seeded"


def test_resamples_without_a_value_are_left_out() -> None:
    def least(some):
        return min(some) if max(some) > 0.5 else None

    found = bootstrapped(least, [0.2, 0.9])
    assert found is not None
    assert (found.value, found.low, found.high) == (0.2, 0.2, 0.9)
    assert bootstrapped(least, [0.2]) is None
    assert bootstrapped(least, []) is None
