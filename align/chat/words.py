r"""Token ids of many texts, by way of a table of words: each word goes through the tokenizer once.

A byte-level BPE cuts a text into pieces before it merges anything, and encodes each piece on its own. The cutting takes
most of its time. Here a text is cut in a cheaper way, at some of the places where the tokenizer cuts, and most of the
words between them are in the table already:

    "Say hi to  Ann, please"  ->  "Say", " hi", " to  Ann,", " please"

The places are before a single space between two visible characters of ASCII. With the patterns below the tokenizer cuts
before each of these spaces too, and cuts what follows as if nothing were before it:

- Each alternative of a pattern takes a space as its first character only (` ?\p{L}+`), or takes white space alone
  (`\s+`). So no match goes on from the `y` of "Say" to " hi".
- No alternative looks back, and only `\s+(?!\S)` looks ahead: one character beyond white space. A word here does not
  end in white space.
"""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count, islice, pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE

from align.chat.protocol import starts_of

MOST_TOKENS = 2**18
"""The table is emptied when its words have more tokens than this. It takes some 25 MB then."""

_PLACE = re.compile(r" (?<=[!-~] )(?=[!-~])")
_BEGINNING = "\0"
"""Marks a word that begins a text in the table, where all others are written without the space before them."""

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBER| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = frozenset(_PATTERN.replace("NUMBER", number) for number in (r"\p{N}{1,3}", r"\p{N}"))
"""Patterns of `Split` for which the above holds: those of Llama 3 and Qwen 2. GPT-2's, in `ByteLevel`, is another."""


class WordTable:
    """A tokenizer, and the ids of words that it has encoded. Threads may share it.

    The table is used if `cuts_at_spaces` holds for the tokenizer; otherwise it encodes each text as a whole.
    """

    _numbers: defaultdict[str, int]
    """Of each word. One that is looked up for the first time gets the next number."""
    _ids: np.ndarray
    """Of all words, one after the other, int32."""
    _places: np.ndarray
    """Word n has the ids from places[n] up to places[n + 1]."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.is_used = cuts_at_spaces(tokenizer)
        self._lock = threading.Lock()
        self._clear()

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which begins with an empty table."""
        return type(self), (self.tokenizer,)

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each text, [tokens] int32, with one call of the tokenizer."""
        if not self.is_used:
            return self._encoded(texts)
        words: list[str] = []
        counts = []
        for text in texts:
            first, *others = _PLACE.split(text)
            words.append(_BEGINNING + first)
            words += others
            counts.append(1 + len(others))
        with self._lock:
            ids, lengths = self._looked_up(words)
        places = starts_of(lengths)[starts_of(counts)].tolist()
        return [ids[start:end] for start, end in pairwise(places)]

    def _looked_up(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of words, one word after the other, and how many ids each has.

        Example: with the ids 5 of the word "a" and 6, 7 of "b" in the table, the words b, a, b are

            where in the table   1 2 | 0 | 1 2
            where in the result  0 1 | 2 | 3 4
            difference           1 1  -2  -2 -2      one value for each word
        """
        numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        self._learn()
        starts, lengths = self._places[numbers], np.diff(self._places)[numbers]
        before = starts_of(lengths)
        ids = self._ids[np.arange(before[-1]) + np.repeat(starts - before[:-1], lengths)]
        if len(self._ids) > MOST_TOKENS:
            self._clear()
        return ids, lengths

    def _learn(self) -> None:
        """Encode the words that have a number and no ids yet: the last ones of `_numbers`."""
        new = list(islice(reversed(self._numbers), len(self._numbers) + 1 - len(self._places)))[::-1]
        if new:
            found = self._encoded([word[1:] if word[0] == _BEGINNING else " " + word for word in new])
            self._ids = np.concatenate([self._ids, *found])
            self._places = np.concatenate([self._places[:-1], self._places[-1] + starts_of(list(map(len, found)))])

    def _encoded(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = (encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False))
        return [np.fromiter(ids, np.int32, len(ids)) for ids in found]

    def _clear(self) -> None:
        self._numbers = defaultdict(count().__next__)
        self._ids, self._places = np.empty(0, np.int32), np.zeros(1, np.int64)


def cuts_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether the ids of a text are those of the words between the places above, one after the other.

    No for a tokenizer that is not known to do so: with added tokens, which may hold spaces, with a model other than
    BPE, with a normalizer other than NFC, which joins letters and their marks only, or with another pattern.
    """
    model, normalizer = tokenizer.model, _state(tokenizer.normalizer)
    if tokenizer.get_added_tokens_decoder() or not isinstance(model, BPE) or model.dropout:
        return False
    if normalizer is not None and normalizer["type"] != "NFC":
        return False
    *steps, last = [*_steps(_state(tokenizer.pre_tokenizer))] or [{"type": None}]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return False
    splits = [step for step in steps if step["type"] != "Digits"]  # isolates digits, whatever is around them
    return all(map(_is_known, splits)) and (last["use_regex"] or bool(splits))


def _is_known(step: dict[str, Any]) -> bool:
    known = step["type"] == "Split" and step["pattern"].get("Regex") in PATTERNS
    return known and step["behavior"] == "Isolated" and not step["invert"]


def _steps(state: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if state is not None and state["type"] == "Sequence":
        for step in state["pretokenizers"]:
            yield from _steps(step)
    elif state is not None:
        yield state


def _state(part: Any) -> dict[str, Any] | None:
    """A part of a tokenizer as tokenizer.json has it. What is pickled is this text; the vocabulary is not in it."""
    return None if part is None else json.loads(part.__getstate__())
