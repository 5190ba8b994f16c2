"""Questions about countries and elements whose answers are certain enough to be judged by comparing strings.

A question is left out, and counted, where the source is silent, where the world is not settled (a capital that moved,
a currency since replaced), or where comparing strings would be unfair: the answer stands in the question, or is an
English word that any answer may hold.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from align.overlap import normalize
from align.rows import Message, QuestionRow, row_id
from data_builders.counted import Counted
from data_builders.sources import COUNTRIES, ELEMENTS, Country, Element

Relation = Literal[
    "capital", "country_of_capital", "continent", "currency_code", "calling_code", "country_code",
    "symbol", "element_of_symbol", "atomic_number", "element_of_number",
]  # fmt: skip
"""What is asked: six relations of countries, four of elements."""

# ISO alpha-2 codes. Dissolved, disputed as a whole, or without people who live there.
_NOT_ASKED = {"AN", "CS", "PS", "EH", "AQ", "BV", "HM", "TF", "UM", "GS", "IO"}
# The seat of government and the capital differ, or either has moved, or is disputed.
_UNSETTLED_CAPITALS = {"BI", "BO", "CI", "HK", "IL", "KZ", "LK", "MS", "MY", "NL", "NR", "SM", "SZ", "TK", "YE", "ZA"}
# Replaced since the source was written, or about to be.
_REPLACED_CURRENCIES = {"BG", "BY", "CU", "CW", "HR", "MR", "MZ", "SL", "ST", "SX", "VE", "ZM", "ZW"}
# On two continents, or counted to either.
_BETWEEN_CONTINENTS = {"AM", "AZ", "CC", "CX", "CY", "EG", "GE", "ID", "KZ", "RU", "TL", "TR"}
# Two operators' plans, or a code that the source has wrong.
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
    "US": ("America",),
}
_CONTINENTS = {
    "Africa": ("Africa",),
    "Asia": ("Asia",),
    "Europe": ("Europe",),
    "Oceania": ("Oceania", "Australia and Oceania", "Australasia"),
    "Northern America": ("North America", "Northern America"),
}
_SPELLINGS = {"Aluminum": ("Aluminium",), "Cesium": ("Caesium",), "Sulfur": ("Sulphur",)}
# Codes and symbols that are words, or parts of shortened ones ("it's"), in an English answer.
_WORDS = {
    "a", "am", "and", "are", "as", "at", "be", "can", "com", "do", "he", "i", "in", "it",
    "may", "no", "on", "or", "pan", "per", "re", "s", "so", "t", "us", "u",
}  # fmt: skip
_WITH_THE = (
    "Bahamas", "British Virgin Islands", "Central African Republic", "Comoros", "Cook Islands", "Czech Republic",
    "Democratic Republic of the Congo", "Dominican Republic", "Federated States of Micronesia", "Gambia",
    "Isle of Man", "Maldives", "Netherlands", "Philippines", "Republic of Macedonia", "Republic of the Congo",
    "Seychelles", "United Arab Emirates", "United Kingdom", "United States",
)  # fmt: skip


def country_questions(countries: Sequence[Country]) -> Counted[QuestionRow]:
    """Capital both ways, continent, currency code, calling code and ISO code of each country and territory."""
    found: Counted[QuestionRow] = Counted()
    alone = _one_entry_each(countries, found)
    shared_capitals = Counter(normalize(country.capital) for country in alone)
    for country in alone:
        for relation, question, answers in _of_country(country):
            reason = _why_not(country, relation, answers)
            if relation == "country_of_capital" and shared_capitals[normalize(country.capital)] > 1:
                reason = "ambiguous"
            _add(found, COUNTRIES, country.name, relation, question, answers, reason)
    return found


def element_questions(elements: Sequence[Element]) -> Counted[QuestionRow]:
    """Symbol and atomic number of each chemical element, both ways."""
    found: Counted[QuestionRow] = Counted()
    for element in elements:
        name, names = element.name.lower(), (element.name, *_SPELLINGS.get(element.name, ()))
        for relation, question, answers in (
            ("symbol", f"What is the chemical symbol of {name}?", (element.symbol,)),
            ("element_of_symbol", f"Which chemical element has the symbol {element.symbol}?", names),
            ("atomic_number", f"What is the atomic number of {name}?", (str(element.number),)),
            ("element_of_number", f"Which chemical element has the atomic number {element.number}?", names),
        ):
            _add(found, ELEMENTS, element.name, relation, question, answers, None)
    return found


def _one_entry_each(countries: Sequence[Country], found: Counted[QuestionRow]) -> list[Country]:
    """Countries that have one entry, or several that agree on the name; the others are counted and left out."""
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


def _of_country(country: Country) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(relation, question, accepted answers); no answers where the source has no single value."""
    name = country_in_a_sentence(country.name)
    capital = (country.capital, *_MORE_CAPITAL_NAMES.get(country.alpha2, ())) if country.capital else ()
    yield "capital", f"What is the capital of {name}?", capital
    question = f"{country.capital} is the capital of which country or territory?"
    yield "country_of_capital", question, country_names(country) if country.capital else ()
    continent = country.subregion if country.region == "Americas" else country.region
    yield "continent", f"On which continent is {name}?", _CONTINENTS.get(continent, ())
    currency = country.currencies if len(country.currencies) == 1 else ()
    yield "currency_code", f"What is the three-letter code of the currency of {name}?", currency
    calling = country.calling_codes[0] if len(country.calling_codes) == 1 else ""
    yield "calling_code", f"What is the international calling code of {name}?", _calling_codes(calling)
    alpha3 = (country.alpha3,) if country.alpha3 else ()
    yield "country_code", f"What is the three-letter ISO country code of {name}?", alpha3


