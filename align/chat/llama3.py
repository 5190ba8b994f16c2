"""Llama 3.1's dialog protocol.

    <|begin_of_text|><|start_header_id|>user<|end_header_id|>

    ...<|eot_id|><|start_header_id|>assistant<|end_header_id|>

    ...<|eot_id|>

Where Meta's documents and code differ we keep to the documents: `<|python_tag|>` opens every built-in call, not the
code interpreter's alone. Contents are written as they are, and nothing is put into the system message: the environment,
tools and dates that it names are the row's.

Source: meta-llama/llama-models, models/llama3_1/prompt_format.md and models/llama3/chat_format.py; for custom
functions, the chat template shipped with Llama 3.1 Instruct.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from align.chat.calls import ParsedCalls, json_text, parse_calls, render_call
from align.chat.protocol import ChatProtocol, Piece, TokenKind
from align.chat.templates import LLAMA3
from align.errors import RowError
from align.rows import Message, ToolCall, ToolSpec, tools_of

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

TOOLS_BEFORE = (
    "Given the following functions, please respond with a JSON for a function call with its proper arguments that best "
    'answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of argument '
    "name and its value}.Do not use variables.\n\n"
)

_SEARCH_CALL = re.compile(r'\s*(?P<name>brave_search|wolfram_alpha)\.call\(query="(?P<query>.*)"\)\s*', re.DOTALL)


class Llama3(ChatProtocol):
    """Role names stand between header tokens; `<|eot_id|>` hands over, `<|eom_id|>` waits for a built-in tool's output.

    A message holds at most one call. Custom functions are offered in the first user message.
    """

    name = "llama3"
    chat_template = LLAMA3
    marks = (BEGIN, START_HEADER, END_HEADER, END_OF_TURN, END_OF_MESSAGE, PYTHON_TAG)

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__(tokenizer)
        self._begin, self._start, self._end, self._eot, self._eom, self._python = map(self._control_id, self.marks)
        end_of_text = self._optional_control_id("<|end_of_text|>")
        self.stop_ids = (self._eot, self._eom) if end_of_text is None else (self._eot, self._eom, end_of_text)
        pads = (self._optional_control_id("<|finetune_right_pad_id|>"), tokenizer.pad_token_id, self.stop_ids[-1])
        self.pad_id = next(pad for pad in pads if pad is not None)
        self._separator = self._text_ids(["\n\n"])[0]

    def parse_calls(self, ids: Sequence[int]) -> ParsedCalls:
        """After `<|python_tag|>` stands a built-in or JSON call, else code; without the tag a JSON call or search."""
        ids = self._until_stop(ids)
        if self._python in ids:
            position = ids.index(self._python)
            return _tagged(self.text(ids[:position]), self.text(ids[position + 1 :]))
        text = self.text(ids)
        search = _SEARCH_CALL.fullmatch(text)
        return ParsedCalls((_search(search),), "") if search else parse_calls(text, "json")

    def _pieces(self, messages: Sequence[Message], tools: str, open_assistant: bool) -> Iterator[Piece]:
        offer = offer_text(tools_of(tools))
        if offer and not any(message.role == "user" for message in messages):
            raise RowError(
                "messages",
                "hold no user message, and Llama 3 offers functions in the first one",
                "Add a user message, or leave `tools` empty",
            )
        built_in = has_environment(messages)
        yield Piece(TokenKind.BEGIN, -1, ids=(self._begin,))
        for turn, message in enumerate(messages):
            yield Piece(TokenKind.HEADER, turn, ids=self._header(message.role))
            if message.tool_calls:
                yield from self._call(message, turn, built_in)
                continue
            content = message.content
            if offer and message.role == "user":
                content, offer = offer + content, ""
            yield Piece(TokenKind.TOOL_OUTPUT if message.role == "tool" else TokenKind.CONTENT, turn, text=content)
            yield Piece(TokenKind.TERMINATOR, turn, ids=(self._eot,))
        if open_assistant:
            yield Piece(TokenKind.HEADER, len(messages), ids=self._header("assistant"))

    def _call(self, message: Message, turn: int, built_in: bool) -> Iterator[Piece]:
        if len(message.tool_calls) > 1:
            raise RowError(
                f"messages[{turn}].tool_calls",
                f"Llama 3.1 makes one call a message, found {len(message.tool_calls)}",
                "Give each call a message of its own, followed by its tool output",
            )
        call = message.tool_calls[0]
        body = built_in_text(call) if built_in else None
        if body is None:
            custom = render_call(call, "json")
            text = f"{message.content}\n{custom}" if message.content else custom
            yield Piece(TokenKind.CONTENT, turn, text=text)
            yield Piece(TokenKind.TERMINATOR, turn, ids=(self._eot,))
            return
        yield Piece(TokenKind.CONTENT, turn, text=message.content)
        yield Piece(TokenKind.CONTENT, turn, ids=(self._python,))
        yield Piece(TokenKind.CONTENT, turn, text=body)
        yield Piece(TokenKind.TERMINATOR, turn, ids=(self._eom,))

    def _header(self, role: str) -> tuple[int, ...]:
        if role not in self._header_cache:
            name = self._text_ids(["ipython" if role == "tool" else role])[0]
            self._header_cache[role] = (self._start, *name, self._end, *self._separator)
        return self._header_cache[role]


def has_environment(messages: Sequence[Message]) -> bool:
    """Whether the system message turns the built-in tools on."""
    if not messages or messages[0].role != "system":
        return False
    return any(line.strip() == ENVIRONMENT for line in messages[0].content.split("\n"))


def built_in_text(call: ToolCall) -> str | None:
    """What stands between `<|python_tag|>` and `<|eom_id|>` for a call of a built-in tool; None for any other call."""
    arguments = call.parsed()
    wanted = "query" if call.name in SEARCHES else "code" if call.name == CODE_INTERPRETER else None
    if wanted is None or list(arguments) != [wanted] or not isinstance(arguments[wanted], str):
        return None
    return arguments["code"] if wanted == "code" else f'{call.name}.call(query="{arguments["query"]}")'


def offer_text(tools: Sequence[ToolSpec]) -> str:
    """What is put before the first user message to offer functions. Empty for none."""
    if not tools:
        return ""
    schemas = ({"type": "function", "function": tool.model_dump()} for tool in tools)
    return TOOLS_BEFORE + "".join(json_text(schema, indent=4) + "\n\n" for schema in schemas)


def _tagged(before: str, body: str) -> ParsedCalls:
    """What a message with `<|python_tag|>` says, in the order of Meta's parser: JSON, search, code."""
    if body.lstrip().startswith("{"):
        custom = parse_calls(body.lstrip(), "json")
        if custom.calls:
            return ParsedCalls(custom.calls, before)
        if custom.malformed:
            return ParsedCalls((), before + body, custom.malformed)
    search = _SEARCH_CALL.fullmatch(body)
    if search:
        return ParsedCalls((_search(search),), before)
    if not body:
        return ParsedCalls((), before, f"nothing follows {PYTHON_TAG}")
    return ParsedCalls((ToolCall(name=CODE_INTERPRETER, arguments=json_text({"code": body})),), before)


def _search(match: re.Match[str]) -> ToolCall:
    return ToolCall(name=match["name"], arguments=json_text({"query": match["query"]}))
