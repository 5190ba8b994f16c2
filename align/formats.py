"""Other toolkits' records as our rows: TRL, OpenAI, ShareGPT and LLaMA-Factory, alpaca, HH-RLHF, Glaive, BFCL.

A record in our own form goes straight to its row class. Plain strings become a user message and an assistant message.
What a record cannot say about itself is made: an id from its content, a source from the file's name. How calls and
functions are written down is `align/tool_formats.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from align.bfcl import first_answer, prompt_fields
from align.errors import RowError
from align.rows import PreferenceRow, PromptRow, Row, SFTRow, ToolQuestionRow, row_id
from align.tool_formats import (
    call_fields,
    called_name,
    glaive_dialog,
    named_outputs,
    shown,
    tools_field,
    written_calls,
)

R = TypeVar("R", bound=Row)

Json = dict[str, Any]

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "ipython", "observation"), "tool"),
}
"""Every name of a role that is read, and ours."""

_MESSAGE_KEYS = {"role", "from", "content", "value", "tool_calls", "function_call", "tool_call_id", "name", "weight"}
_IGNORED_MESSAGE_KEYS = {"id", "refusal", "annotations", "audio"}
"""What an OpenAI answer carries beside its text; nothing of it is trained on."""

_JUDGED_KEYS = ("level", "models", "raters", "round", "batch")
"""What is known of a comparison beside its prompt and completions: see PreferenceRow."""

_FORMS = {
    SFTRow: "messages; prompt and completion; conversations; instruction and output; system and chat; "
    "question, function and ground_truth",
    PreferenceRow: "prompt, chosen and rejected; chosen and rejected; conversations, chosen and rejected; "
    "instruction, chosen and rejected",
    PromptRow: "prompt; messages; conversations; instruction; question and function",
}


def to_row(record: Json, kind: type[R], where: str) -> R:
    """One record as a row of `kind`.

    where: `file:line`, for errors and for the source of a record that names none.
    Raises RowError naming where and the field, or pydantic's ValidationError where the row class refuses.
    """
    reader = _READERS.get(kind)
    if reader is None or _is_ours(record, kind):
        return kind.model_validate(record)
    fields = reader(record, where)
    key = "tools" if record.get("tools") else "functions"  # the second is OpenAI's older name
    tools = tools_field(record.get(key), f"{where}: {key}")
    if tools:
        fields["tools"] = tools
    fields["source"] = record.get("source") or _stem(where)
    given = record.get("id")
    # Content alone makes the id: the same record has the same id in whatever file it stands.
    fields["id"] = row_id(kind.__name__, json.dumps(fields | {"source": ""})) if given in (None, "") else str(given)
    return kind.model_validate(fields)


def _is_ours(record: Json, kind: type[Row]) -> bool:
    if not {"id", "source"} <= record.keys() <= kind.model_fields.keys():
        return False
    groups = [record.get("prompt"), record.get("messages"), *_listed(record.get("completions"))]
    return not any(_is_foreign(message) for group in groups for message in _listed(group)) and not isinstance(
        record.get("prompt"), str
    )


def _is_foreign(message: Any) -> bool:
    if not isinstance(message, dict):
        return False
    if {"from", "tool_call_id", "weight"} & message.keys() or not isinstance(message.get("content", ""), str):
        return True
    return message.get("role") == "developer" or any(
        isinstance(call, dict) and "function" in call for call in _listed(message.get("tool_calls"))
    )


def _sft(record: Json, where: str) -> Json:
    if "messages" in record:
        return {"messages": _dialog(record["messages"], f"{where}: messages")}
    if "conversations" in record:
        return {"messages": _conversations(record, where)}
    if "prompt" in record and "completion" in record:
        calls: dict[str, str] = {}
        prompt = _dialog(record["prompt"], f"{where}: prompt", calls)
        return {"messages": prompt + _dialog(record["completion"], f"{where}: completion", calls, "assistant")}
    if "instruction" in record and "output" in record:
        answer = _dialog(record["output"], f"{where}: output", role="assistant")
        return {"messages": _alpaca_prompt(record, where) + answer}
    if "chat" in record:
        return glaive_dialog(record, where)
    if "question" in record and "function" in record:
        return _bfcl_answered(record, where)
    raise _unknown_form(record, SFTRow, where)


def _prompt(record: Json, where: str) -> Json:
    if "prompt" in record:
        prompt = _dialog(record["prompt"], f"{where}: prompt")
    elif "messages" in record:
        prompt = _dialog(record["messages"], f"{where}: messages")
    elif "conversations" in record:
        prompt = _conversations(record, where)
    elif "instruction" in record:
        prompt = _alpaca_prompt(record, where)
    elif "question" in record and "function" in record:
        return _bfcl_prompt(record, where)
    elif "chosen" in record and "rejected" in record:
        prompt = _preference(record, where)["prompt"]
    else:
        raise _unknown_form(record, PromptRow, where)
    if prompt and prompt[-1]["role"] == "assistant":
        raise RowError(
            f"{where}: {next(key for key in ('prompt', 'messages', 'conversations') if key in record)}",
            "ends with an assistant message; a prompt ends where the assistant is to go on",
            "Leave the last answer out",
        )
    return {"prompt": prompt}


def _tool_question(record: Json, where: str) -> Json:
    return _prompt(record, where) | {key: record[key] for key in ("calls", "answers") if key in record}


def _preference(record: Json, where: str) -> Json:
    if "completions" in record and "prompt" in record:
        calls: dict[str, str] = {}
        prompt = _dialog(record["prompt"], f"{where}: prompt", calls)
        ranked = [
            _dialog(completion, f"{where}: completions[{rank}]", dict(calls), "assistant")
            for rank, completion in enumerate(_listed(record["completions"]))
        ]
        known = {key: record[key] for key in _JUDGED_KEYS if record.get(key) is not None}
        return {"prompt": prompt, "completions": ranked, **known}
    if not ("chosen" in record and "rejected" in record):
        raise _unknown_form(record, PreferenceRow, where)
    calls = {}
    if "conversations" in record:
        prompt = _conversations(record, where, calls)
    elif "prompt" in record:
        prompt = _dialog(record["prompt"], f"{where}: prompt", calls)
    elif "instruction" in record:
        prompt = _alpaca_prompt(record, where)
    else:
        prompt = []
    chosen, rejected = _pair(record, where, calls, split_text=not prompt)
    if not prompt or chosen[0]["role"] in ("system", "user"):
        asked = prompt[-1]["content"] if prompt else None
        prompt, chosen, rejected = _split_shared(chosen, rejected, where)
        if asked is not None and all(message["content"] != asked for message in prompt):
            raise RowError(
                f"{where}: chosen",
                f"holds a dialog that does not contain the prompt {asked[:80]!r}",
                "Give the completion alone, or a dialog that begins with the prompt",
            )
    for field, completion in (("chosen", chosen), ("rejected", rejected)):
        if any(message["role"] in ("system", "user") for message in completion):
            raise RowError(
                f"{where}: {field}",
                "holds a system or user message that the other completion has not",
                "Pair two completions of one prompt",
            )
    return {"prompt": prompt, "completions": [chosen, rejected]}


def _pair(record: Json, where: str, calls: dict[str, str], split_text: bool) -> tuple[list[Json], list[Json]]:
    chosen, rejected = record["chosen"], record["rejected"]
    if split_text and isinstance(chosen, str) and isinstance(rejected, str):
        if _is_transcript(chosen):
            return _transcript(chosen, f"{where}: chosen"), _transcript(rejected, f"{where}: rejected")
        shared = _shared_text(chosen, rejected)
        if not shared.strip():
            raise RowError(f"{where}: chosen", "shares no beginning with rejected", "Add the field `prompt`")
        prompt = {"role": "user", "content": shared}
        ends = (chosen[len(shared) :], rejected[len(shared) :])
        first, second = ([prompt, {"role": "assistant", "content": end}] for end in ends)
        return first, second
    first = _dialog(chosen, f"{where}: chosen", dict(calls), "assistant")
    return first, _dialog(rejected, f"{where}: rejected", dict(calls), "assistant")


def _split_shared(chosen: list[Json], rejected: list[Json], where: str) -> tuple[list[Json], list[Json], list[Json]]:
    """The prompt that two dialogs share, and what follows it in each: from where they part, back to an assistant."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and not chosen[shared]["role"] == rejected[shared]["role"] == "assistant":
        shared -= 1
    if not shared:
        raise RowError(f"{where}: chosen", "shares no prompt with rejected", "Add the field `prompt`")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _shared_text(chosen: str, rejected: str) -> str:
    """What two texts have in common at the start; a space at the seam goes with the completions, as TRL has it."""
    length = 0
    while length < min(len(chosen), len(rejected)) and chosen[length] == rejected[length]:
        length += 1
    return chosen[:length].removesuffix(" ")


