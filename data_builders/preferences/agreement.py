"""Measure how far raters agree: Krippendorff's alpha over all comparisons, for each rater and for each batch.

Alpha is 1 - observed disagreement / expected disagreement. 1 means full agreement, 0 means the agreement that chance
would give, and values below 0 mean less than that (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability).
Sides and grades are ordinal values: the distance of two values depends on how many judgements lie between them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from align.errors import ConfigError
from data_builders.preferences.comparisons import Comparison, Judgement


def alpha(units: Iterable[Sequence[int]]) -> float | None:
    """Krippendorff's alpha, ordinal, over units that each hold their values, whoever gave them.

    A unit with one value counts for nothing. None where no unit has two values, or all values are the same: there is
    then no disagreement to expect, and agreement says nothing.
    """
    pairable = [unit for unit in units if len(unit) > 1]
    counts = Counter(value for unit in pairable for value in unit)
    if len(counts) < 2:
        return None
    try:
        from nltk.metrics.agreement import AnnotationTask
    except ImportError:
        raise ConfigError("nltk", "is wanted for the agreement of raters, and not here", "pip install nltk") from None
    told = [(place, number, value) for number, unit in enumerate(pairable) for place, value in enumerate(unit)]
    return float(AnnotationTask(told, distance=ordinal_distance(counts)).alpha())


def ordinal_distance(counts: Counter[int]) -> Callable[[int, int], float]:
    """The square of how many of the pairable values lie from one value to another, the two ends counting half."""

    @cache
    def distance(one: int, other: int) -> float:
        low, high = min(one, other), max(one, other)
        between = sum(count for value, count in counts.items() if low <= value <= high)
        return (between - (counts[low] + counts[high]) / 2) ** 2

    return distance


def agreement(found: Sequence[Comparison]) -> dict[str, Any]:
    """Return the section of the report on agreement: alpha over all, by rater and by batch, ties and contradictions.

    `sides` is alpha over the sides (first, tie, second). `grades` is alpha over the grades from -4 to 4 of judgements
    that have a level or are ties. A rater's alpha is over the comparisons that this rater judged; `with_majority` is
    the ratio of the rater's judgements that agree with the majority of the other raters.
    """
    batches: dict[str, list[Comparison]] = defaultdict(list)
    raters: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in found:
        batches[batch_name(comparison.round, comparison.batch)].append(comparison)
        for rater in {judgement.rater for judgement in comparison.judgements if judgement.rater}:
            raters[rater].append(comparison)
    return {
        **_alphas([comparison.judgements for comparison in found]),
        "batches": {name: _alphas([one.judgements for one in part]) for name, part in sorted(batches.items())},
        "raters": {rater: _rater(rater, part) for rater, part in sorted(raters.items())},
        "ties": [comparison.as_record() for comparison in found if comparison.has_a_tie],
        "contradictions": [comparison.as_record() for comparison in found if comparison.is_contradicted],
    }


def batch_name(round_: int | None, batch: str) -> str:
    """Return the full name of a batch, such as `round-2/week-7`; an empty text if neither round nor batch is known."""
    return "/".join(part for part in ("" if round_ is None else f"round-{round_}", batch) if part)


def _alphas(judged: Sequence[Sequence[Judgement]]) -> dict[str, Any]:
    grades = [[judgement.grade for judgement in one if judgement.grade is not None] for one in judged]
    return {
        "comparisons": len(judged),
        "judged_by_several": sum(len(one) > 1 for one in judged),
        "judgements": sum(map(len, judged)),
        "sides": alpha([judgement.side for judgement in one] for one in judged),
        "grades": alpha(grades),
    }


def _rater(rater: str, own: Sequence[Comparison]) -> dict[str, Any]:
    agreed: list[bool] = []
    sides: Counter[int] = Counter()
    for comparison in own:
        others = Counter(judgement.side for judgement in comparison.judgements if judgement.rater != rater)
        mine = [judgement.side for judgement in comparison.judgements if judgement.rater == rater]
        sides.update(mine)
        if others and (most := others.most_common(1)[0])[1] * 2 > others.total():
            agreed += [side == most[0] for side in mine]
    return {
        **_alphas([comparison.judgements for comparison in own]),
        "judgements": sides.total(),
        "ties": sides[0],
        "with_majority": sum(agreed) / len(agreed) if agreed else None,
    }
