r"""Tool calls as text, both ways: what an assistant writes to make a call, and the calls found in what a model wrote.

    hermes        <tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>    several a message
    json          {"name": "f", "parameters": {"a": 1}}                              one a message
    function_tag  <function=f>{"a": 1}</function>                                    one a message
    python_list   [f(a=1), g()]                                                      several a message

What is written is read back before it is given out, so a call that a syntax cannot hold is refused and never bent.
Control tokens around a call, and Llama's built-in tools, are the protocol's affair (`align/chat/llama3.py`); how
functions are offered is `align/chat/tool_prompts.py`.

Source: hermes, NousResearch/Hermes-Function-Calling; json, the chat template shipped with Llama 3.1 Instruct;
function_tag, meta-llama/llama-models, models/llama3_1/prompt_format.md; python_list, the same, models/llama3_2.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, Literal, NamedTuple
from unicodedata import normalize

from align.rows import ToolCall

CallSyntax = Literal["hermes", "json", "function_tag", "python_list"]

HERMES_OPEN = "<tool_call>"
HERMES_CLOSE = "</tool_call>"
TAG_OPEN = "<function="
TAG_CLOSE = "</function>"

_LINE_WITH_OBJECT = re.compile(r'^[ \t]*(?=\{\s*")', re.MULTILINE)
_LINE_WITH_LIST = re.compile(r"^[ \t]*(?=\[\s*[^\W\d][\w.]* *\()", re.MULTILINE)
_OBJECT_BEGUN = re.compile(r'\{\s*("name"\s*:|"type"\s*:\s*"function")')
_NAME_KEY = re.compile(r"""["']name["']\s*:""")
_ARGUMENTS_KEY = re.compile(r"""["'](parameters|arguments)["']\s*:""")
_TAG_NAME = re.compile(r"[^<>{}\s]+")


class Part(NamedTuple):
    """A stretch of a message's text."""

    text: str
    own: bool = False
    """Written by the protocol, the assistant or the system message, so that markers such as `<tool_call>` and `<think>`
    in it are the tokenizer's own tokens. In any other text they were typed, and stay text."""


@dataclass(frozen=True, slots=True)
class ParsedCalls:
    """What stands in an assistant's text."""

    calls: tuple[ToolCall, ...]
    text: str
    """The text around the calls; all of the text where nothing could be read as a call."""
    malformed: str | None = None
    """Why something that looks like a call is none. There are no calls then, not even the well-formed ones."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """One way to write calls down."""

    render: Callable[[Sequence[ToolCall]], list[Part]]
    """Raises ValueError where the syntax cannot hold a call."""
    parse: Callable[[str], ParsedCalls]
    parallel: bool
    """Whether one message holds several calls."""


def render_calls(calls: Sequence[ToolCall], syntax: CallSyntax, content: str = "") -> str:
    """The text of a message: its content, a line break, and its calls. See `call_parts`."""
    return joined([Part(content), *call_parts(calls, syntax, content)])


def call_parts(calls: Sequence[ToolCall], syntax: CallSyntax, content: str = "") -> list[Part]:
    """What follows the content of a message: a line break, where there is content, and the calls.

    Arguments are written from their values, so equal calls give equal text however their JSON was spaced.
    Raises ValueError where the syntax cannot hold the calls so that they are read back as they are.
    """
    if not calls:
        return []
    form = SYNTAXES[syntax]
    if len(calls) > 1 and not form.parallel:
        raise ValueError(f"the {syntax} syntax holds one call a message, found {len(calls)}")
    written = form.render(calls)
    if content:
        written.insert(0, Part("\n"))
    found = form.parse(content + joined(written))
    if found.text != content or not _same_calls(found.calls, calls):
        why = found.malformed or f"it is read back as {len(found.calls)} call(s) of another kind"
        raise ValueError(f"the {syntax} syntax cannot hold this message: {why}")
    return written


def joined(parts: Sequence[Part]) -> str:
    return parts[0].text if len(parts) == 1 else "".join([part.text for part in parts])


def parse_calls(text: str, syntax: CallSyntax = "hermes") -> ParsedCalls:
    """The calls in an assistant's text, and the text without them.

    Edge: one malformed call makes the whole message text, with the reason in `malformed`; so does a call in another
        syntax than the one wanted. A JSON object that is no attempt at a call (an answer about data, say) is plain
        text.
    """
    found = SYNTAXES[syntax].parse(text)
    if found.calls or found.malformed:
        return found
    for other, form in SYNTAXES.items():
        if other != syntax:
            strange = form.parse(text)
            # A line such as "[f(x)" is a call only where it reads as one: mathematics writes it too.
            if strange.calls or (strange.malformed and other != "python_list"):
                return ParsedCalls((), text, f"looks like a call in the {other} syntax, wanted {syntax}")
    return found


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON as the tokenizer shall see it: unicode as it is, save half characters, which no tokenizer takes.

    Raises ValueError for numbers that JSON has not: infinities and NaN.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, legal in JSON's escapes
        return json.dumps(value, indent=indent, allow_nan=False)
    return text


def _render_hermes(calls: Sequence[ToolCall]) -> list[Part]:
    parts: list[Part] = []
    for call in calls:
        body = json_text({"name": call.name, "arguments": call.parsed()})
        parts += [Part(f"{HERMES_OPEN}\n", own=True), Part(body), Part(f"\n{HERMES_CLOSE}", own=True), Part("\n")]
    return parts[:-1]


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
    around.append(text[position:])
    if any(HERMES_CLOSE in part for part in around):
        return ParsedCalls((), text, f"{HERMES_CLOSE} closes nothing")
    if not calls:
        return ParsedCalls((), text)
    rest = [part.strip() for part in around[1:]]
    return ParsedCalls(tuple(calls), "\n".join(filter(None, [around[0].removesuffix("\n"), *rest])))


def _render_json(calls: Sequence[ToolCall]) -> list[Part]:
    (call,) = calls
    return [Part(json_text({"name": call.name, "parameters": call.parsed()}))]


def _parse_json(text: str) -> ParsedCalls:
    match = _LINE_WITH_OBJECT.search(text)
    attempt = bool(_NAME_KEY.search(text) and _ARGUMENTS_KEY.search(text))
    if match is None:
        return ParsedCalls((), text, "the call is no JSON object on a line of its own" if attempt else None)
    before, body = text[: match.start()], text[match.end() :]
    try:
        found = _DECODER.decode(body)
    except (ValueError, RecursionError) as error:
        # An object of data may stand before more text; one that is broken off after a name was to be a call.
        attempt = attempt or ("Extra data" not in str(error) and bool(_OBJECT_BEGUN.match(body)))
        return ParsedCalls((), text, f"the call is not one JSON object up to the end: {error}" if attempt else None)
    if not (found.get("type") == "function" or "parameters" in found or "arguments" in found or set(found) == {"name"}):
        return ParsedCalls((), text)
    try:
        call = _call_from(found)
    except (ValueError, RecursionError) as error:
        return ParsedCalls((), text, str(error))
    return ParsedCalls((call,), before.removesuffix("\n"))


def _render_tag(calls: Sequence[ToolCall]) -> list[Part]:
    (call,) = calls
    if not _TAG_NAME.fullmatch(call.name):
        raise ValueError(f"a function_tag name holds no spaces, brackets or braces, found {call.name!r}")
    return [Part(TAG_OPEN, own=True), Part(f"{call.name}>{json_text(call.parsed())}"), Part(TAG_CLOSE, own=True)]


def _parse_tag(text: str) -> ParsedCalls:
    start = text.find(TAG_OPEN)
    if start == -1:
        return ParsedCalls((), text, f"{TAG_CLOSE} closes nothing" if TAG_CLOSE in text else None)
    name = _TAG_NAME.match(text, start + len(TAG_OPEN))
    if name is None or not text.startswith(">", name.end()):
        return ParsedCalls((), text, f"{TAG_OPEN} names no function")
    try:
        found, end = _DECODER.raw_decode(text, _after_space(text, name.end() + 1))
        call = _call_from({"name": name[0], "arguments": found})
    except (ValueError, RecursionError) as error:
        return ParsedCalls((), text, f"{TAG_OPEN}{name[0]}> holds no call: {error}")
    end = _after_space(text, end)
    if not text.startswith(TAG_CLOSE, end):
        return ParsedCalls((), text, f"{TAG_OPEN}{name[0]}> is not closed by {TAG_CLOSE} after its JSON object")
    rest = text[end + len(TAG_CLOSE) :]
    if rest.strip():
        many = "the function_tag syntax holds one call a message" if TAG_OPEN in rest else "text follows the call"
        return ParsedCalls((), text, f"{many}, found {rest.strip()[:80]!r}")
    return ParsedCalls((call,), text[:start].removesuffix("\n"))


def _render_python(calls: Sequence[ToolCall]) -> list[Part]:
    return [Part("[" + ", ".join(map(_python_call, calls)) + "]")]


def _python_call(call: ToolCall) -> str:
    if not all(map(_is_name, call.name.split("."))):
        raise ValueError(f"a python_list call needs a Python name for its function, found {call.name!r}")
    arguments = (
        # `from=1` is no Python; a mapping that is spread is.
        f"{name}={_literal(value)}" if name.isascii() and _is_name(name) else f"**{_literal({name: value})}"
        for name, value in call.parsed().items()
    )
    return f"{call.name}({', '.join(arguments)})"


def _literal(value: Any) -> str:
    """A JSON value as Python writes it; strings in double quotes, as Meta's encoder has them."""
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return text if text.isascii() or not any("\ud800" <= each <= "\udfff" for each in value) else repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(each)}" for key, each in value.items()) + "}"
    return repr(value)


