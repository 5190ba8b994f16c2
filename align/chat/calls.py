"""Tool calls as text, both ways: what an assistant writes to make a call, and the calls found in what a model wrote.

Two syntaxes: `hermes` (ChatML models) and `json` (Llama 3.1's custom functions). Control tokens around a call, and
Llama's built-in tools, are the protocol's affair (`align/chat/llama3.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from align.rows import ToolCall

CallSyntax = Literal["hermes", "json"]

HERMES_OPEN = "<tool_call>"
HERMES_CLOSE = "</tool_call>"

_DECODER = json.JSONDecoder()
_LINE_WITH_OBJECT = re.compile(r'^\{(?=\s*")', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ParsedCalls:
    """What stands in an assistant's text."""

    calls: tuple[ToolCall, ...]
    text: str
    """The text around the calls; all of the text where nothing could be read as a call."""
    malformed: str | None = None
    """Why something that looks like a call is none. There are no calls then, not even the well-formed ones."""


def render_call(call: ToolCall, syntax: CallSyntax) -> str:
    """The text of one call.

    Arguments are written anew from their values, so equal calls give equal text however their JSON was spaced.
    Source: `hermes`, NousResearch/Hermes-Function-Calling; `json`, the chat template shipped with Llama 3.1 Instruct.
    """
    if syntax == "hermes":
        body = json_text({"name": call.name, "arguments": call.parsed()})
        return f"{HERMES_OPEN}\n{body}\n{HERMES_CLOSE}"
    return json_text({"name": call.name, "parameters": call.parsed()})


def render_calls(calls: Sequence[ToolCall], syntax: CallSyntax) -> str:
    """The text of calls made in one message, a line break between them. The `json` syntax holds one call a message."""
    assert syntax == "hermes" or len(calls) <= 1
    return "\n".join(render_call(call, syntax) for call in calls)


def parse_calls(text: str, syntax: CallSyntax = "hermes") -> ParsedCalls:
    """The calls in an assistant's text, and the text without them.

    Edge: one malformed call makes the whole message text, with the reason in `malformed`. A JSON object that is no
        attempt at a call (an answer about data, say) is plain text.
    """
    return _parse_hermes(text) if syntax == "hermes" else _parse_json(text)


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON as the tokenizer shall see it: unicode as it is, save half characters, which no tokenizer takes."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, legal in JSON's escapes
        return json.dumps(value, indent=indent)
    return text


def _parse_hermes(text: str) -> ParsedCalls:
    calls = []
    around = []
    position = 0
    while (start := text.find(HERMES_OPEN, position)) != -1:
        around.append(text[position:start])
        try:
            # The object is decoded, not searched for: an argument may hold the closing tag as text.
            found, end = _DECODER.raw_decode(text, _after_space(text, start + len(HERMES_OPEN)))
            calls.append(_call_from(found))
        except (ValueError, RecursionError) as error:
            return ParsedCalls((), text, f"{HERMES_OPEN} holds no call: {error}")
        end = _after_space(text, end)
        if not text.startswith(HERMES_CLOSE, end):
            return ParsedCalls((), text, f"{HERMES_OPEN} is not closed by {HERMES_CLOSE} after its JSON object")
        position = end + len(HERMES_CLOSE)
    if not calls:
        return ParsedCalls((), text)
    rest = [part.strip() for part in [*around[1:], text[position:]]]
    return ParsedCalls(tuple(calls), "\n".join(filter(None, [around[0].removesuffix("\n"), *rest])))


def _parse_json(text: str) -> ParsedCalls:
    match = _LINE_WITH_OBJECT.search(text)
    if match is None:
        return ParsedCalls((), text)
    before, body = text[: match.start()], text[match.start() :]
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        attempt = '"name"' in body and ('"parameters"' in body or '"arguments"' in body)
        return ParsedCalls((), text, f"the call is not one JSON object up to the end: {error}" if attempt else None)
    if not (found.get("type") == "function" or "parameters" in found or "arguments" in found or set(found) == {"name"}):
        return ParsedCalls((), text)
    try:
        call = _call_from(found)
    except ValueError as error:
        return ParsedCalls((), text, str(error))
    return ParsedCalls((call,), before.removesuffix("\n"))


def _call_from(found: Any) -> ToolCall:
    """A call from decoded JSON; models mix up `arguments` and `parameters`, and either is understood.

    Raises ValueError saying what is amiss.
    """
    if not isinstance(found, dict):
        raise ValueError(f"wanted a JSON object, found {str(found)[:80]!r}")
    name = found.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"wanted the function's name as text under 'name', found {name!r}")
    arguments = found.get("arguments", found.get("parameters"))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError(f"wanted an object of arguments for {name}, found {str(arguments)[:80]!r}")
    return ToolCall(name=name, arguments=json_text(arguments))


def _after_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position
