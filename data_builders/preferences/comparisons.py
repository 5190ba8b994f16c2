"""Comparisons that raters judged, how judgements of one comparison meet, and how they are settled into a row.

A rater judges two responses to one prompt: which is better, and by how much. Importers give comparisons with the
judgements that one record holds; `merged` brings those of one comparison together, whatever record they come from and
whichever response was shown first; `settled` makes one row of each by majority, or says why there is none.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from align.files import fingerprint_of
from align.rows import Level, Messages, PreferenceRow, row_id
from data_builders.row_set import message_texts

Side = Literal[1, 0, -1]
"""1: the first response is better, -1: the second, 0: a tie."""

GRADES: dict[Level, int] = {level: 4 - place for place, level in enumerate(get_args(Level))}
"""Level -> 4 for significantly better, down to 1 for marginally better."""
LEVELS: dict[int, Level] = {grade: level for level, grade in GRADES.items()}


@dataclass(frozen=True)
class Judgement:
    """What one rater, or several as one, said of two responses."""

    side: Side
    level: Level | None = None
    """How much better; None for a tie, and where there is no grade."""
    raters: tuple[str, ...] = ()
    """Who said it: empty where it is not known, several where a settled row is read again."""
    edited: Messages | None = None
    """The better response, rewritten to be better still; None where there is no edit."""

    @property
    def rater(self) -> str:
        return " & ".join(self.raters)

    @property
    def grade(self) -> int | None:
        """From 4, the first is significantly better, over 0, a tie, to -4; None where a side was taken ungraded."""
        if self.side == 0:
            return 0
        return None if self.level is None else self.side * GRADES[self.level]

    def turned(self) -> Judgement:
        """The same judgement with the two responses exchanged."""
        turned: dict[Side, Side] = {1: -1, 0: 0, -1: 1}
        return replace(self, side=turned[self.side])


@dataclass(frozen=True)
class Compared:
    """Two responses to one prompt, and every judgement of them that is known."""

    places: tuple[str, ...]
    """`file:line` of each record that it was read from."""
    id: str
    source: str
    prompt: Messages
    responses: tuple[Messages, Messages]
    judgements: tuple[Judgement, ...] = ()
    models: tuple[str, str] = ("", "")
    tools: str = ""
    round: int | None = None
    batch: str = ""

    @property
    def key(self) -> str:
        """The same for two comparisons of the same responses to the same prompt, character by character."""
        return fingerprint_of(self.tools, *message_texts(self.prompt), *(_key(response) for response in self.responses))

    def ordered(self) -> Compared:
        """With the responses in an order that depends on what they say alone, not on who was shown first or won."""
        if _key(self.responses[0]) <= _key(self.responses[1]):
            return self
        return replace(
            self,
            responses=self.responses[::-1],
            models=self.models[::-1],
            judgements=tuple(judgement.turned() for judgement in self.judgements),
        )

    def votes(self) -> Counter[Side]:
        return Counter(judgement.side for judgement in self.judgements)

    @property
    def has_a_tie(self) -> bool:
        return self.votes()[0] > 0

    @property
    def is_contradicted(self) -> bool:
        """Whether each of the two responses was called the better one."""
        return self.votes()[1] > 0 < self.votes()[-1]

    def told(self) -> dict[str, object]:
        """For a report: where it was read from and who said what."""
        said = [
            {"rater": judgement.rater, "side": judgement.side, "level": judgement.level}
            for judgement in self.judgements
        ]
        return {"id": self.id, "places": list(self.places), "batch": self.batch, "judgements": said}


def merged(found: Iterable[Compared]) -> tuple[list[Compared], int]:
    """Comparisons with all their judgements together, in the order of their first record; and how many were repeats.

    The same judgement of the same rater, named or not, counts once: a repeat. What the first record says of source,
    round and batch holds. Ids are made to differ.
    """
    together: dict[str, Compared] = {}
    repeats = 0
    for compared in map(Compared.ordered, found):
        first = together.get(compared.key)
        if first is None:
            together[compared.key] = compared
            continue
        new = tuple(judgement for judgement in compared.judgements if judgement not in first.judgements)
        repeats += not new
        together[compared.key] = replace(
            first,
            places=tuple(dict.fromkeys(first.places + compared.places)),
            judgements=first.judgements + new,
            models=(first.models[0] or compared.models[0], first.models[1] or compared.models[1]),
        )
    taken: set[str] = set()
    for key, compared in together.items():
        if compared.id in taken:
            together[key] = replace(compared, id=row_id(compared.id, key))
        taken.add(together[key].id)
    return list(together.values()), repeats


def settled(compared: Compared, majority: float) -> PreferenceRow | str:
    """One row by majority, or the reason why there is none.

    majority: the share of the judgements, ties included, that must agree on the better response; more than half always.
    The row's level is the median of the grades given by those who chose its chosen response, the weaker of two middle
    ones; the edited response is the first by one of them.
    """
    votes = compared.votes()
    if compared.responses[0] == compared.responses[1]:
        return "identical completions"
    if not votes:
        return "not judged"
    if not votes[1] and not votes[-1]:
        return "tie"
    if votes[1] == votes[-1]:
        return "raters contradict each other"
    side: Side = 1 if votes[1] > votes[-1] else -1
    share = votes[side] / votes.total()
    if share <= 0.5 or share < majority:
        return "no majority of the raters"
    agreeing = [judgement for judgement in compared.judgements if judgement.side == side]
    grades = [GRADES[judgement.level] for judgement in agreeing if judgement.level is not None]
    edited = next((judgement.edited for judgement in agreeing if judgement.edited is not None), None)
    completions: tuple[Messages, ...] = compared.responses if side == 1 else compared.responses[::-1]
    models: tuple[str, ...] = compared.models if side == 1 else compared.models[::-1]
    if edited is not None:
        completions, models = (edited, *completions), ("", *models)
    return PreferenceRow(
        id=compared.id,
        source=compared.source,
        tools=compared.tools,
        prompt=compared.prompt,
        completions=completions,
        level=LEVELS[statistics.median_low(grades)] if grades else None,
        models=models if any(models) else (),
        raters=tuple(sorted({name for judgement in compared.judgements for name in judgement.raters})),
        round=compared.round,
        batch=compared.batch,
    )


def judgement_of_grade(grade: int, *raters: str) -> Judgement:
    """From a grade of -4 to 4, as `Judgement.grade` has it."""
    side: Side = 0 if grade == 0 else 1 if grade > 0 else -1
    return Judgement(side, LEVELS[abs(grade)] if grade else None, raters)


def judgement_of_scores(first: float, second: float, gaps: Mapping[Level, float], *raters: str) -> Judgement:
    """From a score for each response.

    gaps: level -> from which difference on it is given; a difference under all of them is not graded.
    """
    if first == second:
        return Judgement(0, None, raters)
    difference = abs(first - second)
    strongest_first = sorted(gaps, key=lambda level: -GRADES[level])
    level = next((level for level in strongest_first if difference >= gaps[level]), None)
    return Judgement(1 if first > second else -1, level, raters)


def _key(response: Messages) -> str:
    return fingerprint_of(*message_texts(response))
