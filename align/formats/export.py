"""Rows as records of other toolkits: what `align/formats/rows.py` reads, written.

    trl        prompt and completion, or messages; prompt, chosen and rejected; functions in `tools`
    openai     messages and tools of the fine-tuning API; input, preferred_output and non_preferred_output
    sharegpt   conversations with `from` and `value`, system and tools as LLaMA-Factory reads them; chosen and rejected

A form that has no place for something says so: `Exported` names the fields of the row that are not in the record, and
what would be trained on differently. A row that a form cannot express at all is an UnusableRow with its reason.
Files, counts and Parquet are `align/row_export.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from align.errors import RowError, UnusableRow
from align.rows import Candidate, Message, PreferenceRow, PromptRow, Row, SFTRow, completion_start, tools_of, tools_text

Json = dict[str, Any]
Form = Literal["trl", "openai", "sharegpt"]
TrainOn = Literal["final", "all"]

MASKED = "messages with trained: false, which would be trained on"
OUTPUTS = "tool outputs inside the completion, which TRL trains on unless assistant_only_loss is set"
WHOLE = "whole dialogs, of which TRL trains on every token unless assistant_only_loss is set"
EARLIER = "earlier answers, which are trained on too unless mask_history is set"
MIDDLE = "the middle one of three completions, which is left out"

_SHAREGPT_ROLES = {"user": "human", "assistant": "gpt", "tool": "observation"}
_OF_A_PAIR = ("level", "raters", "round", "batch")
"""What readers of pairs take from columns of their own, here and elsewhere."""


class Exported(NamedTuple):
    """A row as a record of another toolkit."""

    record: Json
    lost: list[str]
    """Fields of the row that say something and are not in the record, such as `seeds`. Training does not use them."""
    changed: list[str]
    """What would be trained on differently, each a reason for the count."""


def exported(row: Row, form: Form, train_on: TrainOn = "final") -> Exported:
    """One row in another toolkit's form.

    train_on: which messages of a dialog are the target (`sft.train_on`). openai can say it, trl can say `final`, and
        sharegpt `all`.
    Raises UnusableRow for a row that the form cannot express, RowError for a kind of row that it has no record for.
    """
    if isinstance(row, SFTRow):
        record, changed = _SFT[form](row, train_on)
    elif isinstance(row, PreferenceRow):
        record, changed = _PREFERENCES[form](row)
    elif isinstance(row, PromptRow) and form == "trl":
        record, changed = _trl_prompt(row), []
    else:
        kind = type(row).__name__
        how = "Export SFT or preference rows, or set to: parquet, which holds every kind of row"
        if isinstance(row, Candidate):
            how = "Export sft.jsonl or preferences.jsonl of the same folder, or set to: parquet"
        raise RowError(f"row {row.id}", f"is a {kind}, which the form {form} has no record for", how)
    return Exported(record, _not_in(record, row), changed)


# TRL


def _trl_sft(row: SFTRow, train_on: TrainOn) -> tuple[Json, list[str]]:
    """The prompt-completion form trains on the completion alone, the form with messages on the whole dialog."""
    if train_on == "all":
        own = row.model_dump(exclude_defaults=True, exclude={"id", "source", "messages", "tools"})
        messages = [_trl_message(message) for message in row.messages]
        record = {"id": row.id, "source": row.source, "messages": messages, **_tools(row), **own}
        return record, [*_changes(row.messages), WHOLE]
    start = completion_start(row.messages, train_on)
    record = {
        "id": row.id,
        "source": row.source,
        "prompt": [_trl_message(message) for message in row.messages[:start]],
        "completion": [_trl_message(message) for message in row.messages[start:]],
        **_tools(row),
    }
    return record, _changes(row.messages[start:], outputs=True)


def _trl_preference(row: PreferenceRow) -> tuple[Json, list[str]]:
    record = {
        "id": row.id,
        "source": row.source,
        "prompt": [_trl_message(message) for message in row.prompt],
        "chosen": [_trl_message(message) for message in row.chosen],
        "rejected": [_trl_message(message) for message in row.rejected],
        **_tools(row),
        **_known_of_a_pair(row),
    }
    changed = [*_changes(row.chosen, outputs=True), *_changes(row.rejected, outputs=True)]
    return record, [*dict.fromkeys(changed), *_middle(row)]


def _trl_prompt(row: PromptRow) -> Json:
    own = row.model_dump(mode="json", exclude_defaults=True, exclude={"prompt", "tools"})
    return {**own, "prompt": [_trl_message(message) for message in row.prompt], **_tools(row)}


def _trl_message(message: Message) -> Json:
    """Arguments are objects, as chat templates expect them."""
    found: Json = {"role": message.role, "content": message.content}
    if message.tool_calls:
        functions = [{"name": call.name, "arguments": call.parsed()} for call in message.tool_calls]
        found["tool_calls"] = [{"type": "function", "function": function} for function in functions]
    if message.name is not None:
        found["name"] = message.name
    return found


def _known_of_a_pair(row: PreferenceRow) -> Json:
    """What is known of a comparison, in columns that trainers leave alone. TRL's own `margin` is not among them."""
    given = row.model_dump(exclude_defaults=True)
    found: Json = {name: given[name] for name in _OF_A_PAIR if name in given}
    if row.models:
        found["models"] = [row.models[0], row.models[-1]]
    if row.scores and row.scores[0] > row.scores[-1]:  # readers refuse scores that contradict the pair
        found |= {"score_chosen": row.scores[0], "score_rejected": row.scores[-1]}
    return found


