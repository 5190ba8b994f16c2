"""Records as rows: ours, TRL, OpenAI, ShareGPT and LLaMA-Factory, alpaca, HH-RLHF, Glaive, BFCL, xLAM, public sets.

A record in our own form goes straight to its row class. Every other column of a record is read, or is harmless
metadata (`align/formats/columns.py`), or is refused by name. Plain strings become a user message and an assistant
message. What a record cannot say about itself is made: an id from its content, a source from the file's name. The
forms, with an example of each, are in docs/formats.md. Values as messages are `align/formats/dialogs.py`, calls and
functions `align/formats/tool_calls.py`, pairs `align/formats/pairs.py`, several responses `align/formats/rated.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from align.errors import RowError, UnusableRow
from align.formats.bfcl import first_answer, prompt_fields
from align.formats.columns import (
    ANSWERS,
    ATTRIBUTES,
    DIALOGS,
    LABELS,
    PAIRS,
    PROMPTS,
    RESPONSES,
    Columns,
    names_of_sides,
    source_of,
    truth_of,
)
from align.formats.dialogs import (
    alpaca_prompt,
    check_order,
    conversation_of,
    dialog_of,
    is_foreign,
    is_whole_dialog,
    listed,
    prompt_of,
    with_system,
    without_system,
)
from align.formats.pairs import pair_names, pair_of, ranked_of
from align.formats.rated import MODELS, RATERS, SCORE_LISTS, best_and_worst, check_level, is_rated, responses_of
from align.formats.tool_calls import glaive_dialog, tools_field, xlam_fields
from align.rows import (
    PreferenceRow,
    PromptRow,
    QuestionRow,
    Row,
    SFTRow,
    ToolQuestionRow,
    VerifiedPromptRow,
    row_id,
)

R = TypeVar("R", bound=Row)

Json = dict[str, Any]

_FORMS = {
    SFTRow: "messages; conversations; a prompt (prompt, instruction, question, query, input) and an answer "
    "(completion, response, output, answer); system and chat; question, function and ground_truth; query, answers "
    "and tools",
    PreferenceRow: "a prompt, chosen and rejected; chosen and rejected; conversations, chosen and rejected; input, "
    "preferred_output and non_preferred_output; a prompt and responses with scores or ranks; two responses and a "
    "preference",
    PromptRow: "prompt; messages; conversations; instruction; question; query; input; question and function",
}

_NOT_OF_A_PROMPT = frozenset(
    (
        *ANSWERS,
        *LABELS,
        *RESPONSES,
        *ATTRIBUTES,
        *SCORE_LISTS,
        *RATERS,
        *MODELS,
        *(side for pair in PAIRS for side in pair),
        *("score", "ranks", "margin", "level", "raters", "rater", "round", "batch", "edited", "ground_truth"),
        *("response_0", "response_1", "response_2", "response1", "response2", "rejected_response"),
        *("preference_strength", "overall_preference", "better_response_id"),
    )
)
"""Columns of answers and of what is said of them: a prompt is read without them."""


def to_row(record: Json, kind: type[R], where: str, ignore: Collection[str] = ()) -> R:
    """One record as a row of `kind`.

    where: `file:line`, for errors and for the source of a record that names none.
    ignore: columns that the user knows about and leaves out.
    Raises RowError naming where and the column, UnusableRow for a comparison that prefers nothing, or pydantic's
    ValidationError where the row class refuses.
    """
    try:
        return _to_row(Columns(record, where, ignore), kind, where)
    except RecursionError:
        raise RowError(where, "is nested too deeply", "Write functions and messages with fewer levels") from None


def _to_row(columns: Columns, kind: type[R], where: str) -> R:
    if kind is VerifiedPromptRow:
        return kind.model_validate(_with_verify(columns, where))
    reader = _READERS.get(kind)
    if reader is None or is_ours(columns.values, kind):
        if kind is PreferenceRow:
            _checked_to_differ(columns.values, columns)
        return kind.model_validate(columns.values)
    own = _own_fields(columns, kind)
    fields = reader(columns) | own
    key = "tools" if columns.values.get("tools") else "functions"  # the second is OpenAI's older name
    tools = "" if key in columns.read else tools_field(columns.take(key), columns.place(key))
    if tools:
        fields["tools"] = tools
    fields["source"] = source_of(columns) or _stem(where)
    given = _id_of(columns)
    columns.note_repeats([message.get("content", "") for group in _groups(fields) for message in group])
    columns.refuse_unread(kind.model_fields)
    for name, group in zip(("prompt", "messages"), (fields.get("prompt"), fields.get("messages")), strict=True):
        check_order(group or (), columns.place(name), outputs=not _has_our_columns(columns.values, kind))
    # Content alone makes the id: the same record has the same id in any file.
    fields["id"] = given or row_id(kind.__name__, json.dumps(fields | {"source": ""}))
    return kind.model_validate(fields)


def _id_of(columns: Columns) -> str:
    """The record's own id as a text; empty if it has none. Raises RowError for a value that names nothing."""
    given = columns.take("id")
    if given is None or isinstance(given, str):
        return given or ""
    if isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given):
        return str(given)
    what = f"expected a text or a number, found {given!r}"[:120]
    raise RowError(
        columns.place("id"), what, "Give each row an id of its own, or leave id out: one is made of its content"
    )


