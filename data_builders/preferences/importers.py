"""Read preference records of many formats as comparisons of two responses.

The format of a record is detected from its columns. docs/formats.md has an example of each:

- Pairs: our own rows, and the formats that `align/formats/pairs.py` reads (TRL, HH-RLHF, LLaMA-Factory, Argilla,
  OpenAI).
  Optional columns: `level`, `edited`, `models`, `raters`, `round`, `batch`. If each response has a score, the
  difference gives the level (`scores.levels`).
- Ratings: a prompt, `responses` and `ratings` with one entry per rater, which is one of
  `{"rater": "ann", "chosen": 0, "level": "better"}` (`chosen: null` is a tie), `{"rater": "ann", "grade": -2}`,
  `{"rater": "ann", "scores": [4, 2]}` and `{"rater": "ann", "ranks": [1, 2]}`.
- Scores, ranks or a preference without raters: the formats that `align/formats/rated.py` reads (UltraFeedback,
  distilabel,
  Nectar, HelpSteer, PKU-SafeRLHF).
- One rated response per record (HelpSteer2): consecutive records with the same prompt are compared with each other.
- Dialogs: `turns`, each of which has its own `prompt` and one of the formats above. Every turn gives a comparison whose
  prompt includes the turns before it. A turn that has only a `completion` is context.
- Exports of Argilla and Label Studio: see `data_builders/preferences/exports.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from align.config import Section
from align.errors import RowError, UnusableRow
from align.formats.columns import (
    ANSWERS,
    ATTRIBUTES,
    PROMPTS,
    RESPONSES,
    SYSTEM,
    Columns,
    first_given,
    number_of,
    shown,
)
from align.formats.dialogs import completion_of, dialog_of, frozen, prompt_of, system_of
from align.formats.pairs import pair_names, pair_of
from align.formats.rated import is_rated, response_of
from align.formats.rows import is_ours
from align.jsonl import row_of
from align.records import SourceLike, records_of
from align.rows import Message, Messages, PreferenceRow, row_id
from data_builders.preferences import exports
from data_builders.preferences.comparisons import Comparison, Judgement, judgement_of_scores
from data_builders.preferences.exports import ExportFields
from data_builders.preferences.ratings import ScoresConfig, rated_prompt_of, ratings_of

Json = dict[str, Any]

_RATED = ("helpfulness", "score", "rating", "overall_score")
"""Columns that rate a single response. Of HelpSteer's five attributes, helpfulness is the overall one."""


class ImportConfig(Section):
    """How records of other formats become comparisons."""

    export: ExportFields = ExportFields()
    """The names of fields and questions in your Argilla or Label Studio project."""
    scores: ScoresConfig = ScoresConfig()
    """How scores become preferences with a level."""
    ignore_columns: tuple[str, ...] = ()
    """Columns to ignore, in records and in the responses in them. A column that is neither read nor ignored nor known
    to be harmless (see docs/formats.md) is an error."""


def comparisons_in(path: SourceLike, config: ImportConfig) -> Iterator[list[Comparison] | RowError]:
    """Yield the comparisons of each record of a source, or the error (with `file:line: column`) if it cannot be read.

    If consecutive records rate one response each to the same prompt, as in HelpSteer2, their comparisons are yielded
    with the first of them, and the others yield an empty list. UnusableRow is the error of a record that prefers no
    response.
    """
    group: list[tuple[str, Json]] = []
    for where, record in records_of(path):
        if not isinstance(record, RowError):
            record = {key: value for key, value in record.items() if key not in config.ignore_columns}
        if group and not _goes_on(group[0][1], record):
            yield from _of_group(group, config)
            group = []
        if isinstance(record, RowError):
            yield record
        elif _is_one_rated_response(record, config):
            group.append((where, record))
        else:
            try:
                yield _comparisons(record, where, config)
            except RowError as error:
                yield error
    yield from _of_group(group, config)


