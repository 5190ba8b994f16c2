"""Read exports of Argilla and Label Studio as records with ratings, which `importers.py` turns into comparisons.

Supported exports:

- Argilla 2.x: records as written by `to_json` and `to_list`, nested or flattened.
- Argilla 1.x: rows of a FeedbackDataset with a column per question, or records whose responses contain the values of
  one user each.
- Label Studio: JSON and JSON-MIN, with the controls Pairwise, Choices, Rating, Number and TextArea.

Fields and questions have different names in every project; `ExportFields` says which is which.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from align.config import Section
from align.errors import RowError
from align.formats.columns import SYSTEM, Columns, shown
from align.rows import Level

Json = dict[str, Any]

Answers = dict[str, dict[str, Any]]
"""Rater -> question -> answer."""

_LABEL_STUDIO_VALUES = ("selected", "choices", "rating", "number", "text")


Grade = Annotated[int, Field(ge=-4, le=4)]


class ExportFields(Section):
    """The names of fields and questions in a project of Argilla or Label Studio."""

    prompt: str = "prompt"
    """The field with the prompt: a text or a list of messages."""
    responses: tuple[str, ...] = Field(("answer1", "answer2"), min_length=2)
    """The fields with the responses. The defaults are the names in Label Studio's template for human preferences."""
    question: str = "comparison"
    """The question that compares the responses: a label, a ranking of the fields' names, or Label Studio's Pairwise."""
    choices: dict[str, Grade | Literal["first", "second", "tie"]] = Field(default_factory=dict)
    """Answer to the question -> what it means: first, second or tie, or a grade from 4 (the first is significantly
    better) over 0 (a tie) to -4. Write a number of stars in quotes: {"5": 4}. The names of the response fields, left,
    right and tie are understood without an entry."""
    scores: tuple[str, ...] = ()
    """Rating questions, one for each response in the same order. They are read instead of `question`."""
    level: str | None = None
    """A second question that asks how much better the chosen response is."""
    levels: dict[str, Level] = Field(default_factory=dict)
    """Answer to that question -> level. The names of the levels are understood without an entry."""
    edited: str | None = None
    """A text question with an improved version of the better response."""
    models: tuple[str, ...] = ()
    """The fields or metadata with the names of the models that wrote the responses."""
    batch: str = "batch"
    """The field or metadata with the batch. It may be missing."""
    round: str = "round"
    """The field or metadata with the round. It may be missing."""

    @model_validator(mode="after")
    def _one_for_each_response(self) -> Self:
        for name, given in (("scores", self.scores), ("models", self.models)):
            if given and len(given) != len(self.responses):
                count = len(self.responses)
                raise ValueError(
                    f"{name} has {len(given)} names for {count} responses. Give one name for each response"
                )
        return self


def is_export(record: Json, fields: ExportFields) -> bool:
    """Return whether a record looks like an export of Argilla or Label Studio."""
    question = fields.scores[0] if fields.scores else fields.question
    return (
        (isinstance(record.get("data"), dict) and isinstance(record.get("annotations"), list))
        or "annotation_id" in record
        or (isinstance(record.get("fields"), dict) and "responses" in record)
        or f"{question}.responses" in record
        or _is_column(record.get(question))
    )


def plain_record(record: Json, where: str, fields: ExportFields, ignore: Collection[str] = ()) -> Json:
    """Convert a record of an export to `{"id", "prompt", "responses", "models", "batch", "round", "ratings": [...]}`.

    The result also has the system prompt, if there is one. Skipped, discarded and unfinished answers are left out.

    ignore: fields of the project to leave out. Any other field with text that `fields` does not
    name
        raises an error, because it could be something that the raters saw. This is checked if the export separates
        fields from answers and metadata (`fields` in Argilla, `data` in Label Studio).
    Raises RowError naming `where` and the field.
    """
    known, answers = _read(record, where, fields)
    known = {name: record[name] for name in SYSTEM if name in record} | known  # it can be outside the fields
    known = {name: value for name, value in known.items() if name not in ignore}
    expected = (fields.prompt, *fields.responses, *fields.models)
    for name in expected:
        if known.get(name) is None:
            found = ", ".join(sorted(key for key, value in known.items() if isinstance(value, str | list))) or "nothing"
            how = "Set the names of your project's fields in preferences.imports.export"
            raise RowError(f"{where}: {name}", f"expected this field in the export, found {found}", how)
    _refuse_unread_fields(record, where, fields, ignore)
    identity = next((record[key] for key in ("id", "external_id", "_server_id") if record.get(key) is not None), None)
    return {
        "id": identity,
        "prompt": known[fields.prompt],
        "responses": [known[name] for name in fields.responses],
        "models": [known[name] for name in fields.models] or None,
        "batch": known.get(fields.batch),
        "round": known.get(fields.round),
        **{name: known[name] for name in SYSTEM if name in known and name not in (fields.prompt, *fields.responses)},
        "ratings": [
            {"rater": rater, **entry}
            for rater, said in answers.items()
            if (entry := _entry(said, where, fields)) is not None
        ],
    }


