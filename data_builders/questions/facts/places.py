"""Names of countries and capitals in the form in which a sentence needs them, in English, German, French and Spanish.

The names come from the source. This file adds grammar (articles and cases), capitals with another name in another
language, and corrections of names that are wrong in the source. A test compares the capitals with GeoNames.
"""

from __future__ import annotations

from typing import NamedTuple

from data_builders.questions.facts.wordings import Language


class Name(NamedTuple):
    """A place in one language."""

    name: str
    """As the object of a verb: "the Netherlands", "den Tschad", "le Tchad"."""
    of: str
    """After "of": "of the Netherlands", "des Tschad", "du Tchad"."""


def name_in(language: Language, name: str) -> Name:
    """Return a country's name in the forms that a sentence of this language needs."""
    if language == "de":
        return _german(name)
    if language == "fr":
        return _french(name)
    if language == "es":
        return _spanish(name)
    bare = name.removeprefix("The ")
    with_article = bare in _ENGLISH_THE or bare.endswith(" Islands")
    articled = f"the {bare}" if with_article else bare
    return Name(articled, f"of {articled}")


TERRITORIES = frozenset(
    (
        "AI", "AS", "AW", "AX", "BL", "BM", "CC", "CK", "CW", "CX", "FK", "FO", "GF", "GG", "GI", "GL", "GP", "GU",
        "HK", "IM", "JE", "KY", "MF", "MO", "MP", "MQ", "MS", "NC", "NF", "NU", "PF", "PM", "PN", "PR", "RE", "SH",
        "SJ", "SX", "TC", "TK", "VG", "VI", "WF", "YT",
    )
)  # fmt: skip
"""Not independent states: asked about in English only, and cities in them are left out."""

COUNTRY_NAMES: dict[str, dict[Language, str]] = {
    "CI": {"fr": "Côte d'Ivoire"},
    "CG": {"fr": "République du Congo"},
    "CZ": {"de": "Tschechien"},
    "GY": {"fr": "Guyana"},
    "HU": {"es": "Hungría"},
    "KM": {"de": "Komoren"},
    "MD": {"de": "Moldawien"},
    "MK": {"de": "Nordmazedonien", "fr": "Macédoine du Nord", "es": "Macedonia del Norte"},
    "SK": {"es": "Eslovaquia"},
    "SV": {"es": "El Salvador"},
    "SZ": {"de": "Eswatini", "fr": "Eswatini", "es": "Esuatini"},
    "ZA": {"de": "Südafrika", "es": "Sudáfrica"},
}
"""Replacements of names in the source that are outdated, misspelled or those of another country."""

MORE_COUNTRY_NAMES: dict[str, dict[Language, tuple[str, ...]]] = {
    "BY": {"de": ("Belarus",), "fr": ("Bélarus",), "es": ("Belarús",)},
    "CD": {"de": ("DR Kongo",), "fr": ("RDC",), "es": ("RDC",)},
    "CZ": {"de": ("Tschechische Republik",), "fr": ("Tchéquie",), "es": ("Chequia",)},
    "CV": {"fr": ("Cabo Verde",)},
    "GB": {"de": ("Großbritannien",), "fr": ("Grande-Bretagne",), "es": ("Gran Bretaña",)},
    "KN": {"fr": ("Saint-Kitts-et-Nevis",)},
    "MD": {"de": ("Moldau", "Republik Moldau"), "es": ("Moldova",)},
    "MK": {"de": ("Mazedonien",), "fr": ("Macédoine",), "es": ("Macedonia",)},
    "MM": {"de": ("Birma",), "fr": ("Myanmar",), "es": ("Birmania",)},
    "MU": {"fr": ("Maurice",)},
    "NL": {"de": ("Holland",), "fr": ("Hollande",), "es": ("Holanda",)},
    "SB": {"de": ("Salomon-Inseln",)},
    "SZ": {"de": ("Swasiland",), "fr": ("Swaziland",), "es": ("Suazilandia",)},
    "TL": {"de": ("Osttimor",)},
    "US": {"de": ("USA", "Vereinigte Staaten"), "fr": ("États-Unis",), "es": ("Estados Unidos",)},
    "VN": {"fr": ("Vietnam",)},
}
"""Accepted in addition."""

