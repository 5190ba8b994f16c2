"""Several responses to one prompt, rated by raters or scored, as comparisons of two.

A record has `prompt`, `responses` (texts, messages, or objects with text, model and score), and `ratings`, one entry a
rater, or `scores`; `data_builders/preference_imports.py` says what an entry may hold.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from align.config import Section
from align.errors import RowError
from align.rows import Level, Messages, PromptRow, row_id
from align.tool_formats import shown, tools_field
from data_builders.counted import message_texts
from data_builders.judgements import Compared, Judgement, judgement_of_grade, judgement_of_scores
from data_builders.records import (
    Json,
    completion_of,
    converted,
    first_given,
    level_of,
    names_of,
    number_of,
    numbers_of,
    rater_of,
    round_of,
    text_of,
)

RESPONSES = ("responses", "generations", "completions")
"""What a list of responses is called: by us, distilabel, UltraFeedback."""
SCORES = ("score", "overall_score", "rating")
"""What the score beside a response is called."""
_PROMPTS = ("prompt", "instruction", "question", "input", "messages", "context")
_MODELS = ("models", "generation_models", "model_names")


class ScoresConfig(Section):
    """What the scores of responses mean."""

    levels: dict[Level, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Level -> from which difference of two scores on it is given, such as {significantly better: 3, better: 2} on a
    scale of 1 to 5. A difference without a level leaves the pair ungraded."""
    pairs: Literal["best_worst", "all"] = "best_worst"
    """Of three or more scored or ranked responses: the best and the worst by their mean over raters, or every pair."""


@dataclass(frozen=True)
class Asked:
    """What every pair of one record shares."""

    where: str
    id: str
    source: str
    prompt: Messages
    tools: str
    round: int | None
    batch: str
    responses: tuple[Messages, ...]
    models: tuple[str, ...]

    def compared(self, first: int, second: int, judgements: Sequence[Judgement]) -> Compared:
        number = f"/{first}-{second}" if len(self.responses) > 2 else ""
        return Compared(
            places=(self.where,),
            id=f"{self.id}{number}",
            source=self.source,
            prompt=self.prompt,
            tools=self.tools,
            responses=(self.responses[first], self.responses[second]),
            judgements=tuple(judgements),
            models=(self.models[first], self.models[second]),
            round=self.round,
            batch=self.batch,
        )


@dataclass(frozen=True)
class _Scored:
    """A value for each response, the higher the better, from one rater."""

    raters: tuple[str, ...]
    values: list[float]
    are_scores: bool = True
    """Whether a difference says how much better, as scores do and ranks do not."""


def ratings_of(record: Json, where: str, config: ScoresConfig, before: Messages = ()) -> list[Compared]:
    """The comparisons of one record, each with the judgements that the record holds.

    before: what was said before the record's prompt. Raises RowError naming `where` and the field.
    """
    asked = asked_of(record, where, before)
    count = len(asked.responses)
    judged: dict[tuple[int, int], list[Judgement]] = {}
    scored: list[_Scored] = []
    key = first_given(record, ("ratings", "judgements"))
    entries = record[key] if key else None
    if isinstance(entries, list) and entries and all(isinstance(entry, dict) for entry in entries):
        for place, entry in enumerate(entries):
            field = f"{key}[{place}]"
            rater = rater_of(entry, where, field)
            if "scores" in entry:
                scored.append(_Scored((rater,), numbers_of(entry["scores"], where, f"{field}.scores", count)))
            elif "ranks" in entry:
                ranks = numbers_of(entry["ranks"], where, f"{field}.ranks", count)
                scored.append(_Scored((rater,), [-rank for rank in ranks], are_scores=False))
            else:
                first, second, judgement = _direct(entry, where, field, rater, count)
                judged.setdefault((first, second), []).append(judgement)
    else:
        raters = (str(record["rater"]),) if record.get("rater") is not None else ()
        scored.append(_Scored(raters, _scores(record, where, count)))
    for first, second in _scored_pairs(scored, config.pairs):
        judged.setdefault((first, second), []).extend(
            judgement_of_scores(
                one.values[first], one.values[second], config.levels if one.are_scores else {}, *one.raters
            )
            for one in scored
        )
    return [asked.compared(*places, judgements) for places, judgements in judged.items()]


