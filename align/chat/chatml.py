"""ChatML, as SmolLM2 and Qwen write it, with Hermes tool calls unless another syntax is named.

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

from align.chat.calls import CallSyntax, ParsedCalls, parse_calls
from align.chat.pieces import Piece, PieceProtocol
from align.chat.protocol import TokenKind
from align.chat.tool_prompts import with_tool_prompt
from align.rows import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

START = "<|im_start|>"
END = "<|im_end|>"


class ChatML(PieceProtocol):
    """Control tokens `<|im_start|>` and `<|im_end|>`; a role name and a line break open a message."""

    name = "chatml"
    syntaxes = ("hermes", "json", "function_tag", "python_list")
    marks = (START, END)

    def __init__(self, tokenizer: PreTrainedTokenizerFast, syntax: CallSyntax | None = None) -> None:
        super().__init__(tokenizer, syntax)
        self._start = self._control_id(START)
        self._end = self._control_id(END)
        end_of_text = self._optional_control_id("<|endoftext|>")
        self.terminators = (self._end,)
        self.stop_ids = self.terminators if end_of_text is None else (*self.terminators, end_of_text)
        self.opening_id = self._start
        self._newline = tuple(self._text_ids("\n"))

    def parse_calls(self, ids: Sequence[int]) -> ParsedCalls:
        return parse_calls(self.text(self._until_stop(ids)), self.syntax)

    def _pieces(self, messages: Sequence[Message], tools: str, open_assistant: bool) -> Iterator[Piece]:
        first = True
        for written in with_tool_prompt(messages, tools, self.syntax):
            yield Piece(TokenKind.HEADER, written.turn, ids=self._header(written.message.role, first))
            yield from self._said(written)
            yield Piece(TokenKind.TERMINATOR, written.turn, ids=(self._end,))
            first = False
        if open_assistant:
            yield Piece(TokenKind.HEADER, len(messages), ids=self._header("assistant", first))

    def _header(self, role: str, first: bool) -> tuple[int, ...]:
        if role not in self._header_cache:
            self._header_cache[role] = (self._start, *self._text_ids(f"{role}\n"))
        header = self._header_cache[role]
        return header if first else self._newline + header
