"""Several responses to one prompt, and what a record says of which is better: scores, ranks, a graded preference.

Read are lists (`responses`, `generations`, `completions`, `answers`) with a score or rank for each, in a list of its
own or in each response's object: ours, UltraFeedback, distilabel, Nectar; and two responses in columns of their own
with a column that compares them: HelpSteer2-Preference, HelpSteer3, PKU-SafeRLHF. `align/formats/rows.py` makes one row
of the best and the worst; `data_builders/preferences/ratings.py` also makes every pair, and settles several raters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from align.errors import RowError, UnusableRow
from align.formats.columns import (
    DIALOGS,
    PROMPTS,
    RESPONSES,
    SYSTEM,
    Columns,
    names_of,
    number_of,
    numbers_of,
    shown,
)
from align.formats.dialogs import content_of, conversation_of, dialog_of, prompt_of, with_system
from align.rows import Level

Json = dict[str, Any]

SCORES = ("score", "overall_score", "rating")
"""What the score in a response's object is called."""
SCORE_LISTS = ("scores", "ratings", "rating")
"""What a list with a score for each response is called."""
RATERS = ("ratings", "judgements")
"""What a list with an entry for each rater is called."""
MODELS = ("models", "generation_models", "model_names")
_TEXTS = ("text", "content", "response", "answer", "completion", "messages")
_HARMLESS_OF_A_RESPONSE = ("annotations", "critique", "principle", "fine-grained_score", "rationale")

_TWO_COLUMNS = (
    ("response_1", "response_2", "preference_strength"),  # HelpSteer2-Preference
    ("response1", "response2", "overall_preference"),  # HelpSteer3
    ("response_0", "response_1", "better_response_id"),  # PKU-SafeRLHF
)

STRENGTHS: dict[int, Level | None] = {
    0: None,
    1: "slightly better",
    2: "better",
    3: "significantly better",
}
"""HelpSteer's strength of a preference, without its sign -> level. Its 3 is "much better"."""


@dataclass(frozen=True)
class Values:
    """A number for each response, the higher the better."""

    numbers: list[float]
    are_scores: bool = True
    """Whether a difference says how much better, as scores do and ranks do not."""


@dataclass(frozen=True)
class Preferred:
    """Which of two responses is better: 1 the first, -1 the second, 0 neither."""

    side: int
    level: Level | None = None


@dataclass(frozen=True)
class Responses:
    """Two or more responses to one prompt, as messages, with what their record says of them."""

    prompt: list[Json]
    prompt_column: str
    responses: list[list[Json]]
    column: str
    models: tuple[str, ...]
    """Who made each, "" where unknown."""
    said: Values | Preferred | None
    """None where the record judges none of them, or leaves that to raters."""


def is_rated(columns: Columns) -> bool:
    """Whether a record holds several responses and something that compares them."""
    if any(columns.has(*names) for names in _TWO_COLUMNS):
        return True
    name = columns.first(RESPONSES)
    if name is None or not isinstance(columns.values[name], list):
        return False
    objects = [one for one in columns.values[name] if isinstance(one, dict)]
    compared = ("scores", "ratings", "rating", "ranks", "judgements")
    return any(one in columns for one in compared) or any(
        one.get(key) is not None for one in objects for key in (*SCORES, "rank")
    )


