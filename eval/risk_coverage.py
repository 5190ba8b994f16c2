"""Risk-coverage curves: how many answers are wrong if a model answers only the questions it is most confident in.

Questions are answered from the highest confidence score down. At each coverage (the share that is answered) the risk is
the share of wrong answers among those answered. Any score can be used. With the scores 0.9 (right), 0.7 (wrong) and 0.4
(right), the curve has the points (coverage 1/3, risk 0), (2/3, 1/2) and (1, 1/3).
Source: El-Yaniv and Wiener 2010, JMLR 11; Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple


class Answered(NamedTuple):
    """One question, with the answer that the model gives if it has to answer."""

    score: float
    """Higher scores are answered first; any unit."""
    is_wrong: bool
    """Whether that answer is wrong."""
    is_known: bool
    """Whether the starting model knew the answer, which training should keep."""


class Point(NamedTuple):
    """The outcome if every question with at least this score is answered."""

    threshold: float
    coverage: float
    """Share of all questions that are answered."""
    risk: float
    """Share of wrong answers among the answered."""
    wrong: float
    """Share of wrong answers among all questions."""
    known_kept: float
    """The share of the known questions that is answered right. 1 if no question was known."""


def curve(cases: Sequence[Answered]) -> list[Point]:
    """One point for each distinct score, from the highest down. Questions with equal scores are answered together."""
    points = []
    answered = wrong = kept = 0
    known = sum(case.is_known for case in cases)
    for score, group in groupby(_descending(cases), key=lambda case: case.score):
        for case in group:
            answered += 1
            wrong += case.is_wrong
            kept += case.is_known and not case.is_wrong
        share_kept = kept / known if known else 1.0
        points.append(Point(score, answered / len(cases), wrong / answered, wrong / len(cases), share_kept))
    return points


def aurc(cases: Sequence[Answered]) -> float:
    """Area under the curve: the mean of the risk over 1, 2, ... n answered questions. Lower is better.

    Edge: questions with equal scores count with the mean over all their orders, so that a constant score has the risk
        of answering all questions.
    """
    total, answered, wrong = 0.0, 0, 0.0
    for _, group in groupby(_descending(cases), key=lambda case: case.score):
        same = list(group)
        rate = sum(case.is_wrong for case in same) / len(same)
        for _ in same:
            answered += 1
            wrong += rate
            total += wrong / answered
    return total / len(cases)


def auroc(cases: Sequence[Answered]) -> float | None:
    """The probability that a known question has a higher score than an unknown one; ties count half.

    None if there are no known or no unknown questions.

    Source: Mann and Whitney 1947; Hanley and McNeil 1982.
    """
    known = sum(case.is_known for case in cases)
    unknown = len(cases) - known
    if not known or not unknown:
        return None
    above = 0.0  # pairs of a known and an unknown question in which the known one has the higher score
    unknown_left = unknown
    for _, group in groupby(_descending(cases), key=lambda case: case.score):
        same = [case.is_known for case in group]
        tied = len(same) - sum(same)
        above += sum(same) * (unknown_left - tied + tied / 2)
        unknown_left -= tied
    return above / (known * unknown)


def at_known_kept(points: Sequence[Point], share: float) -> Point | None:
    """The point of lowest coverage at which at least this share of the known questions is kept, or None."""
    return next((point for point in points if point.known_kept >= share), None)


def at_wrong(points: Sequence[Point], most: float) -> Point | None:
    """The point of highest coverage at which at most this share of all questions is answered wrong, or None."""
    fitting = [point for point in points if point.wrong <= most]
    return fitting[-1] if fitting else None


def _descending(cases: Sequence[Answered]) -> list[Answered]:
    return sorted(cases, key=lambda case: -case.score)