# OpenAI


def _openai_sft(row: SFTRow, train_on: TrainOn) -> tuple[Json, list[str]]:
    """`weight: 0` marks the assistant's messages that are not trained on."""
    messages = _openai_messages(row.messages, row)
    start = completion_start(row.messages, train_on)
    for place, message in enumerate(row.messages):
        if message.role == "assistant" and (place < start or not message.trained):
            messages[place]["weight"] = 0
    return {"messages": messages, **_tools(row)}, []


def _openai_preference(row: PreferenceRow) -> tuple[Json, list[str]]:
    sides = [_one_message(row.chosen, row), _one_message(row.rejected, row)]
    chosen, rejected = (_openai_messages((*row.prompt, side), row)[-1] for side in sides)
    asked = {"messages": _openai_messages(row.prompt, row), "tools": _tools(row).get("tools", [])}
    record = {
        "input": {**asked, "parallel_tool_calls": True},
        "preferred_output": [chosen],
        "non_preferred_output": [rejected],
    }
    return record, [*_changes(sides), *_middle(row)]


def _openai_messages(messages: Sequence[Message], row: Row) -> list[Json]:
    """Messages whose calls have ids, by which the outputs of tools name them.

    The outputs after an assistant message answer its calls in their order, or by name where an output has one.
    """
    found: list[Json] = []
    open_calls: list[tuple[str, str]] = []
    """(id, function) of the calls that wait for an output."""
    calls = 0
    for message in messages:
        if message.role != "tool":
            if open_calls:
                raise _unusable(row, "a call without an output, after which the dialog goes on")
            found.append({"role": message.role, "content": message.content})
            if message.tool_calls:
                ids = [f"call_{calls + place}" for place, _ in enumerate(message.tool_calls)]
                calls += len(ids)
                open_calls = [(one, call.name) for one, call in zip(ids, message.tool_calls, strict=True)]
                found[-1]["content"] = message.content or None
                found[-1]["tool_calls"] = [
                    {"id": one, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                    for one, call in zip(ids, message.tool_calls, strict=True)
                ]
            continue
        answered = next((call for call in open_calls if message.name in (None, call[1])), None)
        if answered is None:
            raise _unusable(row, "an output of a tool that answers no call")
        open_calls.remove(answered)
        found.append({"role": "tool", "tool_call_id": answered[0], "content": message.content})
    return found


# ShareGPT, as LLaMA-Factory reads it


def _sharegpt_sft(row: SFTRow, train_on: TrainOn) -> tuple[Json, list[str]]:
    """Every answer of a dialog is trained on."""
    record = {"id": row.id, "source": row.source, **_sharegpt_dialog(row.messages, row), **_tools_text(row)}
    several = completion_start(row.messages, train_on) > completion_start(row.messages, "all")
    return record, [*_changes(row.messages), *([EARLIER] if several else [])]


def _sharegpt_preference(row: PreferenceRow) -> tuple[Json, list[str]]:
    sides = [_one_message(row.chosen, row), _one_message(row.rejected, row)]
    record = {
        "id": row.id,
        "source": row.source,
        **_sharegpt_dialog(row.prompt, row),
        "chosen": _sharegpt_message(sides[0], row),
        "rejected": _sharegpt_message(sides[1], row),
        **_tools_text(row),
        **_known_of_a_pair(row),
    }
    return record, [*_changes(sides), *_middle(row)]


def _sharegpt_dialog(messages: Sequence[Message], row: Row) -> Json:
    """`conversations`, in which user or tool and assistant take turns, and `system`."""
    begins = messages[0].role == "system"
    system, turns = (messages[0].content, messages[1:]) if begins else ("", messages)
    if begins and not system.strip():
        raise _unusable(row, "a blank system message")
    for place, message in enumerate(turns):
        if (message.role == "assistant") != (place % 2 == 1):
            raise _unusable(row, "turns that do not alternate between user or tool and assistant")
    found: Json = {"conversations": [_sharegpt_message(message, row) for message in turns]}
    return {**found, "system": system} if system else found


def _sharegpt_message(message: Message, row: Row) -> Json:
    if not message.tool_calls:
        return {"from": _SHAREGPT_ROLES[message.role], "value": message.content}
    if message.content:
        raise _unusable(row, "text and calls in one message")
    calls = [{"name": call.name, "arguments": call.parsed()} for call in message.tool_calls]
    return {"from": "function_call", "value": json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)}


