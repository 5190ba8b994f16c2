"""Compares texts: normalization, keys that are equal for equal texts, and n-gram similarity.

Used to drop duplicates, and training rows that repeat an evaluation prompt. Whether an answer is right is another
question: see `align/judges/answers/rules.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from align.files import fingerprint_of

# Signs that belong to a number are kept, because 5*3 is not 5/3 and 1.5 is not 15. Between words they are dropped:
#   "1.5", "1,000"     a point or comma between two digits
#   "5 * 3", "20%"     an operator after a digit, with or without a space
#   "-5", "/3"         an operator before a digit
#   "well-known."      nothing is kept: no digit is next to the hyphen or the full stop
# The pattern begins with the sign, because the regular expression engine searches for a set of characters several times
# faster than for a place that a digit precedes. What precedes is then checked by looking back over the sign itself.
_ARITHMETIC = re.compile(r"[-.,*/%](?:(?<=\d[.,])(?=\d)|(?<=\d[-*/%])|(?<=\d\s[-*/%])|(?<=[-*/%])(?=\s?\d))")

# A sign and a digit with at most white space between them, in either order. Without any, no sign of a text is kept.
_NEAR_A_DIGIT = re.compile(r"[-.,*/%\d](?:(?<=\d)\s*[-.,*/%]|(?<!\d)\s*\d)")


class _Kept(dict[int, int]):
    """A table for `str.translate`, filled as characters occur: letters, marks, digits and symbols are kept, and any
    other character becomes a space.
    """

    def __missing__(self, code: int) -> int:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMNS" else ord(" ")
        return self[code]


_KEPT = _Kept()

# Thai, Lao, kana and ideographs: written without spaces, so each character counts as a word.
_UNSPACED = re.compile(r"([\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")


class _Recent(dict[tuple[str, bool], str]):
    """Text and `fold_case` -> the text after `normalize`, of texts that were normalized a moment ago: the same row is
    compared in several ways, one after the other. It is emptied when its texts have `most` characters in all.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most, self._characters = most, 0

    def __missing__(self, key: tuple[str, bool]) -> str:
        text, fold_case = key
        if self._characters > self._most:
            self.clear()
            self._characters = 0
        self._characters += len(text)
        self[key] = found = _normalized(text, fold_case)
        return found


_RECENT = _Recent(2**22)


def normalize(text: str, *, fold_case: bool = True) -> str:
    """Normalize text for comparison: drop width forms, case (with `fold_case`), punctuation and extra spaces.

    Letters, accents, marks, digits and symbols of every script are kept, and signs of arithmetic next to a digit:
    "Was ist  5 * 3?" becomes "was ist 5 * 3".
    """
    return _RECENT[text, fold_case]


def _normalized(text: str, fold_case: bool) -> str:
    composed = text if text.isascii() else unicodedata.normalize("NFKC", text)
    folded = composed.casefold() if fold_case else composed
    if _NEAR_A_DIGIT.search(folded):
        folded = " ".join(folded.split())
        pieces, end = [], 0
        for match in _ARITHMETIC.finditer(folded):
            pieces += [folded[end : match.start()].translate(_KEPT), match.group()]
            end = match.end()
        pieces.append(folded[end:].translate(_KEPT))
        kept = "".join(pieces)
    else:
        kept = folded.translate(_KEPT)
    while "  " in kept:  # all white space is a space by now; faster than to split and join
        kept = kept.replace("  ", " ")
    return kept.strip(" ")


def exact_key(*texts: str) -> str:
    """A key that is the same for texts that are the same after `normalize`: 64 hex digits of BLAKE3."""
    return fingerprint_of(*map(normalize, texts))


def ngram_similarity(one: str, other: str, size: int = 3) -> float:
    """Share of word n-grams that two texts have in common, after `normalize`, from 0 to 1 (Jaccard, with repeats).

    size: words in an n-gram. A text with fewer words is one n-gram. Two texts without a word are the same: 1.
    """
    first, second = word_ngrams(one, size), word_ngrams(other, size)
    union = (first | second).total()
    return (first & second).total() / union if union else 1.0


def words_of(text: str, *, fold_case: bool = True) -> list[str]:
    """The words of a text after `normalize`. In scripts without spaces each character is a word."""
    return spaced(text, fold_case=fold_case).split()


def spaced(text: str, *, fold_case: bool = True) -> str:
    """The text after `normalize`, with spaces between all its words, also in scripts without spaces."""
    found = normalize(text, fold_case=fold_case)
    return found if found.isascii() else _UNSPACED.sub(r" \1 ", found)


def word_ngrams(text: str, size: int) -> Counter[tuple[str, ...]]:
    """The sequences of `size` words of a text after `normalize`, and how often each occurs."""
    words = words_of(text)
    return Counter(
        tuple(words[start : start + size]) for start in range(max(len(words) - size + 1, min(len(words), 1)))
    )
