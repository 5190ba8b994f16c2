"""What a chat protocol is: messages in, token ids out, and for each token what it is and whose turn it belongs to.

Ids are built piece by piece. Control tokens are placed by us; every text is encoded by a copy of the tokenizer that
knows no added token, so a control token that somebody types stays text. Markers such as `<think>` and `<tool_call>` are
placed as the tokenizer's own tokens where the assistant or the protocol writes them (`vocabulary.py` says which). Every
mask in the project comes from the kinds and turns given here, never from a search for token ids. The protocols are
`chatml.py` and `llama3.py`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from align.chat.calls import SYNTAXES, CallSyntax, ParsedCalls, Part, call_parts, joined
from align.chat.templates import template
from align.chat.tool_prompts import Written
from align.chat.vocabulary import OwnTokens, padding_id, segment_tokenizer
from align.errors import ConfigError, RowError
from align.files import fingerprint_of
from align.rows import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TokenKind(IntEnum):
    """What a token is."""

    BEGIN = 0
    """The one token before everything (Llama 3; ChatML has none)."""
    HEADER = 1
    """Role header, with the line break that ChatML puts between a message and the next header."""
    CONTENT = 2
    """What a message says, calls included."""
    TERMINATOR = 3
    """The end of a message: `<|im_end|>`, `<|eot_id|>`, `<|eom_id|>`."""
    TOOL_OUTPUT = 4
    """What a tool message says."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A dialog as tokens: three lists of one length."""

    ids: list[int]
    kinds: list[int]
    """`TokenKind` of each token."""
    turns: list[int]
    """Index of each token's message; -1 for BEGIN and a message that we made; len(messages) for an opened header."""


class Dialog(NamedTuple):
    """What a protocol encodes."""

    messages: Sequence[Message]
    tools: str = ""
    """The functions offered, as in `Row.tools`."""
    open_assistant: bool = False
    """It ends with the header of an assistant message that is to be written."""


@dataclass(frozen=True, slots=True)
class EncodedDialogs:
    """Many dialogs as arrays, one after the other. T tokens of all, D dialogs."""

    ids: np.ndarray  # [T] int32
    kinds: np.ndarray  # [T] int8, `TokenKind`
    turns: np.ndarray  # [T] int32, as in `Encoded`
    starts: np.ndarray  # [D + 1] int64; dialog d holds the tokens from starts[d] up to starts[d + 1]
    refused: dict[int, RowError]
    """Why the protocol cannot write a dialog, by its place; such a dialog has no tokens."""


class Piece(NamedTuple):
    """A stretch of one kind and one turn: ids that we place, or a text to encode on its own."""

    kind: TokenKind
    turn: int
    ids: tuple[int, ...] = ()
    text: str = ""