def _with_verify(columns: Columns, where: str) -> Json:
    """The fields of a VerifiedPromptRow: a PromptRow of any form, with the same id, and the column `verify`."""
    others = {name: value for name, value in columns.values.items() if name != "verify"}
    row = to_row(others, PromptRow, where, columns.ignored)
    return {**dict(row), "verify": columns.values.get("verify")}


def is_ours(values: Json, kind: type[Row]) -> bool:
    """Whether a record is a row of ours already, with nothing to convert."""
    if not _has_our_columns(values, kind):
        return False
    if not all(isinstance(values.get(name, ""), str) for name in ("id", "source", "tools")):
        return False
    groups = [values.get("prompt"), values.get("messages"), *listed(values.get("completions"))]
    return not any(is_foreign(message) or message is None for group in groups for message in listed(group)) and (
        not isinstance(values.get("prompt"), str)
    )


def _has_our_columns(values: Json, kind: type[Row]) -> bool:
    return {"id", "source"} <= values.keys() <= kind.model_fields.keys()


def _own_fields(columns: Columns, kind: type[Row]) -> Json:
    """What a row of ours says of itself in addition to its dialog, where its messages are in another form.

    Such as our rows after Parquet, which writes nulls into messages: candidates, scores and seeds come along.
    """
    values = columns.values
    if not _has_our_columns(values, kind):
        return {}
    dialogs = ("messages", "prompt", "completions")
    if kind is PreferenceRow and not all(is_dialog(one) for one in listed(values.get("completions"))):
        return {}
    names = values.keys() - {"id", "source", "tools", *dialogs}
    return {name: columns.take(name) for name in kind.model_fields if name in names}


