"""Judgements meet whatever order they come in, are decided by majority, and agreement equals published numbers."""

from __future__ import annotations

import itertools
import random

import pytest

from align.rows import Message, Messages, PreferenceRow
from data_builders.preferences.agreement import agreement, alpha
from data_builders.preferences.comparisons import (
    GRADES,
    Comparison,
    Judgement,
    judgement_of_grade,
    judgement_of_scores,
    majority_row,
    merge_judgements,
)

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units, values
# missing. It gives 0.815 for ordinal data.
OBSERVERS = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]
UNITS = [
    [int(value) for value in column if value != "."]
    for column in zip(*(line.split() for line in OBSERVERS), strict=True)
]


def test_alpha_is_that_of_krippendorffs_example() -> None:
    assert alpha(UNITS) == pytest.approx(0.815, abs=5e-4)


def test_alpha_is_that_worked_by_hand() -> None:
    # Units (1, 1), (1, 2), (2, 2), (3, 3): eight values, 3 of 1, 3 of 2, 2 of 3. Ordinal distances:
    # d(1, 2) = (3 + 3 - 3)^2 = 9, d(2, 3) = (3 + 2 - 2.5)^2 = 6.25, d(1, 3) = (3 + 3 + 2 - 2.5)^2 = 30.25.
    # Observed: one of four pairs differs, by 9: 9 / 4. Expected, over the 28 pairs of eight values:
    # (9 * 9 + 6 * 6.25 + 6 * 30.25) / 28 = 300 / 28.
    assert alpha([[1, 1], [1, 2], [2, 2], [3, 3]]) == pytest.approx(1 - (9 / 4) / (300 / 28))


