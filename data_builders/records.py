"""The JSON objects of a file, each with its `file:line`.

A file holds JSON lines, or one array as annotation tools export it. An error names file, line and field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.errors import RowError

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
    return RowError(
        where, f"expected a JSON object, found {type(found).__name__}", "Write one JSON object for each row"
    )
