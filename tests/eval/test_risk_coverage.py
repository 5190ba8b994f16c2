"""Risk-coverage curves worked by hand, and held against pair counts and simulated orders."""

from __future__ import annotations

import math
import random
from itertools import permutations
from statistics import mean

import pytest

from eval.risk_coverage import Answered, at_known_kept, at_wrong, aurc, auroc, curve


def cases(text: str) -> list[Answered]:
    """`9r 7w`: score 9 right and known, score 7 wrong and unknown; `k` after it turns a wrong one known."""
    return [Answered(float(word[0]), word[1] == "w", word[1] == "r" or word.endswith("k")) for word in text.split()]


def at_random(count: int, seed: int, scores: int = 5) -> list[Answered]:
    draw = random.Random(seed)
    return [Answered(draw.randrange(scores), draw.random() < 0.4, draw.random() < 0.5) for _ in range(count)]


def test_a_curve_worked_by_hand() -> None:
    found = curve(cases("3w 9r 5r 7w 1w"))
    assert [point.threshold for point in found] == [9, 7, 5, 3, 1]
    assert [point.coverage for point in found] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [point.risk for point in found] == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4, 3 / 5])
    assert [point.wrong for point in found] == pytest.approx([0, 1 / 5, 1 / 5, 2 / 5, 3 / 5])
    assert [point.known_kept for point in found] == pytest.approx([0.5, 0.5, 1, 1, 1])
    assert aurc(cases("3w 9r 5r 7w 1w")) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2 + 3 / 5) / 5)
    assert auroc(cases("3w 9r 5r 7w 1w")) == pytest.approx(5 / 6), "one of six pairs is in the wrong order"


def test_questions_of_one_score_are_answered_together() -> None:
    found = curve(cases("5r 5w 2w"))
    assert [(point.coverage, point.risk) for point in found] == [(2 / 3, 1 / 2), (1.0, 2 / 3)]
    assert auroc(cases("5r 5w")) == 0.5


def test_a_known_question_that_is_answered_wrongly_is_not_kept() -> None:
    assert [point.known_kept for point in curve(cases("9wk 5r"))] == [0.0, 0.5]


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    some = at_random(60, seed=1)
    known = [case.score for case in some if case.is_known]
    unknown = [case.score for case in some if not case.is_known]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in known for b in unknown]
    assert auroc(some) == pytest.approx(mean(pairs))


def test_aurc_under_ties_is_its_mean_over_every_order() -> None:
    def of_order(order: tuple[Answered, ...]) -> float:
        risks = [sum(case.is_wrong for case in order[:n]) / n for n in range(1, len(order) + 1)]
        return mean(risks)

    tied = cases("5r 5w 5w 5r 5w 5r")
    assert aurc(tied) == pytest.approx(mean(map(of_order, permutations(tied))))
    untied = cases("6r 5w 4w 3r 2w 1r")
    assert aurc(untied) == pytest.approx(of_order(tuple(untied)))


def test_a_perfect_score_has_the_least_area_and_a_reversed_one_the_most() -> None:
    some = at_random(7, seed=2)
    wrong = [case.is_wrong for case in some]

    def area(scores: tuple[int, ...]) -> float:
        return aurc([Answered(score, is_wrong, False) for score, is_wrong in zip(scores, wrong, strict=True)])

    every = [area(order) for order in permutations(range(7))]
    best = aurc([Answered(-is_wrong, is_wrong, False) for is_wrong in wrong])
    worst = aurc([Answered(is_wrong, is_wrong, False) for is_wrong in wrong])
    assert best == pytest.approx(min(every))
    assert worst == pytest.approx(max(every))


def test_only_the_order_of_the_scores_counts() -> None:
    some = at_random(50, seed=3)
    squashed = [case._replace(score=math.tanh(case.score / 10) - 7) for case in some]
    assert aurc(some) == aurc(squashed)
    assert auroc(some) == auroc(squashed)
    assert [point[1:] for point in curve(some)] == [point[1:] for point in curve(squashed)]


def test_the_curve_ends_where_everything_is_answered() -> None:
    some = at_random(80, seed=4)
    last = curve(some)[-1]
    assert last.coverage == 1
    assert last.risk == last.wrong == pytest.approx(mean(case.is_wrong for case in some))


def test_thresholds_that_keep_the_known_or_bound_the_wrong() -> None:
    found = curve(cases("9r 8w 7r 6r 5w 4r"))
    kept = at_known_kept(found, 0.75)
    assert kept is not None
    assert (kept.threshold, kept.wrong) == (6, pytest.approx(1 / 6))
    bounded = at_wrong(found, 0.2)
    assert bounded is not None
    assert bounded.threshold == 6
    assert at_wrong(curve(cases("9w 8r")), 0.2) is None
    assert at_known_kept(curve(cases("9wk 8r")), 0.9) is None


def test_without_both_kinds_there_is_no_auroc() -> None:
    assert auroc(cases("9r 8r")) is None
    assert auroc(cases("9w")) is None
