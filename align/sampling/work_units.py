"""Units of work that several processes share and that survive a crash: the rows of each unit are one file.

A unit's file is JSON lines: a header, then its rows. The header has the number of the unit, a fingerprint of the job
that it belongs to, the number of rows that follow, and their BLAKE3:

    {"unit": 3, "work": "9f2c...", "rows": 8, "blake3": "04be..."}
    {"id": "...", ...}      8 such lines

A unit whose header and content agree is read and not made again. A unit that is truncated, edited, renamed, or of
another job is reported and made again. `units.json` in the folder says what the job depends on (its key), so that no
folder mixes two jobs. If it is lost, the headers of the units still identify the job.

Any number of processes, on any nodes that share the folder, may work on one job. Each makes the first unit that is
missing and that no other process has claimed (`claims.py`), until all units are there; then each of them can read all
rows. A process may start later than the others, and may be killed: its unit is made by another one.

Rows are in memory for one unit at a time (`Units`), so that a job may have more of them than fit.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from blake3 import blake3
from pydantic import ValidationError

from align.errors import StageError
from align.files import UNITS, fingerprint_of, sync_folder
from align.reporting import Progress, logger
from align.rows import Row
from align.sampling.claims import Claims
from align.source_code import code_changes, code_of

log = logger(__name__)

U = TypeVar("U")
U_co = TypeVar("U_co", covariant=True)
R = TypeVar("R", bound=Row)
T = TypeVar("T")

_AGAIN = "Delete this file if it exists, and start the same command again; the unit is made again"
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between two looks at units that other processes make


class Units(Generic[T]):
    """Rows in units of work. A unit is read or made when it is asked for, and is not kept.

    for unit in units: ...          # one unit after another, each as a list of its rows
    for row in units.rows(): ...    # one row after another
    """

    def __init__(self, count: int, read: Callable[[int], list[T]]) -> None:
        """read: gives the rows of a unit, by its number."""
        self._count, self._read = count, read

    @classmethod
    def of(cls, rows: Sequence[T], size: int) -> Units[T]:
        """Rows that are in memory, `size` of them in each unit."""
        return cls(-(-len(rows) // size), lambda number: list(rows[number * size : (number + 1) * size]))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> list[T]:
        return self._read(number)

    def __iter__(self) -> Iterator[list[T]]:
        return map(self._read, range(self._count))

    def rows(self) -> Iterator[T]:
        return chain.from_iterable(self)

    def map(self, change: Callable[[list[T]], list[T]]) -> Units[T]:
        """The units with the rows that `change` makes of them, each time that they are asked for."""
        return Units(self._count, lambda number: change(self._read(number)))

    def in_memory(self) -> Units[T]:
        """The same units, each read once, now."""
        return Units(self._count, list(self).__getitem__)


class _Listed(Protocol[U_co]):
    """`Units`, or a sequence with what each unit is made from."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> U_co: ...


def run_units(
    units: _Listed[U],
    make: Callable[[U], tuple[list[R], int]],
    kind: type[R],
    *,
    folder: Path,
    key: Mapping[str, Any],
    label: str,
    things: str,
    code: Iterable[str] = (),
    unused_code: Collection[str] = (),
) -> Units[R]:
    """The rows of all units. Units that are not complete in `folder` are made first, by this process or by others that
    work on the same units at the same time.

    make: gives the rows of one unit, and how many `things` (such as tokens) were made, for the progress bar `label`.
        The rows must depend on the unit and on `key` only, not on the process or on other units.
    folder: has `unit-00000.jsonl` and so on.
    key: all that the rows depend on, as JSON values.
    code: modules that the rows depend on, in addition to those that the module of `make` imports.
    unused_code: modules among those imports that the rows do not depend on; see `code_of`.
    Raises StageError if the folder has units of another key; later, if a unit is damaged when its rows are read.
    """
    key = json.loads(json.dumps({**key, "code": code_of(make.__module__, *code, without=unused_code)}))
    work = fingerprint_of(json.dumps(key, sort_keys=True))
    paths = [folder / f"unit-{number:05}.jsonl" for number in range(len(units))]
    folder.mkdir(parents=True, exist_ok=True)
    require_same_job(folder, key, work)

    def look(number: int, *, quiet: bool = False) -> bool | None:
        return _is_whole(paths[number], number, work, quiet=quiet) or None

    def made(number: int) -> tuple[bool, str]:
        began = time.monotonic()
        rows, count = make(units[number])
        _write(paths[number], rows, number, work)
        assert look(number), f"{paths[number]} was written and is not whole"
        return True, f"{count / max(time.monotonic() - began, 1e-9):,.0f} {things}/s"

    share_units(len(units), look, lambda number: look(number, quiet=True), made, folder=folder, label=label)
    # Every process reads what was written, also its own units, so that a resumed run and an uninterrupted one, and all
    # processes, have exactly equal rows.
    return Units(len(units), lambda number: read_unit(paths[number], kind, number, work))


