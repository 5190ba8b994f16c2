"""Questions about cities: the country and the continent of each. From those everybody knows to those nobody does.

Only a city whose name is its own is asked about, or one ten times larger than the next of that name in another country.
Capitals are left out: `countries.py` asks for the same fact, and one fact must stand on one side of a split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set

from align.rows import QuestionRow
from data_builders.packaged import CITIES, City, Country, RegisteredCountry
from data_builders.questions.facts.countries import BETWEEN_CONTINENTS, continent_of, countries_alone, country_names
from data_builders.questions.facts.fact import ASKING, Asking, Fact, ask, is_latin, plain
from data_builders.questions.facts.places import TERRITORIES
from data_builders.questions.facts.wordings import Relation
from data_builders.row_set import Counted

TIMES_LARGER = 10
"""By how much the largest bearer of a name must exceed the next one in another country."""

# Claimed by two states, in the source's own words or by the status of the place.
_DISPUTED_COUNTRIES = {"IL", "PS", "EH", "XK", "TW"}
_DISPUTED_TIMEZONES = {"Europe/Simferopol"}
_NATIONS = {"ENG": "England", "SCT": "Scotland", "WLS": "Wales", "NIR": "Northern Ireland"}


def city_questions(
    cities: Sequence[City],
    countries: Sequence[Country],
    registered: Mapping[str, RegisteredCountry],
    asking: Asking = ASKING,
) -> Counted[QuestionRow]:
    """Where each city is. What is left out is counted by city, once for each relation asked and each wording.

    registered: GeoNames' countries by ISO alpha-2 code, for a second opinion on what is a capital.
    """
    found: Counted[QuestionRow] = Counted()
    asked = sum(relation.startswith("city_") for relation in asking.relations) * asking.wordings
    by_code = {country.alpha2: country for country in countries_alone(countries, Counted())}
    for city, reason in _chosen(cities, by_code, registered, asking.cities_of_one_country):
        if reason:
            found.drop(reason, asked)
            continue
        for fact in city_facts(city, by_code[city.country]):
            ask(fact, asking, found)
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
            why_not="ambiguous" if between else None,
        )


def _chosen(
    cities: Sequence[City],
    countries: Mapping[str, Country],
    registered: Mapping[str, RegisteredCountry],
    of_one_country: int,
) -> Iterator[tuple[City, str | None]]:
    """Each city, largest first, and why it is not asked about."""
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
            reason = "a capital, or a part of one: asked as one"
        elif taken[city.country] == of_one_country:
            reason = "over the largest of its country"
        seen.add(name)
        taken[city.country] += reason is None
        yield city, reason


def _is_capital(name: str, names: Set[str], capitals: Set[str]) -> bool:
    """Whether it is one by any of its names, or its own name holds one: "Põhja-Tallinn"."""
    return bool(capitals & names) or any(f" {capital} " in f" {name} " for capital in capitals)