def responses_of(columns: Columns, raters: bool = False) -> Responses:
    """The responses of a record. Its columns count as read.

    raters: leave the columns of `RATERS` to the caller, who settles judgements of several raters.
    Raises RowError naming place and column.
    """
    prompt, prompt_column = _asked(columns)
    two = next((names for names in _TWO_COLUMNS if columns.has(*names)), None)
    if two is not None:
        first, second, verdict = two
        texts = [dialog_of(columns.take(name), columns.place(name), role="assistant") for name in (first, second)]
        said: Values | Preferred | None = _preferred(columns, verdict)
        return Responses(with_system(prompt, columns), prompt_column, texts, first, ("", ""), said)
    name = columns.first(RESPONSES)
    found = columns.take(name) if name is not None else None
    if name is None or not isinstance(found, list) or len(found) < 2:
        how = "Give a list of texts, of messages, or of objects with text, model and score"
        place = columns.place(name or "responses")
        raise RowError(place, f"expected two or more responses, found {shown(found)}", how)
    read = [_response(value, columns, f"{name}[{place}]") for place, value in enumerate(found)]
    prompt = _with_systems(prompt, columns, [one.system for one in read], name)
    models = _models(columns, [one.model for one in read], name)
    return Responses(prompt, prompt_column, [one.text for one in read], name, models, _said(columns, read, raters))


def best_and_worst(found: Responses, where: str) -> tuple[int, int, Level | None]:
    """Places of the best and the worst response, and how much better the best is where that was said.

    Raises UnusableRow for a tie, RowError where the responses are judged by raters, or by nothing.
    """
    if isinstance(found.said, Preferred):
        if found.said.side == 0:
            raise tie(where)
        return (0, 1, found.said.level) if found.said.side == 1 else (1, 0, found.said.level)
    if found.said is None:
        what = "holds judgements of raters, or none, and a row is one settled comparison"
        how = "Settle them first: recipes/build_data.py with a section `preferences` reads this form"
        raise RowError(f"{where}: {found.column}", what, how)
    numbers = found.said.numbers
    if max(numbers) == min(numbers):
        raise tie(where)
    return numbers.index(max(numbers)), len(numbers) - 1 - numbers[::-1].index(min(numbers)), None


def tie(where: str) -> UnusableRow:
    what = "is a tie: no response is better than the other"
    return UnusableRow(where, what, "Drop it, or ask for another judgement", "tie")


@dataclass(frozen=True)
class _Response:
    text: list[Json]
    model: str
    score: float | None
    rank: float | None
    system: str


def response_of(value: Any, where: str, field: str) -> list[Json]:
    """A text, messages, or an object that holds one of them with its model and score, as messages."""
    return _response(value, Columns({}, where), field).text


def _response(value: Any, columns: Columns, field: str) -> _Response:
    if not isinstance(value, dict) or "role" in value or "from" in value:
        return _Response(dialog_of(value, columns.place(field), role="assistant"), "", None, None, "")
    inner = columns.nested(value, field)
    key = inner.first(_TEXTS)
    if key is None:
        raise RowError(columns.place(field), f"holds no text, found {shown(value)}", "Name it text")
    text = dialog_of(inner.take(key), inner.place(key), role="assistant")
    score = inner.first(SCORES)
    number = None if score is None else number_of(inner.take(score), inner.where, f"{inner.prefix}{score}")
    rank = number_of(inner.take("rank"), inner.where, f"{inner.prefix}rank") if "rank" in inner else None
    systems = [content_of(inner.take(name), inner.place(name)) for name in SYSTEM if name in inner]
    model = inner.take("model")
    inner.read.update(_HARMLESS_OF_A_RESPONSE)
    inner.refuse_unread((*_TEXTS, *SCORES, "rank", "model"))
    return _Response(text, str(model or ""), number, rank, next((one for one in systems if one.strip()), ""))


def _asked(columns: Columns) -> tuple[list[Json], str]:
    """The prompt without the record's own system prompt, and the column that holds it."""
    key = columns.first(("prompt", *DIALOGS, *PROMPTS, "context"))
    if key is None:
        how = f"Name it one of {', '.join((*PROMPTS, *DIALOGS, 'context'))}"
        raise RowError(columns.place("prompt"), "expected a prompt, found nothing", how)
    read = conversation_of if key in DIALOGS else prompt_of
    return read(columns.take(key), columns.place(key)), key