def _comparisons(record: Json, where: str, config: ImportConfig) -> list[Comparison]:
    columns = Columns(record, where, config.ignore_columns)
    if exports.is_export(record, config.export):
        return _export(record, where, config)
    if isinstance(record.get("turns"), list):  # in Nectar, `turns` is a number: how many turns the prompt has
        return _dialog(record, where, config)
    if pair_names(columns) is None and is_rated(columns) and not is_ours(columns.values, PreferenceRow):
        return ratings_of(columns, config.scores)
    return _pair(record, where, config)


def _is_one_rated_response(record: Json, config: ImportConfig) -> bool:
    """Return whether a record has a prompt and one rated response, and nothing to compare it with."""
    columns = Columns(record, "")
    return (
        columns.first(PROMPTS) is not None
        and columns.first(ANSWERS) is not None
        and first_given(record, _RATED) is not None
        and pair_names(columns) is None
        and columns.first(RESPONSES) is None
        and not exports.is_export(record, config.export)
    )


def _goes_on(first: Json, record: Json | RowError) -> bool:
    """Return whether a record rates another response to the same prompt as `first`."""
    if isinstance(record, RowError):
        return False
    return all(first.get(name) == record.get(name) for name in (*PROMPTS, *SYSTEM, "context", "tools")) and (
        first_given(first, _RATED) == first_given(record, _RATED)
    )


def _of_group(group: Sequence[tuple[str, Json]], config: ImportConfig) -> Iterator[list[Comparison] | RowError]:
    """Compare the records of a group with each other. Yields one result for each record."""
    if not group:
        return
    (where, first), *others = group
    rated = first_given(first, _RATED)
    assert rated is not None
    if not others:
        what = "rates a single response, and no neighboring record rates another response to the same prompt"
        how = "Put records that share a prompt one after the other, or put all responses into one record"
        yield RowError(f"{where}: {rated}", what, how)
        return
    try:
        responses = []
        for place, record in group:
            answer = Columns(record, place).first(ANSWERS)
            assert answer is not None
            score = number_of(record.get(rated), place, rated)
            responses.append({"text": record[answer], "model": record.get("model"), "score": score})
        known = {key: value for _, record in reversed(group) for key, value in record.items()}
        for name in (*ANSWERS, *ATTRIBUTES, rated, "id"):
            known.pop(name, None)
        columns = Columns(known | {"responses": responses}, where, config.ignore_columns)
        places = tuple(place for place, _ in group)
        yield [replace(one, places=places) for one in ratings_of(columns, config.scores)]
    except RowError as error:
        yield error
    yield from ([] for _ in others)


def _pair(record: Json, where: str, config: ImportConfig) -> list[Comparison]:
    row = row_of(record, PreferenceRow, where, config.ignore_columns)
    chosen, rejected = row.completions[-2:]
    edited = row.completions[0] if len(row.completions) == 3 else None
    level = row.level
    columns = Columns(record, where, config.ignore_columns)
    if level is None and config.scores.levels and pair_names(columns) is not None:
        gap = pair_of(columns).gap
        level = None if gap is None else judgement_of_scores(gap, 0.0, config.scores.levels).level
    return [
        Comparison(
            places=(where,),
            id=row.id,
            source=row.source,
            prompt=row.prompt,
            tools=row.tools,
            responses=(chosen, rejected),
            judgements=(Judgement(1, level, row.raters, edited),),
            models=row.models[-2:] or ("", ""),  # type: ignore[arg-type]
            round=row.round,
            batch=row.batch,
        )
    ]


