"""Rows to and from JSON lines: errors name file and line, files appear whole, and a folder of nothing is an error.

A line may be one of our rows, or a form that other toolkits write (`align/formats.py` turns it into ours).
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from align.errors import RowError
from align.files import whole_file
from align.formats import to_row
from align.rows import Row

MAX_LINE_BYTES = 64 * 2**20

R = TypeVar("R", bound=Row)


def read_rows(paths: str | Path | Sequence[str | Path], kind: type[R]) -> list[R]:
    """All rows of one or more files, in order. Ids must differ across all of them.

    Raises RowError naming file, line and field.
    """
    return list(stream_rows(paths, kind))


def stream_rows(
    paths: str | Path | Sequence[str | Path], kind: type[R], places: Collection[int] | None = None
) -> Iterator[R]:
    """The rows of one or more files one at a time, for files larger than memory; 8 bytes a row are kept.

    places: which rows, counted from 0 over all files; the others are passed over unread. None for all.
    Raises RowError as `read_rows` does; for an id that stands twice, after the last row.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    hashes = array("q")
    for _, row in _chosen(paths, kind, places):
        hashes.append(hash(row.id))
        yield row
    if not hashes:
        raise RowError(", ".join(map(str, paths)), "holds no rows", "Check the stage that wrote it, and its manifest")
    twice = _twice(hashes)
    if not twice:
        return
    seen: dict[str, str] = {}
    for here, row in _chosen(paths, kind, places):
        if hash(row.id) not in twice:
            continue
        if row.id in seen:
            raise RowError(
                f"{here}: id",
                f"{row.id!r} stands already in {seen[row.id]}",
                "Give each row its own id, or take the repeated row out",
            )
        seen[row.id] = here


def count_rows(paths: Sequence[str | Path]) -> int:
    """Rows of one or more files, without reading them as rows."""
    return sum(1 for path in paths for _ in _lines(Path(path)))


def iterate_rows(path: str | Path, kind: type[R]) -> Iterator[R]:
    """Rows one at a time, for files larger than memory."""
    for _, row in _chosen([path], kind, None):
        yield row


def write_rows(path: str | Path, rows: Iterable[Row]) -> int:
    """Write rows, one a line, whole or not at all. Returns how many."""
    count = 0
    with whole_file(path) as handle:
        for row in rows:
            handle.write(row.model_dump_json(exclude_defaults=True) + "\n")
            count += 1
    return count


def _chosen(paths: Sequence[str | Path], kind: type[R], places: Collection[int] | None) -> Iterator[tuple[str, R]]:
    """`file:line` and row."""
    wanted = None if places is None else frozenset(places)
    place = 0
    for path in paths:
        for number, line in _lines(Path(path)):
            if wanted is None or place in wanted:
                here = f"{path}:{number}"
                yield here, _row(line, kind, here)
            place += 1


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that hold something, with their numbers."""
    try:
        handle = path.open("rb", buffering=2**20)
    except OSError as error:
        raise RowError(path, f"cannot be read ({error.strerror})", "Name a JSONL file that exists") from None
    with handle:
        for number, line in enumerate(handle, start=1):
            if not line.isspace():
                yield number, line


def _twice(hashes: array[int]) -> set[int]:
    """The values that stand more than once."""
    import numpy as np  # here, so that configs that read no rows are answered without it

    ordered = np.sort(np.frombuffer(hashes, np.int64))
    return set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


def _row(line: bytes, kind: type[R], where: str) -> R:
    if len(line) > MAX_LINE_BYTES:
        raise RowError(where, f"is longer than {MAX_LINE_BYTES} bytes", "Split the row")
    try:
        return kind.model_validate_json(line)  # a row in our own form, several times faster than through json.loads
    except ValidationError:
        pass  # another toolkit's form, or a fault that is named below
    try:
        record = json.loads(line)
    except ValueError as error:
        raise RowError(where, f"is not JSON ({error})", "Write one JSON object a line") from None
    if not isinstance(record, dict):
        raise RowError(where, f"wanted a JSON object, found {type(record).__name__}", "Write one JSON object a line")
    return row_of(record, kind, where)


def row_of(record: dict[str, Any], kind: type[R], where: str, ignore: Collection[str] = ()) -> R:
    """One record, ours or another toolkit's, as a row. Raises RowError naming `where` and the field.

    ignore: columns that are left out because the user said so.
    """
    try:
        return to_row(record, kind, where, ignore)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "row"
        found = "nothing" if first["type"] == "missing" else repr(first.get("input"))[:80]
        message = first["msg"].removeprefix("Value error, ")
        raise RowError(
            f"{where}: {field}", f"{message}; found {found}", f"See {kind.__name__} in align/rows.py"
        ) from None
