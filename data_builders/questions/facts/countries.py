"""Questions about countries, made of the facts in the sources that are certain.

The texts of the questions are in `wordings.py`, and names and articles in other languages in `places.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from align.rows import QuestionRow
from align.text import normalize
from data_builders.packaged import COUNTRIES, Country, RegisteredCountry
from data_builders.questions.facts.fact import DEFAULT_OPTIONS, Fact, QuestionOptions, add_questions, is_latin
from data_builders.questions.facts.places import (
    CAPITALS,
    CONTINENTS,
    COUNTRY_NAMES,
    MORE_COUNTRY_NAMES,
    TERRITORIES,
    name_in,
)
from data_builders.questions.facts.wordings import Language, Relation
from data_builders.row_set import RowSet

OTHER_LANGUAGES: tuple[Language, ...] = ("de", "fr", "es")
AREA_TOLERANCE = 0.05
"""An answer within this ratio of the true area is right. The two sources must agree within half of it."""

# ISO alpha-2 codes of countries that are dissolved, disputed as a whole, or not inhabited.
_NOT_ASKED = {"AN", "CS", "PS", "EH", "AQ", "BV", "HM", "TF", "UM", "GS", "IO"}
# The seat of government and the capital differ, or one of them has moved or is disputed.
_UNSETTLED_CAPITALS = {"BI", "BO", "CI", "HK", "IL", "KZ", "LK", "MS", "MY", "NL", "NR", "SM", "SZ", "TK", "YE", "ZA"}
# Replaced after the source was written, or about to be replaced.
_REPLACED_CURRENCIES = {"BG", "BY", "CU", "CW", "HR", "MR", "MZ", "SL", "ST", "SX", "VE", "ZM", "ZW"}
# On two continents, or sometimes assigned to another one.
BETWEEN_CONTINENTS = {"AM", "AZ", "CC", "CX", "CY", "EG", "GE", "ID", "KZ", "RU", "TL", "TR"}
# Part of another country's numbering plan, or wrong in the source.
_UNSETTLED_CALLING_CODES = {"BM", "GD", "KZ", "PN", "SJ", "VA"}

_MORE_CAPITAL_NAMES = {
    "IN": ("Delhi",),
    "KG": ("Frunze",),
    "MD": ("Kishinev",),
    "MM": ("Nay Pyi Taw", "Naypyitaw"),
    "MN": ("Ulan Bator",),
    "UA": ("Kiev",),
    "US": ("Washington",),
    "GU": ("Agana",),
    "BN": ("Bandar Seri Bagawan",),
}
_MORE_COUNTRY_NAMES = {
    "BO": ("Bolivia",),
    "CD": ("DR Congo", "DRC"),
    "CV": ("Cabo Verde",),
    "CZ": ("Czechia",),
    "GB": ("Britain", "UK"),
    "IR": ("Iran",),
    "MK": ("Macedonia", "North Macedonia"),
    "MM": ("Burma",),
    "SZ": ("Eswatini",),
    "TL": ("Timor-Leste",),
    "TR": ("Turkiye", "Türkiye"),
    "AE": ("UAE",),
    "US": ("America", "USA"),
}
# Names of currencies for which GeoNames has a plural, or which have several names.
_CURRENCIES = {
    "Bolivar Soberano": ("Bolivar",),
    "Colon": ("Colon", "Colones"),
    "Koruna": ("Koruna", "Crown"),
    "Lilangeni": ("Lilangeni", "Emalangeni"),
    "Marka": ("Marka", "Mark"),
    "Riels": ("Riel",),
    "Yuan Renminbi": ("Yuan", "Renminbi"),
}
_LANGUAGES = {
    "am": ("Amharic",), "ar": ("Arabic",), "bg": ("Bulgarian",), "bn": ("Bengali", "Bangla"), "da": ("Danish",),
    "de": ("German",), "dv": ("Dhivehi", "Divehi", "Maldivian"), "dz": ("Dzongkha",), "el": ("Greek",),
    "en": ("English",), "es": ("Spanish", "Castilian"), "et": ("Estonian",), "fa": ("Persian", "Farsi"),
    "fr": ("French",), "hr": ("Croatian",), "hu": ("Hungarian",), "id": ("Indonesian", "Bahasa Indonesia"),
    "is": ("Icelandic",), "it": ("Italian",), "ja": ("Japanese",), "ka": ("Georgian",), "km": ("Khmer", "Cambodian"),
    "ko": ("Korean",), "lo": ("Lao", "Laotian"), "lt": ("Lithuanian",), "lv": ("Latvian",), "mk": ("Macedonian",),
    "mn": ("Mongolian",), "ms": ("Malay",), "my": ("Burmese",), "ne": ("Nepali",), "nl": ("Dutch",), "pl": ("Polish",),
    "pt": ("Portuguese",), "ro": ("Romanian",), "ru": ("Russian",), "sk": ("Slovak",), "sl": ("Slovene", "Slovenian"),
    "sq": ("Albanian",), "sv": ("Swedish",), "th": ("Thai",), "tr": ("Turkish",), "uk": ("Ukrainian",),
    "vi": ("Vietnamese",), "zh": ("Chinese", "Mandarin"),
}  # fmt: skip
# Countries in which French has lost its status as an official language, or is losing it.
_UNSETTLED_LANGUAGES = {"BF", "ML", "NE"}
_UNSETTLED: dict[Relation, set[str]] = {
    "capital": _UNSETTLED_CAPITALS,
    "country_of_capital": _UNSETTLED_CAPITALS,
    "currency_code": _REPLACED_CURRENCIES,
    "currency": _REPLACED_CURRENCIES,
    "language": _UNSETTLED_LANGUAGES,
    "continent": BETWEEN_CONTINENTS,
    "calling_code": _UNSETTLED_CALLING_CODES,
}


def country_questions(
    countries: Sequence[Country],
    options: QuestionOptions = DEFAULT_OPTIONS,
    registered: Mapping[str, RegisteredCountry] | None = None,
) -> RowSet[QuestionRow]:
    """Make questions about each country and territory: capital, continent, currency code, calling code, and more.

    registered: the countries of GeoNames by ISO alpha-2 code. Area, currency, language and borders are asked only if
    both
        sources agree.
    """
    found: RowSet[QuestionRow] = RowSet()
    for fact in country_facts(countries, found, registered or {}):
        add_questions(fact, options, found)
    return found


def country_facts(
    countries: Sequence[Country], found: RowSet[QuestionRow], registered: Mapping[str, RegisteredCountry]
) -> Iterator[Fact]:
    """Yield every fact in every language. Entries that are not a single country are counted in `found`."""
    alone = single_countries(countries, found)
    shared_capitals = Counter(normalize(country.capital) for country in alone)
    names = {country.alpha3: country_names(country) for country in alone}
    for country in alone:
        is_shared = shared_capitals[normalize(country.capital)] > 1
        yield from _in_english(country, is_shared)
        yield from _agreed(country, registered.get(country.alpha2), names)
        if country.alpha2 not in TERRITORIES:
            for language in OTHER_LANGUAGES:
                yield from _in(language, country, is_shared)


def single_countries(countries: Sequence[Country], found: RowSet[QuestionRow]) -> list[Country]:
    """Return the countries whose entries in the source all have one name. The others are counted and left out."""
    by_code: dict[str, dict[str, Country]] = {}
    for country in countries:
        by_code.setdefault(country.alpha2 or country.name, {}).setdefault(country.name, country)
    alone = []
    for code, entries in sorted(by_code.items()):
        (name, country), *others = entries.items()
        if others:
            found.drop("entity has two names", len(entries))
        elif code in _NOT_ASKED or any(sign in name for sign in ",()"):
            found.drop("entity left out")
        else:
            alone.append(country)
    return alone


def country_names(country: Country) -> tuple[str, ...]:
    """Return the names of a country that are accepted as answers. Codes and names in other scripts are left out."""
    more = _MORE_COUNTRY_NAMES.get(country.alpha2, ())
    names = [country.name.removeprefix("The "), *country.other_names, *more]
    kept = [name for name in names if len(name) > 3 or name in more]
    return tuple(dict.fromkeys(name for name in kept if is_latin(name)))


def continent_of(country: Country, language: Language = "en") -> tuple[str, ...]:
    """Return the names of a country's continent; an empty tuple if it is between the two Americas."""
    region = country.region
    if region == "Americas":
        region = "South America" if country.intermediate_region == "South America" else country.subregion
    return CONTINENTS.get(region, {}).get(language, ())


