"""Collect the questions about all topics. Only the packages that the requested relations need are read."""

from __future__ import annotations

from collections.abc import Callable

from align.rows import QuestionRow
from data_builders import packaged
from data_builders.questions.facts.cities import city_questions
from data_builders.questions.facts.countries import country_questions
from data_builders.questions.facts.elements import element_questions
from data_builders.questions.facts.fact import QuestionOptions
from data_builders.questions.facts.wordings import Relation
from data_builders.row_set import RowSet

_AGREED: set[Relation] = {"currency", "language", "area", "border"}
_CITIES: set[Relation] = {"city_country", "city_continent"}
_ELEMENTS: set[Relation] = {
    "symbol", "element_of_symbol", "atomic_number", "element_of_number", "period", "group", "atomic_weight",
}  # fmt: skip


def all_questions(options: QuestionOptions) -> RowSet[QuestionRow]:
    """Make the questions of every topic with a requested relation. What is left out is counted."""
    asked = set(options.relations)
    topics: tuple[tuple[bool, Callable[[], RowSet[QuestionRow]]], ...] = (
        (bool(asked - _CITIES - _ELEMENTS), lambda: _countries(options)),
        (bool(asked & _ELEMENTS), lambda: element_questions(packaged.elements(), options)),
        (bool(asked & _CITIES), lambda: _cities(options)),
    )
    found: RowSet[QuestionRow] = RowSet()
    for is_asked, questions in topics:
        if is_asked:
            found.add(questions())
    return found


def _countries(options: QuestionOptions) -> RowSet[QuestionRow]:
    registered = packaged.registered_countries() if _AGREED & set(options.relations) else None
    return country_questions(packaged.countries(), options, registered)


def _cities(options: QuestionOptions) -> RowSet[QuestionRow]:
    return city_questions(packaged.cities(), packaged.countries(), packaged.registered_countries(), options)