# What they share


def _tools(row: Row) -> Json:
    """OpenAI's list of functions, which TRL and chat templates read too; nothing for a row without functions."""
    tools = [{"type": "function", "function": tool.model_dump()} for tool in tools_of(row.tools)]
    return {"tools": tools} if tools else {}


def _tools_text(row: Row) -> Json:
    return {"tools": tools_text(tools_of(row.tools))} if row.tools else {}


def _one_message(completion: Sequence[Message], row: Row) -> Message:
    if len(completion) > 1:
        raise _unusable(row, "a completion of several messages")
    return completion[0]


def _changes(messages: Sequence[Message], outputs: bool = False) -> list[str]:
    """What would be trained on differently in messages that are a target."""
    found = [MASKED] if not all(message.trained for message in messages) else []
    return found + ([OUTPUTS] if outputs and any(message.role == "tool" for message in messages) else [])


def _middle(row: PreferenceRow) -> list[str]:
    return [MIDDLE] if len(row.completions) > 2 else []


def _unusable(row: Row, reason: str) -> UnusableRow:
    how = "Drop the row, or export it in another form"
    return UnusableRow(f"row {row.id}", f"has {reason}, which this form cannot express", how, reason)


def _not_in(record: Json, row: Row) -> list[str]:
    """Fields of the row that are in no column of the record. What a dialog says is in the record or in `changed`."""
    dialogs = {"messages", "prompt", "completions", "tools"}
    given = [name for name in row.model_dump(exclude_defaults=True) if name not in dialogs]
    written = record.keys() | ({"scores"} if "score_chosen" in record else set())
    return [name for name in given if name not in written]


_SFT: dict[Form, Callable[[SFTRow, TrainOn], tuple[Json, list[str]]]] = {
    "trl": _trl_sft,
    "openai": _openai_sft,
    "sharegpt": _sharegpt_sft,
}
_PREFERENCES: dict[Form, Callable[[PreferenceRow], tuple[Json, list[str]]]] = {
    "trl": _trl_preference,
    "openai": _openai_preference,
    "sharegpt": _sharegpt_preference,
}