def _in_english(country: Country, is_shared: bool) -> Iterator[Fact]:
    place = name_in("en", country.name)
    capital = (country.capital, *_MORE_CAPITAL_NAMES.get(country.alpha2, ())) if country.capital else ()
    currency = country.currencies if len(country.currencies) == 1 else ()
    calling = country.calling_codes[0] if len(country.calling_codes) == 1 else ""
    domain = country.domains[0].removeprefix(".") if len(country.domains) == 1 else ""
    answers: dict[Relation, tuple[str, ...]] = {
        "capital": capital,
        "country_of_capital": country_names(country) if country.capital else (),
        # Not asked for South America, because additional questions would change which ones existing configs choose.
        "continent": () if country.intermediate_region == "South America" else continent_of(country),
        "currency_code": currency,
        "calling_code": _calling_codes(calling),
        "country_code": (country.alpha3,) if country.alpha3 else (),
        "internet_domain": (domain, domain.upper()) if domain else (),
    }
    for relation, accepted in answers.items():
        yield _fact(country, relation, accepted, "en", {**place._asdict(), "capital": country.capital}, is_shared)


def _in(language: Language, country: Country, is_shared: bool) -> Iterator[Fact]:
    name = COUNTRY_NAMES.get(country.alpha2, {}).get(language) or country.translations.get(language, "")
    if not name:
        return
    place = name_in(language, name)
    capital = CAPITALS.get(country.alpha2, (country.capital,) * 3)[OTHER_LANGUAGES.index(language)]
    more_capitals = (country.capital, *_MORE_CAPITAL_NAMES.get(country.alpha2, ()))
    names = (name, *MORE_COUNTRY_NAMES.get(country.alpha2, {}).get(language, ()))
    answers: dict[Relation, tuple[str, ...]] = {
        "capital": tuple(dict.fromkeys((capital, *more_capitals))) if capital else (),
        "country_of_capital": tuple(dict.fromkeys((*names, *country_names(country)))) if capital else (),
        "continent": continent_of(country, language),
    }
    for relation, accepted in answers.items():
        yield _fact(country, relation, accepted, language, {**place._asdict(), "capital": capital}, is_shared)


