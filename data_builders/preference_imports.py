"""Preference records of many forms as comparisons: pairs, ratings by several raters, scores, dialogs, tool exports.

Read are, told apart by their fields:

- pairs: ours, and what `align/formats.py` reads (TRL, HH-RLHF, ShareGPT, alpaca), with what is known beside them:
  `level`, `edited`, `models` (or `chosen_model`, `rejected_model`), `rater`, `round`, `batch`, a score for each;
- ratings: `prompt`, `responses` and `ratings`, one entry a rater: `{"rater": "ann", "chosen": 0, "level": "better"}`
  (`chosen: null` is a tie), `{"rater": "ann", "grade": -2}`, `{"rater": "ann", "scores": [4, 2]}` or `ranks`;
- scores: `prompt`, `responses` and `scores`, or a `score` on each response, as UltraFeedback has it;
- dialogs: `turns`, each one of the forms above with its own `prompt`: one comparison a turn, after all that was said
  before; a turn with a `completion` alone is context;
- exports of Argilla and Label Studio: `data_builders/annotation_exports.py`.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from align.config import Section
from align.errors import RowError
from align.jsonl import row_of
from align.rows import Level, Messages, PreferenceRow, PromptRow, row_id
from align.tool_formats import shown
from data_builders import annotation_exports
from data_builders.annotation_exports import ExportFields
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
    records_of,
    round_of,
    text_of,
)

_RESPONSES = ("responses", "generations", "completions")
_PROMPTS = ("prompt", "instruction", "question", "input", "messages", "context")
_MODELS = ("models", "generation_models", "model_names")
_SCORES_OF_A_PAIR = (
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
)
_SCORES_OF_A_RESPONSE = ("score", "overall_score", "rating")


class ImportConfig(Section):
    """How records become comparisons."""

    export: ExportFields = ExportFields()
    """Which fields an export of Argilla or Label Studio keeps what in."""
    score_levels: dict[Level, float] = Field(default_factory=dict)
    """Level -> from which difference of two scores on it is given, such as {significantly better: 3, better: 2} on a
    scale of 1 to 5. A difference without a level leaves the pair ungraded."""
    score_pairs: Literal["best_worst", "all"] = "best_worst"
    """Of three or more scored responses: the pair of the best and the worst by mean score, or every pair."""


def comparisons_in(path: Path, config: ImportConfig) -> Iterator[list[Compared] | RowError]:
    """For each record of a file its comparisons, or what is wrong with it, with `file:line: field`."""
    for where, record in records_of(path):
        if isinstance(record, RowError):
            yield record
            continue
        try:
            yield _importer(record, config)(record, where, config)
        except RowError as error:
            yield error


def _importer(record: Json, config: ImportConfig) -> Callable[[Json, str, ImportConfig], list[Compared]]:
    if annotation_exports.is_export(record, config.export):
        return _export
    if "turns" in record:
        return _dialog
    responses = first_given(record, _RESPONSES)
    scored = {"ratings", "judgements", "scores"} & record.keys() or any(
        isinstance(response, dict) and first_given(response, _SCORES_OF_A_RESPONSE)
        for response in (record[responses] if responses and isinstance(record[responses], list) else [])
    )
    return _ratings if responses and scored else _pair


# Pairs


def _pair(record: Json, where: str, config: ImportConfig) -> list[Compared]:
    row = row_of(record, PreferenceRow, where)
    chosen, rejected = row.completions[-2:]
    edited = row.completions[0] if len(row.completions) == 3 else None
    if record.get("edited") is not None:
        edited = completion_of(record["edited"], where, "edited")
    level = row.level or level_of(record.get("level"), where, "level") or _level_of_scores(record, where, config)
    raters = row.raters or ((str(record["rater"]),) if record.get("rater") is not None else ())
    return [
        Compared(
            places=(where,),
            id=row.id,
            source=row.source,
            prompt=row.prompt,
            tools=row.tools,
            responses=(chosen, rejected),
            judgements=(Judgement(1, level, raters, edited),),
            models=row.models[-2:] or _models_of_a_pair(record, where),  # type: ignore[arg-type]
            round=row.round if row.round is not None else round_of(record, where),
            batch=row.batch or text_of(record.get("batch"), where, "batch"),
        )
    ]


def _level_of_scores(record: Json, where: str, config: ImportConfig) -> Level | None:
    for names in _SCORES_OF_A_PAIR:
        if config.score_levels and all(record.get(name) is not None for name in names):
            chosen, rejected = (number_of(record[name], where, name) for name in names)
            return judgement_of_scores(chosen, rejected, config.score_levels).level if chosen > rejected else None
    return None


def _models_of_a_pair(record: Json, where: str) -> tuple[str, str]:
    if record.get("models") is not None:
        models = names_of(record["models"], where, "models", 2)
        return models[0], models[1]
    chosen, rejected = (text_of(record.get(f"{side}_model"), where, f"{side}_model") for side in ("chosen", "rejected"))
    return chosen, rejected


# Several responses, rated or scored


@dataclass(frozen=True)
class _Asked:
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


def _ratings(record: Json, where: str, config: ImportConfig, before: Messages = ()) -> list[Compared]:
    asked = _asked(record, where, before)
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
    for first, second in _scored_pairs(scored, config.score_pairs):
        judged.setdefault((first, second), []).extend(
            judgement_of_scores(
                one.values[first], one.values[second], config.score_levels if one.are_scores else {}, *one.raters
            )
            for one in scored
        )
    return [asked.compared(*places, judgements) for places, judgements in judged.items()]


def _asked(record: Json, where: str, before: Messages) -> _Asked:
    key = first_given(record, _PROMPTS)
    if key is None:
        raise RowError(f"{where}: prompt", "wanted a prompt, found nothing", f"Name it one of {', '.join(_PROMPTS)}")
    fields = {"id": "-", "source": "-", "prompt": record[key], "tools": record.get("tools")}
    prompt = converted(fields, PromptRow, where, key)
    name = first_given(record, _RESPONSES)
    listed = record.get(name) if name else None
    if not isinstance(listed, list) or len(listed) < 2:
        how = "Give a list of texts, of messages, or of objects with text, model and score"
        raise RowError(f"{where}: {name or 'responses'}", f"wanted two or more responses, found {shown(listed)}", how)
    responses = tuple(_response(response, where, f"{name}[{place}]") for place, response in enumerate(listed))
    beside = [response.get("model") if isinstance(response, dict) else None for response in listed]
    models_key = first_given(record, _MODELS)
    models = names_of(
        record[models_key] if models_key else [name or "" for name in beside], where, "models", len(listed)
    )
    given = record.get("id")
    whole = (*before, *prompt.prompt)
    parts = [text for messages in (whole, *responses) for text in message_texts(messages)]
    return _Asked(
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


def _response(value: Any, where: str, field: str) -> Messages:
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
    name = first_given(record, _RESPONSES) or "responses"
    found = []
    for place, response in enumerate(record[name]):
        key = first_given(response, _SCORES_OF_A_RESPONSE) if isinstance(response, dict) else None
        if key is None:
            raise RowError(f"{where}: {name}[{place}].score", "wanted a score, found nothing", "Score each response")
        found.append(number_of(response[key], where, f"{name}[{place}].{key}"))
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


# Dialogs


def _dialog(record: Json, where: str, config: ImportConfig) -> list[Compared]:
    """Each turn's comparisons, with all that was said before as their prompt."""
    turns = record["turns"]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise RowError(f"{where}: turns", f"wanted a list of objects, found {shown(turns)}", "Write one object a turn")
    shared = {key: record[key] for key in ("source", "tools", "round", "batch", "rater") if key in record}
    opening = _opening(record, where)
    identity = str(record["id"]) if record.get("id") not in (None, "") else row_id("dialog", json.dumps(turns))
    history: Messages = ()
    pairs: list[Compared] = []
    for number, turn in enumerate(turns):
        here = f"{where}: turns[{number}]"
        fields = shared | {"id": f"{identity}/turn-{number + 1}"} | turn
        try:
            prompt = converted({"prompt": fields.get("prompt")}, PromptRow, where, "prompt").prompt
            if "completion" in fields:
                said = completion_of(fields["completion"], where, "completion")
            else:
                found = _turn(fields, where, config, (*opening, *history))
                pairs += found
                said = _went_on_with(fields, found, where) if number + 1 < len(turns) else ()
        except RowError as error:
            raise RowError(f"{here}.{error.where.removeprefix(f'{where}: ')}", error.what, error.how) from None
        history = (*history, *prompt, *said)
    return pairs


