"""The kinds of files that dialogs are about, read from file_kinds.yaml: how their content is drawn, and questions."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from align.config import Section, load_config
from data_builders.tool_use.dialogs.file_forms import Content, Note, Script, Table
from data_builders.tool_use.dialogs.sampler_specs import sampler_at
from data_builders.tool_use.dialogs.samplers import Sampler
from data_builders.tool_use.names import FIRST_NAMES

Asks = Literal["cell", "absent", "largest", "smallest", "total", "rows", "count", "which", "fact", "returns"]
"""What is asked about a table, a note (`fact`) or a script (`returns`); see `_ASKS` in files.py."""

DrawContent = Callable[[random.Random], tuple[Content, str]]
"""Draws the content of a file, and a key that does not occur in it."""


class Question(Section):
    """One thing that people ask about a file."""

    asks: Asks
    """What is asked for."""
    about: str = ""
    """Which column, or which fact, it is about."""
    queries: tuple[str, ...]
    """What a user says; `{key}` is a row's first value, `{value}` another value that the question names."""
    answers: tuple[str, ...]
    """What the assistant says, with `{result}` too."""


class TableEntry(Section):
    """Rows under named columns."""

    title: str
    """The title that formats with a title show."""
    key: str
    """The first column, which identifies a row."""
    keys: Literal["first_names"] | tuple[str, ...]
    """Its values, of which four to seven are drawn and keep this order; one more is drawn that is not in the table."""
    columns: dict[str, Any]
    """Further column -> its sampler."""


class NoteEntry(Section):
    """Named facts."""

    title: str
    """The title that formats with a title show."""
    facts: dict[str, Any]
    """Name -> its sampler."""


class ScriptEntry(Section):
    """Python functions of one number."""

    title: str
    """The docstring of the file."""
    functions: tuple[str, ...]
    """Their names, of which two to four are drawn."""


class KindEntry(Section):
    """One kind of file: a table, a note or a script."""

    stems: tuple[str, ...]
    """Names of such files, without suffix."""
    table: TableEntry | None = None
    """Rows under named columns."""
    note: NoteEntry | None = None
    """Named facts."""
    script: ScriptEntry | None = None
    """Python functions of one number."""
    questions: tuple[Question, ...]
    """What people ask about it."""

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if sum(content is not None for content in (self.table, self.note, self.script)) != 1:
            raise ValueError("expected one of table, note and script")
        return self


class FileKinds(Section):
    """The kinds of files, in the order in which they are drawn."""

    kinds: tuple[KindEntry, ...] = Field(min_length=1)
    """One kind each."""


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    stems: tuple[str, ...]
    """Names of such files, without suffix."""
    draw: DrawContent
    """Draws the content, and a key that does not occur in it."""
    questions: tuple[Question, ...]


@cache
def file_kinds() -> tuple[Kind, ...]:
    """The kinds of file_kinds.yaml. Raises ConfigError."""
    path = Path(__file__).with_suffix(".yaml")
    return tuple(
        _kind(entry, f"{path}: kinds.{place}") for place, entry in enumerate(load_config(FileKinds, path).kinds)
    )


def _kind(entry: KindEntry, where: str) -> Kind:
    if entry.table is not None:
        table = entry.table
        keys = FIRST_NAMES if table.keys == "first_names" else table.keys
        draw = _draw_table(table.title, table.key, keys, _samplers(table.columns, f"{where}.table.columns"))
    elif entry.note is not None:
        draw = _draw_note(entry.note.title, _samplers(entry.note.facts, f"{where}.note.facts"))
    else:
        assert entry.script is not None
        draw = _draw_script(entry.script.title, entry.script.functions)
    return Kind(entry.stems, draw, entry.questions)


def _samplers(specs: Mapping[str, Any], where: str) -> dict[str, Sampler]:
    functions: dict[str, Callable[..., Any]] = {"_price": _price, "_day": _day, "_clock": _clock}
    return {name: sampler_at(f"{where}.{name}", spec, functions) for name, spec in specs.items()}


def _draw_table(title: str, key: str, keys: Sequence[str], columns: Mapping[str, Sampler]) -> DrawContent:
    def draw(rng: random.Random) -> tuple[Content, str]:
        absent, *present = rng.sample(keys, rng.randint(4, 7) + 1)
        present.sort(key=keys.index)  # hours and names in ascending order
        rows = tuple((name, *(sampler(rng).value for sampler in columns.values())) for name in present)
        return Table(title, (key, *columns), rows), absent

    return draw


def _draw_note(title: str, facts: Mapping[str, Sampler]) -> DrawContent:
    return lambda rng: (Note(title, {name: sampler(rng).value for name, sampler in facts.items()}), "")


def _draw_script(title: str, functions: Sequence[str]) -> DrawContent:
    def draw(rng: random.Random) -> tuple[Content, str]:
        absent, *names = rng.sample(functions, rng.randint(3, 5))
        return Script(title, {name: (rng.choice("+-*"), rng.randint(2, 9)) for name in names}), absent

    return draw


# Samplers that only files use; file_kinds.yaml names them


def _price(rng: random.Random, low: int, high: int) -> float:
    """Never a whole number, which a workbook would return without its decimal point."""
    return rng.randint(low, high) + rng.choice((0.25, 0.4, 0.5, 0.75, 0.95))


def _day(rng: random.Random, first: int, last: int) -> str:
    """A date in the months from first to last."""
    return f"2025-{rng.randint(first, last):02d}-{rng.randint(1, 28):02d}"


def _clock(rng: random.Random) -> str:
    return f"{rng.randint(6, 21):02d}:{rng.randint(1, 11) * 5:02d}"
