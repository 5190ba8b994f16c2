"""Measure how far raters agree: Krippendorff's alpha over all comparisons, for each rater and for each batch.

Alpha is 1 - observed disagreement / expected disagreement. 1 means full agreement, 0 means the agreement that chance
would give, and values below 0 mean less than that (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability).
Sides and grades are ordinal values: the distance of two values depends on how many judgements lie between them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from data_builders.preferences.comparisons import Comparison, Judgement


def alpha(units: Iterable[Sequence[int]]) -> float | None:
    """Krippendorff's alpha for ordinal values. Each unit lists the values that it was given, in any order.

    A unit with fewer than two values is left out. Returns None if no unit has two values or if all values are equal:
    no disagreement can be expected then, and agreement says nothing.
    """
    pairable = [Counter(unit) for unit in units if len(unit) > 1]
    values = sorted(set().union(*pairable))
    if len(values) < 2:
        return None
    import krippendorff  # it imports numpy, and configs are read without it

    # How many raters gave each value (column) to each unit (row): the units (1, 1) and (1, 3) give [[2, 0], [1, 1]].
    counts = [[unit[value] for value in values] for unit in pairable]
    return float(krippendorff.alpha(value_counts=counts, value_domain=values, level_of_measurement="ordinal"))


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