def _opening(record: Json, where: str) -> Messages:
    if not record.get("system"):
        return ()
    messages = [{"role": "system", "content": record["system"]}, {"role": "user", "content": "-"}]
    return converted({"prompt": messages}, PromptRow, where, "system").prompt[:1]


def _turn(turn: Json, where: str, config: ImportConfig, before: Messages) -> list[Compared]:
    if first_given(turn, _RESPONSES):
        return _ratings(turn, where, config, before)
    return [replace(pair, prompt=(*before, *pair.prompt)) for pair in _pair(turn, where, config)]


def _went_on_with(turn: Json, found: Sequence[Compared], where: str) -> Messages:
    """The response that `continued` names, else the edited one, else the one that was chosen most often."""
    name = first_given(turn, _RESPONSES)
    if turn.get("continued") is not None:
        place, listed = turn["continued"], turn.get(name) if name else None
        if not isinstance(listed, list) or not isinstance(place, int) or not 0 <= place < len(listed):
            raise RowError(f"{where}: continued", f"wanted a response's place, found {shown(place)}", "Count from 0")
        return _response(listed[place], where, f"{name}[{place}]")
    judged = [(compared, judgement) for compared in found for judgement in compared.judgements if judgement.side]
    if not judged:
        raise RowError(
            f"{where}: responses", "none was chosen, so how the dialog went on is not known", "Add continued"
        )
    edits = [judgement.edited for _, judgement in judged if judgement.edited is not None]
    chosen = Counter(compared.responses[0 if judgement.side == 1 else 1] for compared, judgement in judged)
    return edits[0] if edits else chosen.most_common(1)[0][0]


# Exports of annotation tools


def _export(record: Json, where: str, config: ImportConfig) -> list[Compared]:
    plain = annotation_exports.plain_record(record, where, config.export)
    if not plain["ratings"]:
        asked = _asked(plain, where, ())
        return [asked.compared(0, 1, [])]
    return _ratings(plain, where, config)
