"""Turn several responses to one prompt, with ratings or scores, into comparisons of two responses.

A record has a prompt and responses (texts, messages, or objects with text, model and score). It also has `ratings` with
one entry per rater, or scores, ranks or a preference. `align/formats/rated.py` reads the record; the documentation of
`data_builders/preferences/importers.py` lists the fields of an entry.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from align.config import Section
from align.errors import RowError
from align.formats.columns import Columns, level_of, numbers_of, shown, source_of, text_of
from align.formats.dialogs import check_order, completion_of, dialog_of, frozen
from align.formats.rated import RATERS, Preferred, Responses, Values, check_level, responses_of
from align.formats.tool_calls import tools_field
from align.records.selection import round_of
from align.rows import Level, Messages, row_id
from data_builders.preferences.comparisons import Comparison, Judgement, judgement_of_grade, judgement_of_scores
from data_builders.row_contents import message_texts

Json = dict[str, Any]


class ScoresConfig(Section):
    """How scores of responses become preferences with a level."""

    levels: dict[Level, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Level -> the smallest difference of two scores for which it is given, such as {significantly better: 3, better:
    2} for scores from 1 to 5. A pair with a smaller difference has no level."""
    pairs: Literal["best_worst", "all"] = "best_worst"
    """Which pairs to make of three or more scored or ranked responses. best_worst: the best and the worst by their mean
    over the raters. all: every pair."""


@dataclass(frozen=True)
class RatedPrompt:
    """One record: a prompt with its responses, without judgements. All comparisons of the record share these
    columns."""

    where: str
    id: str
    source: str
    prompt: Messages
    tools: str
    round: int | None
    batch: str
    responses: tuple[Messages, ...]
    models: tuple[str, ...]
    seeds: tuple[int, ...] = ()

    def comparison(self, first: int, second: int, judgements: Sequence[Judgement]) -> Comparison:
        number = f"/{first}-{second}" if len(self.responses) > 2 else ""
        return Comparison(
            places=(self.where,),
            id=f"{self.id}{number}",
            source=self.source,
            prompt=self.prompt,
            tools=self.tools,
            responses=(self.responses[first], self.responses[second]),
            judgements=tuple(judgements),
            models=(self.models[first], self.models[second]),
            seeds=(self.seeds[first], self.seeds[second]) if self.seeds else (),
            round=self.round,
            batch=self.batch,
        )


@dataclass(frozen=True)
class _Scored:
    """The values that one rater gave to the responses; higher is better."""

    raters: tuple[str, ...]
    values: list[float]
    are_scores: bool = True
    """Whether a difference of two values says how much better a response is: true for scores, false for ranks."""


def ratings_of(columns: Columns, config: ScoresConfig) -> list[Comparison]:
    """Read one record as comparisons with their judgements.

    Raises RowError naming file, line and column if a column cannot be read, or would be ignored.
    """
    rated, found = _read(columns)
    count = len(rated.responses)
    judged: dict[tuple[int, int], list[Judgement]] = {}
    scored: list[_Scored] = []
    if isinstance(found.said, Preferred):
        side: Any = found.said.side
        judged[0, 1] = [Judgement(side, found.said.level, _raters(columns))]
    elif isinstance(found.said, Values):
        scored.append(_Scored(_raters(columns), found.said.numbers, found.said.are_scores))
    else:
        key = columns.first(RATERS)
        entries = columns.take(key) if key is not None else None
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            what = f"expected scores or judgements of the {count} responses, found {shown(entries)}"
            how = "Give scores or ranks with a number for each response, or ratings with an entry for each rater"
            raise RowError(columns.place(key or "scores"), what, how)
        for place, entry in enumerate(entries):
            one = columns.nested(entry, f"{key}[{place}]")
            rater = _rater(one)
            if "scores" in one:
                numbers = numbers_of(one.take("scores"), one.where, f"{one.prefix}scores", count)
                scored.append(_Scored((rater,), numbers))
            elif "ranks" in one:
                ranks = numbers_of(one.take("ranks"), one.where, f"{one.prefix}ranks", count)
                scored.append(_Scored((rater,), [-rank for rank in ranks], are_scores=False))
            else:
                first, second, judgement = _direct(one, rater, count)
                judged.setdefault((first, second), []).append(judgement)
            one.refuse_unread(("chosen", "grade"))
    check_level(columns, found)
    level = level_of(columns.take("level"), columns.where, f"{columns.prefix}level")
    columns.refuse_unread()
    for first, second in _scored_pairs(scored, config.pairs):
        judged.setdefault((first, second), []).extend(
            judgement_of_scores(
                one.values[first], one.values[second], config.levels if one.are_scores else {}, *one.raters
            )
            for one in scored
        )
    if level is not None:  # a level of the whole record: raters who gave their own level keep it
        judged = {places: [_graded(one, level) for one in judgements] for places, judgements in judged.items()}
    return [rated.comparison(*places, judgements) for places, judgements in judged.items()]


def _graded(judgement: Judgement, level: Level) -> Judgement:
    return judgement if judgement.side == 0 or judgement.level is not None else replace(judgement, level=level)


def rated_prompt_of(record: Json, where: str, ignore: Collection[str] = ()) -> RatedPrompt:
    """Read prompt and responses of a record, without its judgements. Raises RowError if they cannot be read."""
    columns = Columns(record, where, ignore)
    rated, _ = _read(columns)
    columns.read.update((*RATERS, "rater"))
    columns.refuse_unread()
    return rated