def _agreed(
    country: Country, registered: RegisteredCountry | None, names: Mapping[str, tuple[str, ...]]
) -> Iterator[Fact]:
    """Yield the facts on which both sources agree."""
    if registered is None:
        return
    slots = name_in("en", country.name)._asdict()
    neighbors = tuple(sorted(country.borders)) if set(country.borders) == set(registered.borders) else ()
    same_area = abs(country.area - registered.area) <= AREA_TOLERANCE / 2 * country.area
    answers: dict[Relation, tuple[str, ...]] = {
        "currency": _currency_names(registered) if country.currencies == (registered.currency_code,) else (),
        "language": _LANGUAGES.get(country.languages[0], ())
        if country.languages == registered.languages[:1] != ()
        else (),
        "border": tuple(name for code in neighbors for name in names.get(code, ())),
        "area": (f"{country.area:.0f}",) if same_area and country.area >= 100 else (),
    }
    for relation, accepted in answers.items():
        tolerance = AREA_TOLERANCE if relation == "area" else 0.0
        yield _fact(country, relation, accepted, "en", slots, False, tolerance)


def _fact(
    country: Country,
    relation: Relation,
    answers: tuple[str, ...],
    language: Language,
    slots: Mapping[str, str],
    is_shared: bool,
    tolerance: float = 0.0,
) -> Fact:
    unsettled = country.alpha2 in _UNSETTLED.get(relation, ()) or (relation == "country_of_capital" and is_shared)
    return Fact(
        source=COUNTRIES,
        topic="countries",
        entity=country.name,
        relation=relation,
        answers=answers,
        slots=slots,
        language=language,
        tolerance=tolerance,
        excluded_because="ambiguous" if unsettled else None,
    )


def _currency_names(registered: RegisteredCountry) -> tuple[str, ...]:
    name = registered.currency_name
    names = _CURRENCIES.get(name, (name,)) if name else ()
    return (*names, *(f"{one}s" for one in names))


def _calling_codes(code: str) -> tuple[str, ...]:
    if not code.isdigit():
        return ()
    if len(code) == 4 and code.startswith("1"):  # +1 264, +1-264 and 264 all mean the same
        return (code, f"1 {code[1:]}", code[1:])
    return (code,)
