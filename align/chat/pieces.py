"""Protocols that build a dialog from pieces: control tokens that the protocol places, and texts between them.

Every text is encoded on its own by a copy of the tokenizer that knows no added token, so a control token that somebody
types stays text. Markers such as `<think>` and `<tool_call>` are placed as the tokenizer's own tokens where the
assistant or the protocol writes them (`vocabulary.py` says which). The protocols are `chatml.py` and `llama3.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from align.chat.calls import SYNTAXES, CallSyntax, Part, call_parts, joined
from align.chat.protocol import ChatProtocol, Dialog, EncodedDialogs, TokenKind, starts_of
from align.chat.templates import template
from align.chat.tool_prompts import Written
from align.chat.vocabulary import OwnTokens, segment_tokenizer
from align.chat.words import WordTable
from align.errors import ConfigError, RowError
from align.rows import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Piece(NamedTuple):
    """A stretch of one kind and one turn: ids that we place, or a text to encode on its own."""

    kind: TokenKind
    turn: int
    ids: tuple[int, ...] = ()
    text: str = ""


class PieceProtocol(ChatProtocol):
    """A protocol of this project: its template replaces the tokenizer's.

    A piece must not depend on the messages after it, and texts of different messages are never encoded together.
    """

    marks: ClassVar[tuple[str, ...]]
    """Control tokens that a tokenizer must know for this protocol; `load_protocol` tells protocols apart by them."""
    syntaxes: ClassVar[tuple[CallSyntax, ...]]
    """How calls may be written in this protocol; the first is its default."""
    syntax: CallSyntax
    chat_template: str
    """Jinja that writes the same dialogs, saved with checkpoints for servers.

    Its text always equals ours. So do the ids that a server's tokenizer gives for it, with two exceptions:

    - Somebody typed a control token, or a marker where none is taken for one (`vocabulary.py`). A server takes it for
      the token.
    - A content begins with white space that the tokenizer joins to the line break before it: in ChatML any, in Llama 3
      white space that holds a line break. "user\\n" and "  Hi" are two texts for us and one for a server, which
      SmolLM2's tokenizer splits as "user", "\\n ", " Hi". A header that changed with the content could not be the end
      of a prompt, so ours stays as it is. Only tokens at that place differ.
    """
    begin: ClassVar[str] = ""
    """The token before everything, where the protocol has one."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, syntax: CallSyntax | None = None) -> None:
        super().__init__(tokenizer)
        self.syntax = syntax or self.syntaxes[0]
        if self.syntax not in self.syntaxes:
            known = ", ".join(self.syntaxes)
            raise ConfigError(
                "model.call_syntax", f"{self.name} writes calls as {known}, found {syntax!r}", "Name one of these"
            )
        self.chat_template = template(self.name, self.syntax)
        self._words = WordTable(segment_tokenizer(tokenizer))
        self._header_cache: dict[str, tuple[int, ...]] = {}

    def encode_dialogs(self, dialogs: Sequence[Dialog]) -> EncodedDialogs:
        pieces: list[Piece] = []
        counts: list[int] = []
        refused: dict[int, RowError] = {}
        for place, dialog in enumerate(dialogs):
            before = len(pieces)
            try:
                pieces.extend(self._pieces(dialog.messages, dialog.tools, dialog.open_assistant))
            except RowError as error:
                del pieces[before:]  # those before the one that cannot be written
                refused[place] = error
            counts.append(len(pieces) - before)
        texts = list(dict.fromkeys(piece.text for piece in pieces if piece.text))
        arrays: dict[str | tuple[int, ...], np.ndarray] = dict(zip(texts, self._words.ids(texts), strict=True))
        for placed in {piece.ids for piece in pieces if not piece.text}:
            arrays[placed] = np.array(placed, np.int32)
        parts = [arrays[piece.text or piece.ids] for piece in pieces]
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        return EncodedDialogs(
            ids=np.concatenate(parts) if parts else np.empty(0, np.int32),
            kinds=np.repeat(np.fromiter((piece.kind for piece in pieces), np.int8, len(parts)), lengths),
            turns=np.repeat(np.fromiter((piece.turn for piece in pieces), np.int32, len(parts)), lengths),
            starts=starts_of(lengths)[starts_of(counts)],
            refused=refused,
        )

    @abstractmethod
    def _pieces(self, messages: Sequence[Message], tools: str, open_assistant: bool) -> Iterator[Piece]:
        """The dialog in pieces, in order."""

    @cached_property
    def _own_tokens(self) -> OwnTokens:
        marks = map(self._control_id, self.marks)
        return OwnTokens(self.tokenizer, {*marks, *self.stop_ids})

    def _said(self, written: Written) -> list[Piece]:
        """What a message says, with its calls.

        Raises RowError where the syntax cannot hold them.
        """
        turn, message, parts = written
        if message.tool_calls:
            parts = [*parts, *self._calls(message, turn)]
        return self._texts(TokenKind.TOOL_OUTPUT if message.role == "tool" else TokenKind.CONTENT, turn, parts)

    def _texts(self, kind: TokenKind, turn: int, parts: Sequence[Part]) -> list[Piece]:
        """Parts of one kind as pieces: texts, and the tokenizer's own tokens between them."""
        if not self._own_tokens.ids:
            return [Piece(kind, turn, text=joined(parts))]
        return [
            Piece(kind, turn, text=found) if isinstance(found, str) else Piece(kind, turn, ids=(found,))
            for found in self._own_tokens.split(parts)
        ]

    def _calls(self, message: Message, turn: int) -> list[Part]:
        if len(message.tool_calls) > 1 and not SYNTAXES[self.syntax].parallel:
            raise RowError(
                f"messages[{turn}].tool_calls",
                f"the {self.syntax} syntax makes one call a message, found {len(message.tool_calls)}",
                "Give each call a message of its own, followed by its tool output",
            )
        try:
            return call_parts(message.tool_calls, self.syntax, message.content)
        except ValueError as error:
            how = "Drop the row, rename what the syntax cannot hold, or name another model.call_syntax"
            raise RowError(f"messages[{turn}].tool_calls", str(error), how) from None

    def _text_ids(self, text: str) -> list[int]:
        ids: list[int] = self._words.ids([text])[0].tolist()
        return ids

    def _control_id(self, token: str) -> int:
        found = self._optional_control_id(token)
        if found is None:
            raise ConfigError(
                f"chat protocol {self.name}",
                f"needs the token {token}, which {self.tokenizer.name_or_path or 'its tokenizer'} has not",
                "Name the chat protocol that the model was trained with",
            )
        return found

    def _optional_control_id(self, token: str) -> int | None:
        value: int | None = self.tokenizer.backend_tokenizer.token_to_id(token)
        return value