def _with_systems(prompt: list[Json], columns: Columns, systems: Sequence[str], name: str) -> list[Json]:
    """The prompt with its system message, from the record or, as UltraFeedback has it, from each response."""
    texts = dict.fromkeys(text.strip() for text in systems)
    if len(texts) > 1:
        what = f"were written under different system prompts: {shown(list(texts))}"
        how = "Compare responses to one prompt, or list custom_system_prompt in ignore_columns, to compare them without"
        raise RowError(columns.place(name), what, how)
    own = next(iter(texts), "")
    if not own:
        return with_system(prompt, columns)
    shared = Columns({**{key: columns.values[key] for key in SYSTEM if key in columns}}, columns.where, (), "")
    columns.read.update(shared.values)
    return with_system(with_system(prompt, Columns({"system": systems[0]}, columns.where, (), f"{name}[0].")), shared)


def _models(columns: Columns, given: Sequence[str], name: str) -> tuple[str, ...]:
    key = columns.first(MODELS)
    if key is None:
        return tuple(given)
    models = names_of(columns.take(key), columns.where, f"{columns.prefix}{key}", len(given))
    differ = next((place for place, one in enumerate(given) if one and one != models[place]), None)
    if differ is not None:
        what = f"names {models[differ]!r} for a response whose own model is {given[differ]!r}"
        raise RowError(columns.place(f"{key}[{differ}]"), what, f"Bring {key} into the order of {name}")
    return models


def _said(columns: Columns, read: Sequence[_Response], raters: bool) -> Values | None:
    count = len(read)
    own_scores = [one.score for one in read]
    for key in SCORE_LISTS:
        value = columns.values.get(key)
        if value is None or value == [] or (key in RATERS and _of_raters(value)):
            continue
        numbers = numbers_of(columns.take(key), columns.where, f"{columns.prefix}{key}", count)
        for place, (number, own) in enumerate(zip(numbers, own_scores, strict=True)):
            if own is not None and own != number:
                what = f"is {number:g}, and the response's own score is {own:g}"
                raise RowError(columns.place(f"{key}[{place}]"), what, "Keep one of the two")
        return Values(numbers)
    if "ranks" in columns:
        ranks = numbers_of(columns.take("ranks"), columns.where, f"{columns.prefix}ranks", count)
        return Values([-rank for rank in ranks], are_scores=False)
    if raters and any(_of_raters(columns.values.get(key)) for key in RATERS):
        return None
    for values, are_scores in ((own_scores, True), ([one.rank for one in read], False)):
        given = [value for value in values if value is not None]
        if given and len(given) < count:
            place, what = values.index(None), "score" if are_scores else "rank"
            name = columns.first(RESPONSES)
            raise RowError(columns.place(f"{name}[{place}].{what}"), f"expected a {what}, found nothing", "Give it")
        if given:
            return Values(given if are_scores else [-value for value in given], are_scores)
    return None


def _of_raters(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _preferred(columns: Columns, name: str) -> Preferred:
    value = columns.take(name)
    if name == "better_response_id":
        if str(value) not in ("0", "1"):
            raise RowError(columns.place(name), f"expected 0 or 1, found {shown(value)}", "Name the better response")
        return Preferred(1 if str(value) == "0" else -1)
    number = number_of(value, columns.where, f"{columns.prefix}{name}")
    if number != int(number) or abs(int(number)) not in STRENGTHS:
        how = "-3 says that the first response is much better, 3 the second, 0 neither"
        raise RowError(columns.place(name), f"expected -3 to 3, found {shown(value)}", how)
    strength = int(number)
    return Preferred((strength < 0) - (strength > 0), STRENGTHS[abs(strength)])


def check_level(columns: Columns, found: Responses) -> None:
    """Raise RowError where a record with three or more responses has a level: it does not say of which two."""
    if columns.values.get("level") is not None and len(found.responses) > 2:
        what = f"is given for {len(found.responses)} responses, and grades two"
        raise RowError(columns.place("level"), what, "Leave it out, or give two responses")
