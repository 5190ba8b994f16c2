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

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from align.config import Section
from align.errors import RowError
from align.jsonl import row_of
from align.rows import Level, Messages, PreferenceRow, PromptRow, row_id
from align.tool_formats import shown
from data_builders import annotation_exports
from data_builders.annotation_exports import ExportFields
from data_builders.judgements import Compared, Judgement, judgement_of_scores
from data_builders.rated_responses import RESPONSES, SCORES, ScoresConfig, asked_of, ratings_of, response_of
from data_builders.records import (
    Json,
    completion_of,
    converted,
    first_given,
    level_of,
    names_of,
    number_of,
    records_of,
    round_of,
    text_of,
)

_SCORES_OF_A_PAIR = (
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
)


class ImportConfig(Section):
    """How records become comparisons."""

    export: ExportFields = ExportFields()
    """Which fields an export of Argilla or Label Studio keeps what in."""
    scores: ScoresConfig = ScoresConfig()
    """What scores mean."""


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
    responses = first_given(record, RESPONSES)
    scored = {"ratings", "judgements", "scores"} & record.keys() or any(
        isinstance(response, dict) and first_given(response, SCORES)
        for response in (record[responses] if responses and isinstance(record[responses], list) else [])
    )
    return _ratings if responses and scored else _pair


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
        if config.scores.levels and all(record.get(name) is not None for name in names):
            chosen, rejected = (number_of(record[name], where, name) for name in names)
            return judgement_of_scores(chosen, rejected, config.scores.levels).level if chosen > rejected else None
    return None


def _models_of_a_pair(record: Json, where: str) -> tuple[str, str]:
    if record.get("models") is not None:
        models = names_of(record["models"], where, "models", 2)
        return models[0], models[1]
    chosen, rejected = (text_of(record.get(f"{side}_model"), where, f"{side}_model") for side in ("chosen", "rejected"))
    return chosen, rejected


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
        said: Messages = ()
        here = f"{where}: turns[{number}]"
        fields = shared | {"id": f"{identity}/turn-{number + 1}"} | turn
        try:
            prompt = converted({"prompt": fields.get("prompt")}, PromptRow, where, "prompt").prompt
            if "completion" in fields:
                said = completion_of(fields["completion"], where, "completion")
            else:
                found = _turn(fields, where, config, (*opening, *history))
                pairs += found
                if number + 1 < len(turns):
                    said = _went_on_with(fields, found, where)
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
    if first_given(turn, RESPONSES):
        return ratings_of(turn, where, config.scores, before)
    return [replace(pair, prompt=(*before, *pair.prompt)) for pair in _pair(turn, where, config)]


def _went_on_with(turn: Json, found: Sequence[Compared], where: str) -> Messages:
    """The response that `continued` names, else the edited one, else the one that was chosen most often."""
    name = first_given(turn, RESPONSES)
    if turn.get("continued") is not None:
        place, listed = turn["continued"], turn.get(name) if name else None
        if not isinstance(listed, list) or not isinstance(place, int) or not 0 <= place < len(listed):
            raise RowError(f"{where}: continued", f"wanted a response's place, found {shown(place)}", "Count from 0")
        return response_of(listed[place], where, f"{name}[{place}]")
    judged = [(compared, judgement) for compared in found for judgement in compared.judgements if judgement.side]
    if not judged:
        raise RowError(
            f"{where}: responses", "none was chosen, so how the dialog went on is not known", "Add continued"
        )
    edits = [judgement.edited for _, judgement in judged if judgement.edited is not None]
    chosen = Counter(compared.responses[0 if judgement.side == 1 else 1] for compared, judgement in judged)
    return edits[0] if edits else chosen.most_common(1)[0][0]


def _ratings(record: Json, where: str, config: ImportConfig) -> list[Compared]:
    return ratings_of(record, where, config.scores)


def _export(record: Json, where: str, config: ImportConfig) -> list[Compared]:
    plain = annotation_exports.plain_record(record, where, config.export)
    if not plain["ratings"]:
        asked = asked_of(plain, where)
        return [asked.compared(0, 1, [])]
    return ratings_of(plain, where, config.scores)