def share_units(
    count: int,
    look: Callable[[int], T | None],
    look_again: Callable[[int], T | None],
    make: Callable[[int], tuple[T, str]],
    *,
    folder: Path,
    label: str,
) -> dict[int, T]:
    """Number of each unit -> what `look` or `make` gives for it. Units that are missing are made, by this process or by
    others that work in the same folder at the same time.

    look: what there is of a unit, at the start; None if it has to be made. look_again: the same, later, without a log.
    make: makes one unit whole, and gives what `look` would give, and a note for the progress bar.
    """
    claims = Claims(folder)
    at_start = ((number, look(number)) for number in range(count))
    found = {number: there for number, there in at_start if there is not None}
    progress = Progress(label, total=count, done=len(found))
    pause, is_waiting = _SHORTEST_PAUSE, False
    while missing := [number for number in range(count) if number not in found]:
        for number in missing:
            there, note = look_again(number), ""
            if there is None:
                claim = claims.take(number)
                if claim is None:  # another process is making it
                    continue
                with claim:
                    there = look_again(number)  # another process may have finished it just before the claim
                    if there is None:
                        there, note = make(number)
            found[number] = there
            progress.advance(1, note=note)
            pause = _SHORTEST_PAUSE
        if len(found) < count:
            if not is_waiting:
                is_waiting = True
                log.info("%s: the last %d units are being made by other processes", label, count - len(found))
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
    progress.close()
    for leftover in (*folder.glob(".unit*.part"), *folder.glob(".unit-*.claim")):  # of processes that were killed
        leftover.unlink(missing_ok=True)
    return found


class _Header(NamedTuple):
    """The first line of a unit's file."""

    unit: int
    work: str
    rows: int
    blake3: str


def _write(path: Path, rows: Sequence[Row], number: int, work: str) -> None:
    content = "".join(row.json_line() for row in rows).encode()
    header = _Header(number, work, len(rows), blake3(content).hexdigest())
    whole = json.dumps(header._asdict()).encode() + b"\n" + content
    publish(path, whole, lambda: _is_whole(path, number, work, quiet=True))


def publish(path: Path, content: bytes, is_whole: Callable[[], bool]) -> None:
    """Give `content` the name `path`, whole or not at all, unless a whole file has this name already.

    Of two processes that publish the same unit the first one wins, because a third one may have read its file. That is
    what `link` is for, which fails if the name exists; `whole_file` would replace it:

        A links its unit | C reads it | B's link fails, and B reads A's file | all three have A's rows
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(part, path)
        except OSError:  # a file has the name (whole, or damaged), or the file system has no hard links
            if not is_whole():
                os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def _is_whole(path: Path, number: int, work: str, *, quiet: bool) -> bool:
    """Whether a unit's file is there and whole, and is the expected unit. If it is not, the log says why, unless
    `quiet`.
    """
    if not path.exists():
        return False
    fault = _fault(*_parts(path), number, work)
    if fault is not None and not quiet:
        log.warning("%s: %s; the unit is made again", path, fault)
    return fault is None


def _fault(header: _Header | None, content: bytes, number: int | None, work: str | None) -> str | None:
    """Why a unit's file cannot be used; None if its header and its content agree, and are what is expected."""
    if header is None:
        return "its first line is not the header of a unit"
    if work is not None and header.work != work:
        return "it was made from other rows or settings"
    if number is not None and header.unit != number:
        return f"it is unit {header.unit}, under the name of unit {number}"
    if blake3(content).hexdigest() != header.blake3:
        return "its rows are not those that were written"
    if (count := len(_lines(content))) != header.rows:
        return f"it has {count} rows, expected {header.rows}"
    return None


def read_unit(path: Path, kind: type[R], number: int | None = None, work: str | None = None) -> list[R]:
    """The rows of one unit's file.

    number, work: what its header must say. None for code that only reads units.
    Raises StageError if the file is missing, damaged or another unit.
    """
    header, content = _parts(path)
    fault = _fault(header, content, number, work)
    try:
        rows = [] if fault else [kind.model_validate_json(line) for line in _lines(content)]
    except ValidationError as error:
        fault = f"a row is not a {kind.__name__} ({error.errors(include_url=False)[0]['msg']})"
    if fault:
        raise StageError(path, fault, _AGAIN)
    return rows


def _lines(content: bytes) -> list[bytes]:
    """One line is one row, since JSON writes a line break inside a text as \\n."""
    return content.split(b"\n")[:-1]


def _parts(path: Path) -> tuple[_Header | None, bytes]:
    """A unit's header, or None if it is damaged, and the bytes of its rows."""
    try:
        first, _, content = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise StageError(path, f"cannot be read ({error.strerror})", _AGAIN) from None
    try:
        header = _Header(**json.loads(first))
    except (ValueError, TypeError, RecursionError):  # not JSON, not UTF-8, not an object, or other names in it
        return None, content
    return header, content


def require_same_job(folder: Path, key: Mapping[str, Any], work: str) -> None:
    """Write `units.json`, or check that the existing one has the same key.

    The three cases of a folder:
        units.json has this key        go on
        units.json has another key     StageError, with each difference
        no units.json (lost, or a new folder)   write it, unless a unit's header has the fingerprint of another job
    """
    job = folder / UNITS
    found = _described(job)
    if found is None:
        others = [path for path in sorted(folder.glob("unit-*.jsonl")) if _is_of_another_job(path, work)]
        if others:
            what = f"has units of another job ({others[0].name}), and no {UNITS} that describes that job"
            raise StageError(folder, what, "Name another folder, or delete this one to sample again")
        # Of two jobs that start in a new folder at the same time, the second one finds the first one's key here.
        publish(job, json.dumps(key, indent=1).encode(), lambda: _described(job) is not None)
        found = _described(job) or dict(key)
    differs = [_difference(name, found, key) for name in sorted({*found, *key}) if found.get(name) != key.get(name)]
    if differs:
        raise StageError(job, "; ".join(differs), "Name another folder, or delete this one to sample again")


def _described(job: Path) -> dict[str, Any] | None:
    """The key in `units.json`, or None if the file is missing or damaged."""
    try:
        found = json.loads(job.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StageError(job, f"cannot be read ({error.strerror})", "Delete it; it is written again") from None
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    log.warning("%s: is damaged; it is written again after checking the headers of the units", job)
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
