"""Work in units that survive a crash: each unit's rows are a file that appears whole or not at all.

A finished unit is read and never made again, and `units.json` beside them says what they were made from, so that no
folder mixes two runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from align.errors import StageError
from align.files import whole_file
from align.jsonl import read_rows, write_rows
from align.reporting import Progress
from align.rows import Row

U = TypeVar("U")
R = TypeVar("R", bound=Row)


def in_units(
    units: Sequence[U],
    make: Callable[[U], tuple[list[R], int]],
    kind: type[R],
    *,
    folder: Path,
    key: Mapping[str, Any],
    label: str,
    things: str,
) -> list[R]:
    """The rows of all units, in their order, making those that do not stand in `folder` yet.

    make: the rows of one unit, and how many `things` (tokens, say) that took, for the progress bar named `label`.
    folder: `unit-00000.jsonl` and so on. key: all that the rows depend on.
    Raises StageError where the folder holds units of another key.
    """
    _claim(folder, key)
    paths = [folder / f"unit-{number:05}.jsonl" for number in range(len(units))]
    done = sum(path.exists() for path in paths)
    progress = Progress(label, total=len(units), done=done)
    rows: list[R] = []
    for path, unit in zip(paths, units, strict=True):
        if not path.exists():
            began = time.monotonic()
            made, count = make(unit)
            write_rows(path, made)
            progress.advance(1, note=f"{count / max(time.monotonic() - began, 1e-9):,.0f} {things}/s")
        # Read back also when just made: a resumed run and an uninterrupted one then hold the very same rows.
        rows.extend(read_rows(path, kind))
    return rows


def _claim(folder: Path, key: Mapping[str, Any]) -> None:
    """Make the folder this run's, or see that it is."""
    claim = folder / "units.json"
    if not claim.exists():
        if any(folder.glob("unit-*.jsonl")):
            raise StageError(folder, "holds units and no units.json to say from what", "Name a folder that is empty")
        with whole_file(claim) as handle:
            json.dump(key, handle, indent=1)
    found = json.loads(claim.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(key))
    differs = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if differs:
        what = "; ".join(f"{name} was {found.get(name)} there, is {wanted.get(name)} now" for name in differs)
        raise StageError(claim, what, "Name another folder, or delete this one to sample anew")
    for leftover in folder.glob(".unit-*.part"):  # of a run that was killed while it wrote
        leftover.unlink(missing_ok=True)
