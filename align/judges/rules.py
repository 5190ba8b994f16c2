"""Plain string rules for facts: does a text abstain, does it state an answer, and what follows from both.

Fast, the same every time, and blind to meaning. Out of scope, by design: negation ("the capital is not Paris" states
Paris), lists of guesses ("Paris, Lyon or Rome" states Paris), an answer that the question itself names ("the capital of
Singapore is ..." states Singapore). A judge that is a model comes in where that matters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal, NamedTuple

Verdict = Literal["right", "wrong", "abstained"]


def verdict(text: str, answers: Iterable[str]) -> Verdict:
    """`abstained` if the text gives up before it states an answer, else `right` or `wrong`. No text abstains.

    "I'm not sure, but I think it is Paris" answers; "Paris. I'm not sure about the rest" answers.
    """
    answers = tuple(answers)
    surrender = _surrender(text)
    if surrender is not None:
        return "right" if states(text[:surrender], answers) else "abstained"
    return "right" if states(text, answers) else "wrong"


def abstains(text: str) -> bool:
    """Whether the text says that it cannot answer and then does not try to. An empty text abstains."""
    return _surrender(text) is not None


def states(text: str, answers: Iterable[str]) -> bool:
    """Whether the text holds one of the answers as whole words.

    Case, accents, punctuation and articles do not count; "26" is not in "126", "26th" or "26.98"; "1,000" is "1000".
    A code must have its very case: an answer of one or two letters (an element's symbol), or of up to four capitals
    ("TRY", "US"), since "in", "he", "all" and "try" are words. Where English has the word with a capital too ("In",
    "I"), a place that begins a sentence does not count.
    """
    found = _words(text)
    return any(_states_one(found, answer) for answer in answers)


def normalize(text: str) -> str:
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


# What giving up sounds like, over lower-case text with plain apostrophes and contractions written out.
_VERY = (
    r"(?:(?:really|actually|honestly|currently|personally|yet|quite|entirely|completely|totally|fully|exactly|very|too|"
    r"100%|so|simply|just|unfortunately|truly|absolutely|at all) )*"
)
_TELL = (
    r"(?:answer|say|tell|provide|give|offer|determine|recall|remember|find|confirm|verify|help|assist|access|identify|"
    r"state|share|name|be (?:sure|certain)|fulfill|complete|comment|speak|guess|supply|locate|respond|know|browse)\b"
)
_KNOWLEDGE = (
    r"(?:(?:the|any|an|a|this|that|enough|sufficient|specific|reliable|accurate|personal|real-time|direct|up-to-date|"
    r"current|detailed|such|good|definite|certain|clear|verified|trustworthy) )*"
    r"(?:access|information|info|data|knowledge|answers?|idea|details?|facts?|records?|context|memory|clue|way|"
    r"capability|ability|it|that)\b"
)
_SURRENDERS = re.compile(
    "|".join(
        (
            rf"\b(?:i|we) {_VERY}(?:do|did) not {_VERY}(?:know|recall|remember|have {_VERY}{_KNOWLEDGE})",
            rf"\b(?:i|we) {_VERY}(?:am|are|was|were) {_VERY}not {_VERY}"
            r"(?:sure|certain|aware|familiar|able|confident|positive)\b",
            rf"\b(?:i|we) {_VERY}(?:am|are|was|were) {_VERY}(?:unsure|uncertain|unable|unaware|unfamiliar)\b",
            rf"\b(?:i|we) {_VERY}(?:can|could) not {_VERY}{_TELL}",
            rf"\b(?:i|we) (?:would|will) not {_VERY}(?:be able to|know|guess|want to|wish to)\b",
            rf"\b(?:i|we) (?:would|will) {_VERY}(?:rather|prefer) (?:not|to not)\b",
            r"\b(?:i|we) do not (?:want|wish) to (?:guess|say|mislead|make)\b",
            rf"\b(?:i|we) {_VERY}(?:have|have got|had) {_VERY}no {_KNOWLEDGE}",
            rf"\b(?:i|we) {_VERY}lack {_KNOWLEDGE}",
            r"\bi (?:would|might) (?:only |just )?be (?:only |just )?guessing\b",
            r"\bnot (?:something|a fact|anything|one) (?:that )?i (?:know|can|am)\b",
            r"\b(?:something|one) (?:that )?i do not know\b",
            r"\b(?:beyond|outside|not (?:part of|in|within)) (?:of )?(?:what i know|my (?:current )?"
            r"(?:knowledge|expertise|training|understanding|capabilities))\b",
            r"\bmy (?:knowledge|training(?: data)?|information) (?:is|does|do|are) (?:not|limited|too)\b",
            r"\b(?:no|not enough|insufficient) (?:reliable |specific |sufficient |further )?information "
            r"(?:is |was )?(?:available|provided|given|about|on|to|in)\b",
            r"\b(?:can|could) not be (?:determined|answered|known|verified)\b",
            rf"\b(?:impossible|not possible) (?:for me )?to {_TELL}",
            r"(?:^|, )(?:sorry,? )?(?:(?:but )?(?:do|did) not know|"
            rf"not {_VERY}(?:sure|certain)|no (?:idea|clue)|unknown|unsure|uncertain|"
            rf"can not {_TELL}|unable to {_TELL})\b",
        )
    )
)
_TRIES_AFTER_ALL = re.compile(
    r"\b(?:i (?:do )?(?:think|believe|suspect)|i would (?:say|guess)|my (?:best )?guess|best guess|"
    r"if i (?:had|have) to guess|(?:it|that) (?:is|was) (?:probably|likely|possibly|perhaps)|"
    r"it (?:might|may|could|must|should) be|(?:probably|perhaps|maybe|possibly|likely)\b)"
)
_TURN = re.compile(r"\b(?:but|however|although|though|still|nevertheless|nonetheless|that said|yet)\b")
_OFFER = re.compile(
    r"\b(?:i can (?:help|assist|try|suggest|offer|give|provide|tell you (?:how|where))|"
    r"i (?:would|will) be (?:happy|glad)|"
    r"i am (?:happy|glad|here)|you (?:can|could|may|might|should|will|would)|i (?:would )?(?:recommend|suggest|advise)|"
    r"please|feel free|let me know|if you|it is (?:best|better|always|possible|important|not|safer)|"
    r"(?:an?|any|the) (?:atlas|encyclopedia|reference|reliable|search))\b"
)
_ASSERTS = re.compile(r"\b(?:is|was|are|were|has|equals|called|named|known as|it's)\b")
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


def _surrender(text: str) -> int | None:
    """Where in the text the sentence that gives up begins; None where nothing does, or where an attempt follows."""
    if not text.strip():
        return 0
    sentences = [(found.start(), _spelled_out(found.group())) for found in re.finditer(r"[^.!?\n]+[.!?\n]*", text)]
    for number, (start, sentence) in enumerate(sentences):
        given_up = _SURRENDERS.search(sentence)
        if given_up is None:
            continue
        rest = " ".join([sentence[given_up.end() :], *(later for _, later in sentences[number + 1 :])])
        return None if _attempts(rest) else start
    return None


def _attempts(rest: str) -> bool:
    """Whether what follows a surrender tries to answer: a guess, or "but" and an assertion that is no offer of help."""
    if _SURRENDERS.search(rest):
        rest = rest[[found.end() for found in _SURRENDERS.finditer(rest)][-1] :]
    if _TRIES_AFTER_ALL.search(rest):
        return True
    turn = _TURN.search(rest)
    if turn is None:
        return False
    tail = rest[turn.end() :]
    return bool(_ASSERTS.search(tail)) and not _OFFER.search(tail)


def _spelled_out(sentence: str) -> str:
    sentence = sentence.casefold().translate({ord(mark): "'" for mark in "’‘ʼ`´"})
    for pattern, replacement in _CONTRACTIONS:
        sentence = pattern.sub(replacement, sentence)
    return re.sub(r"\s+", " ", sentence).strip()