def alpha_by_pairs(units: list[list[int]]) -> float:
    """1 - observed / expected, from every pair of values within units and among all, without a matrix of counts."""
    pairable = [unit for unit in units if len(unit) > 1]
    values = [value for unit in pairable for value in unit]

    def distance(one: int, other: int) -> float:
        low, high = sorted((one, other))
        ranks = sum(low < value < high for value in values) + (values.count(low) + values.count(high)) / 2
        return ranks**2 if low != high else 0.0

    observed = sum(
        sum(distance(a, b) for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in pairable
    ) / len(values)
    expected = sum(distance(a, b) for a, b in itertools.permutations(values, 2)) / (len(values) * (len(values) - 1))
    return 1 - observed / expected


@pytest.mark.slow
def test_alpha_equals_the_mean_over_all_pairs_on_random_grades() -> None:
    draw = random.Random(0)
    for _ in range(30):
        units = [[draw.randint(-4, 4) for _ in range(draw.randint(0, 4))] for _ in range(20)]
        assert alpha(units) == pytest.approx(alpha_by_pairs(units))


def test_alpha_is_one_for_full_agreement_and_below_zero_for_opposition() -> None:
    assert alpha([[4, 4], [-2, -2], [1, 1, 1]]) == 1
    opposed = alpha([[1, -1], [-1, 1], [1, -1]])
    assert opposed is not None
    assert opposed < 0


@pytest.mark.parametrize("units", [[], [[1]], [[1], [2], [3]], [[2, 2], [2, 2]]], ids=str)
def test_alpha_is_undefined_where_nothing_can_differ(units: list[list[int]]) -> None:
    assert alpha(units) is None


def said(text: str) -> Messages:
    return (Message(role="assistant", content=text),)


def compared(*judgements: Judgement, first: str = "Paris.", second: str = "Lyon.", **known) -> Comparison:
    known = {"places": ("f:1",), "id": "c", "source": "made"} | known
    prompt = (Message(role="user", content=known.pop("asked", "Capital of France?")),)
    return Comparison(prompt=prompt, responses=(said(first), said(second)), judgements=judgements, **known)


def by(rater: str, grade: int) -> Judgement:
    return judgement_of_grade(grade, rater)


def settled_row(*judgements: Judgement, majority: float = 0.5) -> PreferenceRow:
    row = majority_row(compared(*judgements), majority)
    assert isinstance(row, PreferenceRow), row
    return row


def test_grades_and_levels_are_the_same_scale() -> None:
    assert GRADES == {"significantly better": 4, "better": 3, "slightly better": 2, "marginally better": 1}
    assert [by("a", grade).grade for grade in range(-4, 5)] == list(range(-4, 5))


def test_the_majority_chooses_and_the_median_of_its_grades_is_the_level() -> None:
    row = settled_row(by("ann", 4), by("bob", 1), by("cem", 2), by("dora", -4))
    assert [one[0].content for one in row.completions] == ["Paris.", "Lyon."]
    assert row.level == "slightly better"
    assert row.raters == ("ann", "bob", "cem", "dora")
    assert settled_row(by("ann", 4), by("bob", 3)).level == "better", "of two middle grades the weaker"
    other = settled_row(by("ann", -4), by("bob", -3), by("cem", 1))
    assert [one[0].content for one in other.completions] == ["Lyon.", "Paris."]


@pytest.mark.parametrize(
    "grades, majority, reason",
    [
        ([], 0.5, "not judged"),
        ([0, 0], 0.5, "tie"),
        ([3, -3], 0.5, "raters contradict each other"),
        ([3, -3, 0], 0.5, "raters contradict each other"),
        ([3, 0], 0.5, "no majority of the raters"),
        ([3, 3, -1], 0.7, "no majority of the raters"),
        ([3, 3, 0], 1.0, "no majority of the raters"),
    ],
)
def test_what_is_not_settled_says_why(grades: list[int], majority: float, reason: str) -> None:
    judgements = [by(f"rater {number}", grade) for number, grade in enumerate(grades)]
    assert majority_row(compared(*judgements), majority) == reason


def test_settling_does_not_depend_on_which_response_was_shown_first() -> None:
    draw = random.Random(1)
    for _ in range(200):
        judgements = [by(name, draw.randint(-4, 4)) for name in "abc"]
        straight = compared(*judgements)
        turned = compared(*(judgement.swapped() for judgement in judgements), first="Lyon.", second="Paris.")
        assert majority_row(straight, 0.5) == majority_row(turned, 0.5)
        assert straight.ordered() == turned.ordered()


def test_judgements_of_one_comparison_meet_from_any_record_and_order() -> None:
    found = [
        compared(by("ann", 3), places=("f:1",), models=("m-1", ""), batch="b"),
        compared(by("bob", -2), first="Lyon.", second="Paris.", places=("f:2",), models=("m-2", "m-1")),
        compared(by("ann", 3), asked="Another?", places=("f:3",)),
        compared(by("ann", 3), places=("f:4",)),
    ]
    (one, other), repeats = merge_judgements(found)
    assert repeats == 1
    assert one.places == ("f:1", "f:2", "f:4")
    assert sorted(one.models) == ["m-1", "m-2"]
    assert one.batch == "b"
    assert {abs(judgement.grade or 0) for judgement in one.judgements} == {2, 3}
    assert len(set(one.votes())) == 1, "both chose Paris"
    assert other.id != one.id == "c", "ids are made to differ"


def test_only_the_edit_of_one_who_agreed_is_taken() -> None:
    loser = Judgement(-1, "better", ("cem",), said("Lyon, of course."))
    winner = Judgement(1, "better", ("bob",), said("Paris, of course."))
    row = settled_row(by("ann", 3), loser, winner)
    assert [one[0].content for one in row.completions] == ["Paris, of course.", "Paris.", "Lyon."]
    assert len(settled_row(by("ann", 3), loser, by("bob", 3)).completions) == 2


def test_scores_give_a_level_from_their_difference() -> None:
    gaps = {"slightly better": 1.0, "significantly better": 3.0}
    found = [judgement_of_scores(5, second, gaps).grade for second in (1, 2, 3.5, 4.5, 5, 7)]  # type: ignore[arg-type]
    assert found == [4, 4, 2, None, 0, -2]


def test_agreement_is_reported_for_all_by_batch_and_by_rater() -> None:
    found = [
        compared(by("ann", 4), by("bob", 4), by("cem", -4), id="1", batch="early", round=1),
        compared(by("ann", -3), by("bob", -3), by("cem", 3), id="2", batch="early", round=1),
        compared(by("ann", 2), by("bob", 1), by("cem", 2), id="3", batch="late", round=1),
        compared(by("ann", -2), by("bob", 0), by("cem", -2), id="4", batch="late", round=1),
        compared(by("ann", 1), id="5", batch="late", round=1),
    ]
    report = agreement(found)
    values = [[judgement.grade for judgement in one.judgements] for one in found]
    assert report["grades"] == pytest.approx(alpha_by_pairs(values))  # type: ignore[arg-type]
    assert report["judged_by_several"] == 4
    assert report["judgements"] == 13
    early, late = report["batches"]["round-1/early"], report["batches"]["round-1/late"]
    assert early["grades"] < 0 < late["grades"]
    raters = report["raters"]
    assert [raters[name]["judgements"] for name in ("ann", "bob", "cem")] == [5, 4, 4]
    # The others of ann differ in 1 and 2, agree with her in 3, and are a tie and a choice in 4: one of one.
    assert raters["ann"]["with_majority"] == 1.0
    # The others of cem agree with each other in 1 to 3, and not with him in 1 and 2; in 4 they are divided.
    assert raters["cem"]["with_majority"] == pytest.approx(1 / 3)
    assert raters["bob"]["ties"] == 1
    # Ann and bob judge 1 to 4 with cem as well, so alpha over their comparisons is that over all.
    assert raters["bob"]["grades"] == raters["ann"]["grades"] == report["grades"]
    early_only = agreement(found[:2])
    assert early_only["raters"]["cem"]["sides"] == early_only["sides"] == pytest.approx(early["sides"])
    assert [one["id"] for one in report["ties"]] == ["4"]
    assert [one["id"] for one in report["contradictions"]] == ["1", "2"]
    assert report["contradictions"][0]["judgements"][2] == {"rater": "cem", "side": -1, "level": "significantly better"}
