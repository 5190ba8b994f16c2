"""A fact, and the questions that ask for it in several wordings and languages.

Answers are judged by comparing strings, so only facts for which that is fair are asked. A question is left out and
counted if the source has no answer, if the fact is not certain (a capital that moved, a currency that was replaced), if
the answer is in the question, or if the answer is an English word that any sentence can contain. The other files of
this folder collect the facts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from align.rows import Message, QuestionRow, row_id
from align.text import normalize
from data_builders.questions.facts.wordings import WORDINGS, Language, Relation
from data_builders.row_set import RowSet

FIRST_RELATIONS: tuple[Relation, ...] = (
    "capital", "country_of_capital", "continent", "currency_code", "calling_code", "country_code",
    "symbol", "element_of_symbol", "atomic_number", "element_of_number",
)  # fmt: skip
"""The relations that are asked by default."""

# Codes and symbols that are also English words, or parts of contractions such as "it's".
_WORDS = {
    "a", "am", "and", "are", "as", "at", "be", "by", "can", "com", "do", "he", "i", "id", "in", "is", "it",
    "may", "me", "my", "net", "no", "on", "or", "pan", "per", "re", "real", "s", "so", "t", "to", "us", "u",
}  # fmt: skip


@dataclass(frozen=True)
class QuestionOptions:
    """Which questions are made of the facts."""

    relations: Collection[Relation] = FIRST_RELATIONS
    languages: tuple[Language, ...] = ("en",)
    wordings: int = 1
    """Number of wordings of each kind of fact in each language; the first ones are used."""
    cities_of_one_country: int = 20
    """Maximum number of cities of one country, the largest first, so that no country is the answer to most
    questions."""


DEFAULT_OPTIONS = QuestionOptions()


@dataclass(frozen=True)
class Fact:
    """A fact in one language."""

    source: str
    topic: str
    entity: str
    """The entity's name in the source, the same for all languages. Splits are made by it."""
    relation: Relation
    answers: tuple[str, ...]
    """All accepted answers; empty if the source has no single value."""
    slots: Mapping[str, str]
    """Name in braces -> text that replaces it in the wordings."""
    language: Language = "en"
    tolerance: float = 0.0
    """A number is right if it differs from the answer by at most this ratio."""
    excluded_because: str | None = field(default=None, compare=False)
    """Why the fact is not asked for; None if it is certain."""


def add_questions(fact: Fact, options: QuestionOptions, found: RowSet[QuestionRow]) -> None:
    """Add the questions about a fact to `found`, or count why they are left out."""
    if fact.relation not in options.relations or fact.language not in options.languages:
        return
    asked = WORDINGS[fact.relation][fact.language]
    answers = tuple(dict.fromkeys(spelling for answer in fact.answers for spelling in _spellings(answer)))
    subject = asked.subject.format_map(fact.slots)
    for number, wording in enumerate(asked.wordings[: options.wordings]):
        question = wording.format_map(fact.slots)
        reason = _exclusion_reason(fact, question, answers)
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
    """Normalize a text and remove accents, as the judge does before it compares strings."""
    if text.isascii():
        return normalize(text)
    decomposed = unicodedata.normalize("NFKD", text)
    return normalize("".join(character for character in decomposed if not unicodedata.combining(character)))


def is_latin(name: str) -> bool:
    return name.isascii() or all(
        "LATIN" in unicodedata.name(character, "") for character in name if character.isalpha()
    )


def _exclusion_reason(fact: Fact, question: str, answers: tuple[str, ...]) -> str | None:
    if not answers:
        return "source has no single value"
    if fact.excluded_because:
        return fact.excluded_because
    if any(plain(answer) in _WORDS for answer in answers):
        return "answer is an English word"
    if any(f" {plain(answer)} " in f" {plain(question)} " for answer in answers):
        return "answer is in the question"
    return None


def _spellings(answer: str) -> Iterator[str]:
    """Yield an answer and its other spellings: Saint and St., with and without apostrophe or hyphen."""
    yield answer
    if "'" in answer:
        yield answer.replace("'", "")
    if "-" in answer:
        yield answer.replace("-", "")
    for long, short in (("Saint ", "St. "), ("St. ", "Saint ")):
        if answer.startswith(long):
            yield short + answer.removeprefix(long)
