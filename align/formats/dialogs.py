"""Values of a record as messages in our form: texts, messages of other toolkits, transcripts, system prompts.

Messages are dicts here; the row classes check and freeze them. Whole records are `align/formats/rows.py`, calls and
functions `align/formats/tool_calls.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from align.errors import RowError
from align.formats.columns import SYSTEM, Columns, shown
from align.formats.tool_calls import call_fields, called_name, named_outputs, written_calls
from align.rows import Message, Messages

Json = dict[str, Any]

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "ipython", "observation"), "tool"),
}
"""Every name of a role that is read, and ours."""

_MESSAGE_KEYS = {
    *("role", "from", "content", "value", "tool_calls", "function_call", "tool_call_id", "name", "weight", "trained")
}
_HARMLESS_MESSAGE_KEYS = {
    # what an API's answer or a log of dialogs says of a message in addition to its text
    *("id", "annotations", "timestamp", "turn_identifier", "language", "country", "state", "header", "hashed_ip"),
    *("toxic", "redacted"),
}
_REASONING_KEYS = {"reasoning_content", "reasoning", "thinking", "thoughts"}

_LIST_IN_TEXT = re.compile(
    r"""\s*(?:array\()?\s*\[\s*\{\s*['"](?:role|content|from|value)['"]\s*:.*\}\s*\](?:, dtype=object\))?\s*""",
    re.DOTALL,
)
"""A whole list of messages that was written into a text. The key may be any of the four, in either quotes:

    '[{"role": "user", "content": "Hi"}]'                            JSON in a string
    "array([{'content': 'Hi', 'role': 'user'}], dtype=object)"       what pandas' `to_csv` writes
"""
# A text that begins or ends as the chat template of a model writes it:
#   start   "<s>[INST] Hi", "<|im_start|>user\n", "<|begin_of_text|><|start_header_id|>system", "<start_of_turn>user"
#   end     "...<|im_end|>\n<|im_start|>assistant", "...<|eot_id|>", "...[/INST]", "...</s>", trailing spaces allowed
_RENDERED_START = re.compile(
    r"\s*(?:<s>|<bos>|<\|begin_of_text\|>)?\s*(?:<\|im_start\|>\s*(?:system|user)|<\|start_header_id\|>\s*(?:system|user)"
    r"|<start_of_turn>\s*user|<\|(?:system|user)\|>|\[INST\])"
)
_RENDERED_END = re.compile(
    r"(?:<\|im_start\|>\s*assistant|<\|im_end\|>|<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>|<\|eot_id\|>"
    r"|<start_of_turn>\s*model|<end_of_turn>|<\|assistant\|>|\[/INST\]|</s>)\s*\Z"
)

_TURN = r"(Human|Assistant):"
_TURNS_OF_HELPSTEER = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
_SPEAKERS = {"Human": "user", "User": "user", "Assistant": "assistant"}


def dialog_of(value: Any, where: str, calls: dict[str, str] | None = None, role: str = "user") -> list[Json]:
    """Messages in our form, from a text, one message, or a list of messages.

    calls: names of the functions called so far by the calls' ids; added to.
    role: who speaks where there is only a text.
    Raises RowError naming `where`.
    """
    if isinstance(value, str):
        _refuse_a_list_in_text(value, where)
        return [{"role": role, "content": value}]
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        value = [message for message in value if message is not None]
    if not isinstance(value, list) or not value:
        how = "Write a text, or a list of objects with role and content"
        raise RowError(where, f"expected text or a list of messages, found {shown(value)}", how)
    calls = {} if calls is None else calls
    return [_message(message, f"{where}[{turn}]", calls) for turn, message in enumerate(value)]


def prompt_of(value: Any, where: str, calls: dict[str, str] | None = None) -> list[Json]:
    """The messages of a prompt: as `dialog_of`, and a text may be a whole dialog as HH-RLHF or HelpSteer write it."""
    if not isinstance(value, str):
        return dialog_of(value, where, calls)
    if is_transcript(value):
        dialog = transcript(value, where)
        if dialog[-1]["role"] == "assistant" and not dialog[-1]["content"]:
            dialog.pop()  # `...\n\nAssistant:` only says who is to go on
        if not dialog or dialog[-1]["role"] == "assistant":
            what = "ends with an assistant message; a prompt ends where the assistant is to go on"
            raise RowError(where, what, "Leave the last answer out")
        return dialog
    _refuse_a_list_in_text(value, where)
    if is_rendered(value) and _RENDERED_END.search(value):
        raise rendered(value, where)
    first, *others = _TURNS_OF_HELPSTEER.split(value)
    dialog = [{"role": "user", "content": first}]
    for speaker, said in zip(others[::2], others[1::2], strict=True):
        dialog.append({"role": _SPEAKERS[speaker], "content": said})
    if others and dialog[-1]["role"] == "assistant" and not dialog[-1]["content"].strip():
        dialog.pop()
    return dialog


def conversation_of(value: Any, where: str, calls: dict[str, str] | None = None) -> list[Json]:
    """As `dialog_of`, with the names of functions on the outputs of tools, which ShareGPT's dialogs leave out."""
    return named_outputs(dialog_of(value, where, calls))


def alpaca_prompt(columns: Columns) -> list[Json]:
    """Alpaca's `instruction` and `input`, with LLaMA-Factory's `history`; Dolly calls the input `context`."""
    instruction = columns.take("instruction")
    if isinstance(instruction, list):
        return dialog_of(instruction, columns.place("instruction"))
    more = columns.first(("input", "context"))
    given = columns.take(more) if more is not None else None
    for name, value in (("instruction", instruction), (more or "input", given or "")):
        if not isinstance(value, str):
            raise RowError(columns.place(name), f"expected text, found {shown(value)}", "Write it as text")
    dialog: list[Json] = []
    for turn, pair in enumerate(one for one in listed(columns.take("history")) if one is not None):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            what = f"expected [prompt, answer], found {shown(pair)}"
            raise RowError(columns.place(f"history[{turn}]"), what, "Write two texts for each turn")
        dialog += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    asked = f"{instruction}\n{given}" if given else instruction
    if "text" in columns and isinstance(columns.values["text"], str) and instruction in columns.values["text"]:
        columns.read.add("text")  # Alpaca's own files repeat the whole row as one text
    return [*dialog, {"role": "user", "content": asked}]


def is_whole_dialog(value: Any) -> bool:
    """Whether a completion is given as the whole dialog, its prompt included."""
    if not (isinstance(value, list) and value and isinstance(value[0], dict)):
        return False
    return (value[0].get("role") or value[0].get("from")) in ("system", "developer", "user", "human")


def is_rendered(text: str) -> bool:
    """Whether a text begins as a chat template writes a dialog: `<|im_start|>user`, `<s>[INST]` and so on."""
    return bool(_RENDERED_START.match(text))


def rendered(text: str, where: str) -> RowError:
    """The error of a text that a chat template wrote. It would be rendered once more, as one user message."""
    what = f"is a dialog that a chat template has rendered into one text, {shown(text)}"
    return RowError(where, what, "Give the messages: the model's own template is applied to them here")


def _refuse_a_list_in_text(text: str, where: str) -> None:
    """Raise RowError for messages that were written into a text: the model would be trained to write the list."""
    if not _LIST_IN_TEXT.fullmatch(text):
        return
    has = [re.search(rf"""['"]{key}['"]\s*:""", text) is not None for key in ("role", "content", "from", "value")]
    if all(has[:2]) or all(has[2:]):
        what = f"is a list of messages written into a text, {shown(text)}"
        how = "Write the list itself: JSONL or Parquet keep it, and a cell of CSV holds it as JSON (json.dumps)"
        raise RowError(where, what, how)


def is_transcript(text: str) -> bool:
    r"""Whether a text is a dialog of HH-RLHF: `\n\nHuman: ...\n\nAssistant: ...`, with its first line breaks or not."""
    return text.startswith("\n\nHuman:") or bool(re.match(r"\s*Human:.*\n\s*Assistant:", text, re.DOTALL))


def transcript(text: str, where: str) -> list[Json]:
    r"""The dialog of a text that `is_transcript`.

    Turns begin after an empty line, so `\nHuman:` inside an answer is text. If no turn of the assistant begins after an
    empty line, turns begin after any line break:

        "\n\nHuman: Hi\n\nAssistant: A poem.\nHuman: not a turn"     user "Hi", assistant "A poem.\nHuman: not a turn"
        "Human: Hi\nAssistant: Hello"                               user "Hi", assistant "Hello"
    """
    if not is_transcript(text):
        raise RowError(where, "is no transcript, and the other completion is one", "Write both in one form")
    after = r"\n" if "\nAssistant:" in text and "\n\nAssistant:" not in text else r"\n\n"
    _, *parts = re.split(rf"(?:\A\s*|{after}){_TURN}", text)
    return [
        {"role": _SPEAKERS[speaker], "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def system_of(columns: Columns) -> tuple[str, str] | None:
    """(column, text) of the system prompt that has a column of its own, or None.

    Raises RowError where two such columns say different things, or one holds something other than text.
    """
    found: tuple[str, str] | None = None
    for name in SYSTEM:
        if name not in columns:
            continue
        value = columns.take(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict) and (not value or value.get("role") in ("system", "developer")):
            value = value.get("content")
        text = content_of(value, columns.place(name))
        if not text.strip():
            continue
        if found is not None and found[1].strip() != text.strip():
            what = f"says {shown(text)}, and {found[0]} says {shown(found[1])}"
            raise RowError(columns.place(name), what, "Keep one system prompt, or list the other in ignore_columns")
        found = found or (name, text)
    return found


def with_system(dialog: list[Json], columns: Columns) -> list[Json]:
    """The dialog, beginning with the system prompt of the record's own column, where it has one.

    Raises RowError where the dialog has a system message that says something else.
    """
    found = system_of(columns)
    if found is None:
        return dialog
    name, text = found
    if dialog and dialog[0]["role"] == "system":
        if dialog[0]["content"].strip() != text.strip():
            what = f"says {shown(text)}, and the dialog's own system message {shown(dialog[0]['content'])}"
            raise RowError(columns.place(name), what, "Keep one of the two, or list the column in ignore_columns")
        return dialog
    return [{"role": "system", "content": text}, *dialog]


def without_system(dialog: Sequence[Json]) -> list[Json]:
    return [*dialog[1:]] if dialog and dialog[0]["role"] == "system" else [*dialog]


def check_order(dialog: Sequence[Json], where: str, outputs: bool = True) -> None:
    """Raise RowError where a dialog's roles contradict each other: who speaks first, or a second system message.

    outputs: refuse an output of a tool that no call can have given too. Our own rows have such messages: files that a
    user uploads.
    """
    for turn, message in enumerate(dialog):
        role, before = message["role"], dialog[turn - 1]["role"] if turn else None
        here = f"{where}[{turn}]"
        if role == "system" and turn:
            what = "is a system message after the first message; a dialog has one, at its beginning"
            raise RowError(here, what, "Join the system messages, or give the later one as a user message")
        if role == "assistant" and before in (None, "system"):
            what = "is an assistant message, and nothing was asked before it"
            raise RowError(here, what, "Begin the dialog with a user message")
        if outputs and role == "tool" and before not in ("assistant", "tool"):
            what = f"is the output of a tool after {'a ' + before if before else 'no'} message; no call was made there"
            raise RowError(here, what, "Put it after the assistant message that makes the call")


def content_of(value: Any, where: str) -> str:
    """Text from a string, nothing, or a list of text parts."""
    if isinstance(value, str):
        return value
    texts = []
    for part in listed(value) if value is None or isinstance(value, list) else [value]:
        if part is None:
            continue
        text = part.get("text", part.get("value")) if isinstance(part, dict) and part.get("type") == "text" else part
        if not isinstance(text, str):
            raise RowError(where, f"expected text, found {shown(part)}", "Only text is read")
        texts.append(text)
    return "".join(texts)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def is_foreign(message: Any) -> bool:
    """Whether a message is not in our own form, so that it has to be read here before a row class takes it."""
    if not isinstance(message, dict):
        return False
    if {"from", "tool_call_id", "weight"} & message.keys() or not isinstance(message.get("content", ""), str):
        return True
    if message.get("role") == "developer" or any(value is None for value in message.values()):
        return True
    return any(
        isinstance(call, dict) and ("function" in call or isinstance(call.get("arguments"), dict))
        for call in listed(message.get("tool_calls"))
    )


def _message(message: Any, where: str, calls: dict[str, str]) -> Json:
    if not isinstance(message, dict):
        raise RowError(where, f"expected a message, found {shown(message)}", "Write an object with role and content")
    for key in message.keys() - _MESSAGE_KEYS - _HARMLESS_MESSAGE_KEYS:
        if message[key] is not None and message[key] not in ("", [], {}):
            raise _unread_field(key, where)
    role_key = _one_of(message, "role", "from", where)
    named = message.get(role_key)
    role = ROLES.get(named) if isinstance(named, str) else None
    if role is None:
        known = ", ".join(ROLES)
        raise RowError(f"{where}.{role_key}", f"expected a role, found {shown(named)}", f"Known here: {known}")
    content_key = _one_of(message, "content", "value", where)
    content = message.get(content_key)
    weighed = _weight(message, role, where)
    if named == "function_call":
        return {"role": role, "tool_calls": written_calls(content, f"{where}.{content_key}"), **weighed}
    found: Json = {"role": role, **weighed, "content": content_of(content, f"{where}.{content_key}")}
    made = [call for call in listed(message.get("tool_calls")) if call is not None]
    if message.get("function_call") is not None:
        made.append(message["function_call"])
        if len(made) > 1:
            what = "is given next to tool_calls, and would be made twice"
            raise RowError(f"{where}.function_call", what, "Keep tool_calls alone")
    if made:
        found["tool_calls"] = [call_fields(call, f"{where}.tool_calls[{i}]", calls) for i, call in enumerate(made)]
    name = message.get("name")
    if role == "tool":
        name = name or called_name(message.get("tool_call_id"), where, calls)
        if name is not None:
            found["name"] = name
    return found


def _one_of(message: Json, ours: str, other: str, where: str) -> str:
    """Which of two names a message uses. Raises RowError where it uses both, and they say different things."""
    if message.get(ours) is None:
        return other if message.get(other) is not None or ours not in message else ours
    if message.get(other) is not None and message[other] != message[ours]:
        what = f"says {shown(message[other])}, and {ours} says {shown(message[ours])}"
        raise RowError(f"{where}.{other}", what, "Keep one of the two")
    return ours


def _unread_field(key: str, where: str) -> RowError:
    if key in _REASONING_KEYS:
        what = "holds reasoning apart from the text, which is not read and would be lost"
        how = "Put it into content with the marks that your model uses for it, or leave it out"
        return RowError(f"{where}.{key}", what, how)
    known = ", ".join(sorted(_MESSAGE_KEYS))
    return RowError(f"{where}.{key}", "is not a field that is read, and would be lost", f"Known here: {known}")


def _weight(message: Json, role: str, where: str) -> Json:
    """Whether a message is a target, from OpenAI's `weight` (0: an assistant message is context) or our `trained`."""
    value, trained = message.get("weight"), message.get("trained")
    if trained is not None:
        if not isinstance(trained, bool) or (value is not None and bool(value) != trained):
            what = f"expected true or false, in agreement with weight, found {shown(trained)}"
            raise RowError(f"{where}.trained", what, "Write true or false, and leave weight out")
        return {} if trained else {"trained": False}
    if value is None or (value == 1 and role == "assistant"):
        return {}
    if value == 0 and role == "assistant":
        return {"trained": False}
    what = f"expected 0 or 1 on an assistant message, found {shown(value)} on a {role} one"
    raise RowError(f"{where}.weight", what, "Give 0 for context only, 1 for a target, on assistant messages alone")


def frozen(dialog: Sequence[Json], where: str) -> Messages:
    """Messages of the row classes. Raises RowError naming `where` and the message's field."""
    found = []
    for turn, message in enumerate(dialog):
        try:
            found.append(Message.model_validate(message))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, (f"{where}[{turn}]", *first["loc"])))
            raise RowError(field, first["msg"].removeprefix("Value error, "), "See Message in align/rows.py") from None
    return tuple(found)


def completion_of(dialog: Sequence[Json], where: str) -> Messages:
    """The messages of one answer. Raises RowError unless it begins and ends with the assistant."""
    if not dialog or dialog[0]["role"] != "assistant" or dialog[-1]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in dialog)
        what = f"expected messages that begin and end with the assistant, found {roles}"
        raise RowError(where, what, "Give the answer alone")
    return frozen(dialog, where)
