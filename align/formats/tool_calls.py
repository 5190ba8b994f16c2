"""Calls and functions as other toolkits write them down: OpenAI, ShareGPT, xLAM, and Glaive's dialogs, which are text.

Whole records are `align/formats/rows.py`; BFCL's are `align/formats/bfcl.py`.
"""

from __future__ import annotations

import json
import re
from itertools import takewhile
from typing import Any

from align.errors import RowError
from align.formats.columns import SYSTEM, Columns, shown
from align.rows import arguments_text, strict_json, tools_of, tools_text

Json = dict[str, Any]

GLAIVE_CALL = "<functioncall>"
GLAIVE_END = "<|endoftext|>"
GLAIVE_ROLES = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}

# A dialog of Glaive is one text: "USER: Hi\n\n\nASSISTANT: <functioncall> {...} <|endoftext|>\n\n\nUSER: ..."
#   _GLAIVE_TURN    a speaker at the beginning, after a line break, or directly after <|endoftext|>; `split` returns
#                   ["", "USER", " Hi", "ASSISTANT", " <functioncall> {...} <|endoftext|>", "USER", " ..."]
#   _GLAIVE_OFFER   ", with access to the following functions. Use them if required -" and all that follows it
#   _GLAIVE_QUOTED  {"name": "f", "arguments": '{"a": "it\'s"}'}: JSON, except that the arguments are in single quotes
_GLAIVE_TURN = re.compile(r"(?:\A|\n|(?<=<\|endoftext\|>))\s*(USER|ASSISTANT|FUNCTION RESPONSE):")
_GLAIVE_OFFER = re.compile(r",? with access to the following functions\..*", re.DOTALL)
_GLAIVE_QUOTED = re.compile(r"""(\{\s*"name"\s*:\s*"[^"]+"\s*,\s*"arguments"\s*:\s*)'(.*)'\s*\}""", re.DOTALL)
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_LENIENT = json.JSONDecoder(strict=False)
"""Takes line breaks inside strings, as Glaive's texts have them."""


_XLAM_TYPES = {
    **dict.fromkeys(("str", "string"), "string"),
    **dict.fromkeys(("int", "integer"), "integer"),
    **dict.fromkeys(("float", "number", "complex"), "number"),
    **dict.fromkeys(("bool", "boolean"), "boolean"),
    **dict.fromkeys(("list", "tuple", "set", "array"), "array"),
    **dict.fromkeys(("dict", "object"), "object"),
}
"""The first word of xLAM's type of an argument, such as `List[int]` -> JSON schema's type."""


def xlam_fields(columns: Columns) -> Json:
    """`prompt`, `calls` and `tools` from xLAM's `query`, `answers` and `tools`, which are JSON in strings.

    xLAM's `parameters` are the properties alone, with Python's names of types: `{"x": {"type": "int, optional"}}`.
    Source: Salesforce/xlam-function-calling-60k.
    """
    query, where = columns.take("query"), columns.place("answers")
    calls = written_calls(columns.take("answers"), where)
    place = columns.place("tools")
    schemas = _json_in(columns.take("tools"), place)
    if not isinstance(schemas, list):
        raise RowError(place, f"expected a JSON list of functions, found {shown(schemas)}", "Write a list")
    tools = tools_field([_xlam_schema(schema) for schema in schemas], place)
    return {"prompt": query, "calls": calls, "tools": tools}


def _xlam_schema(schema: Any) -> Any:
    """A function with its parameters as a JSON schema; one that has it already stays as it is."""
    parameters = schema.get("parameters") if isinstance(schema, dict) else None
    if not isinstance(parameters, dict) or isinstance(parameters.get("properties"), dict):
        return schema
    if not all(isinstance(given, dict) for given in parameters.values()):
        return schema
    properties, required = {}, []
    for name, given in parameters.items():
        kind = str(given.get("type", "str"))
        first = (re.match(r"\w+", kind) or ["str"])[0].lower()
        properties[name] = {**given, "type": _XLAM_TYPES.get(first, "string")}
        if "optional" not in kind.lower() and "default" not in given:
            required.append(name)
    made = {"type": "object", "properties": properties, **({"required": required} if required else {})}
    return {**schema, "parameters": made}


def _json_in(value: Any, where: str) -> Any:
    try:
        return strict_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise RowError(where, f"is not JSON ({error}): {shown(value)}", "Write it as JSON") from None


def glaive_dialog(columns: Columns) -> Json:
    """`messages` and `tools` of a row, from Glaive's `system` and `chat`.

    The words that introduce the functions are taken out of the system message: a protocol has its own.
    Source: glaiveai/glaive-function-calling-v2.
    """
    where, name = columns.where, columns.first(SYSTEM) or "system"
    system, chat = columns.take(name) or "", columns.take("chat")
    for field, value in ((name, system), ("chat", chat)):
        if not isinstance(value, str):
            raise RowError(f"{where}: {field}", f"expected text, found {shown(value)}", "Write it as text")
    said, tools = _glaive_system(system, f"{where}: {name}")
    before, *parts = _GLAIVE_TURN.split(chat)
    if before.strip() or not parts:
        raise RowError(
            f"{where}: chat",
            f"expected text that begins with USER: or ASSISTANT:, found {shown(chat)}",
            "Begin each turn on a line of its own with USER:, ASSISTANT: or FUNCTION RESPONSE:",
        )
    dialog: list[Json] = [{"role": "system", "content": said}] if said else []
    for turn, (speaker, text) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        content = text.strip().removesuffix(GLAIVE_END).strip()
        message = {"role": GLAIVE_ROLES[speaker], "content": content}
        if speaker == "ASSISTANT" and GLAIVE_CALL in content:
            spoken, *calls = content.split(GLAIVE_CALL)
            made = [_glaive_call(call.strip(), f"{where}: chat[{turn}]") for call in calls]
            message |= {"content": spoken.strip(), "tool_calls": made}
        dialog.append(message)
    return {"messages": named_outputs(dialog), "tools": tools}