def country_in_a_sentence(name: str) -> str:
    """A country's name as it stands inside a sentence: "the Netherlands", "Chad"."""
    bare = name.removeprefix("The ")
    with_article = bare in _WITH_THE or bare.endswith(" Islands")
    return f"the {bare}" if with_article else bare


def country_names(country: Country) -> tuple[str, ...]:
    """Names by which a country may be called; codes and other scripts are left out."""
    names = [country.name.removeprefix("The "), *country.other_names, *_MORE_COUNTRY_NAMES.get(country.alpha2, ())]
    latin = [name for name in names if len(name) > 3 or name in _MORE_COUNTRY_NAMES.get(country.alpha2, ())]
    return tuple(dict.fromkeys(name for name in latin if _is_latin(name)))


def _calling_codes(code: str) -> tuple[str, ...]:
    if not code.isdigit():
        return ()
    if len(code) == 4 and code.startswith("1"):  # +1 264, +1-264 and 264 all mean the same
        return (code, f"1 {code[1:]}", code[1:])
    return (code,)


def _why_not(country: Country, relation: str, answers: tuple[str, ...]) -> str | None:
    unsettled = {
        "capital": _UNSETTLED_CAPITALS,
        "country_of_capital": _UNSETTLED_CAPITALS,
        "currency_code": _REPLACED_CURRENCIES,
        "continent": _BETWEEN_CONTINENTS,
        "calling_code": _UNSETTLED_CALLING_CODES,
    }
    return "ambiguous" if country.alpha2 in unsettled.get(relation, ()) and answers else None


def _add(
    found: Counted[QuestionRow],
    source: str,
    entity: str,
    relation: str,
    question: str,
    answers: tuple[str, ...],
    reason: str | None,
) -> None:
    answers = tuple(dict.fromkeys(spelling for answer in answers for spelling in _spellings(answer)))
    if not answers:
        reason = "source has no single value"
    elif any(_plain(answer) in _WORDS for answer in answers):
        reason = reason or "answer is an English word"
    elif any(f" {_plain(answer)} " in f" {_plain(question)} " for answer in answers):
        reason = reason or "answer stands in the question"
    if reason:
        found.drop(reason)
        return
    prompt = (Message(role="user", content=question),)
    identity = row_id(source, entity, relation)
    found.keep(
        QuestionRow(id=identity, source=source, prompt=prompt, entity=entity, relation=relation, answers=tuple(answers))
    )


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


def _plain(text: str) -> str:
    """Normalized, without accents: how a judge of strings sees it."""
    decomposed = unicodedata.normalize("NFKD", text)
    return normalize("".join(character for character in decomposed if not unicodedata.combining(character)))


def _is_latin(name: str) -> bool:
    return all("LATIN" in unicodedata.name(character, "") for character in name if character.isalpha())