def _refuse_unread_fields(record: Json, where: str, fields: ExportFields, ignore: Collection[str]) -> None:
    """Raise RowError for a field with text that would be lost, such as a context that the raters saw."""
    place = "data" if isinstance(record.get("data"), dict) else "fields"
    if not isinstance(record.get(place), dict):
        return
    columns = Columns(record[place], where, ignore, f"{place}.")
    columns.read.update((fields.prompt, *fields.responses, *fields.models, fields.batch, fields.round, *SYSTEM))
    columns.read.update(("id", "external_id", "source"))
    name = next((name for name in columns.unread() if isinstance(columns.values[name], str | list)), None)
    if name is not None:
        how = "Name it in preferences.imports.export, or list it in preferences.imports.ignore_columns"
        raise RowError(columns.place(name), "is a field of the project that would be ignored", how)


def _read(record: Json, where: str, fields: ExportFields) -> tuple[Json, Answers]:
    """Return all fields and metadata by name, and the answers of each rater."""
    if isinstance(record.get("data"), dict) and isinstance(record.get("annotations"), list):
        return record["data"], _label_studio(record["annotations"], where)
    if "annotation_id" in record:
        rater = _person(record.get("annotator")) or "unnamed"
        return record, {rater: {key: _plain(value) for key, value in record.items()}}
    if isinstance(record.get("fields"), dict):
        known = record["fields"] | _metadata(record.get("metadata"))
        responses = record["responses"] or []
        return known, _by_question(responses, where) if isinstance(responses, dict) else _by_user(responses, where)
    return record | _metadata(record.get("metadata")), _columns(record, where)


def _label_studio(annotations: list[Any], where: str) -> Answers:
    answers: Answers = {}
    for place, annotation in enumerate(_objects(annotations, where, "annotations")):
        if annotation.get("was_cancelled"):
            continue
        rater = _person(annotation.get("completed_by")) or f"annotation {annotation.get('id', place)}"
        said = answers.setdefault(rater, {})
        for result in _objects(annotation.get("result") or [], where, f"annotations[{place}].result"):
            if isinstance(result.get("from_name"), str):
                said[result["from_name"]] = _plain(result.get("value"))
    return answers


def _by_question(responses: Json, where: str) -> Answers:
    """Read Argilla 2.x: question -> [{"value", "user_id"}]."""
    answers: Answers = defaultdict(dict)
    for question, given in responses.items():
        for number, answer in enumerate(_objects(given or [], where, f"responses.{question}")):
            if answer.get("status", "submitted") in ("submitted", None):
                answers[str(answer.get("user_id") or f"response {number}")][question] = answer.get("value")
    return answers


def _by_user(responses: list[Any], where: str) -> Answers:
    """Read Argilla 1.x: [{"user_id", "status", "values": {question: {"value"}}}]."""
    answers: Answers = {}
    for number, response in enumerate(_objects(responses, where, "responses")):
        if not isinstance(response.get("values") or {}, dict):
            found = shown(response["values"])
            raise RowError(
                f"{where}: responses[{number}].values", f"expected answers, found {found}", "Export it again"
            )
        if response.get("status", "submitted") in ("submitted", None):
            values = response.get("values") or {}
            said = {name: value.get("value") if isinstance(value, dict) else value for name, value in values.items()}
            answers[str(response.get("user_id") or f"response {number}")] = said
    return answers