def asked_of(record: Json, where: str, before: Messages = ()) -> Asked:
    """Prompt, responses and what else is known, without the judgements."""
    key = first_given(record, _PROMPTS)
    if key is None:
        raise RowError(f"{where}: prompt", "wanted a prompt, found nothing", f"Name it one of {', '.join(_PROMPTS)}")
    fields = {
        "id": "-",
        "source": "-",
        "prompt": record[key],
        "tools": tools_field(record.get("tools"), f"{where}: tools"),
    }
    prompt = converted(fields, PromptRow, where, key)
    name = first_given(record, RESPONSES)
    listed = record.get(name) if name else None
    if not isinstance(listed, list) or len(listed) < 2:
        how = "Give a list of texts, of messages, or of objects with text, model and score"
        raise RowError(f"{where}: {name or 'responses'}", f"wanted two or more responses, found {shown(listed)}", how)
    responses = tuple(response_of(response, where, f"{name}[{place}]") for place, response in enumerate(listed))
    beside = [response.get("model") if isinstance(response, dict) else None for response in listed]
    models_key = first_given(record, _MODELS)
    models = names_of(
        record[models_key] if models_key else [name or "" for name in beside], where, "models", len(listed)
    )
    given = record.get("id")
    whole = (*before, *prompt.prompt)
    parts = [text for messages in (whole, *responses) for text in message_texts(messages)]
    return Asked(
        where=where,
        id=str(given) if given not in (None, "") else row_id("compared", *parts),
        source=text_of(record.get("source"), where, "source") or Path(where.rpartition(":")[0]).stem,
        prompt=whole,
        tools=prompt.tools,
        round=round_of(record, where),
        batch=text_of(record.get("batch"), where, "batch"),
        responses=responses,
        models=models,
    )


def response_of(value: Any, where: str, field: str) -> Messages:
    """A text, messages, or an object that holds one of them beside its model and score."""
    if isinstance(value, dict) and "role" not in value and "from" not in value:
        key = first_given(value, ("text", "content", "response", "messages"))
        if key is None:
            raise RowError(f"{where}: {field}", f"holds no text, found {shown(value)}", "Name it text")
        return completion_of(value[key], where, f"{field}.{key}")
    return completion_of(value, where, field)


def _direct(entry: Json, where: str, field: str, rater: str, count: int) -> tuple[int, int, Judgement]:
    """(first, second, judgement) of an entry that names the better response or grades the first over the second."""
    edited = completion_of(entry["edited"], where, f"{field}.edited") if entry.get("edited") is not None else None
    if "grade" in entry:
        grade = entry["grade"]
        if not isinstance(grade, int) or isinstance(grade, bool) or not -4 <= grade <= 4 or count != 2:
            how = "4 says that the first of two responses is significantly better, -4 the second, 0 a tie"
            raise RowError(f"{where}: {field}.grade", f"wanted -4 to 4 of two responses, found {shown(grade)}", how)
        return 0, 1, replace(judgement_of_grade(grade, rater), edited=edited)
    if "chosen" not in entry:
        how = "Give chosen with level, grade, scores or ranks"
        raise RowError(f"{where}: {field}", f"holds no judgement, found {shown(entry)}", how)
    chosen, rejected = entry["chosen"], entry.get("rejected")
    if chosen is None and count == 2:
        return 0, 1, Judgement(0, None, (rater,))
    if rejected is None and count == 2 and chosen in (0, 1):
        rejected = 1 - chosen
    for name, place in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < count:
            how = f"Count the {count} responses from 0; with more than two name chosen and rejected"
            raise RowError(f"{where}: {field}.{name}", f"wanted a response's place, found {shown(place)}", how)
    if chosen == rejected:
        raise RowError(f"{where}: {field}.rejected", "is the chosen response", "Name two responses")
    first, second = sorted((chosen, rejected))
    level = level_of(entry.get("level"), where, f"{field}.level")
    return first, second, Judgement(1 if chosen == first else -1, level, (rater,), edited)


def _scores(record: Json, where: str, count: int) -> list[float]:
    for key in ("scores", "ratings"):
        if record.get(key) is not None:
            return numbers_of(record[key], where, key, count)
    name = first_given(record, RESPONSES) or "responses"
    found = []
    for place, response in enumerate(record[name]):
        score = first_given(response, SCORES) if isinstance(response, dict) else None
        if score is None:
            raise RowError(f"{where}: {name}[{place}].score", "wanted a score, found nothing", "Score each response")
        found.append(number_of(response[score], where, f"{name}[{place}].{score}"))
    return found


def _scored_pairs(scored: Sequence[_Scored], which: str) -> list[tuple[int, int]]:
    """Places of the responses to pair: the best and the worst by their mean over raters, or every two."""
    if not scored:
        return []
    means = [statistics.fmean(values) for values in zip(*(one.values for one in scored), strict=True)]
    if which == "all" or len(means) == 2:
        return list(itertools.combinations(range(len(means)), 2))
    best = means.index(max(means))
    worst = min((place for place in range(len(means)) if place != best), key=lambda place: means[place])
    return [(min(best, worst), max(best, worst))]
