"""How wrong at how much answered: the risk-coverage curve of a score that says how surely a model answers.

Questions are answered from the highest score down. At each coverage (share answered) the risk is the share of wrong
answers among the answered. Nothing here knows where a score comes from.
Source: El-Yaniv and Wiener 2010, JMLR 11; Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple


class Answered(NamedTuple):
    """One question, with the answer that would be given if it had to be."""

    score: float
    """Higher: answered before others. In whatever units."""
    is_wrong: bool
    """Whether that answer is wrong."""
    is_known: bool
    """Whether the starting model knew it: what must not be lost."""


class Point(NamedTuple):
    """What follows when every question with at least this score is answered."""

    threshold: float
    coverage: float
    """Share of all questions that are answered."""
    risk: float
    """Share of wrong answers among the answered."""
    wrong: float
    """Share of wrong answers among all questions."""
    known_kept: float
    """Of the known questions, the share that is answered, and right. 1 where nothing was known."""


def curve(cases: Sequence[Answered]) -> list[Point]:
    """One point for each score that occurs, from the highest down: questions of one score are answered together."""
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

    Edge: questions of one score count with the mean over all their orders, so that a score that says nothing has the
        risk of answering all.
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
    """The chance that a known question has a higher score than one that is not; ties count half. None without both.

    Source: Mann and Whitney 1947; Hanley and McNeil 1982.
    """
    known = sum(case.is_known for case in cases)
    unknown = len(cases) - known
    if not known or not unknown:
        return None
    above = 0.0  # pairs of a known question and one that is not, the known one higher
    unknown_left = unknown
    for _, group in groupby(_descending(cases), key=lambda case: case.score):
        same = [case.is_known for case in group]
        tied = len(same) - sum(same)
        above += sum(same) * (unknown_left - tied + tied / 2)
        unknown_left -= tied
    return above / (known * unknown)


def at_known_kept(points: Sequence[Point], share: float) -> Point | None:
    """The point of least coverage at which at least this share of the known is kept; None where none reaches it."""
    return next((point for point in points if point.known_kept >= share), None)


def at_wrong(points: Sequence[Point], most: float) -> Point | None:
    """The point of most coverage at which wrong answers are at most this share of all questions; None where none is."""
    fitting = [point for point in points if point.wrong <= most]
    return fitting[-1] if fitting else None


def _descending(cases: Sequence[Answered]) -> list[Answered]:
    return sorted(cases, key=lambda case: -case.score)
