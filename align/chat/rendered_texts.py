"""Ids of texts that a tokenizer's own chat template has rendered.

A text is encoded as a whole, as `apply_chat_template` does. A control token that somebody typed into a message must
stay text: a placeholder replaces it while the template is rendered, and the text is then cut at the placeholders. With
`<|im_end|>` the third control token:

    content        Write <|im_end|> last.
    rendered       <|im_start|>user\\nWrite \\ufdd02\\ufdd1 last.<|im_end|>\\n
    encoded        "<|im_start|>user\\nWrite ", then "<|im_end|>" without added tokens, then " last.<|im_end|>\\n"
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from align.chat.rendering import ELSE
from align.chat.vocabulary import OwnTokens, segment_tokenizer
from align.errors import RowError
from align.rows import Message, ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Noncharacters, which Unicode reserves for use inside a program: texts do not hold them.
_TYPED = "\ufdd0{}\ufdd1"
_TYPED_AGAIN = re.compile("\ufdd0([0-9]+)\ufdd1")


def plain_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The ids of a rendered text without placeholders."""
    return list(_backend(tokenizer).encode(text, add_special_tokens=False).ids)


def control_ids(tokenizer: PreTrainedTokenizerFast, stop_ids: Collection[int]) -> frozenset[int]:
    """The added tokens that no message may hold."""
    return frozenset(tokenizer.added_tokens_decoder) - frozenset(OwnTokens(tokenizer, stop_ids).ids.values())


class RenderedTexts:
    """The ids of rendered texts. stop_ids: tokens that are control tokens whatever they look like."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self.control_ids = control_ids(tokenizer, stop_ids)
        tokens = (tokenizer.added_tokens_decoder[token].content for token in sorted(self.control_ids))
        self._control = sorted(tokens, key=len, reverse=True)  # of two that begin alike, the longer one is found
        self._pattern = re.compile("|".join(map(re.escape, self._control)) or "(?!)")  # (?!) is nowhere found

    def ids(self, texts: Iterable[str]) -> dict[str, np.ndarray]:
        """Text -> its ids, with one call of the tokenizer."""
        cut = {text: _TYPED_AGAIN.split(text) for text in dict.fromkeys(texts)}  # text, number of a token, text, ...
        outer = list(dict.fromkeys(piece for pieces in cut.values() for piece in pieces[::2]))
        encodings = _backend(self._tokenizer).encode_batch_fast(outer, add_special_tokens=False)
        arrays = {text: np.array(encoding.ids, np.int32) for text, encoding in zip(outer, encodings, strict=True)}
        found = {}
        for text, pieces in cut.items():
            parts = [self._typed_ids(int(piece)) if place % 2 else arrays[piece] for place, piece in enumerate(pieces)]
            found[text] = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return found

    def with_placeholders(self, message: Message) -> Message:
        """A message with a placeholder for each control token in its texts.

        Raises RowError if there is one and the tokenizer cannot encode it as text.
        """
        content = self.with_placeholders_in(message.content)
        calls = tuple(
            ToolCall(name=self.with_placeholders_in(call.name), arguments=self.with_placeholders_in(call.arguments))
            for call in message.tool_calls
        )
        if content == message.content and calls == message.tool_calls:
            return message
        return message.model_copy(update={"content": content, "tool_calls": calls})

    def with_placeholders_in(self, text: str) -> str:
        """A text with placeholders. Raises RowError as `with_placeholders` does."""
        if _TYPED[0] in text:
            what = "a text holds U+FDD0, which is no character of Unicode"
            raise RowError("messages", what, "Change or drop such rows")
        found = self._pattern.search(text)
        if found is None:
            return text
        if not self.joins_pieces:
            what = f"a text holds {found[0]!r}, which this tokenizer reads as a control token"
            raise RowError("messages", what, ELSE)
        numbers = {token: number for number, token in enumerate(self._control)}
        return self._pattern.sub(lambda found: _TYPED.format(numbers[found[0]]), text)

    def normalized(self, text: str) -> str:
        """A text as the tokenizer reads it: Qwen's composes accents, and no decoding can give the original back."""
        normalizer = self._tokenizer.backend_tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    @cached_property
    def joins_pieces(self) -> bool:
        """Whether texts that are encoded apart read as one text. SentencePiece begins each with a space."""
        once = plain_ids(self._tokenizer, "on it")
        return bool(self._tokenizer.backend_tokenizer.decode([*once, *once]) == "on iton it")

    def _typed_ids(self, number: int) -> np.ndarray:
        return np.array(self._segments.encode(self._control[number], add_special_tokens=False).ids, np.int32)

    @cached_property
    def _segments(self) -> Tokenizer:
        return segment_tokenizer(self._tokenizer)


def _backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The tokenizer of `tokenizers`, without the padding and truncation that an earlier call may have left in it."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    return backend
