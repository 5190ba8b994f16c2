"""String rules for questions of fact: does a text abstain, does it state an answer, and is it right.

`refusals.py` has the rules for abstaining (a text that abstains and also makes a claim has answered), and `numbers.py`
those for numbers with a tolerance. The rules are fast and deterministic, and do not understand meaning. Known limits,
by design: negation ("the capital is not Paris" states Paris), lists of guesses ("Paris, Lyon or Rome" states Paris),
and an answer that the question names ("the capital of Singapore is ..." states Singapore). Where these matter, use
`align/judges/model_judge.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal, NamedTuple

from align.judges.answers.numbers import is_number, states_number
from align.judges.answers.refusals import abstention

Verdict = Literal["right", "wrong", "abstained"]


def verdict(text: str, answers: Iterable[str], tolerance: float = 0.0) -> Verdict:
    """`abstained` if the text abstains before it states an answer, else `right` or `wrong`. Empty text abstains.

    tolerance: see `states`.
    With the answer Paris: "I don't know." is abstained; "I'm not sure, but I think it is Paris.", "I'm not sure. It is
    Paris." and "Paris. I'm not sure about the rest." are right; "It is Rome.", "I'm not sure. It is Rome." and "It is
    Rome, but I'm not sure." are wrong.
    If the accepted answers are "yes" or "no", the first yes or no counts that begins or ends a sentence, in any of the
    languages of `refusals.py`. A text with neither abstains.
    """
    answers = tuple(answers)
    abstained = abstention(text)
    said = text if abstained is None else text[: abstained.start]
    if are_yes_or_no(answers):
        side = _side_taken(said)
        return "abstained" if side is None else "right" if side in answers else "wrong"
    if states(said, answers, tolerance):
        return "right"
    return "wrong" if abstained is None else "abstained"


def abstains(text: str) -> bool:
    """Whether the text says that it cannot answer, and then does not answer. Empty text abstains."""
    return abstention(text) is not None


def states(text: str, answers: Iterable[str], tolerance: float = 0.0) -> bool:
    """Whether the text contains one of the answers as whole words, or a number close to an answer that is a number.

    tolerance: relative to the answer: at 0.05, "about 1.2 million" states 1234567. 0 compares numbers as words.

    Case, accents, punctuation and articles are ignored. "26" is not in "126", "26th" or "26.98"; "1,000" is "1000".
    Codes are compared with their case, because "in", "he", "all" and "try" are words: answers of one or two letters
    (an element's symbol), or of up to four capitals ("TRY", "US"). A code that English also writes with a capital at
    the beginning of a sentence ("In", "I") does not count there.
    """
    found = _words(text)
    return any(
        states_number(text, answer, tolerance) if tolerance and is_number(answer) else _states_one(found, answer)
        for answer in answers
    )


def are_yes_or_no(answers: Iterable[str]) -> bool:
    """Whether the accepted answers are "yes" or "no", in lower case: "NO" is Norway's code."""
    answers = set(answers)
    return bool(answers) and answers <= set(_SIDES)


def normalize_answer(text: str) -> str:
    """The text as the rules compare it: lower case, without accents, punctuation and articles.

    "The  Côte d'Ivoire!" becomes "cote divoire". A text of articles only is kept: "A" becomes "a".
    """
    return " ".join(_without_articles([word.plain for word in _words(text)]))


class _Word(NamedTuple):
    plain: str  # lower case, no accents
    cased: str  # the same with its case
    begins: bool  # the first word of a sentence
    ends: bool  # the last word of a sentence


_ARTICLES = frozenset(("a", "an", "the"))
_LETTERS = str.maketrans(
    {"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ħ": "h", "Ħ": "H", "ı": "i", "ð": "d", "Ð": "D"}
    | {"þ": "th", "Þ": "Th", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ß": "ss", "ẞ": "SS"}
)
"""Letters that Unicode does not decompose into a base letter and an accent."""
_SIDES = {
    "yes": frozenset(("yes", "yeah", "yep", "true", "correct", "ja", "oui", "si", "sim")),
    "no": frozenset(("no", "nope", "false", "incorrect", "nein", "non", "nao")),
}
"""Answer to a yes-or-no question -> the words for it in all languages, without accents."""
_APOSTROPHES = "'’‘ʼʻʹ`´ʿʾ"
_ENGLISH_WITH_A_CAPITAL = frozenset(("i", "in", "he", "as", "at", "be", "no", "am", "us", "so", "if", "it", "an", "or"))
# One token is a number with groups of thousands (1,234.5), a decimal number (2.5), a word, or the end of a sentence.
# "1,234.5 km. Yes" gives "1,234.5", "km", ".", "Yes". The lookahead keeps "1,2345" from being read as "1,234" and "5".
_TOKEN = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+\.\d+|[^\W_]+|[.!?\n]", re.UNICODE)


def _words(text: str) -> list[_Word]:
    """The words of a text, normalized. "France's U.S. trip. Go" gives France (begins), US, trip (ends), Go (both)."""
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
    """ "yes" or "no", whichever comes first at the beginning or end of a sentence; "there is no ..." is neither."""
    for word in _words(text):
        for side, words in _SIDES.items():
            if word.plain in words and (word.begins or word.ends):
                return side
    return None


def _number(token: str) -> str:
    """One way to write each number: "1,000.50" becomes "1000.5", and "2.0" becomes "2"."""
    token = token.replace(",", "")
    return token.rstrip("0").rstrip(".") if "." in token else token


def _without_articles(words: list[str]) -> list[str]:
    return [word for word in words if word not in _ARTICLES] or words


def _states_one(found: list[_Word], answer: str) -> bool:
    expected = _words(answer)
    if not expected:
        return False
    if len(expected) == 1 and _is_code(expected[0].cased):
        return any(_is_same_code(word, expected[0]) for word in found)
    needle = _without_articles([word.plain for word in expected])
    hay = [word.plain for word in found if word.plain not in _ARTICLES or word.plain in needle]
    return any(hay[at : at + len(needle)] == needle for at in range(len(hay) - len(needle) + 1))


def _is_code(cased: str) -> bool:
    return cased.isalpha() and (len(cased) <= 2 or (len(cased) <= 4 and cased.isupper()))


def _is_same_code(word: _Word, code: _Word) -> bool:
    """Whether a word is the code, and not the English word that is written like it.

    For the code "In" (indium): "The symbol is In" and "In." have it; "In 1900 ..." does not, since any sentence may
    begin with "In". For "I" (iodine) only the end of a sentence counts: the pronoun has a capital everywhere.
    """
    if word.cased != code.cased:
        return False
    is_english = code.plain in _ENGLISH_WITH_A_CAPITAL and code.cased == code.plain.capitalize()
    if not is_english or (word.begins and word.ends):
        return True
    return word.ends if code.cased == "I" else not word.begins
