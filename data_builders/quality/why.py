"""Why rows stayed or went: what the builder `quality` decided about single rows.

python -m data_builders.quality.why runs/quality ROW_ID ...
align data why runs/quality ROW_ID ...
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align.config import answering
from align.errors import RowError

_MOST_LISTED = 20


def explanations(folder: Path, ids: Sequence[str]) -> list[str]:
    """One text for each id: whether the row is kept, which gate dropped it and why, and which rows went because of it.

    folder: what the builder wrote. Raises RowError if it has no decisions, or none about an id.
    """
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    from data_builders.quality.results import DECISIONS

    path = folder / DECISIONS
    if not path.is_file():
        raise RowError(path, "there is no such file", "Name the folder that the builder `quality` has written")
    table = ds.dataset(path)
    named = pc.field("id").isin(list(ids)) | pc.field("cause").isin(list(ids))
    rows = table.to_table(filter=named).to_pylist()
    found = []
    for name in ids:
        own = [row for row in rows if row["id"] == name]
        caused = [row for row in rows if row["cause"] == name and row["gate"]]
        if not own and not caused:
            raise RowError(path, f"no row has the id {name!r}", f"See the ids in {folder}/rows.jsonl and dropped.jsonl")
        found.append("\n".join([*(_about(row) for row in own), *_about_caused(name, caused, is_row=bool(own))]))
    return found


def _about(row: dict[str, Any]) -> str:
    where = f"{row['id']} ({row['source']}, {row['where']})"
    known = ("where", "id", "source", "file", "gate", "reason", "detail", "cause")
    tags = "".join(f"\n  {name}: {value}" for name, value in row.items() if name not in known and value)
    if not row["gate"]:
        return f"{where}: kept by all gates{tags}"
    cause = f", because of {row['cause']}" if row["cause"] else ""
    detail = f": {row['detail']}" if row["detail"] else ""
    return f"{where}: dropped by {row['gate']}, {row['reason']}{detail}{cause}{tags}"


def _about_caused(name: str, rows: Sequence[dict[str, Any]], *, is_row: bool) -> list[str]:
    """What was dropped because of a row, or of an evaluation prompt, which is no row of the data itself."""
    lines = [] if is_row or not rows else [f"{name}: no row of the data, but rows were dropped because of it"]
    lines += [f"  {row['id']} was dropped because of it: {row['reason']}" for row in rows[:_MOST_LISTED]]
    return lines + ([f"  and {len(rows) - _MOST_LISTED} more"] if len(rows) > _MOST_LISTED else [])


def main(argv: Sequence[str] | None = None) -> None:
    """Print why rows stayed or went: a folder, and ids of rows."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) < 2 or words[0] in ("-h", "--help"):
        print(f"usage: {Path(sys.argv[0]).name} FOLDER ROW_ID ...\n\n{__doc__ or ''}".rstrip())
        raise SystemExit(0 if words[:1] in (["-h"], ["--help"]) else 2)
    answering(lambda: print("\n".join(explanations(Path(words[0]), words[1:]))))


if __name__ == "__main__":
    main()
