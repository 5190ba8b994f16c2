"""The JSON objects of a file, each with its `file:line`, and checked values out of them.

A file holds JSON lines, or one array as annotation tools export it. An error names file, line and field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from align.errors import RowError
from align.jsonl import row_of
from align.rows import Level, Messages, PreferenceRow
from align.tool_formats import shown
from data_builders.judgements import GRADES

Json = dict[str, Any]


def records_of(path: Path) -> Iterator[tuple[str, Json | RowError]]:
    """(`file:line`, object), or the error in its place where a line is no object: the caller decides what it means.

    Raises RowError where the file cannot be read, holds nothing, or is an array that breaks off.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RowError(path, f"cannot be read ({error.strerror})", "Name a file that exists") from None
    except UnicodeDecodeError as error:
        raise RowError(path, f"is not UTF-8 ({error.reason} at byte {error.start})", "Save it as UTF-8") from None
    if not text.strip():
        raise RowError(path, "holds no records", "Check the export that wrote it")
    yield from _array(path, text) if text.lstrip().startswith("[") else _lines(path, text)


def _lines(path: Path, text: str) -> Iterator[tuple[str, Json | RowError]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                yield where, _object(json.loads(line), where)
            except ValueError as error:
                yield where, RowError(where, f"is not JSON ({error})", "Write one JSON object a line, or one array")


def _array(path: Path, text: str) -> Iterator[tuple[str, Json | RowError]]:
    decoder = json.JSONDecoder()
    place, line, counted = text.index("[") + 1, 1, 0
    while True:
        place = _after_space(text, place)
        line, counted = line + text.count("\n", counted, place), place
        where = f"{path}:{line}"
        if text[place : place + 1] == "]":
            return
        try:
            found, place = decoder.raw_decode(text, place)
        except ValueError as error:
            raise RowError(where, f"is an array that breaks off ({error})", "Export the file again") from None
        yield where, _object(found, where)
        place = _after_space(text, place)
        if text[place : place + 1] not in (",", "]"):
            raise RowError(where, "is followed by neither a comma nor the array's end", "Export the file again")
        place += text[place] == ","


def _after_space(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _object(found: Any, where: str) -> Json | RowError:
    if isinstance(found, dict):
        return found
    return RowError(where, f"wanted a JSON object, found {type(found).__name__}", "Write one JSON object for each row")


def converted(fields: Json, kind: type[Any], where: str, field: str) -> Any:
    """A row made of fields that a record gives under another name, with that name in the error."""
    try:
        return row_of({"id": "-", "source": "-"} | fields, kind, where)
    except RowError as error:
        raise RowError(f"{where}: {field}", error.what, error.how) from None


def completion_of(value: Any, where: str, field: str) -> Messages:
    """An answer: a text, a message or messages of the assistant, in any form that `align/formats.py` reads."""
    row = converted({"prompt": "-", "completions": [value, value]}, PreferenceRow, where, field)
    return row.completions[0]


def level_of(value: Any, where: str, field: str) -> Level | None:
    """One of the four levels; None for nothing."""
    if value is None:
        return None
    named = {level: level for level in GRADES} | {level.replace(" ", "_"): level for level in GRADES}
    level = named.get(value.strip().lower()) if isinstance(value, str) else None
    if level is None:
        raise RowError(f"{where}: {field}", f"wanted a level, found {shown(value)}", f"Known are: {', '.join(GRADES)}")
    return level


def rater_of(entry: Mapping[str, Any], where: str, field: str) -> str:
    rater = entry.get("rater")
    if not isinstance(rater, str | int) or isinstance(rater, bool) or rater == "":
        raise RowError(f"{where}: {field}.rater", f"wanted a name, found {shown(rater)}", "Say who judged")
    return str(rater)


def round_of(record: Json, where: str) -> int | None:
    value = record.get("round")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RowError(f"{where}: round", f"wanted a number from 0 on, found {shown(value)}", "Write it as a number")
    return value


def text_of(value: Any, where: str, field: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise RowError(f"{where}: {field}", f"wanted text, found {shown(value)}", "Write it as text")
    return str(value)


def names_of(value: Any, where: str, field: str, count: int) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) != count or not all(isinstance(name, str) for name in value):
        raise RowError(f"{where}: {field}", f"wanted {count} names, found {shown(value)}", "Name one for each response")
    return tuple(value)


def number_of(value: Any, where: str, field: str) -> float:
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            number = float(value)  # UltraFeedback has its scores as text
            if abs(number) < float("inf"):
                return number
    except ValueError:
        pass  # told below
    raise RowError(f"{where}: {field}", f"wanted a number, found {shown(value)}", "Write a number")


def numbers_of(value: Any, where: str, field: str, count: int) -> list[float]:
    if not isinstance(value, list) or len(value) != count:
        raise RowError(f"{where}: {field}", f"wanted {count} numbers, found {shown(value)}", "Give one a response")
    return [number_of(number, where, f"{field}[{place}]") for place, number in enumerate(value)]


def first_given(record: Any, names: Sequence[str]) -> str | None:
    """The first of these names that the record has a value for."""
    return next((name for name in names if record.get(name) is not None), None)
