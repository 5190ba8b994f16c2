"""Comparisons of two responses, the judgements of raters on them, and the preference row that follows by majority.

A rater judges two responses to one prompt: which one is better, and by how much. An importer returns comparisons with
the judgements of one record. `merge_judgements` then collects all judgements of the same comparison, from whatever
record and whichever response was shown first. `majority_row` decides each comparison, or returns why it cannot be
decided.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from align.files import fingerprint_of
from align.publish.names import shown_path
from align.rows import Level, Messages, PreferenceRow, row_id
from data_builders.row_contents import message_texts

Side = Literal[1, 0, -1]
"""1: the first response is better. -1: the second is better. 0: a tie."""

GRADES: dict[Level, int] = {level: 4 - place for place, level in enumerate(get_args(Level))}
"""Level -> grade: 4 for significantly better, 3, 2, and 1 for marginally better."""
LEVELS: dict[int, Level] = {grade: level for level, grade in GRADES.items()}
"""Grade -> level."""


@dataclass(frozen=True)
class Judgement:
    """The judgement of one rater on two responses."""

    side: Side
    level: Level | None = None
    """How much better the preferred response is; None for a tie, or if the rater gave no level."""
    raters: tuple[str, ...] = ()
    """Name of the rater. Empty if it is not known; several names if a finished preference row is read again."""
    edited: Messages | None = None
    """An improved version of the better response that the rater wrote; None if there is none."""

    @property
    def rater(self) -> str:
        """The names of the raters as one text."""
        return " & ".join(self.raters)

    @property
    def grade(self) -> int | None:
        """The judgement as a number from 4 (the first response is significantly better) over 0 (a tie) to -4.

        None if a response was preferred without a level.
        """
        if self.side == 0:
            return 0
        return None if self.level is None else self.side * GRADES[self.level]

    def swapped(self) -> Judgement:
        """Return the same judgement for the two responses in the opposite order."""
        other: dict[Side, Side] = {1: -1, 0: 0, -1: 1}
        return replace(self, side=other[self.side])


@dataclass(frozen=True)
class Comparison:
    """Two responses to one prompt, and all judgements of them."""

    places: tuple[str, ...]
    """`file:line` of each record that this comparison was read from."""
    id: str
    source: str
    prompt: Messages
    responses: tuple[Messages, Messages]
    judgements: tuple[Judgement, ...] = ()
    models: tuple[str, str] = ("", "")
    seeds: tuple[int, ...] = ()
    """The seed of each response; empty where unknown."""
    tools: str = ""
    round: int | None = None
    batch: str = ""

    @property
    def key(self) -> str:
        """A key that is equal for comparisons of exactly the same responses to exactly the same prompt."""
        return fingerprint_of(self.tools, *message_texts(self.prompt), *(_key(response) for response in self.responses))

    def ordered(self) -> Comparison:
        """Return the comparison with its responses in an order that depends on their contents only.

        So two comparisons are equal whichever response was shown first or won.
        """
        if _key(self.responses[0]) <= _key(self.responses[1]):
            return self
        return replace(
            self,
            responses=self.responses[::-1],
            models=self.models[::-1],
            seeds=self.seeds[::-1],
            judgements=tuple(judgement.swapped() for judgement in self.judgements),
        )

    def votes(self) -> Counter[Side]:
        """Count how many judgements prefer each side."""
        return Counter(judgement.side for judgement in self.judgements)

    @property
    def has_a_tie(self) -> bool:
        """Whether any rater judged the responses to be equally good."""
        return self.votes()[0] > 0

    @property
    def is_contradicted(self) -> bool:
        """Whether some raters prefer the first response and others the second."""
        return self.votes()[1] > 0 < self.votes()[-1]

    def as_record(self) -> dict[str, object]:
        """Return the comparison for a report: where it was read from, and every judgement."""
        judgements = [
            {"rater": judgement.rater, "side": judgement.side, "level": judgement.level}
            for judgement in self.judgements
        ]
        return {"id": self.id, "places": list(self.places), "batch": self.batch, "judgements": judgements}


def merge_judgements(found: Iterable[Comparison]) -> tuple[list[Comparison], int]:
    """Collect all judgements of the same comparison. Returns the comparisons, and the number of repeated records.

    The comparisons are in the order of their first record, whose source, round and batch they keep. If the same rater
    gives the same judgement in two records, it counts once, and the second record is a repeat. Ids are made unique.
    """
    together: dict[str, Comparison] = {}
    repeats = 0
    for comparison in map(Comparison.ordered, found):
        first = together.get(comparison.key)
        if first is None:
            together[comparison.key] = comparison
            continue
        new = tuple(judgement for judgement in comparison.judgements if judgement not in first.judgements)
        repeats += not new
        together[comparison.key] = replace(
            first,
            places=tuple(dict.fromkeys(first.places + comparison.places)),
            judgements=first.judgements + new,
            models=(first.models[0] or comparison.models[0], first.models[1] or comparison.models[1]),
        )
    taken: set[str] = set()
    for key, comparison in together.items():
        if comparison.id in taken:
            together[key] = replace(comparison, id=row_id(comparison.id, key))
        taken.add(together[key].id)
    return list(together.values()), repeats


def majority_row(comparison: Comparison, majority: float) -> PreferenceRow | str:
    """Decide a comparison by majority. Returns the preference row, or the reason why there is none.

    majority: the ratio of the judgements, ties included, that must prefer the same response. More than half is always
        required.

    The level of the row is the median of the levels given by the raters in the majority (the weaker one if two are in
    the middle), and its edited response is the first one that one of them wrote. Example: three raters prefer A, two of
    them significantly (4) and one slightly (2), and one prefers B. The ratio for A is 3/4, and the median of 2, 4, 4 is
    4.
    """
    votes = comparison.votes()
    if comparison.responses[0] == comparison.responses[1]:
        return "identical completions"
    if not votes:
        return "not judged"
    if not votes[1] and not votes[-1]:
        return "tie"
    if votes[1] == votes[-1]:
        return "raters contradict each other"
    side: Side = 1 if votes[1] > votes[-1] else -1
    ratio = votes[side] / votes.total()
    if ratio <= 0.5 or ratio < majority:
        return "no majority of the raters"
    agreeing = [judgement for judgement in comparison.judgements if judgement.side == side]
    grades = [GRADES[judgement.level] for judgement in agreeing if judgement.level is not None]
    edited = next((judgement.edited for judgement in agreeing if judgement.edited is not None), None)
    completions: tuple[Messages, ...] = comparison.responses if side == 1 else comparison.responses[::-1]
    models: tuple[str, ...] = comparison.models if side == 1 else comparison.models[::-1]
    seeds = comparison.seeds if side == 1 else comparison.seeds[::-1]
    if edited is not None:
        completions, models, seeds = (edited, *completions), ("", *models), ()  # no seed gives an edited response
    return PreferenceRow(
        id=comparison.id,
        source=comparison.source,
        tools=comparison.tools,
        prompt=comparison.prompt,
        completions=completions,
        level=LEVELS[statistics.median_low(grades)] if grades else None,
        models=models if any(models) else (),
        seeds=seeds,
        raters=tuple(sorted({name for judgement in comparison.judgements for name in judgement.raters})),
        round=comparison.round,
        batch=comparison.batch,
        made_from=tuple(map(_shown_place, comparison.places)),
    )


def judgement_of_grade(grade: int, *raters: str) -> Judgement:
    """Make a judgement of a grade from -4 to 4 (see `Judgement.grade`)."""
    side: Side = 0 if grade == 0 else 1 if grade > 0 else -1
    return Judgement(side, LEVELS[abs(grade)] if grade else None, raters)


def judgement_of_scores(first: float, second: float, gaps: Mapping[Level, float], *raters: str) -> Judgement:
    """Make a judgement of the scores of two responses; the higher score is better, and equal scores are a tie.

    gaps: level -> the smallest difference for which it is given. A smaller difference gives a judgement without a
    level. Example: with {"better": 2, "significantly better": 3}, scores 5 and 2 are "significantly better", 5 and 3
    "better".
    """
    if first == second:
        return Judgement(0, None, raters)
    difference = abs(first - second)
    strongest_first = sorted(gaps, key=lambda level: -GRADES[level])
    level = next((level for level in strongest_first if difference >= gaps[level]), None)
    return Judgement(1 if first > second else -1, level, raters)


def _shown_place(place: str) -> str:
    """`file:line` without what the path says of this machine."""
    path, _, line = place.rpartition(":")
    return f"{shown_path(path)}:{line}"


def _key(response: Messages) -> str:
    return fingerprint_of(*message_texts(response))