def _read(columns: Columns) -> tuple[RatedPrompt, Responses]:
    found = responses_of(columns, raters=True)
    key, where = found.prompt_column, columns.where
    check_order(found.prompt, columns.place(key))
    prompt = frozen(found.prompt, columns.place(key))
    places = [columns.place(f"{found.column}[{place}]") for place in range(len(found.responses))]
    responses = tuple(completion_of(said, place) for said, place in zip(found.responses, places, strict=True))
    given = columns.take("id")
    parts = [text for messages in (prompt, *responses) for text in message_texts(messages)]
    tools = "tools" if columns.values.get("tools") else "functions"
    columns.note_repeats([message.content for messages in (prompt, *responses) for message in messages])
    rated = RatedPrompt(
        where=where,
        id=str(given) if given not in (None, "") else row_id("compared", *parts),
        source=source_of(columns) or Path(where.rpartition(":")[0]).stem,
        prompt=prompt,
        tools=tools_field(columns.take(tools), columns.place(tools)),
        round=round_of(columns.take("round"), where),
        batch=text_of(columns.take("batch"), where, "batch"),
        responses=responses,
        models=found.models,
        seeds=_seeds_of(columns, len(responses)),
    )
    return rated, found


def _seeds_of(columns: Columns, count: int) -> tuple[int, ...]:
    seeds = columns.take("seeds")
    if seeds is None:
        return ()
    if not isinstance(seeds, list) or len(seeds) != count or not all(type(seed) is int for seed in seeds):
        what = f"expected a whole number for each of the {count} responses, found {shown(seeds)}"
        raise RowError(columns.place("seeds"), what, "Give the seed of each response, or leave the column out")
    return tuple(seeds)


def _raters(columns: Columns) -> tuple[str, ...]:
    rater, raters = columns.take("rater"), columns.take("raters")
    if isinstance(raters, list) and raters and all(isinstance(name, str) for name in raters):
        return tuple(raters)
    return () if rater is None else (str(rater),)


def _rater(entry: Columns) -> str:
    rater = entry.take("rater")
    if not isinstance(rater, str | int) or isinstance(rater, bool) or rater == "":
        raise RowError(entry.place("rater"), f"expected a name, found {shown(rater)}", "Name the rater")
    return str(rater)


def _direct(entry: Columns, rater: str, count: int) -> tuple[int, int, Judgement]:
    """Read an entry that names the better response or gives a grade. Returns (first, second, judgement)."""
    edited: Messages | None = None
    if "edited" in entry:
        place = entry.place("edited")
        edited = completion_of(dialog_of(entry.take("edited"), place, role="assistant"), place)
    if "grade" in entry:
        grade = entry.take("grade")
        if not isinstance(grade, int) or isinstance(grade, bool) or not -4 <= grade <= 4 or count != 2:
            how = "4 means that the first of two responses is significantly better, -4 the second, 0 a tie"
            what = f"expected a number from -4 to 4 for two responses, found {shown(grade)}"
            raise RowError(entry.place("grade"), what, how)
        return 0, 1, replace(judgement_of_grade(grade, rater), edited=edited)
    named = entry.values.keys() - {"rater", "edited"}
    if not named and "chosen" not in entry.given:
        how = "Give chosen with level, grade, scores or ranks"
        what = f"contains no judgement, found {shown(entry.values)}"
        raise RowError(f"{entry.where}: {entry.prefix[:-1]}", what, how)
    chosen, rejected = entry.take("chosen"), entry.take("rejected")
    level = level_of(entry.take("level"), entry.where, f"{entry.prefix}level")
    if chosen is None and "chosen" in entry.given and count == 2:
        if level is not None:
            what = f"is {level!r}, but chosen is null, which means a tie"
            raise RowError(entry.place("level"), what, "Name the chosen response, or remove the level")
        return 0, 1, Judgement(0, None, (rater,))
    if rejected is None and count == 2 and chosen in (0, 1):
        rejected = 1 - chosen
    for name, place_of in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(place_of, int) or isinstance(place_of, bool) or not 0 <= place_of < count:
            how = f"Count the {count} responses from 0; with more than two, name both chosen and rejected"
            raise RowError(entry.place(name), f"expected the index of a response, found {shown(place_of)}", how)
    if chosen == rejected:
        raise RowError(entry.place("rejected"), "is the chosen response", "Name two different responses")
    first, second = sorted((chosen, rejected))
    return first, second, Judgement(1 if chosen == first else -1, level, (rater,), edited)


def _scored_pairs(scored: Sequence[_Scored], which: str) -> list[tuple[int, int]]:
    """Choose the pairs of responses (by index) to compare.

    which: "all" for every pair, else the best and the worst by their mean over the raters. Example: with the means 3, 5
    and 1, the best is response 1 and the worst response 2, which gives [(1, 2)].
    """
    if not scored:
        return []
    means = [statistics.fmean(values) for values in zip(*(one.values for one in scored), strict=True)]
    if which == "all" or len(means) == 2:
        return list(itertools.combinations(range(len(means)), 2))
    best = means.index(max(means))
    worst = min((place for place in range(len(means)) if place != best), key=lambda place: means[place])
    return [(min(best, worst), max(best, worst))]