def _columns(record: Json, where: str) -> Answers:
    """Read Argilla 1.x with a column per question, and flattened 2.x with `question.responses` and its users."""
    answers: Answers = defaultdict(dict)
    for name, column in record.items():
        if name.endswith(".responses") and isinstance(column, list):
            question = name.removesuffix(".responses")
            users, states = (record.get(f"{name}.{other}") or [] for other in ("users", "status"))
            given = [
                {"value": value, "user_id": _at(users, place), "status": _at(states, place)}
                for place, value in enumerate(column)
            ]
        elif _is_column(column):
            question, given = name, _rows_of(column)
        else:
            continue
        for rater, said in _by_question({question: given}, where).items():
            answers[rater] |= said
    return answers


def _is_column(value: Any) -> bool:
    """Return whether this is the column of a question: [{"user_id", "value", ...}], or a dict of lists with these
    keys."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and {"user_id", "value"} <= first.keys()


def _rows_of(column: Any) -> list[Json]:
    if isinstance(column, list):
        return column
    count = len(column["value"]) if isinstance(column["value"], list) else 0
    return [{key: _at(values, place) for key, values in column.items()} for place in range(count)]


def _entry(said: Json, where: str, fields: ExportFields) -> Json | None:
    """Convert one rater's answers to an entry of `ratings`. Returns None if the rater did not answer the question."""
    if fields.scores:
        scores = [said.get(question) for question in fields.scores]
        return None if None in scores else {"scores": scores}
    value = said.get(fields.question)
    if value is None:
        return None
    ranks = _ranks(value, where, fields)
    if ranks is not None:
        return {"ranks": ranks}
    entry = _choice(value, where, fields)
    if fields.level is not None and said.get(fields.level) is not None and entry.get("chosen") is not None:
        level = said[fields.level]
        entry["level"] = fields.levels.get(str(level), level)
    if fields.edited is not None and said.get(fields.edited):
        entry["edited"] = said[fields.edited]
    return entry


def _choice(value: Any, where: str, fields: ExportFields) -> Json:
    meant = fields.choices.get(str(value), value)
    if isinstance(meant, int) and str(value) in fields.choices:
        return {"grade": meant}
    places = {name: place for place, name in enumerate(fields.responses)} | {"first": 0, "left": 0}
    places |= {"second": 1, "right": 1}
    if isinstance(meant, str) and meant in places:
        return {"chosen": places[meant]}
    if isinstance(meant, str) and meant.lower() == "tie":
        return {"chosen": None}
    how = "Say what this answer means in preferences.imports.export.choices"
    raise RowError(f"{where}: {fields.question}", f"expected a known answer, found {shown(value)}", how)


def _ranks(value: Any, where: str, fields: ExportFields) -> list[int] | None:
    """Read a ranking as the rank of each response, 1 for the best. The options are in order, or have ranks.

    Returns None if the value is not a ranking.
    """
    if isinstance(value, dict) and {"rank", "value"} <= value.keys():
        value = _rows_of(value)
    if not isinstance(value, list):
        return None
    found = {}
    for place, option in enumerate(value, start=1):
        name, rank = (option.get("value"), option.get("rank")) if isinstance(option, dict) else (option, place)
        found[str(name)] = rank
    ranks = [rank for name in fields.responses if isinstance(rank := found.get(name), int)]
    if len(ranks) < len(fields.responses):
        how = "Name the options of the ranking like the response fields"
        raise RowError(f"{where}: {fields.question}", f"expected a rank for each response, found {shown(value)}", how)
    return ranks


def _plain(value: Any) -> Any:
    """Unwrap an answer of Label Studio: `{"selected": "left"}` becomes left, `{"choices": ["A"]}` becomes A."""
    if isinstance(value, list) and len(value) == 1:
        return _plain(value[0])
    if isinstance(value, dict):
        key = next((key for key in _LABEL_STUDIO_VALUES if key in value), None)
        return value if key is None else _plain(value[key])
    return value


def _person(value: Any) -> str:
    """Return the name of a rater, given as an id or as a user with email and id."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("id")
    return "" if value is None else str(value)


def _metadata(value: Any) -> Json:
    """Return metadata as a dict; Argilla 1.x writes it as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _objects(value: Any, where: str, field: str) -> list[Json]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise RowError(f"{where}: {field}", f"expected a list of objects, found {shown(value)}", "Export it again")
    return value


def _at(values: Any, place: int) -> Any:
    return values[place] if isinstance(values, list) and place < len(values) else None
