"""Intervals of shares, against the equation they solve and against the paper's own figures."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from eval.intervals import (
    Share,
    bootstrap_mean,
    bootstrapped,
    clustered_bootstrap,
    clustered_share,
    few_clusters_factor,
    mean_share,
    paired_difference,
    paired_ratio_difference,
    paper_half_width,
    percent_range,
    share,
    share_of,
)


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


def in_clusters(draw: random.Random, clusters: int = 200) -> tuple[list[float], list[str]]:
    """Clusters of 1 to 6 cases that have the same point mostly, so cases say less than their number."""
    points, names = [], []
    for cluster in range(clusters):
        liked = draw.random() < 0.6
        for _ in range(draw.randint(1, 6)):
            points.append(float(liked if draw.random() < 0.9 else not liked))
            names.append(str(cluster))
    return points, names


def test_the_bootstrap_over_clusters_is_as_wide_as_the_linearised_variance_of_a_ratio() -> None:
    points, names = in_clusters(random.Random(0))
    mean, low, high = bootstrap_mean(points, names)
    sums = {name: sum(p for p, n in zip(points, names, strict=True) if n == name) for name in names}
    counts = {name: names.count(name) for name in sums}
    assert mean == pytest.approx(sum(points) / len(points))
    many = len(sums)
    variance = many / (many - 1) * sum((sums[n] - mean * counts[n]) ** 2 for n in sums) / len(points) ** 2
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.06)
    plain = share(sum(points), len(points))
    assert plain is not None
    assert high - low > 1.4 * (plain.high - plain.low), "cases of one cluster hang together"


@pytest.mark.slow
def test_the_clustered_interval_holds_the_truth_in_95_percent_of_the_experiments() -> None:
    truth = 0.9 * 0.6 + 0.1 * 0.4
    found = [clustered_share(*in_clusters(random.Random(seed), 60)) for seed in range(300)]
    covered = sum(one is not None and one.low <= truth <= one.high for one in found) / len(found)
    assert 0.91 < covered < 0.985


def test_a_cluster_a_case_gives_about_wilsons_interval_and_one_cluster_no_narrower_one() -> None:
    points = [1.0] * 60 + [0.0] * 40
    alone = clustered_share(points, [str(case) for case in range(100)])
    wilson = share(60, 100)
    assert alone is not None
    assert wilson is not None
    assert (alone.value, alone.n) == (0.6, 100)
    assert alone[1:3] == pytest.approx(wilson[1:3], abs=0.01)
    assert clustered_share(points, ["one"] * 100) == wilson
    assert clustered_share([], []) is None


def bonett_price(better: int, worse: int, n: int) -> tuple[float, float]:
    """Bonett and Price 2012, from the four cells of the table of a paired comparison."""
    up, down = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    half = 1.96 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return up - down - half, up - down + half


@pytest.mark.parametrize("better, worse, n", [(3, 1, 40), (0, 0, 25), (9, 9, 60), (12, 0, 12)])
def test_a_paired_difference_covers_that_of_bonett_and_price(better: int, worse: int, n: int) -> None:
    before = [0.0] * better + [1.0] * (n - better)
    after = [1.0] * better + [0.0] * worse + [1.0] * (n - better - worse)
    found = paired_difference(before, after, list(map(str, range(n))))
    assert found is not None
    low, high = bonett_price(better, worse, n)
    assert found.value == pytest.approx((better - worse) / n)
    assert found.low <= low + 1e-9
    assert found.high >= min(1, high) - 1e-9
    assert found.high - found.low < 1.3 * (high - low)
    assert found.low < found.high, "equal answers do not prove that the models are equal"


def test_pairs_are_worth_more_than_two_shares_and_clusters_less_than_cases() -> None:
    draw = random.Random(3)
    before = [float(draw.random() < 0.5) for _ in range(200)]
    after = [1.0 if draw.random() < 0.15 else old for old in before]
    alone = [f"{n}" for n in range(200)]
    found, together = (paired_difference(before, after, own) for own in (alone, [str(n // 20) for n in range(200)]))
    shares = share(sum(before), 200), share(sum(after), 200)
    assert found is not None
    assert together is not None
    assert shares[0] is not None
    assert shares[1] is not None
    assert shares[0].high > shares[1].low, "the two intervals overlap"
    assert found.low > 0, "and the paired one is clear of 0"
    all_or_none = [1.0] * 100 + [0.0] * 100
    wide = paired_difference([0.0] * 200, all_or_none, [str(n // 20) for n in range(200)])
    narrow = paired_difference([0.0] * 200, all_or_none, alone)
    assert wide is not None
    assert narrow is not None
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    "clusters, t",
    [(2, 12.706), (4, 3.182), (6, 2.571), (10, 2.262), (21, 2.086), (200, 1.972)],
)
def test_an_interval_over_few_clusters_is_widened_by_students_t(clusters: int, t: float) -> None:
    """t: from a table of Student's distribution, for one degree of freedom less than there are clusters."""
    expected = t / 1.96 * math.sqrt(clusters / (clusters - 1))
    assert few_clusters_factor(clusters) == pytest.approx(expected, rel=0.002)
    assert few_clusters_factor(1) == 1