def is_dialog(value: Any) -> bool:
    """Whether a value is a list of messages, of whatever toolkit."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(one, dict) and ("role" in one or "from" in one) for one in value if one is not None)


def _sft(columns: Columns) -> Json:
    _refuse_a_bad_label(columns)
    key = columns.first(DIALOGS)
    if key is not None and columns.values[key] not in ([], ""):
        messages = with_system(_conversation(columns, key), columns)
        _note_the_pair_that_it_is_chosen_of(columns, messages)
        return {"messages": messages}
    answer = columns.first(ANSWERS)
    if columns.has("query", "answers", "tools"):
        fields = xlam_fields(columns)
        asked = with_system(prompt_of(fields["prompt"], columns.place("query")), columns)
        if not fields["calls"]:
            how = "Leave such records out: they hold no target"
            raise RowError(columns.place("answers"), "holds no call, and no other answer is given", how)
        return {
            "messages": [*asked, {"role": "assistant", "tool_calls": fields["calls"]}],
            **({"tools": fields["tools"]} if fields["tools"] else {}),
        }
    if answer is not None and columns.first(PROMPTS) is not None:
        calls: dict[str, str] = {}
        prompt = _plain_prompt(columns, calls)
        said = dialog_of(columns.take(answer), columns.place(answer), calls, "assistant")
        _refuse_a_rated_response(columns, answer)
        return {"messages": _answered(prompt, said, columns.place(answer))}
    if "chat" in columns:
        return glaive_dialog(columns)
    if columns.has("question", "function"):
        return _bfcl_answered(columns)
    if key is not None:
        return {"messages": dialog_of(columns.take(key), columns.place(key))}
    raise _unknown_form(columns, SFTRow)


def _prompt(columns: Columns) -> Json:
    columns.read |= _NOT_OF_A_PROMPT
    columns.read.update(names_of_sides(columns))
    better, worse = pair_names(columns) or ("", "")
    whole = [side for side in (better, worse) if is_whole_dialog(columns.values.get(side))]
    if columns.has("question", "function") and "prompt" not in columns:
        return _bfcl_prompt(columns)
    if columns.has("query", "answers", "tools"):
        fields = xlam_fields(columns)
        return {"prompt": with_system(prompt_of(fields["prompt"], columns.place("query")), columns)} | (
            {"tools": fields["tools"]} if fields["tools"] else {}
        )
    whole_dialogs = len(whole) == 2 or columns.has("messages", "rejected_response")
    in_the_pair = whole_dialogs or isinstance(columns.values.get("input"), dict)
    if in_the_pair or (better and columns.first((*PROMPTS, *DIALOGS)) is None):
        found = pair_of(columns)
        _note_dialogs_that_go_on(columns, found.prompt)
        return {"prompt": found.prompt}
    key = columns.first(("prompt", *DIALOGS, *PROMPTS, "context"))
    if key is None:
        raise _unknown_form(columns, PromptRow)
    if key in DIALOGS:
        prompt = with_system(_conversation(columns, key), columns)
    elif key == "context":
        prompt = with_system(dialog_of(columns.take(key), columns.place(key)), columns)
    else:
        prompt = _plain_prompt(columns, {})
        _note_dialogs_that_go_on(columns, prompt)
    if prompt and prompt[-1]["role"] == "assistant":
        raise RowError(
            columns.place(key),
            "ends with an assistant message; a prompt ends where the assistant is to go on",
            "Leave the last answer out",
        )
    return {"prompt": prompt}


def _question(columns: Columns) -> Json:
    own = QuestionRow.model_fields.keys() - PromptRow.model_fields.keys()
    known = {name: columns.take(name) for name in QuestionRow.model_fields if name in own and name in columns}
    return _prompt(columns) | known


def _tool_question(columns: Columns) -> Json:
    if columns.has("query", "answers", "tools"):
        return _prompt(columns) | {"calls": xlam_fields(columns)["calls"]}
    known = {key: columns.take(key) for key in ("calls", "answers") if key in columns}
    return _prompt(columns) | known


def _preference(columns: Columns) -> Json:
    if pair_names(columns) is not None or columns.has("messages", "rejected_response"):
        found = pair_of(columns)
        if found.unusable is not None:
            raise found.unusable
        completions = [found.chosen, found.rejected]
        if found.edited is not None:
            completions.insert(0, found.edited)
        fields = {"prompt": found.prompt, "completions": completions, **found.known(len(completions))}
        _note_dialogs_that_go_on(columns, found.prompt, found.chosen)
        return fields
    ours = columns.has("prompt", "completions") and all(map(is_dialog, listed(columns.values["completions"])))
    if is_rated(columns) and not (ours and columns.read):
        responses = responses_of(columns)
        best, worst, level = best_and_worst(responses, columns.where)
        check_level(columns, responses)
        models = [responses.models[place] for place in (best, worst)]
        known = ranked_of(columns, len(models))
        if level is not None:
            known.setdefault("level", level)
        if any(models):
            known["models"] = models
        completions = [responses.responses[best], responses.responses[worst]]
        return _checked_to_differ({"prompt": responses.prompt, "completions": completions} | known, columns)
    if columns.has("completions", "prompt"):
        calls: dict[str, str] = {}
        prompt = with_system(prompt_of(columns.take("prompt"), columns.place("prompt"), calls), columns)
        listed_ = listed(columns.take("completions"))
        ranked = [
            dialog_of(completion, columns.place(f"completions[{rank}]"), dict(calls), "assistant")
            for rank, completion in enumerate(listed_)
        ]
        return _checked_to_differ({"prompt": prompt, "completions": ranked, **ranked_of(columns, len(ranked))}, columns)
    _refuse_a_rated_response(columns, columns.first(ANSWERS) or "response")
    raise _unknown_form(columns, PreferenceRow)


def _checked_to_differ(fields: Json, columns: Columns) -> Json:
    """The fields of a comparison. Raises UnusableRow where the better and the worse completion are the same."""
    completions = fields.get("completions")
    if isinstance(completions, list) and len(completions) > 1 and completions[0] == completions[-1]:
        what = "are the same, word for word: the better and the worse one"
        raise UnusableRow(columns.place("completions"), what, "Drop the row", "identical completions")
    return fields


def _answered(prompt: list[Json], said: list[Json], where: str) -> list[Json]:
    """A prompt and the answer to it, which may be given as the whole dialog. Raises RowError if that asks otherwise."""
    if said[0]["role"] not in ("system", "user"):
        return prompt + said
    asked, whole = without_system(prompt), without_system(said)
    systems = {dialog[0]["content"].strip() for dialog in (prompt, said) if dialog[0]["role"] == "system"}
    if whole[: len(asked)] != asked or len(systems) > 1:
        what = f"begins with a {said[0]['role']} message, and is not the prompt with an answer after it"
        raise RowError(where, what, "Give the answer alone, or the whole dialog with the same prompt")
    return prompt + whole[len(asked) :] if prompt[0]["role"] == "system" else said


def _plain_prompt(columns: Columns, calls: dict[str, str]) -> list[Json]:
    """The prompt of a record that has it in one column, or as alpaca's instruction and input."""
    key = columns.first(PROMPTS)
    assert key is not None
    if key == "instruction":
        return with_system(alpaca_prompt(columns), columns)
    return with_system(prompt_of(columns.take(key), columns.place(key), calls), columns)