CAPITALS: dict[str, tuple[str, str, str]] = {
    "AD": ("Andorra la Vella", "Andorre-la-Vieille", "Andorra la Vella"),
    "AE": ("Abu Dhabi", "Abou Dabi", "Abu Dabi"),
    "AF": ("Kabul", "Kaboul", "Kabul"),
    "AM": ("Eriwan", "Erevan", "Ereván"),
    "AT": ("Wien", "Vienne", "Viena"),
    "AZ": ("Baku", "Bakou", "Bakú"),
    "BD": ("Dhaka", "Dacca", "Daca"),
    "BE": ("Brüssel", "Bruxelles", "Bruselas"),
    "BF": ("Ouagadougou", "Ouagadougou", "Uagadugú"),
    "BR": ("Brasília", "Brasilia", "Brasilia"),
    "BT": ("Thimphu", "Thimphou", "Timbu"),
    "CD": ("Kinshasa", "Kinshasa", "Kinsasa"),
    "CH": ("Bern", "Berne", "Berna"),
    "CM": ("Yaoundé", "Yaoundé", "Yaundé"),
    "CN": ("Peking", "Pékin", "Pekín"),
    "CU": ("Havanna", "La Havane", "La Habana"),
    "CY": ("Nikosia", "Nicosie", "Nicosia"),
    "CZ": ("Prag", "Prague", "Praga"),
    "DE": ("Berlin", "Berlin", "Berlín"),
    "DJ": ("Dschibuti", "Djibouti", "Yibuti"),
    "DK": ("Kopenhagen", "Copenhague", "Copenhague"),
    "DO": ("Santo Domingo", "Saint-Domingue", "Santo Domingo"),
    "DZ": ("Algier", "Alger", "Argel"),
    "EE": ("Tallinn", "Tallinn", "Tallin"),
    "EG": ("Kairo", "Le Caire", "El Cairo"),
    "ET": ("Addis Abeba", "Addis-Abeba", "Adís Abeba"),
    "FR": ("Paris", "Paris", "París"),
    "GB": ("London", "Londres", "Londres"),
    "GE": ("Tiflis", "Tbilissi", "Tiflis"),
    "GH": ("Accra", "Accra", "Acra"),
    "GR": ("Athen", "Athènes", "Atenas"),
    "GT": ("Guatemala-Stadt", "Guatemala", "Ciudad de Guatemala"),
    "HT": ("Port-au-Prince", "Port-au-Prince", "Puerto Príncipe"),
    "ID": ("Jakarta", "Jakarta", "Yakarta"),
    "IE": ("Dublin", "Dublin", "Dublín"),
    "IN": ("Neu-Delhi", "New Delhi", "Nueva Delhi"),
    "IQ": ("Bagdad", "Bagdad", "Bagdad"),
    "IR": ("Teheran", "Téhéran", "Teherán"),
    "IS": ("Reykjavik", "Reykjavik", "Reikiavik"),
    "IT": ("Rom", "Rome", "Roma"),
    "JO": ("Amman", "Amman", "Amán"),
    "JP": ("Tokio", "Tokyo", "Tokio"),
    "KG": ("Bischkek", "Bichkek", "Biskek"),
    "KH": ("Phnom Penh", "Phnom Penh", "Nom Pen"),
    "KP": ("Pjöngjang", "Pyongyang", "Pionyang"),
    "KR": ("Seoul", "Séoul", "Seúl"),
    "KW": ("Kuwait-Stadt", "Koweït", "Kuwait"),
    "LA": ("Vientiane", "Vientiane", "Vientián"),
    "LB": ("Beirut", "Beyrouth", "Beirut"),
    "LT": ("Vilnius", "Vilnius", "Vilna"),
    "LU": ("Luxemburg", "Luxembourg", "Luxemburgo"),
    "LY": ("Tripolis", "Tripoli", "Trípoli"),
    "MN": ("Ulaanbaatar", "Oulan-Bator", "Ulán Bator"),
    "MR": ("Nouakchott", "Nouakchott", "Nuakchot"),
    "MT": ("Valletta", "La Valette", "La Valeta"),
    "MX": ("Mexiko-Stadt", "Mexico", "Ciudad de México"),
    "NG": ("Abuja", "Abuja", "Abuya"),
    "NA": ("Windhuk", "Windhoek", "Windhoek"),
    "NP": ("Kathmandu", "Katmandou", "Katmandú"),
    "OM": ("Maskat", "Mascate", "Mascate"),
    "PA": ("Panama-Stadt", "Panama", "Ciudad de Panamá"),
    "PH": ("Manila", "Manille", "Manila"),
    "PL": ("Warschau", "Varsovie", "Varsovia"),
    "PT": ("Lissabon", "Lisbonne", "Lisboa"),
    "RO": ("Bukarest", "Bucarest", "Bucarest"),
    "RS": ("Belgrad", "Belgrade", "Belgrado"),
    "RU": ("Moskau", "Moscou", "Moscú"),
    "SA": ("Riad", "Riyad", "Riad"),
    "SD": ("Khartum", "Khartoum", "Jartum"),
    "SE": ("Stockholm", "Stockholm", "Estocolmo"),
    "SG": ("Singapur", "Singapour", "Singapur"),
    "SI": ("Ljubljana", "Ljubljana", "Liubliana"),
    "SO": ("Mogadischu", "Mogadiscio", "Mogadiscio"),
    "SS": ("Juba", "Djouba", "Juba"),
    "SY": ("Damaskus", "Damas", "Damasco"),
    "TD": ("N'Djamena", "N'Djaména", "Yamena"),
    "TJ": ("Duschanbe", "Douchanbé", "Dushanbé"),
    "TM": ("Aschgabat", "Achgabat", "Asjabad"),
    "TN": ("Tunis", "Tunis", "Túnez"),
    "TT": ("Port of Spain", "Port-d'Espagne", "Puerto España"),
    "TW": ("Taipeh", "Taipei", "Taipéi"),
    "UA": ("Kiew", "Kiev", "Kiev"),
    "US": ("Washington", "Washington", "Washington"),
    "UZ": ("Taschkent", "Tachkent", "Taskent"),
    "VN": ("Hanoi", "Hanoï", "Hanói"),
}
"""Capitals in German, French and Spanish, if one of the names differs from the English one."""