def named_outputs(dialog: list[Json]) -> list[Json]:
    """The dialog with names on the outputs of tools, where as many of them follow as calls were made."""
    named: list[Json] = []
    waiting: list[str] = []
    for place, message in enumerate(dialog):
        if message["role"] != "tool":
            waiting = [call["name"] for call in message.get("tool_calls", ())]
            outputs = list(takewhile(lambda after: after["role"] == "tool", dialog[place + 1 :]))
            if len(outputs) != len(waiting):
                waiting = []
        elif waiting:
            message = {"name": waiting.pop(0), **message}
        named.append(message)
    return named


def call_fields(value: Any, where: str, calls: dict[str, str], written: bool = False) -> Json:
    """A `ToolCall`'s fields, from OpenAI's call or one that is bare.

    calls: names of the functions called so far by the calls' ids; added to.
    written: the call was JSON in a text, where a null is one that somebody wrote; elsewhere it means absent.
    """
    call = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise RowError(where, f"expected a call with a function's name, found {shown(value)}", "Name the function")
    if isinstance(value.get("id"), str):
        calls[value["id"]] = call["name"]
    arguments = call.get("arguments", call.get("parameters"))
    return {"name": call["name"], "arguments": _arguments(arguments, f"{where}.arguments", written)}


def written_calls(value: Any, where: str) -> list[Json]:
    """Calls from a ShareGPT `function_call`: JSON text of one call or a list of calls."""
    try:
        found = strict_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise RowError(where, f"is not JSON ({error}): {shown(value)}", "Write the call as a JSON object") from None
    found = found if isinstance(found, list) else [found]
    return [call_fields(call, where, {}, isinstance(value, str)) for call in found if call is not None]


def called_name(call_id: Any, where: str, calls: dict[str, str]) -> str | None:
    """The function whose call an OpenAI tool message answers."""
    if call_id is None or not calls:
        return None
    if call_id not in calls:
        known = ", ".join(calls)
        raise RowError(f"{where}.tool_call_id", f"{call_id!r} answers no call made before it", f"Calls so far: {known}")
    return calls[call_id]


def tools_field(value: Any, where: str) -> str:
    """The functions offered, as a row's `tools`, from JSON text or a list of schemas."""
    if not value:
        return ""
    try:
        text = value if isinstance(value, str) else json.dumps(_without_nulls(value), allow_nan=False)
        return tools_text(tools_of(text))
    except ValueError as error:
        raise RowError(where, str(error), "Write a JSON list of function schemas") from None


def _glaive_system(text: str, where: str) -> tuple[str, str]:
    """What the system message says in addition to the functions, and a row's `tools`."""
    text = text.strip().removeprefix("SYSTEM:").strip()
    start = text.find("{")
    if start == -1:
        return text, ""
    functions = []
    position = start
    while position < len(text):
        try:
            found, position = _LENIENT.raw_decode(text, position)
        except ValueError as error:
            what = f"holds a function that is not JSON ({error}): {shown(text[position:])}"
            raise RowError(where, what, "Write each function as a JSON object") from None
        functions.append(found)
        position += len(text[position:]) - len(text[position:].lstrip(" \t\r\n,"))
    said = _GLAIVE_OFFER.sub(".", text[:start].strip())
    return said, tools_field(functions, where)


def _glaive_call(text: str, where: str) -> Json:
    """A call whose arguments are JSON in single quotes, or plain JSON as some rows have it."""
    quoted = _GLAIVE_QUOTED.fullmatch(text)
    try:
        if quoted is None:
            call = _LENIENT.decode(text)
        else:
            call = _LENIENT.decode(quoted[1] + "null}")
            arguments = _ESCAPE.sub(lambda found: "'" if found[0] == r"\'" else found[0], quoted[2])
            call["arguments"] = _LENIENT.decode(arguments)
    except ValueError as error:
        what = f"holds {GLAIVE_CALL} with a call that is not JSON ({error}): {shown(text)}"
        raise RowError(where, what, """Write {"name": "f", "arguments": '{"a": 1}'}""") from None
    return call_fields(call, where, {}, written=True)


def _arguments(value: Any, where: str, written: bool) -> str:
    """Arguments as a JSON object in text, from such a text or an object; none, or an empty text, is no arguments."""
    if value is None or value == "":
        return "{}"
    try:
        found = strict_json(value) if isinstance(value, str) else value
        if isinstance(found, dict):
            if isinstance(value, str):
                return value
            return json.dumps(value, ensure_ascii=False, allow_nan=False) if written else arguments_text(value)
    except ValueError as error:
        raise RowError(where, f"is not JSON ({error}): {shown(value)}", "Write arguments as a JSON object") from None
    raise RowError(where, f"expected a JSON object, found {shown(value)}", "Write arguments as a JSON object")


def _without_nulls(value: Any) -> Any:
    """A schema without the nulls with which Arrow fills up missing keys; `default` and `const` may mean theirs."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item is not None or key in ("default", "const")}
        return {key: _without_nulls(item) for key, item in kept.items()}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item is not None]
    return value
