"""A fact, and the questions that ask for it: in several wordings and languages, where comparing strings is fair.

A question is left out, and counted, where the source is silent, where the world is not settled (a capital that moved,
a currency since replaced), or where comparing strings would be unfair: the answer stands in the question, or is an
English word that any answer may hold. Which facts there are is left to the files beside this one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from align.rows import Message, QuestionRow, row_id
from align.text import normalize
from data_builders.questions.facts.wordings import WORDINGS, Language, Relation
from data_builders.row_set import Counted

FIRST_RELATIONS: tuple[Relation, ...] = (
    "capital", "country_of_capital", "continent", "currency_code", "calling_code", "country_code",
    "symbol", "element_of_symbol", "atomic_number", "element_of_number",
)  # fmt: skip
"""What is asked where nobody says otherwise."""

# Codes and symbols that are words, or parts of shortened ones ("it's"), in an English answer.
_WORDS = {
    "a", "am", "and", "are", "as", "at", "be", "by", "can", "com", "do", "he", "i", "id", "in", "is", "it",
    "may", "me", "my", "net", "no", "on", "or", "pan", "per", "re", "real", "s", "so", "t", "to", "us", "u",
}  # fmt: skip


@dataclass(frozen=True)
class Asking:
    """Which questions are made of the facts."""

    relations: Collection[Relation] = FIRST_RELATIONS
    languages: tuple[Language, ...] = ("en",)
    wordings: int = 1
    """The first so many wordings of each kind of fact, in each language."""
    cities_of_one_country: int = 20
    """The largest of each, so that no country is the answer to most questions."""


ASKING = Asking()


@dataclass(frozen=True)
class Fact:
    """One thing that is so, in one language."""

    source: str
    topic: str
    entity: str
    """Its name in the source, whatever the language: splits are cut by it."""
    relation: Relation
    answers: tuple[str, ...]
    """Every accepted answer; empty where the source has no single value."""
    slots: Mapping[str, str]
    """What the wordings are filled with."""
    language: Language = "en"
    tolerance: float = 0.0
    """A number within this share of the answer is right."""
    why_not: str | None = field(default=None, compare=False)
    """Why it is not asked, where its answer is not certain."""


def ask(fact: Fact, asking: Asking, found: Counted[QuestionRow]) -> None:
    """Add the questions for a fact to `found`, or count why there are none."""
    if fact.relation not in asking.relations or fact.language not in asking.languages:
        return
    asked = WORDINGS[fact.relation][fact.language]
    answers = tuple(dict.fromkeys(spelling for answer in fact.answers for spelling in _spellings(answer)))
    subject = asked.subject.format_map(fact.slots)
    for number, wording in enumerate(asked.wordings[: asking.wordings]):
        question = wording.format_map(fact.slots)
        reason = _why_not(fact, question, answers)
        if reason:
            found.drop(reason)
            continue
        further = () if fact.language == "en" and number == 0 else (fact.language, number)
        found.keep(
            QuestionRow(
                id=row_id(fact.source, fact.entity, fact.relation, *further),
                source=fact.source,
                prompt=(Message(role="user", content=question),),
                entity=fact.entity,
                relation=fact.relation,
                answers=answers,
                tolerance=fact.tolerance,
                topic=fact.topic,
                subject=subject,
                language=fact.language,
            )
        )


def plain(text: str) -> str:
    """Normalized, without accents: how a judge of strings sees it."""
    if text.isascii():
        return normalize(text)
    decomposed = unicodedata.normalize("NFKD", text)
    return normalize("".join(character for character in decomposed if not unicodedata.combining(character)))


def is_latin(name: str) -> bool:
    return name.isascii() or all(
        "LATIN" in unicodedata.name(character, "") for character in name if character.isalpha()
    )


def _why_not(fact: Fact, question: str, answers: tuple[str, ...]) -> str | None:
    if not answers:
        return "source has no single value"
    if fact.why_not:
        return fact.why_not
    if any(plain(answer) in _WORDS for answer in answers):
        return "answer is an English word"
    if any(f" {plain(answer)} " in f" {plain(question)} " for answer in answers):
        return "answer stands in the question"
    return None


def _spellings(answer: str) -> Iterator[str]:
    """An answer, and how else it is written: Saint or St., with and without apostrophe or hyphen."""
    yield answer
    if "'" in answer:
        yield answer.replace("'", "")
    if "-" in answer:
        yield answer.replace("-", "")
    for long, short in (("Saint ", "St. "), ("St. ", "Saint ")):
        if answer.startswith(long):
            yield short + answer.removeprefix(long)