class ChatProtocol(ABC):
    """How one family of models writes dialogs down.

    Law: `encode(prompt, tools, open_assistant=True).ids` is an exact prefix of `encode(prompt + completion, tools).ids`
    for every completion that begins with an assistant message. So a piece must not depend on the messages after it, and
    texts of different messages are never encoded together.
    """

    name: ClassVar[str]
    marks: ClassVar[tuple[str, ...]]
    """Control tokens that a tokenizer must know for this protocol; `load_protocol` tells protocols apart by them."""
    syntaxes: ClassVar[tuple[CallSyntax, ...]]
    """How calls may be written in this protocol; the first is its default."""
    syntax: CallSyntax
    """How calls are written, and functions offered."""
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
    terminators: tuple[int, ...]
    """Tokens that end a message; the first one ends an assistant's turn."""
    stop_ids: tuple[int, ...]
    """Tokens at which generation ends: the terminators, and the end of a document where the tokenizer has one."""
    begin: ClassVar[str] = ""
    """The token before everything, where the protocol has one."""
    opening_id: int
    """The token that begins a message."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, syntax: CallSyntax | None = None) -> None:
        self.tokenizer = tokenizer
        self.syntax = syntax or self.syntaxes[0]
        if self.syntax not in self.syntaxes:
            known = ", ".join(self.syntaxes)
            raise ConfigError(
                "model.call_syntax", f"{self.name} writes calls as {known}, found {syntax!r}", "Name one of these"
            )
        self.chat_template = template(self.name, self.syntax)
        self._segments = segment_tokenizer(tokenizer)
        self._header_cache: dict[str, tuple[int, ...]] = {}

    def encode(self, messages: Sequence[Message], tools: str = "", *, open_assistant: bool = False) -> Encoded:
        """The dialog as tokens, up to its last terminator, or up to the header of an assistant message to be written.

        tools: the functions offered, as in `Row.tools`.
        Raises RowError where the protocol cannot express the dialog.
        """
        return self.encode_many([(messages, tools)], open_assistant=open_assistant)[0]

    def encode_many(
        self, dialogs: Iterable[tuple[Sequence[Message], str]], *, open_assistant: bool = False
    ) -> list[Encoded]:
        """`encode` for many (messages, tools) at once, with one call of the tokenizer; each text is encoded once."""
        found = self.encode_dialogs([Dialog(messages, tools, open_assistant) for messages, tools in dialogs])
        for error in found.refused.values():
            raise error
        ids, kinds, turns = found.ids.tolist(), found.kinds.tolist(), found.turns.tolist()
        spans = pairwise(found.starts.tolist())
        return [Encoded(ids[start:end], kinds[start:end], turns[start:end]) for start, end in spans]

    def encode_dialogs(self, dialogs: Sequence[Dialog]) -> EncodedDialogs:
        """Many dialogs as arrays, with one call of the tokenizer; each text is encoded once.

        A dialog that the protocol cannot express does not spoil the others: see `EncodedDialogs.refused`.
        """
        pieces: list[Piece] = []
        counts: list[int] = []
        refused: dict[int, RowError] = {}
        for place, dialog in enumerate(dialogs):
            before = len(pieces)
            try:
                pieces.extend(self._pieces(*dialog))
            except RowError as error:
                del pieces[before:]  # those before the one that cannot be written
                refused[place] = error
            counts.append(len(pieces) - before)
        texts = list(dict.fromkeys(piece.text for piece in pieces if piece.text))
        arrays: dict[str | tuple[int, ...], np.ndarray] = {
            text: np.fromiter(ids, np.int32, len(ids)) for text, ids in zip(texts, self._text_ids(texts), strict=True)
        }
        for placed in {piece.ids for piece in pieces if not piece.text}:
            arrays[placed] = np.array(placed, np.int32)
        parts = [arrays[piece.text or piece.ids] for piece in pieces]
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        tokens_before = np.concatenate([[0], np.cumsum(lengths)])
        return EncodedDialogs(
            ids=np.concatenate(parts) if parts else np.empty(0, np.int32),
            kinds=np.repeat(np.fromiter((piece.kind for piece in pieces), np.int8, len(parts)), lengths),
            turns=np.repeat(np.fromiter((piece.turn for piece in pieces), np.int32, len(parts)), lengths),
            starts=tokens_before[np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])],
            refused=refused,
        )

    @property
    def pad_id(self) -> int:
        """A token to pad with that never ends a dialog; see `padding_id`."""
        return self.padding()

    def padding(self, rows: int | None = None) -> int:
        """`pad_id` for a model whose embedding has that many rows."""
        return padding_id(self.tokenizer, self.terminators, self.stop_ids, self.opening_id, rows=rows)

    def parse(self, ids: Sequence[int]) -> Message:
        """The assistant message that a model generated; what looks like a call and is none stays text."""
        found = self.parse_calls(ids)
        return Message(role="assistant", content=found.text, tool_calls=found.calls)

    @abstractmethod
    def parse_calls(self, ids: Sequence[int]) -> ParsedCalls:
        """The calls and text of a generated completion, with the reason where a call is malformed.

        ids: from the first token after the assistant header; whatever follows a stop token is ignored.
        """

    def text(self, ids: Sequence[int]) -> str:
        """Plain text of content ids; control tokens are left out."""
        return self._own_tokens.text(ids)

    @abstractmethod
    def _pieces(self, messages: Sequence[Message], tools: str, open_assistant: bool) -> Iterator[Piece]:
        """The dialog in pieces, in order."""

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """BLAKE3 of all that the tokenizer does to a text. Writing a vocabulary of 49,152 out takes a tenth of a second
        or more, and a run asks several times.
        """
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for name in ("padding", "truncation"):  # left by the last call, and no property of the tokenizer
            state.pop(name, None)
        return fingerprint_of(json.dumps(state, sort_keys=True))

    @cached_property
    def _own_tokens(self) -> OwnTokens:
        """Made at the first use: the protocol knows its control tokens once it is made."""
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

    def _text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._segments.encode_batch_fast(list(texts), add_special_tokens=False)]

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

    def _until_stop(self, ids: Sequence[int]) -> list[int]:
        for position, token in enumerate(ids):
            if token in self.stop_ids:
                return list(ids[:position])
        return list(ids)
