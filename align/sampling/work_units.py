"""Units of work that survive a crash: the rows of each unit are one file, which is written atomically.

A unit's file is JSON lines: a header, then its rows. The header has the number of the unit, a fingerprint of the job
that it belongs to, the number of rows that follow, and their BLAKE3:

    {"unit": 3, "work": "9f2c...", "rows": 8, "blake3": "04be..."}
    {"id": "...", ...}      8 such lines

A unit whose header and content agree is read and not made again. A unit that is truncated, edited, renamed, or of
another job is reported and made again. `units.json` in the folder says what the job depends on (its key), so that no
folder mixes two jobs. If it is lost, the headers of the units still identify the job.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from blake3 import blake3
from pydantic import ValidationError

from align.errors import StageError
from align.files import fingerprint_of, whole_file
from align.reporting import Progress, logger
from align.rows import Row
from align.source_code import code_changes, code_of

log = logger(__name__)

CLAIM = "units.json"
U = TypeVar("U")
R = TypeVar("R", bound=Row)


def run_units(
    units: Sequence[U],
    make: Callable[[U], tuple[list[R], int]],
    kind: type[R],
    *,
    folder: Path,
    key: Mapping[str, Any],
    label: str,
    things: str,
    code: Iterable[str] = (),
) -> list[R]:
    """The rows of all units, in their order. Units that are not complete in `folder` are made first.

    make: gives the rows of one unit, and how many `things` (such as tokens) were made, for the progress bar `label`.
    folder: has `unit-00000.jsonl` and so on.
    key: all that the rows depend on, as JSON values.
    code: modules that the rows depend on, in addition to those that the module of `make` imports.
    Raises StageError if the folder has units of another key, or if another process works in it.
    """
    key = json.loads(json.dumps({**key, "code": code_of(make.__module__, *code)}))
    work = fingerprint_of(json.dumps(key, sort_keys=True))
    paths = [folder / f"unit-{number:05}.jsonl" for number in range(len(units))]
    folder.mkdir(parents=True, exist_ok=True)
    with _sole_worker(folder):
        _claim(folder, key, work)
        found = {number: _rows_if_whole(path, kind, number, work) for number, path in enumerate(paths) if path.exists()}
        progress = Progress(label, total=len(units), done=sum(rows is not None for rows in found.values()))
        rows: list[R] = []
        for number, (path, unit) in enumerate(zip(paths, units, strict=True)):
            own_rows = found.pop(number, None)
            if own_rows is None:
                began = time.monotonic()
                made, count = make(unit)
                _write(path, made, number, work)
                progress.advance(1, note=f"{count / max(time.monotonic() - began, 1e-9):,.0f} {things}/s")
                # Read back what was written, so that a resumed run and an uninterrupted one have exactly equal rows.
                own_rows = _rows_if_whole(path, kind, number, work)
                assert own_rows is not None, f"{path} was written and is not whole"
            rows.extend(own_rows)
    return rows


class _Header(NamedTuple):
    """The first line of a unit's file."""

    unit: int
    work: str
    rows: int
    blake3: str


def _write(path: Path, rows: Sequence[Row], number: int, work: str) -> None:
    content = "".join(row.model_dump_json(exclude_defaults=True) + "\n" for row in rows).encode()
    header = _Header(number, work, len(rows), blake3(content).hexdigest())
    with whole_file(path, "wb") as handle:
        handle.write(json.dumps(header._asdict()).encode() + b"\n" + content)


def _rows_if_whole(path: Path, kind: type[R], number: int, work: str) -> list[R] | None:
    """The rows of a unit's file. None if it is not whole or not the expected unit; the log then says why."""
    header, content = _parts(path)
    if header is None:
        fault = "its first line is not the header of a unit"
    elif header.work != work:
        fault = "it was made from other rows or settings"
    elif header.unit != number:
        fault = f"it is unit {header.unit}, under the name of unit {number}"
    elif blake3(content).hexdigest() != header.blake3:
        fault = "its rows are not those that were written"
    elif (count := len(_lines(content))) != header.rows:
        fault = f"it has {count} rows, expected {header.rows}"
    else:
        try:
            return [kind.model_validate_json(line) for line in _lines(content)]
        except ValidationError as error:
            fault = f"a row is not a {kind.__name__} ({error.errors(include_url=False)[0]['msg']})"
    log.warning("%s: %s; the unit is made again", path, fault)
    return None


