"""The wordings of questions for each kind of fact and language, and the subject that a refusal to answer names.

`{name}` is replaced with the entity in the form that a sentence needs, and `{of}` with the form after "of" ("du
Tchad"). The files that fill other names in braces document them. Do not change the first English wordings: the ids of
existing questions belong to them. No wording contains a number that could be taken for an answer.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Language = Literal["en", "de", "fr", "es"]
Relation = Literal[
    "capital", "country_of_capital", "continent", "currency_code", "calling_code", "country_code",
    "currency", "language", "internet_domain", "area", "border",
    "symbol", "element_of_symbol", "atomic_number", "element_of_number", "period", "group", "atomic_weight",
    "city_country", "city_continent",
]  # fmt: skip
"""Kinds of facts: eleven about countries, seven about elements, two about cities."""


class RelationWordings(NamedTuple):
    """One kind of fact in one language."""

    subject: str
    """What the question asks for, as a noun phrase for "I don't know {subject}."; in German in the accusative."""
    wordings: tuple[str, ...]


WORDINGS: dict[Relation, dict[Language, RelationWordings]] = {
    "capital": {
        "en": RelationWordings(
            "the capital of {name}",
            (
                "What is the capital of {name}?",
                "Which city is the capital of {name}?",
                "What is the capital city of {name}?",
            ),
        ),
        "de": RelationWordings(
            "die Hauptstadt {of}",
            (
                "Wie heißt die Hauptstadt {of}?",
                "Welche Stadt ist die Hauptstadt {of}?",
                "Nenne die Hauptstadt {of}.",
            ),
        ),
        "fr": RelationWordings(
            "la capitale {of}",
            (
                "Quelle est la capitale {of} ?",
                "Quelle ville est la capitale {of} ?",
                "Donne le nom de la capitale {of}.",
            ),
        ),
        "es": RelationWordings(
            "la capital {of}",
            (
                "¿Cuál es la capital {of}?",
                "¿Qué ciudad es la capital {of}?",
                "Di el nombre de la capital {of}.",
            ),
        ),
    },
    "country_of_capital": {
        "en": RelationWordings(
            "the country whose capital is {capital}",
            (
                "{capital} is the capital of which country or territory?",
                "Which country or territory has {capital} as its capital?",
                "Of which country or territory is {capital} the capital?",
            ),
        ),
        "de": RelationWordings(
            "das Land mit der Hauptstadt {capital}",
            (
                "{capital} ist die Hauptstadt welches Landes?",
                "Welches Land hat die Hauptstadt {capital}?",
                "Nenne das Land mit der Hauptstadt {capital}.",
            ),
        ),
        "fr": RelationWordings(
            "le pays dont la capitale est {capital}",
            (
                "{capital} est la capitale de quel pays ?",
                "Quel pays a pour capitale {capital} ?",
                "Donne le nom du pays dont la capitale est {capital}.",
            ),
        ),
        "es": RelationWordings(
            "el país cuya capital es {capital}",
            (
                "¿De qué país es capital {capital}?",
                "¿Qué país tiene como capital {capital}?",
                "Di el nombre del país cuya capital es {capital}.",
            ),
        ),
    },
    "continent": {
        "en": RelationWordings(
            "the continent that {name} is on",
            (
                "On which continent is {name}?",
                "Which continent is {name} part of?",
                "What continent is {name} in?",
            ),
        ),
        "de": RelationWordings(
            "den Kontinent {of}",
            (
                "Auf welchem Kontinent findet man {name}?",
                "Zu welchem Kontinent zählt man {name}?",
                "Nenne den Kontinent {of}.",
            ),
        ),
        "fr": RelationWordings(
            "le continent {of}",
            (
                "Sur quel continent trouve-t-on {name} ?",
                "Quel est le continent {of} ?",
                "Donne le nom du continent {of}.",
            ),
        ),
        "es": RelationWordings(
            "el continente {of}",
            (
                "¿En qué continente encontramos {name}?",
                "¿Cuál es el continente {of}?",
                "Di el nombre del continente {of}.",
            ),
        ),
    },
    "currency_code": {
        "en": RelationWordings(
            "the currency code of {name}",
            (
                "What is the three-letter code of the currency of {name}?",
                "Which three-letter code stands for the currency of {name}?",
                "Give the three-letter currency code of {name}.",
            ),
        )
    },
    "calling_code": {
        "en": RelationWordings(
            "the calling code of {name}",
            (
                "What is the international calling code of {name}?",
                "Which country code do you dial to phone {name}?",
                "Give the telephone country code of {name}.",
            ),
        )
    },
    "country_code": {
        "en": RelationWordings(
            "the country code of {name}",
            (
                "What is the three-letter ISO country code of {name}?",
                "Which three-letter ISO code stands for {name}?",
                "Give the three-letter ISO code of {name}.",
            ),
        )
    },
    "currency": {
        "en": RelationWordings(
            "the currency of {name}",
            (
                "What is the currency of {name}?",
                "Which currency is used in {name}?",
                "Name the official currency of {name}.",
            ),
        )
    },
    "language": {
        "en": RelationWordings(
            "the official language of {name}",
            (
                "What is the official language of {name}?",
                "Which language is an official language in {name}?",
                "Name an official language of {name}.",
            ),
        )
    },
    "internet_domain": {
        "en": RelationWordings(
            "the internet domain of {name}",
            (
                "What is the country-code top-level domain of {name}?",
                "Which ending do internet addresses of {name} have?",
                "Give the two-letter internet domain of {name}.",
            ),
        )
    },
    "area": {
        "en": RelationWordings(
            "the area of {name}",
            (
                "What is the area of {name} in square kilometers?",
                "How many square kilometers does {name} cover?",
                "Give the total area of {name} in square kilometers.",
            ),
        )
    },
    "border": {
        "en": RelationWordings(
            "a neighboring country of {name}",
            (
                "Which country shares a land border with {name}?",
                "Name a country that borders {name}.",
                "What is one neighboring country of {name}?",
            ),
        )
    },
    "symbol": {
        "en": RelationWordings(
            "the chemical symbol of {name}",
            (
                "What is the chemical symbol of {name}?",
                "Which symbol stands for the element {name}?",
                "Give the chemical symbol for {name}.",
            ),
        )
    },
    "element_of_symbol": {
        "en": RelationWordings(
            "the element with the symbol {symbol}",
            (
                "Which chemical element has the symbol {symbol}?",
                "What element does the chemical symbol {symbol} stand for?",
                "Name the chemical element whose symbol is {symbol}.",
            ),
        )
    },
    "atomic_number": {
        "en": RelationWordings(
            "the atomic number of {name}",
            (
                "What is the atomic number of {name}?",
                "How many protons does an atom of {name} have?",
                "Give the atomic number of the element {name}.",
            ),
        )
    },
    "element_of_number": {
        "en": RelationWordings(
            "the element with the atomic number {number}",
            (
                "Which chemical element has the atomic number {number}?",
                "Which element has {number} as its atomic number?",
                "Name the chemical element with atomic number {number}.",
            ),
        )
    },
    "period": {
        "en": RelationWordings(
            "the period of {name}",
            (
                "In which period of the periodic table is {name}?",
                "Which period of the periodic table does {name} belong to?",
                "Give the number of the period in which {name} stands in the periodic table.",
            ),
        )
    },
    "group": {
        "en": RelationWordings(
            "the group of {name}",
            (
                "In which numbered group of the periodic table is {name}?",
                "What is the number of the periodic table group that {name} belongs to?",
                "Give the number of the group in which {name} stands in the periodic table.",
            ),
        )
    },
    "atomic_weight": {
        "en": RelationWordings(
            "the atomic weight of {name}",
            (
                "What is the standard atomic weight of {name}?",
                "What is the relative atomic mass of {name}?",
                "Give the atomic mass of {name} in atomic mass units.",
            ),
        )
    },
    "city_country": {
        "en": RelationWordings(
            "the country that the city of {name} is in",
            (
                "In which country is the city of {name}?",
                "What country is the city of {name} in?",
                "In what country can you find the city of {name}?",
            ),
        )
    },
    "city_continent": {
        "en": RelationWordings(
            "the continent that the city of {name} is on",
            (
                "On which continent is the city of {name}?",
                "{name} is a city on which continent?",
                "What continent is the city of {name} on?",
            ),
        )
    },
}
