"""Whether two dialogs with nearly the same embedding ask and say the same, by their words.

An encoder sees little difference between "advantages" and "disadvantages", or between a question and the same question
about another thing. But a paraphrase rewords the whole question and keeps its numbers, whereas another question of the
same kind differs in a word or two. So two rows are no paraphrases of each other if

    numbers     their answers have numbers, and none in common (their questions' numbers are compared by the caller)
    who, when   one asks who, and the other when, where or why
    order       their questions have the same words in another order: "10 miles to kilometers", "10 kilometers to miles"
    one word    their questions agree but for one or two words on each side: "Name a synonym for happy", "Name an
                antonym for happy". A true paraphrase with one other word is kept, too: that is the price
    answers     their answers share less than a quarter of their words: two stories for one prompt. Of 30 words or more
                it is less than half, since long answers on one subject share many words
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import NamedTuple

from align.text import words_of

MIN_RATIO = 0.75
"""Questions agree if twice the words that they share in one order are this ratio of all their words."""
MAX_CHANGED = 2
"""Of questions that agree, more changed words on one side are a rewording, and no other question."""
MIN_SHARED, MIN_SHARED_OF_LONG = 0.25, 0.5
"""The ratio of the words of the shorter answer that the other one has too."""
LONG = 30
"""Different words of an answer that is long; words such as "the" do not count."""
_MOST_WORDS = 200
"""Words from the beginning and from the end of a text that are compared."""

_LIST_MARKER = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WRITTEN = {
    word: str(number)
    for number, word in enumerate(
        ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"), 2
    )
}
_SAME = {"an": "a", "whom": "who", **_WRITTEN}
_ASKED = frozenset(("who", "when", "where", "why"))
_FREE = frozenset(
    (
        *("a", "the", "of", "to", "in", "on", "at", "for", "from", "by", "with", "and", "or", "as", "into", "about"),
        *("is", "are", "was", "were", "be", "do", "does", "did", "can", "could", "would", "should", "will", "please"),
        *("how", "what", "which", "who", "why", "when", "where", "if", "so", "than", "then", "there", "one", "some"),
        *("i", "me", "my", "you", "your", "it", "its", "this", "that", "these", "those", "any", "s"),
    )
)
"""Words that a rewording changes freely."""


class Compared(NamedTuple):
    """What of a row is compared."""

    question: list[str]
    """The words of the last message of the prompt."""
    answer: frozenset[str]
    """The stems of the answer's words."""
    numbers: frozenset[str]
    """The answer's numbers, without those that count the items of a list."""


def compared(question: str, answer: str) -> Compared:
    """Take the parts of a row that are compared."""
    numbers = _NUMBER.findall(_LIST_MARKER.sub(" ", answer))
    stems = {_stem(word, len(word)) for word in _words(answer) if word not in _FREE}
    return Compared(_words(question), frozenset(stems), frozenset(numbers))


def numbers_in(text: str) -> list[str]:
    """The numbers of a text in ascending order, as they are written; "three" is 3."""
    return sorted(word for word in _words(text) if word[0].isdigit())


def says_other(one: Compared, other: Compared) -> bool:
    """Whether the words show that two rows are no paraphrases of each other; see the head of this module."""
    if one.numbers and other.numbers and not one.numbers & other.numbers:
        return True
    fewest = min(len(one.answer), len(other.answer))
    least = MIN_SHARED if fewest < LONG else MIN_SHARED_OF_LONG
    if fewest and len(one.answer & other.answer) / fewest < least:
        return True
    return _asks_other(one.question, other.question)


def _asks_other(one: list[str], other: list[str]) -> bool:
    asked, also_asked = (_ASKED & set(words) for words in (one, other))
    if asked and also_asked and not asked & also_asked:
        return True
    if one != other and sorted(one) == sorted(other):
        return True
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    if matcher.quick_ratio() < MIN_RATIO or matcher.ratio() < MIN_RATIO:
        return False
    left: list[str] = []
    right: list[str] = []
    for operation, start, end, from_, to in matcher.get_opcodes():
        gone, new = one[start:end], other[from_:to]
        if operation == "equal" or (start == from_ == 0 and len(gone) != len(new)):
            continue  # another opening is a rewording: "Solve ...", "Find x if ..."
        if len(gone) == len(new) == 1 and not {gone[0], new[0]} <= _FREE:
            longer = max(len(gone[0]), len(new[0]))
            if _stem(gone[0], longer) != _stem(new[0], longer):
                left += gone
                right += new
            continue
        left += [word for word in gone if word not in _FREE]
        right += [word for word in new if word not in _FREE]
    return bool(left and right) and max(len(left), len(right)) <= MAX_CHANGED


def _words(text: str) -> list[str]:
    """The words as they are compared: "an" is "a", and "three" is 3."""
    words = words_of(text)
    if len(words) > 2 * _MOST_WORDS:
        words = words[:_MOST_WORDS] + words[-_MOST_WORDS:]
    return [_SAME.get(word, word) for word in words]


def _stem(word: str, length: int) -> str:
    """The first 60% of `length` letters, three at least: colors and colour have one stem, and advantages and
    disadvantages have two. Numbers are left whole."""
    return word[: max(3, round(0.6 * length))] if word.isalpha() else word