def _conversation(columns: Columns, key: str) -> list[Json]:
    value, where = columns.take(key), columns.place(key)
    if key == "conversation" and all(isinstance(turn, dict) and turn.keys() == {"input", "output"} for turn in value):
        roles = (("input", "user"), ("output", "assistant"))  # Capybara, and what distilabel made of it
        value = [{"role": role, "content": turn[side]} for turn in value for side, role in roles]
    return dialog_of(value, where) if key == "messages" else conversation_of(value, where)


def _note_the_pair_that_it_is_chosen_of(columns: Columns, messages: list[Json]) -> None:
    """`messages` next to `chosen` and `rejected` are the chosen dialog in UltraFeedback-binarized: read as a target."""
    names = pair_names(columns)
    if names is None:
        return
    chosen = columns.values[names[0]]
    same = (
        without_system(dialog_of(chosen, columns.place(names[0]))) == without_system(messages)
        if is_whole_dialog(chosen)
        else dialog_of(chosen, columns.place(names[0]), role="assistant") == messages[-1:]
    )
    if same:
        columns.read.update(names)
        columns.read.update((*names_of_sides(columns), "margin"))


def _note_dialogs_that_go_on(columns: Columns, prompt: list[Json], chosen: list[Json] | None = None) -> None:
    """Dialogs that begin with the prompt, or hold its last message, repeat it: ultrachat has both.

    chosen: the dialog must also hold this answer to it and no other.
    """
    for name in DIALOGS:
        if name not in columns or name in columns.read or not isinstance(columns.values[name], list):
            continue
        try:
            dialog = without_system(_conversation(columns, name))
        except RowError:  # not messages, so it repeats nothing: refused by its name
            columns.read.discard(name)
            continue
        asked = without_system(prompt)
        begins = dialog[: len(asked)] == asked
        after = dialog[len(asked) :]
        other = chosen is not None and name == "messages" and after not in ([], chosen)
        if not begins or other:
            columns.read.discard(name)