@pytest.mark.slow
def test_a_difference_over_few_clusters_is_seldom_significant_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six templates with ten problems each, which a model solves or not by template, before and after alike."""
    monkeypatch.setattr("eval.intervals.RESAMPLES", 300)
    draw = random.Random(2)
    names = [str(template) for template in range(6) for _ in range(10)]
    significant = 0
    for _ in range(200):
        chances = [[min(1.0, max(0.0, draw.gauss(0.5, 0.3))) for _ in range(6)] for _ in range(2)]
        before, after = ([float(draw.random() < own[int(name)]) for name in names] for own in chances)
        found = paired_difference(before, after, names)
        assert found is not None
        significant += not found.low <= 0 <= found.high
    assert significant / 200 < 0.1, "without the factor: 0.14"


def test_a_ratio_over_three_answers_is_not_certain() -> None:
    """Before, 40 of 200 answers are right. After, the model answers three questions, all of them right."""
    before = [(float(n % 5 == 0), 1.0) for n in range(200)]
    after = [(1.0, 1.0) if n < 3 else (0.0, 0.0) for n in range(200)]
    names = [str(n) for n in range(200)]
    found = paired_ratio_difference(before, after, names)
    assert found is not None
    assert found.value == pytest.approx(0.8)
    wilson = share(3, 3)
    assert wilson is not None
    assert found.low == pytest.approx(wilson.low - 0.2, abs=0.1), "about as unsure as three answers are"
    assert found.high > 0.9
    same = paired_ratio_difference(after, after, names)
    assert same is not None
    assert same.low < 0 < same.high, "equal answers do not prove that the models are equal"


def test_a_difference_of_ratios_draws_the_same_clusters_for_both() -> None:
    """Against a bootstrap in plain Python, over clusters of unequal size."""
    draw = random.Random(5)
    clusters = [str(draw.randrange(12)) for _ in range(60)]
    answered = [(float(draw.random() < 0.9), float(draw.random() < 0.6)) for _ in range(60)]
    before = [(old * float(draw.random() < 0.4), old) for old, _ in answered]
    after = [(new * float(draw.random() < 0.7), new) for _, new in answered]
    found = paired_ratio_difference(before, after, clusters)
    names = sorted(set(clusters))
    members = {name: [n for n, own in enumerate(clusters) if own == name] for name in names}

    def difference(places: list[int]) -> float:
        first, second = ([column[place] for place in places] for column in (before, after))
        ratios = [sum(hit for hit, _ in own) / sum(tried for _, tried in own) for own in (first, second)]
        return ratios[1] - ratios[0]

    again = sorted(
        difference([place for name in draw.choices(names, k=len(names)) for place in members[name]])
        for _ in range(2000)
    )
    assert found is not None
    assert found.value == pytest.approx(difference(list(range(60))))
    factor = few_clusters_factor(len(names))
    low, high = (found.value + factor * (end - found.value) for end in (again[50], again[1949]))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.04)
    assert paired_ratio_difference([(0, 0)], [(1, 1)], ["a"]) is None, "nothing was answered before"


def test_cases_that_are_clusters_of_their_own_have_wilsons_interval_and_others_a_wider_one() -> None:
    points = [1.0, 1.0, 0.0, 0.0]
    assert share_of(points, ["a", "b", "c", "d"]) == share(2, 4)
    assert share_of(points, ["a", "a", "c", "c"]) == clustered_share(points, ["a", "a", "c", "c"])
    assert share_of([], []) is None

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    assert clustered_bootstrap(mean, points, list("abcd")) == bootstrapped(mean, points)
    together = clustered_bootstrap(mean, points, list("aabb"))
    assert together is not None
    assert (together.value, together.low, together.high, together.n) == (0.5, 0.0, 1.0, 4)


@pytest.mark.slow
def test_the_interval_of_a_mean_of_shares_holds_the_truth_in_95_percent_of_the_experiments() -> None:
    draw = random.Random(5)
    truth, sizes = (0.25, 0.6, 0.45), (60, 60, 200)
    expected = sum(truth) / 3
    held, widths = 0, []
    for _ in range(2000):
        shares = []
        for chance, size in zip(truth, sizes, strict=True):
            found = share(sum(draw.random() < chance for _ in range(size)), size)
            assert found is not None
            shares.append(found)
        mean = mean_share(shares)
        held += mean.low <= expected <= mean.high
        widths.append(mean.high - mean.low)
    assert 0.94 < held / 2000 < 0.965
    deviation = math.sqrt(sum(p * (1 - p) / n for p, n in zip(truth, sizes, strict=True))) / 3
    assert sum(widths) / len(widths) == pytest.approx(2 * 1.96 * deviation, rel=0.03)
    assert mean_share([Share(0.5, 0.4, 0.6, 9), Share(0.7, 0.6, 0.8, 9)]) == pytest.approx(
        (0.6, 0.6 - math.sqrt(0.02) / 2, 0.6 + math.sqrt(0.02) / 2, 18)
    )


@pytest.mark.parametrize(
    "low, high, digits, text",
    [
        (0.25, 0.414, 0, "25-41"),
        (-0.47, -0.16, 0, "-47 to -16"),
        (-0.28, 0.01, 0, "-28 to 1"),
        (-0.001, 0.05, 0, "0-5"),
        (0.534, 0.595, 1, "53.4-59.5"),
    ],
)
def test_a_range_with_a_sign_has_no_dash_between_its_ends(low: float, high: float, digits: int, text: str) -> None:
    assert percent_range(low, high, digits) == text