def _is_name(text: str) -> bool:
    # Python reads names in NFKC, so a name in another form would come back as another name.
    return text.isidentifier() and not iskeyword(text) and (text.isascii() or normalize("NFKC", text) == text)


def _parse_python(text: str) -> ParsedCalls:
    match = _LINE_WITH_LIST.search(text)
    if match is None:
        return ParsedCalls((), text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # "\d" in a model's string
            found = ast.parse(text[match.end() :].strip(), mode="eval").body
        if not isinstance(found, ast.List):
            raise ValueError("wanted one list of calls up to the end")
        calls = tuple(map(_call_from_python, found.elts))
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:  # the last two: too deep for the parser
        why = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        return ParsedCalls((), text, f"the list holds no calls: {why}")
    return ParsedCalls(calls, text[: match.start()].removesuffix("\n"))


def _call_from_python(node: ast.expr) -> ToolCall:
    """A call from its syntax tree. Nothing is evaluated: values are literals or refused; tuples become lists.

    Raises ValueError saying what is amiss.
    """
    if not isinstance(node, ast.Call):
        raise ValueError(f"wanted a call, found {ast.unparse(node)[:80]!r}")
    name = ast.unparse(node.func)
    if not all(map(_is_name, name.split("."))):
        raise ValueError(f"wanted a function's name, found {name[:80]!r}")
    if node.args:
        raise ValueError(f"wanted every argument of {name} by name, found {ast.unparse(node.args[0])[:80]!r}")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        try:
            value = ast.literal_eval(keyword.value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"an argument of {name} is no literal: {error}") from None
        given = {keyword.arg: value} if keyword.arg is not None else value
        if not isinstance(given, dict):
            raise ValueError(f"wanted argument names and values after ** in {name}, found {str(given)[:80]!r}")
        if arguments.keys() & given.keys():
            raise ValueError(f"an argument of {name} is given twice")
        arguments.update(given)
    _check_json(arguments, name)
    return ToolCall(name=name, arguments=json_text(arguments))


def _check_json(value: Any, name: str) -> None:
    """Python has literals that JSON has not: bytes, sets, complex numbers, keys that are no text."""
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise ValueError(f"wanted text for the keys in the arguments of {name}, found {key!r}")
            _check_json(each, name)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_json(each, name)
    elif value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"JSON has no {type(value).__name__}, found {str(value)[:80]!r} in the arguments of {name}")


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
        arguments = _DECODER.decode(arguments)
    if not isinstance(arguments, dict):
        raise ValueError(f"wanted an object of arguments for {name}, found {str(arguments)[:80]!r}")
    return ToolCall(name=name, arguments=json_text(arguments))


def _same_calls(found: Sequence[ToolCall], wanted: Sequence[ToolCall]) -> bool:
    """Equal to the last digit: Python holds 1, 1.0 and True for the same, and their text tells them apart."""
    return [(call.name, json_text(call.parsed())) for call in found] == [
        (call.name, json_text(call.parsed())) for call in wanted
    ]


def _after_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)

SYNTAXES: dict[CallSyntax, Syntax] = {
    "hermes": Syntax(_render_hermes, _parse_hermes, parallel=True),
    "json": Syntax(_render_json, _parse_json, parallel=False),
    "function_tag": Syntax(_render_tag, _parse_tag, parallel=False),
    "python_list": Syntax(_render_python, _parse_python, parallel=True),
}
