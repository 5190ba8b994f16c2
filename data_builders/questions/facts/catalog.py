"""All the facts of the pinned packages as questions: only the packages that the relations need are read."""

from __future__ import annotations

from collections.abc import Callable

from align.rows import QuestionRow
from data_builders import packaged
from data_builders.questions.facts.cities import city_questions
from data_builders.questions.facts.countries import country_questions
from data_builders.questions.facts.elements import element_questions
from data_builders.questions.facts.fact import Asking
from data_builders.questions.facts.wordings import Relation
from data_builders.row_set import Counted

_AGREED: set[Relation] = {"currency", "language", "area", "border"}
_CITIES: set[Relation] = {"city_country", "city_continent"}
_ELEMENTS: set[Relation] = {
    "symbol", "element_of_symbol", "atomic_number", "element_of_number", "period", "group", "atomic_weight",
}  # fmt: skip


def all_questions(asking: Asking) -> Counted[QuestionRow]:
    """Questions of every topic that holds one of the relations asked for, and what was left out."""
    asked = set(asking.relations)
    topics: tuple[tuple[bool, Callable[[], Counted[QuestionRow]]], ...] = (
        (bool(asked - _CITIES - _ELEMENTS), lambda: _countries(asking)),
        (bool(asked & _ELEMENTS), lambda: element_questions(packaged.elements(), asking)),
        (bool(asked & _CITIES), lambda: _cities(asking)),
    )
    found: Counted[QuestionRow] = Counted()
    for is_asked, questions in topics:
        if is_asked:
            found.add(questions())
    return found


def _countries(asking: Asking) -> Counted[QuestionRow]:
    registered = packaged.registered_countries() if _AGREED & set(asking.relations) else None
    return country_questions(packaged.countries(), asking, registered)


def _cities(asking: Asking) -> Counted[QuestionRow]:
    return city_questions(packaged.cities(), packaged.countries(), packaged.registered_countries(), asking)