def _is_transcript(text: str) -> bool:
    return text.startswith("\n\nHuman:")


def _transcript(text: str, where: str) -> list[Json]:
    """A dialog from `\\n\\nHuman: ...\\n\\nAssistant: ...`, as Anthropic's HH-RLHF has it."""
    if not _is_transcript(text):
        raise RowError(where, "is no transcript, and the other completion is one", "Write both in one form")
    parts = re.split(r"\n\n(Human|Assistant):", text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[speaker], "content": said.strip()} for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _bfcl_prompt(record: Json, where: str) -> Json:
    fields = prompt_fields(record, where)
    return fields | {"prompt": _dialog(fields["prompt"], f"{where}: question")}


def _bfcl_answered(record: Json, where: str) -> Json:
    fields = _bfcl_prompt(record, where)
    if "ground_truth" not in record:
        how = "Add the possible answers of the same id, from BFCL's folder possible_answer"
        raise RowError(f"{where}: ground_truth", "wanted possible answers, found nothing", how)
    answer = {"role": "assistant", "tool_calls": first_answer(record["ground_truth"], record["function"], where)}
    return {"messages": [*fields["prompt"], answer], "tools": fields["tools"]}


def _alpaca_prompt(record: Json, where: str) -> list[Json]:
    instruction, given = record["instruction"], record.get("input")
    for field, value in (("instruction", instruction), ("input", given or ""), ("system", record.get("system") or "")):
        if not isinstance(value, str):
            raise RowError(f"{where}: {field}", f"wanted text, found {shown(value)}", "Write it as text")
    dialog = [{"role": "system", "content": record["system"]}] if record.get("system") else []
    for turn, pair in enumerate(_listed(record.get("history"))):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise RowError(f"{where}: history[{turn}]", f"wanted [prompt, answer], found {shown(pair)}", "Mend it")
        dialog += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return [*dialog, {"role": "user", "content": f"{instruction}\n{given}" if given else instruction}]


