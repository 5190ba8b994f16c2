"""Rows to and from JSON lines: errors name file and line, files appear whole, and a folder of nothing is an error.

A line may be one of our rows, or a form that other toolkits write (`align/formats.py` turns it into ours).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

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
    paths = [paths] if isinstance(paths, str | Path) else paths
    seen: dict[str, str] = {}
    rows = []
    for path in paths:
        for number, row in _numbered(Path(path), kind):
            here = f"{path}:{number}"
            if row.id in seen:
                raise RowError(
                    f"{here}: id",
                    f"{row.id!r} stands already in {seen[row.id]}",
                    "Give each row its own id, or take the repeated row out",
                )
            seen[row.id] = here
            rows.append(row)
    if not rows:
        raise RowError(", ".join(map(str, paths)), "holds no rows", "Check the stage that wrote it, and its manifest")
    return rows


def iterate_rows(path: str | Path, kind: type[R]) -> Iterator[R]:
    """Rows one at a time, for files larger than memory."""
    for _, row in _numbered(Path(path), kind):
        yield row


def write_rows(path: str | Path, rows: Iterable[Row]) -> int:
    """Write rows, one a line, whole or not at all. Returns how many."""
    count = 0
    with whole_file(path) as handle:
        for row in rows:
            handle.write(row.model_dump_json(exclude_defaults=True) + "\n")
            count += 1
    return count


def _numbered(path: Path, kind: type[R]) -> Iterator[tuple[int, R]]:
    try:
        handle = path.open("rb")
    except OSError as error:
        raise RowError(path, f"cannot be read ({error.strerror})", "Name a JSONL file that exists") from None
    with handle:
        for number, line in enumerate(handle, start=1):
            if line.strip():
                yield number, _row(line, kind, f"{path}:{number}")


def _row(line: bytes, kind: type[R], where: str) -> R:
    if len(line) > MAX_LINE_BYTES:
        raise RowError(where, f"is longer than {MAX_LINE_BYTES} bytes", "Split the row")
    try:
        record = json.loads(line)
    except ValueError as error:
        raise RowError(where, f"is not JSON ({error})", "Write one JSON object a line") from None
    if not isinstance(record, dict):
        raise RowError(where, f"wanted a JSON object, found {type(record).__name__}", "Write one JSON object a line")
    try:
        return to_row(record, kind, where)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "row"
        found = "nothing" if first["type"] == "missing" else repr(first.get("input"))[:80]
        message = first["msg"].removeprefix("Value error, ")
        raise RowError(
            f"{where}: {field}", f"{message}; found {found}", f"See {kind.__name__} in align/rows.py"
        ) from None
