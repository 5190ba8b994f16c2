r"""Tool calls as text, both ways: what an assistant writes to make a call, and the calls found in what a model wrote.

    hermes        <tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>    several a message
    json          {"name": "f", "parameters": {"a": 1}}                              one a message
    function_tag  <function=f>{"a": 1}</function>                                    one a message
    python_list   [f(a=1), g()]                                                      several a message

Rendered calls are parsed again before they are returned. A call that a syntax cannot express is therefore an error and
is never changed. Control tokens around a call and Llama's built-in tools are left to `align/chat/llama3.py`, and the
prompts that list functions to `align/chat/tool_prompts.py`.

The parsers separate calls, malformed calls and plain text. Examples, each with what it is read as:

    hermes        Wait.\n<tool_call>{"name": "f", "arguments": {}}</tool_call>       a call, after the text "Wait."
                  <tool_call>{"name": "f"}</tool_call>                              malformed: no arguments
                  {"name": "f", "arguments": {}}                                    malformed: the json syntax
    json          {"name": "f", "parameters": {"a": 1}}                             a call
                  {"name": "f", "parameters": {"a"                                  malformed: broken off
                  {"name": "Ada", "born": 1815}                                     text: no parameters, so it is data
    function_tag  <function=f>{"a": 1}</function>                                   a call
                  <function=f>{"a": 1}</function> Done.                             malformed: text follows the call
    python_list   [f(a=1), g()]                                                     two calls
                  [f(1)]                                                            malformed: an argument has no name
                  [1, 2]                                                            text: no call in the list

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

# Where a call may begin: at the start of a line. The lookahead leaves the call itself unread, so `match.end()` is
# the position of its bracket.
#   _LINE_WITH_OBJECT   'Wait.\n  {"name"'   matches the two spaces before the brace; '{1: 2}' and 'a {"b"' do not match
#   _LINE_WITH_LIST     '[f(a=1)]', '[math.sqrt(x=2)]', but not '[1, 2]' and not '[see (1)' after other words
_LINE_WITH_OBJECT = re.compile(r'^[ \t]*(?=\{\s*")', re.MULTILINE)
_LINE_WITH_LIST = re.compile(r"^[ \t]*(?=\[\s*[^\W\d][\w.]* *\()", re.MULTILINE)
# An object that was going to be a call, although the text ends too early: '{"name": "f", "par'
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
    """What an assistant's text contains."""

    calls: tuple[ToolCall, ...]
    text: str
    """The text around the calls; the whole text if it contains no call."""
    malformed: str | None = None
    """Why something that looks like a call cannot be parsed. `calls` is then empty, even if others are well-formed."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """One way to write calls as text."""

    render: Callable[[Sequence[ToolCall]], list[Part]]
    """Raises ValueError if the syntax cannot express a call."""
    parse: Callable[[str], ParsedCalls]
    parallel: bool
    """Whether one message may contain several calls."""


def render_calls(calls: Sequence[ToolCall], syntax: CallSyntax, content: str = "") -> str:
    """The text of a message: its content, a line break, and its calls. See `call_parts`."""
    return joined([Part(content), *call_parts(calls, syntax, content)])


def call_parts(calls: Sequence[ToolCall], syntax: CallSyntax, content: str = "") -> list[Part]:
    """What follows the content of a message: the calls, after a line break if the content is not empty.

    Arguments are written from their values, so equal calls give equal text whatever the spacing of their JSON was.
    Raises ValueError if the text would not be parsed as the same calls again.
    """
    if not calls:
        return []
    form = SYNTAXES[syntax]
    if len(calls) > 1 and not form.parallel:
        raise ValueError(f"the {syntax} syntax allows one call per message, found {len(calls)}")
    written = form.render(calls)
    if content:
        written.insert(0, Part("\n"))
    found = form.parse(content + joined(written))
    if found.text != content or not same_calls(found.calls, calls):
        why = found.malformed or f"it is parsed as {len(found.calls)} call(s) that differ"
        raise ValueError(f"the {syntax} syntax cannot express this message: {why}")
    return written


def joined(parts: Sequence[Part]) -> str:
    return parts[0].text if len(parts) == 1 else "".join([part.text for part in parts])


def parse_calls(text: str, syntax: CallSyntax = "hermes") -> ParsedCalls:
    """The calls in an assistant's text, and the text without them.

    Edge: if one call is malformed, or written in another syntax than `syntax`, the whole message counts as text, with
        the reason in `malformed`. A JSON object that is not an attempt at a call, such as an answer about data, is
        plain text.
    """
    found = SYNTAXES[syntax].parse(text)
    if found.calls or found.malformed:
        return found
    for other, form in SYNTAXES.items():
        if other != syntax:
            strange = form.parse(text)
            # A line such as "[f(x)" is a call only where it reads as one: mathematics writes it too.
            if strange.calls or (strange.malformed and other != "python_list"):
                return ParsedCalls((), text, f"looks like a call in the {other} syntax, expected {syntax}")
    return found


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON for the tokenizer. Unicode is not escaped, except lone surrogates, which no tokenizer accepts.

    Raises ValueError for infinities and NaN, which JSON does not have.
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
            # The object is decoded and its end not searched for, because an argument may contain the closing tag:
            #   <tool_call>{"name": "say", "arguments": {"text": "</tool_call>"}}</tool_call>
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
        # "Extra data": an object is complete and text follows it, as in '{"name": "Ada"} was a poet', which is no
        # call. An object that breaks off after its name, as '{"name": "f", "par', was going to be a call.
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
        many = "the function_tag syntax allows one call per message" if TAG_OPEN in rest else "text follows the call"
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
            raise ValueError("expected one list of calls up to the end")
        calls = tuple(map(_call_from_python, found.elts))
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:  # the last two: too deep for the parser
        why = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        return ParsedCalls((), text, f"the list holds no calls: {why}")
    return ParsedCalls(calls, text[: match.start()].removesuffix("\n"))


def _call_from_python(node: ast.expr) -> ToolCall:
    """A call from its syntax tree. Nothing is evaluated: a value must be a literal; tuples become lists.

    Raises ValueError with the reason if it is not a call.
    """
    if not isinstance(node, ast.Call):
        raise ValueError(f"expected a call, found {ast.unparse(node)[:80]!r}")
    name = ast.unparse(node.func)
    if not all(map(_is_name, name.split("."))):
        raise ValueError(f"expected a function's name, found {name[:80]!r}")
    if node.args:
        raise ValueError(f"expected every argument of {name} by name, found {ast.unparse(node.args[0])[:80]!r}")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        try:
            value = ast.literal_eval(keyword.value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"an argument of {name} is no literal: {error}") from None
        given = {keyword.arg: value} if keyword.arg is not None else value
        if not isinstance(given, dict):
            raise ValueError(f"expected argument names and values after ** in {name}, found {str(given)[:80]!r}")
        if arguments.keys() & given.keys():
            raise ValueError(f"an argument of {name} is given twice")
        arguments.update(given)
    _check_json(arguments, name)
    return ToolCall(name=name, arguments=json_text(arguments))


def _check_json(value: Any, name: str) -> None:
    """Refuse Python literals that JSON does not have: bytes, sets, complex numbers, keys that are not text."""
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise ValueError(f"expected text for the keys in the arguments of {name}, found {key!r}")
            _check_json(each, name)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_json(each, name)
    elif value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"JSON has no {type(value).__name__}, found {str(value)[:80]!r} in the arguments of {name}")


def _call_from(found: Any) -> ToolCall:
    """A call from decoded JSON. `arguments` and `parameters` mean the same, because models confuse them.

    Raises ValueError with the reason if it is not a call.
    """
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found {str(found)[:80]!r}")
    name = found.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"expected the function's name as text under 'name', found {name!r}")
    arguments = found.get("arguments", found.get("parameters"))
    if isinstance(arguments, str):
        arguments = _DECODER.decode(arguments)
    if not isinstance(arguments, dict):
        raise ValueError(f"expected an object of arguments for {name}, found {str(arguments)[:80]!r}")
    return ToolCall(name=name, arguments=json_text(arguments))


def same_calls(found: Sequence[ToolCall], expected: Sequence[ToolCall]) -> bool:
    """Whether two lists of calls are equal as JSON text. As Python values, 1, 1.0 and True would be equal."""
    return [(call.name, json_text(call.parsed())) for call in found] == [
        (call.name, json_text(call.parsed())) for call in expected
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
