"""ChatML, as SmolLM2 and Qwen write it, with Hermes tool calls.

    <|im_start|>system
    ...<|im_end|>
    <|im_start|>user
    ...<|im_end|>
    <|im_start|>assistant
    ...<|im_end|>

The line break between two messages belongs to the later one's header, so a dialog ends with its terminator. No system
prompt is slipped in: what a row says is what the model reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from align.chat.calls import ParsedCalls, json_text, parse_calls, render_calls
from align.chat.protocol import ChatProtocol, Piece, TokenKind
from align.chat.templates import CHATML
from align.rows import Message, ToolSpec, tools_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

START = "<|im_start|>"
END = "<|im_end|>"

TOOLS_BEFORE = "You may call functions. Their signatures are within <tools></tools>:\n<tools>\n"
TOOLS_AFTER = (
    "\n</tools>\nTo call one, write a JSON object with its name and arguments within <tool_call></tool_call>:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


class ChatML(ChatProtocol):
    """Control tokens `<|im_start|>` and `<|im_end|>`; a role name and a line break open a message."""

    name = "chatml"
    chat_template = CHATML
    marks = (START, END)

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__(tokenizer)
        self._start = self._control_id(START)
        self._end = self._control_id(END)
        end_of_text = self._optional_control_id("<|endoftext|>")
        self.stop_ids = (self._end,) if end_of_text is None else (self._end, end_of_text)
        self.pad_id = self.stop_ids[-1] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._newline = tuple(self._text_ids(["\n"])[0])

    def parse_calls(self, ids: Sequence[int]) -> ParsedCalls:
        return parse_calls(self.text(self._until_stop(ids)), "hermes")

    def _pieces(self, messages: Sequence[Message], tools: str, open_assistant: bool) -> Iterator[Piece]:
        offer = offer_text(tools_of(tools))
        first = True
        if offer and not (messages and messages[0].role == "system"):
            yield Piece(TokenKind.HEADER, -1, ids=self._header("system", first))
            yield Piece(TokenKind.CONTENT, -1, text=offer)
            yield Piece(TokenKind.TERMINATOR, -1, ids=(self._end,))
            first, offer = False, ""
        for turn, message in enumerate(messages):
            content = message.content
            if turn == 0 and offer:
                content = f"{content}\n\n{offer}" if content else offer
            if message.tool_calls:
                calls = render_calls(message.tool_calls, "hermes")
                content = f"{content}\n{calls}" if content else calls
            yield Piece(TokenKind.HEADER, turn, ids=self._header(message.role, first))
            yield Piece(TokenKind.TOOL_OUTPUT if message.role == "tool" else TokenKind.CONTENT, turn, text=content)
            yield Piece(TokenKind.TERMINATOR, turn, ids=(self._end,))
            first = False
        if open_assistant:
            yield Piece(TokenKind.HEADER, len(messages), ids=self._header("assistant", first))

    def _header(self, role: str, first: bool) -> tuple[int, ...]:
        if role not in self._header_cache:
            self._header_cache[role] = (self._start, *self._text_ids([f"{role}\n"])[0])
        header = self._header_cache[role]
        return header if first else self._newline + header


def offer_text(tools: Sequence[ToolSpec]) -> str:
    """What the system message says about the functions offered: one JSON schema a line. Empty for none."""
    if not tools:
        return ""
    return TOOLS_BEFORE + "\n".join(json_text(tool.model_dump()) for tool in tools) + TOOLS_AFTER
