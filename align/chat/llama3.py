"""Llama 3.1's dialog protocol.

    <|begin_of_text|><|start_header_id|>user<|end_header_id|>

    ...<|eot_id|><|start_header_id|>assistant<|end_header_id|>

    ...<|eot_id|>

Where Meta's documents and code differ we keep to the documents: `<|python_tag|>` opens every built-in call, not the
code interpreter's alone. Contents are written as they are, and nothing is put into the system message: the environment,
tools and dates that it names are the row's.

A built-in call ends in `<|eom_id|>`, because its output follows in the same turn. A custom call ends in `<|eot_id|>` in
every syntax, as the shipped template and the 3.2 document have it, though one JSON example of the 3.1 document shows
`<|python_tag|>{...}<|eom_id|>`: that form is read, and not written.

Source: meta-llama/llama-models, models/llama3_1/prompt_format.md and models/llama3/chat_format.py; for custom
functions, the chat template shipped with Llama 3.1 Instruct.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from align.chat.calls import SYNTAXES, TAG_OPEN, CallSyntax, ParsedCalls, Part, json_text, parse_calls
from align.chat.pieces import Piece, PieceProtocol
from align.chat.protocol import TokenKind
from align.chat.tool_prompts import with_tool_prompt
from align.errors import RowError
from align.rows import Message, ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BEGIN = "<|begin_of_text|>"
START_HEADER = "<|start_header_id|>"
END_HEADER = "<|end_header_id|>"
END_OF_TURN = "<|eot_id|>"
END_OF_MESSAGE = "<|eom_id|>"
PYTHON_TAG = "<|python_tag|>"

ENVIRONMENT = "Environment: ipython"
"""The line of a system message that turns the built-in tools on."""
SEARCHES = ("brave_search", "wolfram_alpha")
"""Built-in tools that take one `query`."""
CODE_INTERPRETER = "code_interpreter"
"""The built-in tool that takes `code`."""

# 'brave_search.call(query="Ada "the" Countess")' is one call: the greedy `.*` takes everything up to the last '")', so
# quotes in the query need no escape, as in Meta's parser. _SEARCH_BEGUN finds one that is broken off.
_SEARCH_CALL = re.compile(r'\s*(?P<name>brave_search|wolfram_alpha)\.call\(query="(?P<query>.*)"\)\s*', re.DOTALL)
_SEARCH_BEGUN = re.compile(r"\s*(brave_search|wolfram_alpha)\.call\(")


class Llama3(PieceProtocol):
    """Role names are between header tokens. `<|eot_id|>` ends a turn, `<|eom_id|>` waits for a built-in tool's output.

    A call of a built-in tool must be the only call of its message. A custom call ends the turn in every syntax.
    """

    name = "llama3"
    syntaxes = ("json", "function_tag", "python_list")
    begin = BEGIN
    marks = (BEGIN, START_HEADER, END_HEADER, END_OF_TURN, END_OF_MESSAGE, PYTHON_TAG)

    def __init__(self, tokenizer: PreTrainedTokenizerFast, syntax: CallSyntax | None = None) -> None:
        super().__init__(tokenizer, syntax)
        self._begin, self._start, self._end, self._eot, self._eom, self._python = map(self._control_id, self.marks)
        end_of_text = self._optional_control_id("<|end_of_text|>")
        self.terminators = (self._eot, self._eom)
        self.stop_ids = self.terminators if end_of_text is None else (*self.terminators, end_of_text)
        self.opening_id = self._start
        self._separator = self._text_ids("\n\n")

    def parse_calls(self, ids: Sequence[int]) -> ParsedCalls:
        """After `<|python_tag|>`: a built-in or JSON call, else code. Without the tag: a custom call or a search."""
        ids = self._until_stop(ids)
        if self._python in ids:
            position = ids.index(self._python)
            said = ids[position + 1 :]
            while said[:1] == [self._python]:  # a tag said twice is one
                said = said[1:]
            before, body = self.text(ids[:position]), self.text(said)
            if self._python in said:
                return ParsedCalls((), before + body, f"{PYTHON_TAG} occurs twice")
            return _tagged(before, body, self.syntax)
        text = self.text(ids)
        return _search(text) or parse_calls(text, self.syntax)

    def _pieces(self, messages: Sequence[Message], tools: str, open_assistant: bool) -> Iterator[Piece]:
        built_in = has_environment(messages)
        yield Piece(TokenKind.BEGIN, -1, ids=(self._begin,))
        for written in with_tool_prompt(messages, tools, self.syntax):
            turn, message = written.turn, written.message
            yield Piece(TokenKind.HEADER, turn, ids=self._header(message.role))
            if built_in and any(built_in_text(call) is not None for call in message.tool_calls):
                yield from self._built_in_call(message, turn)
                continue
            yield from self._said(written)
            yield Piece(TokenKind.TERMINATOR, turn, ids=(self._eot,))
        if open_assistant:
            yield Piece(TokenKind.HEADER, len(messages), ids=self._header("assistant"))

    def _built_in_call(self, message: Message, turn: int) -> Iterator[Piece]:
        if len(message.tool_calls) > 1:
            raise RowError(
                f"messages[{turn}].tool_calls",
                f"a built-in call must be the only call of its message, found {len(message.tool_calls)} calls",
                "Give each call a message of its own, followed by its tool output",
            )
        (call,) = message.tool_calls
        body = built_in_text(call)
        assert body is not None
        if _tagged("", body, self.syntax).calls != (ToolCall(name=call.name, arguments=json_text(call.parsed())),):
            raise RowError(
                f"messages[{turn}].tool_calls",
                f"what {call.name} is given would be read back as something else: {body[:80]!r}",
                "Drop the call, or write its text in another way",
            )
        yield from self._texts(TokenKind.CONTENT, turn, [Part(message.content, own=True)])
        yield Piece(TokenKind.CONTENT, turn, ids=(self._python,))
        yield from self._texts(TokenKind.CONTENT, turn, [Part(body)])
        yield Piece(TokenKind.TERMINATOR, turn, ids=(self._eom,))

    def _header(self, role: str) -> tuple[int, ...]:
        if role not in self._header_cache:
            name = self._text_ids("ipython" if role == "tool" else role)
            self._header_cache[role] = (self._start, *name, self._end, *self._separator)
        return self._header_cache[role]


def has_environment(messages: Sequence[Message]) -> bool:
    """Whether the system message turns the built-in tools on."""
    if not messages or messages[0].role != "system":
        return False
    return any(line.strip() == ENVIRONMENT for line in messages[0].content.split("\n"))


def built_in_text(call: ToolCall) -> str | None:
    """The text between `<|python_tag|>` and `<|eom_id|>` for a call of a built-in tool; None for any other call."""
    arguments = call.parsed()
    expected = "query" if call.name in SEARCHES else "code" if call.name == CODE_INTERPRETER else None
    if expected is None or list(arguments) != [expected] or not isinstance(arguments[expected], str):
        return None
    return arguments["code"] if expected == "code" else f'{call.name}.call(query="{arguments["query"]}")'


def _tagged(before: str, body: str, syntax: CallSyntax) -> ParsedCalls:
    """What a message with `<|python_tag|>` says, in the order of Meta's parser: custom call, search, code."""
    begins: dict[CallSyntax, str] = {"json": "{", "function_tag": TAG_OPEN, "python_list": "["}
    for custom, mark in begins.items():
        # A list is as good Python as any, unless lists are how calls are written.
        if body.lstrip().startswith(mark) and (custom != "python_list" or syntax == custom):
            found = SYNTAXES[custom].parse(body.lstrip())
            if found.calls or found.malformed:
                return ParsedCalls(found.calls, before if found.calls else before + body, found.malformed)
    search = _search(body)
    if search:
        return ParsedCalls(search.calls, before + search.text, search.malformed)
    if not body:
        return ParsedCalls((), before, f"nothing follows {PYTHON_TAG}")
    return ParsedCalls((ToolCall(name=CODE_INTERPRETER, arguments=json_text({"code": body})),), before)


def _search(text: str) -> ParsedCalls | None:
    """The search that a text is; None where it does not begin like one."""
    match = _SEARCH_CALL.fullmatch(text)
    if match:
        return ParsedCalls((ToolCall(name=match["name"], arguments=json_text({"query": match["query"]})),), "")
    if _SEARCH_BEGUN.match(text):
        return ParsedCalls((), text, 'a search is written NAME.call(query="..."), and nothing follows it')
    return None