CONTINENTS: dict[str, dict[Language, tuple[str, ...]]] = {
    "Africa": {"en": ("Africa",), "de": ("Afrika",), "fr": ("Afrique",), "es": ("África",)},
    "Asia": {"en": ("Asia",), "de": ("Asien",), "fr": ("Asie",), "es": ("Asia",)},
    "Europe": {"en": ("Europe",), "de": ("Europa",), "fr": ("Europe",), "es": ("Europa",)},
    "Oceania": {
        "en": ("Oceania", "Australia and Oceania", "Australasia"),
        "de": ("Ozeanien", "Australien und Ozeanien"),
        "fr": ("Océanie",),
        "es": ("Oceanía",),
    },
    "Northern America": {
        "en": ("North America", "Northern America"),
        "de": ("Nordamerika",),
        "fr": ("Amérique du Nord",),
        "es": ("América del Norte", "Norteamérica"),
    },
    "South America": {
        "en": ("South America",),
        "de": ("Südamerika",),
        "fr": ("Amérique du Sud",),
        "es": ("América del Sur", "Sudamérica", "Suramérica"),
    },
}

_ENGLISH_THE = (
    "Bahamas", "British Virgin Islands", "Central African Republic", "Comoros", "Cook Islands", "Czech Republic",
    "Democratic Republic of the Congo", "Dominican Republic", "Federated States of Micronesia", "Gambia",
    "Isle of Man", "Maldives", "Netherlands", "Philippines", "Republic of Macedonia", "Republic of the Congo",
    "Seychelles", "United Arab Emirates", "United Kingdom", "United States",
)  # fmt: skip