def _dialog(record: Json, where: str, config: ImportConfig) -> list[Comparison]:
    """Read a dialog: the comparisons of every turn, whose prompts include all turns before."""
    columns = Columns(record, where, config.ignore_columns)
    turns = columns.take("turns")
    if not turns or not all(isinstance(turn, dict) for turn in turns):
        raise RowError(
            f"{where}: turns", f"expected a list of objects, found {shown(turns)}", "Write one object for each turn"
        )
    names = ("source", "tools", "round", "batch", "rater")
    shared = {key: columns.take(key) for key in names if key in columns}
    identity = columns.take("id")
    identity = str(identity) if identity not in (None, "") else row_id("dialog", json.dumps(turns))
    system = system_of(columns)
    columns.refuse_unread(("turns",))
    opening: list[Json] = [] if system is None else [{"role": "system", "content": system[1]}]
    history: Messages = ()
    pairs: list[Comparison] = []
    for number, turn in enumerate(turns):
        here = f"{where}: turns[{number}]"
        fields = shared | {"id": f"{identity}/turn-{number + 1}"} | turn
        said: Messages = ()
        try:
            asked = prompt_of(fields.get("prompt"), f"{where}: prompt")
            before = [*opening, *(_plain(message) for message in history)]
            fields["prompt"] = [*before, *asked]
            if fields.get("completion") is not None:
                said = _context(fields, where, config)
            else:
                continued = fields.pop("continued", None)
                found = _turn(fields, where, config)
                pairs += found
                if number + 1 < len(turns):
                    said = _continuation(fields, continued, found, where)
        except RowError as error:
            place = f"{here}.{error.where.removeprefix(f'{where}: ')}"
            if isinstance(error, UnusableRow):
                raise UnusableRow(place, error.what, error.how, error.reason) from None
            raise RowError(place, error.what, error.how) from None
        history = (*history, *frozen(asked, f"{here}.prompt"), *said)
    return pairs


def _plain(message: Message) -> Json:
    return message.model_dump(exclude_defaults=True) | {"role": message.role, "content": message.content}


def _context(turn: Json, where: str, config: ImportConfig) -> Messages:
    """Read the answer of a turn without a comparison."""
    columns = Columns(turn, where, config.ignore_columns)
    columns.read.update(("id", "prompt", "source", "tools", "round", "batch", "rater"))
    place = columns.place("completion")
    said = completion_of(dialog_of(columns.take("completion"), place, role="assistant"), place)
    columns.refuse_unread()
    return said


def _turn(turn: Json, where: str, config: ImportConfig) -> list[Comparison]:
    if first_given(turn, RESPONSES):
        return ratings_of(Columns(turn, where, config.ignore_columns), config.scores)
    return _pair(turn, where, config)


def _continuation(turn: Json, continued: Any, found: Sequence[Comparison], where: str) -> Messages:
    """Return the response with which the dialog continues.

    It is the response that `continued` names, else the edited one, else the one that was chosen most often.
    """
    name = first_given(turn, RESPONSES)
    if continued is not None:
        listed = turn.get(name) if name else None
        if not isinstance(listed, list) or not isinstance(continued, int) or not 0 <= continued < len(listed):
            what = f"expected the index of a response, found {shown(continued)}"
            raise RowError(f"{where}: continued", what, "Count from 0")
        field = f"{name}[{continued}]"
        return completion_of(response_of(listed[continued], where, field), f"{where}: {field}")
    judged = [(compared, judgement) for compared in found for judgement in compared.judgements if judgement.side]
    if not judged:
        raise RowError(
            f"{where}: responses",
            "none was chosen, so it is unknown with which response the dialog continues",
            "Add continued with the index of that response",
        )
    edits = [judgement.edited for _, judgement in judged if judgement.edited is not None]
    chosen = Counter(compared.responses[0 if judgement.side == 1 else 1] for compared, judgement in judged)
    return edits[0] if edits else chosen.most_common(1)[0][0]


def _export(record: Json, where: str, config: ImportConfig) -> list[Comparison]:
    plain = exports.plain_record(record, where, config.export, config.ignore_columns)
    if not plain["ratings"]:
        rated = rated_prompt_of(plain, where)
        return [rated.comparison(0, 1, [])]
    return ratings_of(Columns(plain, where), config.scores)
