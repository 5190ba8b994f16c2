"""Questions about cities: in which country and on which continent each city is. They range from easy to very hard.

A city is asked about only if its name is unique, or if it is ten times larger than the next city of that name in
another country. Capitals are left out: `countries.py` asks for the same fact, and a fact must be on one side of a split
only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set

from align.rows import QuestionRow
from data_builders.packaged import CITIES, City, Country, RegisteredCountry
from data_builders.questions.facts.countries import BETWEEN_CONTINENTS, continent_of, country_names, single_countries
from data_builders.questions.facts.fact import DEFAULT_OPTIONS, Fact, QuestionOptions, add_questions, is_latin, plain
from data_builders.questions.facts.places import TERRITORIES
from data_builders.questions.facts.wordings import Relation
from data_builders.row_set import RowSet

TIMES_LARGER = 10
"""How many times larger a city must be than every city of the same name in another country."""

# Claimed by two states, according to the source or because of the status of the place.
_DISPUTED_COUNTRIES = {"IL", "PS", "EH", "XK", "TW"}
_DISPUTED_TIMEZONES = {"Europe/Simferopol"}
_NATIONS = {"ENG": "England", "SCT": "Scotland", "WLS": "Wales", "NIR": "Northern Ireland"}


def city_questions(
    cities: Sequence[City],
    countries: Sequence[Country],
    registered: Mapping[str, RegisteredCountry],
    options: QuestionOptions = DEFAULT_OPTIONS,
) -> RowSet[QuestionRow]:
    """Make questions about where each city is. Cities that are left out are counted once per relation and wording.

    registered: the countries of GeoNames by ISO alpha-2 code, a second source for which cities are capitals.
    """
    found: RowSet[QuestionRow] = RowSet()
    asked = sum(relation.startswith("city_") for relation in options.relations) * options.wordings
    by_code = {country.alpha2: country for country in single_countries(countries, RowSet())}
    for city, reason in _chosen(cities, by_code, registered, options.cities_of_one_country):
        if reason:
            found.drop(reason, asked)
            continue
        for fact in city_facts(city, by_code[city.country]):
            add_questions(fact, options, found)
    return found


def city_facts(city: City, country: Country) -> Iterator[Fact]:
    nation = _NATIONS.get(city.region) if city.country == "GB" else None
    answers: dict[Relation, tuple[str, ...]] = {
        "city_country": (*country_names(country), *([nation] if nation else [])),
        "city_continent": continent_of(country),
    }
    for relation, accepted in answers.items():
        between = relation == "city_continent" and city.country in BETWEEN_CONTINENTS
        yield Fact(
            source=CITIES,
            topic="cities",
            entity=city.name,
            relation=relation,
            answers=accepted,
            slots={"name": city.name},
            excluded_because="ambiguous" if between else None,
        )


def _chosen(
    cities: Sequence[City],
    countries: Mapping[str, Country],
    registered: Mapping[str, RegisteredCountry],
    of_one_country: int,
) -> Iterator[tuple[City, str | None]]:
    """Yield each city, largest first, with the reason why it is not asked about, or None if it is."""
    names_of = {city.id: {plain(name) for name in (city.name, *city.other_names) if is_latin(name)} for city in cities}
    bearers: dict[str, list[City]] = {}
    for city in cities:
        for name in names_of[city.id]:
            bearers.setdefault(name, []).append(city)
    capitals: dict[str, set[str]] = {}
    for code, capital in [(code, entry.capital) for some in (countries, registered) for code, entry in some.items()]:
        if capital:
            capitals.setdefault(code, set()).add(plain(capital))
    taken: Counter[str] = Counter()
    seen: set[str] = set()
    for city in sorted(cities, key=lambda city: (-city.population, city.id)):
        name = plain(city.name)
        rivals = [other for other in bearers.get(name, ()) if other.country != city.country]
        reason = None
        if city.country not in countries or city.country in TERRITORIES | _DISPUTED_COUNTRIES:
            reason = "country left out"
        elif city.timezone in _DISPUTED_TIMEZONES:
            reason = "disputed"
        elif not is_latin(city.name) or any(sign.isdigit() for sign in city.name):
            reason = "name in another script, or with a number"
        elif any(city.population < TIMES_LARGER * other.population for other in rivals):
            reason = "name of cities in two countries"
        elif name in seen:
            reason = "name of a larger city"
        elif _is_capital(name, names_of[city.id], capitals.get(city.country, set())):
            reason = "a capital, or a part of one"
        elif taken[city.country] == of_one_country:
            reason = "over the largest of its country"
        seen.add(name)
        taken[city.country] += reason is None
        yield city, reason


def _is_capital(name: str, names: Set[str], capitals: Set[str]) -> bool:
    """Return whether a city is a capital by any of its names, or its name contains that of a capital
    ("Põhja-Tallinn")."""
    return bool(capitals & names) or any(f" {capital} " in f" {name} " for capital in capitals)