def _conversations(record: Json, where: str, calls: dict[str, str] | None = None) -> list[Json]:
    dialog = named_outputs(_dialog(record["conversations"], f"{where}: conversations", calls))
    system = record.get("system")
    if isinstance(system, str) and system and not (dialog and dialog[0]["role"] == "system"):
        dialog.insert(0, {"role": "system", "content": system})
    return dialog


def _dialog(value: Any, where: str, calls: dict[str, str] | None = None, role: str = "user") -> list[Json]:
    """Messages in our form, from a text, one message, or a list of messages.

    calls: names of the functions called so far by the calls' ids; added to.
    role: who speaks where there is only a text.
    """
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise RowError(where, f"wanted text or a list of messages, found {shown(value)}", "See align/formats.py")
    calls = {} if calls is None else calls
    return [_message(message, f"{where}[{turn}]", calls) for turn, message in enumerate(value)]


def _message(message: Any, where: str, calls: dict[str, str]) -> Json:
    if not isinstance(message, dict):
        raise RowError(where, f"wanted a message, found {shown(message)}", "Write an object with role and content")
    for key in message.keys() - _MESSAGE_KEYS - _IGNORED_MESSAGE_KEYS:
        if message[key] is not None:
            known = ", ".join(sorted(_MESSAGE_KEYS))
            raise RowError(f"{where}.{key}", "is not a field that is read, and would be lost", f"Known here: {known}")
    role_key = "role" if "role" in message else "from"
    named = message.get(role_key)
    role = ROLES.get(named) if isinstance(named, str) else None
    if role is None:
        raise RowError(f"{where}.{role_key}", f"wanted a role, found {shown(named)}", f"Known here: {', '.join(ROLES)}")
    content = message.get("content", message.get("value"))
    weighed = _weight(message.get("weight"), role, f"{where}.weight")
    if named == "function_call":
        return {"role": role, "tool_calls": written_calls(content, f"{where}.value"), **weighed}
    found: Json = {
        "role": role,
        **weighed,
        "content": _content(content, f"{where}.{'content' if 'content' in message else 'value'}"),
    }
    made = list(_listed(message.get("tool_calls")))
    if message.get("function_call") is not None:
        made.append(message["function_call"])
    if made:
        found["tool_calls"] = [call_fields(call, f"{where}.tool_calls[{i}]", calls) for i, call in enumerate(made)]
    if role == "tool":
        name = message.get("name") or called_name(message.get("tool_call_id"), where, calls)
        if name is not None:
            found["name"] = name
    return found


def _weight(value: Any, role: str, where: str) -> Json:
    """OpenAI's weight of an assistant message: 0 makes it context only."""
    if value is None or (value == 1 and role == "assistant"):
        return {}
    if value == 0 and role == "assistant":
        return {"trained": False}
    raise RowError(where, f"wanted 0 or 1 on an assistant message, found {shown(value)} on a {role} one", "Mend it")


def _content(value: Any, where: str) -> str:
    """Text from a string, nothing, or a list of text parts."""
    if isinstance(value, str):
        return value
    texts = []
    for part in _listed(value) if value is None or isinstance(value, list) else [value]:
        text = part.get("text", part.get("value")) if isinstance(part, dict) and part.get("type") == "text" else part
        if not isinstance(text, str):
            raise RowError(where, f"wanted text, found {shown(part)}", "Only text is read")
        texts.append(text)
    return "".join(texts)


def _unknown_form(record: Json, kind: type[Row], where: str) -> RowError:
    found = ", ".join(sorted(record)) or "nothing"
    return RowError(
        where, f"is no {kind.__name__} and no form known here; its fields: {found}", f"Read are: {_FORMS[kind]}"
    )


def _stem(where: str) -> str:
    return Path(re.sub(r":\d+$", "", where)).stem or "unnamed"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


_READERS: Mapping[type[Row], Callable[[Json, str], Json]] = {
    SFTRow: _sft,
    PreferenceRow: _preference,
    PromptRow: _prompt,
    ToolQuestionRow: _tool_question,
}