_GERMAN_MASCULINE = ("Irak", "Iran", "Jemen", "Libanon", "Sudan", "Südsudan", "Tschad")
_GERMAN_FEMININE = ("Elfenbeinküste", "Mongolei", "Republik Kongo", "Schweiz", "Slowakei", "Türkei", "Ukraine")
_GERMAN_PLURAL = (
    "Bahamas", "Komoren", "Malediven", "Marshallinseln", "Niederlande", "Philippinen", "Salomonen", "Seychellen",
)  # fmt: skip
_GERMAN_WITH_ADJECTIVE = {
    "Demokratische Republik Kongo": ("die Demokratische Republik Kongo", "der Demokratischen Republik Kongo"),
    "Dominikanische Republik": ("die Dominikanische Republik", "der Dominikanischen Republik"),
    "Föderierte Staaten von Mikronesien": (
        "die Föderierten Staaten von Mikronesien",
        "der Föderierten Staaten von Mikronesien",
    ),
    "Saint Vincent und die Grenadinen": (
        "Saint Vincent und die Grenadinen",
        "von Saint Vincent und den Grenadinen",
    ),
    "Vereinigte Arabische Emirate": ("die Vereinigten Arabischen Emirate", "der Vereinigten Arabischen Emirate"),
    "Vereinigte Staaten von Amerika": ("die Vereinigten Staaten von Amerika", "der Vereinigten Staaten von Amerika"),
    "Vereinigtes Königreich": ("das Vereinigte Königreich", "des Vereinigten Königreichs"),
    "Zentralafrikanische Republik": ("die Zentralafrikanische Republik", "der Zentralafrikanischen Republik"),
}

_FRENCH_BARE = (
    "Andorre", "Antigua-et-Barbuda", "Bahreïn", "Chypre", "Cuba", "Djibouti", "Eswatini", "Haïti", "Israël",
    "Kiribati", "Madagascar", "Malte", "Monaco", "Nauru", "Oman", "Sao Tomé-et-Principe", "Singapour", "Taïwan",
    "Trinité-et-Tobago", "Tuvalu", "Vanuatu",
)  # fmt: skip
_FRENCH_MASCULINE_IN_E = ("Belize", "Cambodge", "Mexique", "Mozambique", "Suriname", "Zimbabwe")
_FRENCH_PLURAL = (
    "Bahamas", "Comores", "Fidji", "Maldives", "Palaos", "Pays-Bas", "Philippines", "Samoa", "Seychelles", "Tonga",
    "Émirats arabes unis", "États fédérés de Micronésie", "États-Unis d'Amérique",
)  # fmt: skip


def _german(name: str) -> Name:
    if name in _GERMAN_WITH_ADJECTIVE:
        return Name(*_GERMAN_WITH_ADJECTIVE[name])
    if name in _GERMAN_MASCULINE:
        return Name(f"den {name}", f"des {name}")
    if name in (*_GERMAN_FEMININE, *_GERMAN_PLURAL):
        return Name(f"die {name}", f"der {name}")
    return Name(name, f"von {name}")


def _french(name: str) -> Name:
    vowel = name[0] in "AEIOUÎÉ" or name == "Haïti"  # the H of Honduras and Hongrie counts as a consonant
    if name in _FRENCH_BARE or name.startswith("Saint"):
        return Name(name, f"d'{name}" if vowel else f"de {name}")
    if name in _FRENCH_PLURAL or name.startswith("Îles "):
        return Name(f"les {name}", f"des {name}")
    if vowel:
        return Name(f"l'{name}", f"de l'{name}")
    ends_in_e = name.split(" ")[0].endswith("e") and name not in _FRENCH_MASCULINE_IN_E
    if ends_in_e or name == "Sierra Leone":
        return Name(f"la {name}", f"de la {name}")
    return Name(f"le {name}", f"du {name}")


def _spanish(name: str) -> Name:
    if name == "Reino Unido":
        return Name("el Reino Unido", "del Reino Unido")
    articles = {"Islas": "las", "Emiratos": "los", "Estados": "los", "Países": "los", "República": "la"}
    article = articles.get(name.split(" ")[0])
    articled = f"{article} {name}" if article else name
    return Name(articled, f"de {articled}")
