"""What a chat protocol is: messages in, token ids out, and for each token what it is and whose turn it belongs to.

Every mask in the project comes from the kinds and turns given here, never from a search for token ids. Protocols of
this project build dialogs from pieces (`pieces.py`); `native.py` uses the tokenizer's own template.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from align.chat.calls import CallSyntax, ParsedCalls
from align.chat.vocabulary import OwnTokens, padding_id
from align.errors import RowError
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
    """Index of each token's message; -1 for BEGIN, for a message that we made, and where `native` leaves it open;
    len(messages) for an opened header."""


class Dialog(NamedTuple):
    """What a protocol encodes."""

    messages: Sequence[Message]
    tools: str = ""
    """The functions offered, as in `Row.tools`."""
    open_assistant: bool = False
    """It ends with the header of an assistant message that is to be written."""
    start: int = 0
    """Index of the message where the completion begins. Messages before it are context, and never in a loss."""
    exact: bool = True
    """Refuse a completion that cannot be written exactly as its messages say. False if it is only scored."""


@dataclass(frozen=True, slots=True)
class EncodedDialogs:
    """Many dialogs as arrays, one after the other. T tokens of all, D dialogs."""

    ids: np.ndarray  # [T] int32
    kinds: np.ndarray  # [T] int8, `TokenKind`
    turns: np.ndarray  # [T] int32, as in `Encoded`
    starts: np.ndarray  # [D + 1] int64; dialog d holds the tokens from starts[d] up to starts[d + 1]
    refused: dict[int, RowError]
    """Why the protocol cannot write a dialog, by its place; such a dialog has no tokens."""


def starts_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each of some runs begins if they follow each other, and where the last one ends: [2, 3] gives [0, 2, 5]."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


class ChatProtocol(ABC):
    """How one family of models writes dialogs down.

    Law: `encode(prompt, tools, open_assistant=True).ids` is an exact prefix of `encode(prompt + completion, tools).ids`
    for every completion that begins with an assistant message, unless the protocol refuses the dialog.
    """

    name: ClassVar[str]
    syntax: CallSyntax | None
    """How calls are written, and functions offered. None if this protocol cannot parse the calls of its model."""
    chat_template: str
    """The template that is saved with checkpoints for servers, in Jinja."""
    template_summary: str = ""
    """One sentence for the log: whose template is used, what it replaces, and what it adds to dialogs."""
    terminators: tuple[int, ...]
    """Tokens that end a message; the first one ends an assistant's turn."""
    stop_ids: tuple[int, ...]
    """Tokens at which generation ends: the terminators, and the end of a document where the tokenizer has one."""
    opening_id: int
    """The token that begins a message."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer

    @property
    def identity(self) -> tuple[Any, ...]:
        """What the ids of a dialog depend on, in addition to the tokenizer."""
        return self.name, self.syntax

    @property
    def eos_token(self) -> str:
        """The token that a saved tokenizer names as its end."""
        return str(self.tokenizer.convert_ids_to_tokens(self.terminators[0]))

    @property
    def saved_settings(self) -> dict[str, Any]:
        """What the tokenizer of a checkpoint records, so that `chat: auto` loads the same protocol; {} for none."""
        return {}

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

    @abstractmethod
    def encode_dialogs(self, dialogs: Sequence[Dialog]) -> EncodedDialogs:
        """Many dialogs as arrays, with one call of the tokenizer; each text is encoded once.

        A dialog that the protocol cannot express does not spoil the others: see `EncodedDialogs.refused`.
        """

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

    @property
    @abstractmethod
    def _own_tokens(self) -> OwnTokens:
        """The added tokens that contents may hold."""

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """BLAKE3 of all that the tokenizer does to a text. Writing a vocabulary of 49,152 out takes a tenth of a second
        or more, and a run asks several times.
        """
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for name in ("padding", "truncation"):  # left by the last call, and no property of the tokenizer
            state.pop(name, None)
        return fingerprint_of(json.dumps(state, sort_keys=True))

    def _until_stop(self, ids: Sequence[int]) -> list[int]:
        for position, token in enumerate(ids):
            if token in self.stop_ids:
                return list(ids[:position])
        return list(ids)