def _refuse_a_bad_label(columns: Columns) -> None:
    """KTO's rows say of one completion whether it is a good one. A bad one is no target."""
    for name in LABELS:
        if name not in columns:
            continue
        if not truth_of(columns.take(name), columns.where, name):
            what = "is false: this completion was marked as a bad one, and is no target of supervised fine-tuning"
            how = "Drop the row, or train on pairs"
            raise UnusableRow(columns.place(name), what, how, f"{name} is false")


def _refuse_a_rated_response(columns: Columns, answer: str) -> None:
    rated = columns.first((*ATTRIBUTES, "score"))
    label = columns.first(LABELS)
    if rated is None and label is not None and label not in columns.read:
        what = f"says of the one {answer} of this record whether it is a good one, and a pair has two"
        how = (
            "Pair a good and a bad completion of one prompt; only fine-tuning reads this form, and the good ones alone"
        )
        raise RowError(columns.place(label), what, how)
    if rated is None:
        return
    what = f"rates the one {answer} of this record, which says neither that it is a target nor what it is better than"
    how = (
        "The `preferences` builder (recipes/build_data.py) pairs consecutive records that share a prompt; for "
        "fine-tuning choose the good ones and list the ratings in ignore_columns"
    )
    raise RowError(columns.place(rated), what, how)


def _bfcl_prompt(columns: Columns) -> Json:
    fields = prompt_fields({key: columns.take(key) for key in ("question", "function")}, columns.where)
    dialog = dialog_of(fields["prompt"], columns.place("question"))
    return fields | {"prompt": with_system(dialog, columns)}


def _bfcl_answered(columns: Columns) -> Json:
    fields = _bfcl_prompt(columns)
    truth = columns.take("ground_truth")
    if truth is None:
        how = "Add the possible answers of the same id, from BFCL's folder possible_answer"
        raise RowError(columns.place("ground_truth"), "expected possible answers, found nothing", how)
    answer = {"role": "assistant", "tool_calls": first_answer(truth, columns.values["function"], columns.where)}
    return {"messages": [*fields["prompt"], answer], "tools": fields["tools"]}


def _unknown_form(columns: Columns, kind: type[Row]) -> RowError:
    found = ", ".join(sorted(columns.values)) or "nothing"
    what = f"is no {kind.__name__} and no form known here; its columns: {found}"
    has_pair = {"chosen", "rejected"} <= columns.values.keys()
    if kind is SFTRow and has_pair:
        return RowError(
            columns.where, what, "These are preference rows: recipes/dpo.py or recipes/reward.py trains on them"
        )
    if kind is PreferenceRow and not has_pair and columns.values.keys() & {"completion", "messages", "conversations"}:
        return RowError(columns.where, what, "These are dialogs without a choice: recipes/sft.py trains on them")
    return RowError(columns.where, what, f"Read are: {_FORMS.get(kind, _FORMS[PromptRow])}. See docs/formats.md")


def _groups(fields: Json) -> list[list[Json]]:
    return [fields.get("prompt") or [], fields.get("messages") or [], *fields.get("completions", ())]


def _stem(where: str) -> str:
    return Path(re.sub(r"(\.gz)?:\d+$", "", where)).stem or "unnamed"


_READERS: Mapping[type[Row], Callable[[Columns], Json]] = {
    SFTRow: _sft,
    PreferenceRow: _preference,
    PromptRow: _prompt,
    QuestionRow: _question,
    ToolQuestionRow: _tool_question,
}
