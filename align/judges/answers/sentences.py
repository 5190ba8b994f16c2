"""Splits a text into sentences and clauses, in the form that the rules for abstaining and answering read."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple


class Sentence(NamedTuple):
    """A sentence, or a clause of one."""

    start: int
    """Where it begins in the text; for a clause, where its sentence begins."""
    text: str
    """As it is written."""
    plain: str
    """Lower case, plain apostrophes, single spaces, and English contractions written out."""


def sentences(text: str) -> list[Sentence]:
    """The sentences of a text. They end at . ! ? or a line break.

    "Well... I don't know." has the sentences "Well..." and " I don't know.". A dot inside "1.5", "D.C." or "St. Lucia"
    ends no sentence; the dot of "know.It" does, although the space is missing.
    """
    found = []
    start = checked = 0
    for end in [match.end() for match in _END.finditer(text)] + [len(text)]:
        has_word, checked = _WORD.search(text, checked, end), end  # there is none between `start` and `checked`
        if has_word:
            found.append(Sentence(start, text[start:end], plain_sentence(text[start:end])))
            start = end
    return found


def clauses(sentence: Sentence) -> list[Sentence]:
    """The parts of a sentence between commas, semicolons, colons and dashes; "1,234" and "N'Djamena" stay whole.

    Each part after the first begins with its boundary in `text`, and without it in `plain`: "No, Lagos" has "No" and
    ", Lagos".
    """
    text = sentence.text
    ends = [found.span() for found in _BOUNDARY.finditer(text)]
    starts = [(0, 0), *ends]
    stops = [start for start, _ in ends] + [len(text)]
    return [
        Sentence(sentence.start, text[outer:stop].strip(), plain_sentence(text[inner:stop]))
        for (outer, inner), stop in zip(starts, stops, strict=True)
    ]


def boundaries(plain: str) -> int:
    """How many boundaries between clauses a sentence, or a part of one, has."""
    return len(_BOUNDARY.findall(plain))


def plain_sentence(sentence: str) -> str:
    """Lower case, one kind of apostrophe, contractions written out: "I CAN’T  say" becomes "i can not say"."""
    sentence = unicodedata.normalize("NFC", sentence).casefold().translate({ord(mark): "'" for mark in "’‘ʼ`´"})
    for pattern, replacement in _CONTRACTIONS:
        sentence = pattern.sub(replacement, sentence)
    return re.sub(r"\s+", " ", sentence).strip()


_WORD = re.compile(r"\w")
# The first alternative is a run of marks before a space, a quote or the end, unless the dot belongs to an abbreviation;
# the second is a dot between a lower-case letter or digit and a capital ("know.It"); the third is a line break.
# `++` gives no mark back, so that a long run of marks is read once.
_END = re.compile(
    r"(?<!\bSt)(?<!\bMt)(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bSte)[.!?…]++(?=[\"'”’»)\]*]*(?:\s|$))"
    r"|(?<=[a-zà-ÿ\d])[.!?](?=[A-ZÀ-Ý])"
    r"|\n+"
)
_BOUNDARY = re.compile(r"[,;:](?:\s+|$)|\s*[—–]\s*|\s+-+\s+|\s*\.{3,}\s*|\s*…\s*|\s+(?=\()")

_CONTRACTIONS = (
    (re.compile(r"\bcan't\b"), "can not"),
    (re.compile(r"\bcannot\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"\bdunno\b"), "do not know"),
    (re.compile(r"\bain't\b"), "am not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\b(i)'m\b"), r"\1 am"),
    (re.compile(r"\b(we|they|you)'re\b"), r"\1 are"),
    (re.compile(r"\b(it|that|there)'s\b"), r"\1 is"),
    (re.compile(r"\b(i|we|you)'d\b"), r"\1 would"),
    (re.compile(r"\b(i|we|you)'ll\b"), r"\1 will"),
    (re.compile(r"\b(i|we|you)'ve\b"), r"\1 have"),
)
