"""Questions whose answers can be judged by comparing strings, and what is left out of them."""

from __future__ import annotations

import pytest

from align.judges.rules import verdict
from data_builders import sources
from data_builders.facts import country_in_a_sentence, country_names, country_questions, element_questions
from data_builders.sources import Country, Element


def country(**changes: object) -> Country:
    values = {
        "name": "Chad",
        "alpha2": "TD",
        "alpha3": "TCD",
        "capital": "N'Djamena",
        "region": "Africa",
        "subregion": "Sub-Saharan Africa",
        "currencies": ("XAF",),
        "calling_codes": ("235",),
        "other_names": ("TD", "Tchad", "تشاد"),
    }
    return Country(**(values | changes))  # type: ignore[arg-type]


def by_relation(found: list) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {row.relation: (row.prompt[0].content, row.answers) for row in found}


def test_six_relations_of_a_country() -> None:
    found = by_relation(country_questions([country()]).rows)
    assert found == {
        "capital": ("What is the capital of Chad?", ("N'Djamena", "NDjamena")),
        "country_of_capital": ("N'Djamena is the capital of which country or territory?", ("Chad", "Tchad")),
        "continent": ("On which continent is Chad?", ("Africa",)),
        "currency_code": ("What is the three-letter code of the currency of Chad?", ("XAF",)),
        "calling_code": ("What is the international calling code of Chad?", ("235",)),
        "country_code": ("What is the three-letter ISO country code of Chad?", ("TCD",)),
    }


@pytest.mark.parametrize(
    "changes, relation, reason",
    [
        ({"capital": ""}, "capital", "source has no single value"),
        ({"currencies": ("XAF", "EUR")}, "currency_code", "source has no single value"),
        ({"alpha2": "ZA"}, "capital", "ambiguous"),
        ({"alpha2": "RU"}, "continent", "ambiguous"),
        ({"capital": "Chad City", "name": "Chad City Land"}, "capital", "answer stands in the question"),
        ({"alpha3": "CAN"}, "country_code", "answer is an English word"),
    ],
)
def test_what_cannot_be_judged_is_left_out_and_counted(changes: dict, relation: str, reason: str) -> None:
    found = country_questions([country(**changes)])
    assert relation not in by_relation(found.rows)
    assert found.dropped[reason] >= 1
    assert found.counts["read"] == 6


def test_an_entity_with_two_names_is_left_out() -> None:
    found = country_questions([country(), country(name="Republic of Chad")])
    assert found.rows == []
    assert found.dropped == {"entity has two names": 2}


def test_an_entity_that_stands_twice_is_asked_once() -> None:
    assert len(country_questions([country(), country()]).rows) == 6


def test_a_capital_of_two_countries_names_neither() -> None:
    found = country_questions([country(), country(name="Other", alpha2="XX", alpha3="XXX")])
    assert "country_of_capital" not in by_relation(found.rows)


def test_names_that_take_an_article_get_it() -> None:
    assert country_in_a_sentence("The Gambia") == "the Gambia"
    assert country_in_a_sentence("Cook Islands") == "the Cook Islands"
    assert country_in_a_sentence("Chad") == "Chad"
    assert "تشاد" not in country_names(country())


def test_elements_are_asked_both_ways_with_both_spellings() -> None:
    found = by_relation(element_questions([Element(13, "Al", "Aluminum")]).rows)
    assert found["symbol"] == ("What is the chemical symbol of aluminum?", ("Al",))
    assert found["atomic_number"] == ("What is the atomic number of aluminum?", ("13",))
    assert found["element_of_number"][1] == ("Aluminum", "Aluminium")


def test_a_symbol_that_is_a_word_is_not_asked_for() -> None:
    found = element_questions([Element(49, "In", "Indium")])
    assert "symbol" not in by_relation(found.rows)
    assert found.dropped == {"answer is an English word": 1}


@pytest.mark.asset("countryinfo")
@pytest.mark.asset("mendeleev")
def test_on_the_real_sources_every_accepted_answer_is_judged_right_and_the_question_is_not() -> None:
    countries, elements = country_questions(sources.countries()), element_questions(sources.elements())
    rows = countries.rows + elements.rows
    assert len(rows) > 1500
    assert len({row.id for row in rows}) == len(rows)
    assert elements.counts["read"] == 4 * 118
    for row in rows:
        question = row.prompt[0].content
        for answer in row.answers:
            assert verdict(f"It is {answer}.", row.answers) == "right", (question, answer)
        assert verdict(question, row.answers) == "wrong", row
