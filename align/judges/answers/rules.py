"""Plain string rules for facts: does a text abstain, does it state an answer, and what follows from both.

What giving up sounds like is `refusals.py`, how numbers are read with a tolerance `numbers.py`. Fast, the same every
time, and blind to meaning. Out of scope, by design: negation ("the capital is not Paris" states Paris), lists of
guesses ("Paris, Lyon or Rome" states Paris), an answer that the question itself names ("the capital of Singapore is
..." states Singapore). `model_judge.py` comes in where that matters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal, NamedTuple

from align.judges.answers.numbers import is_number, states_number
from align.judges.answers.refusals import surrender

Verdict = Literal["right", "wrong", "abstained"]


def verdict(text: str, answers: Iterable[str], tolerance: float = 0.0) -> Verdict:
    """`abstained` if the text gives up before it states an answer, else `right` or `wrong`. No text abstains.

    tolerance: see `states`.
    "I'm not sure, but I think it is Paris" answers; "Paris. I'm not sure about the rest" answers. Where the answer is
    "yes" or "no", what the text says first counts, in any of the languages of `refusals.py`: a yes or no that begins or
    ends a sentence. A text that says neither takes no side, so it abstains.
    """
    answers = tuple(answers)
    given_up = surrender(text)
    said = text if given_up is None else text[: given_up.start]
    if are_yes_or_no(answers):
        side = _side_taken(said)
        return "abstained" if side is None else "right" if side in answers else "wrong"
    if states(said, answers, tolerance):
        return "right"
    return "wrong" if given_up is None else "abstained"


def abstains(text: str) -> bool:
    """Whether the text says that it cannot answer and then does not try to. An empty text abstains."""
    return surrender(text) is not None


def states(text: str, answers: Iterable[str], tolerance: float = 0.0) -> bool:
    """Whether the text holds one of the answers as whole words, or a number near enough to one that is a number.

    tolerance: as a share of the answer: at 0.05, "about 1.2 million" states 1234567. 0 compares numbers as words.

    Case, accents, punctuation and articles do not count; "26" is not in "126", "26th" or "26.98"; "1,000" is "1000".
    A code must have its very case: an answer of one or two letters (an element's symbol), or of up to four capitals
    ("TRY", "US"), since "in", "he", "all" and "try" are words. Where English has the word with a capital too ("In",
    "I"), a place that begins a sentence does not count.
    """
    found = _words(text)
    return any(
        states_number(text, answer, tolerance) if tolerance and is_number(answer) else _states_one(found, answer)
        for answer in answers
    )


def are_yes_or_no(answers: Iterable[str]) -> bool:
    """Whether the accepted answers are "yes" or "no", in these very letters: "NO" is Norway's code."""
    answers = set(answers)
    return bool(answers) and answers <= set(_SIDES)


def normalize_answer(text: str) -> str:
    """The text as the rules compare it: lower case, no accents, no punctuation, no articles."""
    return " ".join(_without_articles([word.plain for word in _words(text)]))


class _Word(NamedTuple):
    plain: str  # lower case, no accents
    cased: str  # the same with its case
    begins: bool  # a sentence begins here
    ends: bool  # a sentence ends behind it


_ARTICLES = frozenset(("a", "an", "the"))
_LETTERS = str.maketrans(
    {"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ħ": "h", "Ħ": "H", "ı": "i", "ð": "d", "Ð": "D"}
    | {"þ": "th", "Þ": "Th", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ß": "ss", "ẞ": "SS"}
)
"""Letters that Unicode does not take apart."""
_SIDES = {
    "yes": frozenset(("yes", "yeah", "yep", "true", "correct", "ja", "oui", "si", "sim")),
    "no": frozenset(("no", "nope", "false", "incorrect", "nein", "non", "nao")),
}
"""The answers to a yes-or-no question -> how they are said, without accents."""
_APOSTROPHES = "'’‘ʼʻʹ`´ʿʾ"
_ENGLISH_WITH_A_CAPITAL = frozenset(("i", "in", "he", "as", "at", "be", "no", "am", "us", "so", "if", "it", "an", "or"))
_TOKEN = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+\.\d+|[^\W_]+|[.!?\n]", re.UNICODE)


def _words(text: str) -> list[_Word]:
    text = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    text = "".join(character for character in text if not unicodedata.combining(character))
    text = re.sub(rf"(?<=\w)[{_APOSTROPHES}][sS]\b", "", text)  # France's
    text = re.sub(f"[{_APOSTROPHES}]", "", text)  # N'Djamena
    text = re.sub(r"\b(?:[^\W\d_]\.){2,}", lambda found: found.group().replace(".", "") + " ", text)  # U.S.
    words: list[_Word] = []
    begins = True
    for token in _TOKEN.findall(text):
        if token in ".!?\n":
            begins = True
            if words:
                words[-1] = words[-1]._replace(ends=True)
            continue
        cased = _number(token) if token[0].isdigit() else token
        words.append(_Word(cased.casefold(), cased, begins, False))
        begins = False
    if words:
        words[-1] = words[-1]._replace(ends=True)
    return words


def _side_taken(text: str) -> str | None:
    """ "yes" or "no", whichever the text says first; "no" inside a sentence ("there is no ...") is not said."""
    for word in _words(text):
        for side, words in _SIDES.items():
            if word.plain in words and (word.begins or word.ends):
                return side
    return None


def _number(token: str) -> str:
    token = token.replace(",", "")
    return token.rstrip("0").rstrip(".") if "." in token else token


def _without_articles(words: list[str]) -> list[str]:
    return [word for word in words if word not in _ARTICLES] or words


def _states_one(found: list[_Word], answer: str) -> bool:
    wanted = _words(answer)
    if not wanted:
        return False
    if len(wanted) == 1 and _is_code(wanted[0].cased):
        return any(_is_same_code(word, wanted[0]) for word in found)
    needle = _without_articles([word.plain for word in wanted])
    hay = [word.plain for word in found if word.plain not in _ARTICLES or word.plain in needle]
    return any(hay[at : at + len(needle)] == needle for at in range(len(hay) - len(needle) + 1))


def _is_code(cased: str) -> bool:
    return cased.isalpha() and (len(cased) <= 2 or (len(cased) <= 4 and cased.isupper()))


def _is_same_code(word: _Word, wanted: _Word) -> bool:
    """Whether a word is the code and not an English word. Alone in its sentence ("In.") it is the code."""
    if word.cased != wanted.cased:
        return False
    is_english = wanted.plain in _ENGLISH_WITH_A_CAPITAL and wanted.cased == wanted.plain.capitalize()
    if not is_english or (word.begins and word.ends):
        return True
    if wanted.cased == "I":  # the pronoun has its capital anywhere, so only the end of a sentence tells
        return word.ends
    return not word.begins