def read_unit(path: Path, kind: type[R]) -> list[R]:
    """The rows of one unit's file, for code that only reads units. Raises StageError if the file is damaged."""
    header, content = _parts(path)
    if header is None or blake3(content).hexdigest() != header.blake3:
        raise StageError(path, "is not a whole unit", "Run the stage that made it again")
    return [kind.model_validate_json(line) for line in _lines(content)]


def _lines(content: bytes) -> list[bytes]:
    """One line is one row, since JSON writes a line break inside a text as \\n."""
    return content.split(b"\n")[:-1]


def _parts(path: Path) -> tuple[_Header | None, bytes]:
    """A unit's header, or None if it is damaged, and the bytes of its rows."""
    try:
        first, _, content = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise StageError(path, f"cannot be read ({error.strerror})", "Delete it; the unit is made again") from None
    try:
        header = _Header(**json.loads(first))
    except (ValueError, TypeError, RecursionError):  # not JSON, not UTF-8, not an object, or other names in it
        return None, content
    return header, content


def _claim(folder: Path, key: Mapping[str, Any], work: str) -> None:
    """Write `units.json`, or check that the existing one has the same key.

    The three cases of a folder:
        units.json has this key        go on
        units.json has another key     StageError, with each difference
        no units.json (lost, or a new folder)   write it, unless a unit's header has the fingerprint of another job
    """
    claim = folder / CLAIM
    found = _claimed(claim)
    if found is None:
        others = [path for path in sorted(folder.glob("unit-*.jsonl")) if _is_of_another_job(path, work)]
        if others:
            what = f"has units of another job ({others[0].name}), and no {CLAIM} that describes that job"
            raise StageError(folder, what, "Name another folder, or delete this one to sample again")
        with whole_file(claim) as handle:
            json.dump(key, handle, indent=1)
        found = dict(key)
    differs = [_difference(name, found, key) for name in sorted({*found, *key}) if found.get(name) != key.get(name)]
    if differs:
        raise StageError(claim, "; ".join(differs), "Name another folder, or delete this one to sample again")
    for leftover in folder.glob(".unit-*.part"):  # left by a run that was killed while it wrote
        leftover.unlink(missing_ok=True)


def _claimed(claim: Path) -> dict[str, Any] | None:
    """The key in `units.json`, or None if the file is missing or damaged."""
    try:
        found = json.loads(claim.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StageError(claim, f"cannot be read ({error.strerror})", "Delete it; it is written again") from None
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    log.warning("%s: is damaged; it is written again after checking the headers of the units", claim)
    return None


def _is_of_another_job(path: Path, work: str) -> bool:
    header, _ = _parts(path)
    return header is not None and header.work != work


def _difference(name: str, found: Mapping[str, Any], key: Mapping[str, Any]) -> str:
    before, now = found.get(name), key.get(name)
    if name == "code":
        changed = code_changes(before if isinstance(before, dict) else {}, now if isinstance(now, dict) else {})
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        return f"its units were made by other code (changed: {shown})"
    return f"{name} was {before} there, is {now} now"


@contextmanager
def _sole_worker(folder: Path) -> Iterator[None]:
    """Lock the folder itself, so that no lock file is left in it. Raises StageError if another process has the lock.

    Some file systems (some NFS) have no locks on folders. Two runs at the same time then cost time and do no harm,
    because units are written atomically and are equal whichever process makes them.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            how = "Wait for it to end, or name another folder"
            raise StageError(folder, "is in use by another process that makes the same units", how) from None
        except OSError as error:
            log.warning("%s: cannot be locked (%s); start no second run on it", folder, error.strerror)
        yield
    finally:
        os.close(descriptor)
