"""The ledger of a run: what each stage read and made, under which key, and whether that still holds.

One SQLite file, `<run_dir>/ledger.sqlite`. Starting stages is `align/rounds/driver.py`.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from align.errors import StageError
from align.manifest import versions

Status = Literal["running", "finished", "failed", "stopped"]

_REBUILD = (
    "Start the rounds again: a damaged ledger is set aside, and stages that finished are taken up again from the "
    "records in their folders"
)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SIDE_FILES = ("", "-journal", "-wal", "-shm")
"""Endings of the files of a database. A new database would be changed by the journal of an old one."""

_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY, command TEXT NOT NULL, versions TEXT NOT NULL, started REAL NOT NULL, ended REAL
);
CREATE TABLE IF NOT EXISTS stages (
    id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL REFERENCES runs (id),
    label TEXT NOT NULL, name TEXT NOT NULL, round INTEGER, recipe TEXT NOT NULL,
    key TEXT NOT NULL, status TEXT NOT NULL, command TEXT NOT NULL, config TEXT NOT NULL,
    inputs TEXT NOT NULL, outputs TEXT NOT NULL, started REAL NOT NULL, ended REAL, code TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS stages_by_label ON stages (label, id);
CREATE TABLE IF NOT EXISTS choices (
    id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL REFERENCES runs (id),
    name TEXT NOT NULL, after_round INTEGER NOT NULL, path TEXT NOT NULL, reason TEXT NOT NULL, chosen REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS failures (
    stage_id INTEGER PRIMARY KEY REFERENCES stages (id),
    cause TEXT NOT NULL, text TEXT NOT NULL, lost_steps INTEGER, restart TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS numbers (stage_id INTEGER PRIMARY KEY REFERENCES stages (id), text TEXT NOT NULL);
"""


class DamagedLedgerError(StageError):
    """A ledger whose content is not what was written: a file that is no database, a damaged page or row."""


@dataclass(frozen=True)
class StageRecord:
    """One start of a stage. Times are seconds since 1970; `ended` is None while it runs or when it was killed."""

    id: int
    run_id: int
    label: str
    name: str
    round: int | None
    recipe: str
    key: str
    status: Status
    command: str
    config: dict[str, Any]
    inputs: dict[str, dict[str, str]]
    """Dotted key -> {"path", "blake3"}."""
    outputs: dict[str, dict[str, Any]]
    """Dotted key -> {"path", "blake3"}, and "files" (name -> blake3) for a folder that is no checkpoint."""
    started: float
    ended: float | None
    code: dict[str, str] = field(default_factory=dict)
    """Source file -> hash, of the code that made it; empty for a stage that an older version made."""

    @property
    def seconds(self) -> float | None:
        return None if self.ended is None else self.ended - self.started


@dataclass(frozen=True)
class RunRecord:
    """One start of the rounds."""

    id: int
    command: str
    versions: dict[str, str]
    started: float
    ended: float | None


@dataclass(frozen=True)
class ChoiceRecord:
    """Which model was the best one after a round, and why."""

    run_id: int
    name: str
    """`best`, or `best:NAME` of an expert."""
    after_round: int
    path: str
    reason: str
    chosen: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class FailureRecord:
    """Why one start of a stage failed."""

    stage_id: int
    """Of its `StageRecord`."""
    cause: str
    """See `align.rounds.restarts`."""
    text: str
    lost_steps: int | None
    """Optimizer steps that no checkpoint holds; None for a stage that is no training."""
    restart: str
    """How it was started again; empty if it was not."""


class Ledger:
    """Reads and writes one ledger file. Every write is committed before the call returns."""

    def __init__(self, path: Path, *, in_memory: bool = False) -> None:
        """in_memory: work on a copy, so that nothing is written to the disk; an empty one if there is no such file."""
        if not in_memory:
            path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._db = _copied(path) if in_memory else sqlite3.connect(path, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, 1, _VERSION):
                what = f"is of version {version}, and this code reads version {_VERSION}"
                raise StageError(path, what, "Use the code that wrote it, or another run_dir")
            self._db.execute("PRAGMA synchronous = FULL")
            if version == 1:
                self._db.execute("ALTER TABLE stages ADD COLUMN code TEXT NOT NULL DEFAULT '{}'")
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.DatabaseError as error:
            raise _unusable(path, "cannot be read as a ledger", error) from None

    @classmethod
    def opened(cls, path: Path, say: Callable[[str], None]) -> Ledger:
        """The ledger at `path` for writing. A damaged one is renamed, and an empty one takes its place.

        The driver fills that again, stage by stage, from the records in the stages' folders. What is lost are earlier
        starts, failures, choices and times. The folder of a stage that was interrupted has no such record: it has to be
        moved away. say: called with a sentence about it.
        """
        ledger: Ledger | None = None
        try:
            ledger = cls(path)
            ledger.check()
            return ledger
        except DamagedLedgerError as error:
            if ledger is not None:
                ledger.close()
            aside = _free_name(path)
            for ending in _SIDE_FILES:
                if (side := path.with_name(path.name + ending)).exists():
                    side.rename(aside.with_name(aside.name + ending))
            say(f"{path} {error.what}: it is kept as {aside.name}, and stages are taken up from their folders' records")
        return cls(path)

    def check(self) -> None:
        """Read everything. Raises DamagedLedgerError if something is not what was written."""
        found = [row[0] for row in self._rows("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            raise DamagedLedgerError(self.path, f"is damaged ({' '.join(str(found[0]).split())})", _REBUILD)
        self.stages()
        self.runs()
        self.choices()
        self.numbers()
        self.failures()

    def close(self) -> None:
        self._db.close()

    def begin_run(self, command: str) -> int:
        row = (command, json.dumps(versions()), time.time())
        return _id(self._execute("INSERT INTO runs (command, versions, started) VALUES (?, ?, ?)", row))

    def end_run(self, run_id: int) -> None:
        self._execute("UPDATE runs SET ended = ? WHERE id = ?", (time.time(), run_id))

    def begin_stage(
        self,
        run_id: int,
        *,
        label: str,
        name: str,
        round_number: int | None,
        recipe: str,
        key: str,
        command: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Mapping[str, str]],
        code: Mapping[str, str] | None = None,
    ) -> int:
        """Write that a stage starts, before it does. Returns the record's id."""
        row = (run_id, label, name, round_number, recipe, key, "running", command)
        texts = (json.dumps(config), json.dumps(inputs), "{}", json.dumps(code or {}))
        return self._insert((*row, *texts, time.time()))

    def end_stage(
        self,
        record_id: int,
        status: Status,
        outputs: Mapping[str, Mapping[str, Any]] | None = None,
        key: str | None = None,
        code: Mapping[str, str] | None = None,
        inputs: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Write how a stage ended. key, code, inputs: as they are at its end; None leaves those of its beginning."""
        later = (json.dumps(value) if value else None for value in (code, inputs))
        values = (status, json.dumps(outputs or {}), time.time(), key, *later, record_id)
        columns = "status = ?, outputs = ?, ended = ?, key = COALESCE(?, key), code = COALESCE(?, code), "
        columns += "inputs = COALESCE(?, inputs)"
        self._execute(f"UPDATE stages SET {columns} WHERE id = ?", values)  # nosec B608  # from above

    def adopt(self, run_id: int, record: StageRecord) -> None:
        """Write down a finished stage that another ledger knew."""
        row = (run_id, record.label, record.name, record.round, record.recipe, record.key, record.status)
        values = (record.config, record.inputs, record.outputs, record.code)
        texts = (record.command, *(json.dumps(value) for value in values))
        record_id = self._insert((*row, *texts, record.started))
        self._execute("UPDATE stages SET ended = ? WHERE id = ?", (record.ended, record_id))

    def _insert(self, row: tuple[Any, ...]) -> int:
        names = "run_id, label, name, round, recipe, key, status, command, config, inputs, outputs, code, started"
        marks = ", ".join("?" * 13)
        return _id(self._execute(f"INSERT INTO stages ({names}) VALUES ({marks})", row))  # nosec B608  # from above

    def latest(self, label: str) -> StageRecord | None:
        """The last start of a stage, however it ended."""
        rows = self._rows("SELECT * FROM stages WHERE label = ? ORDER BY id DESC LIMIT 1", (label,))
        return self._record(rows[0]) if rows else None

    def last_seconds(self, name: str, round_number: int | None) -> float | None:
        """How long the stage took when it last ran to its end: in this round, else in the nearest other one."""
        query = """
            SELECT ended - started FROM stages WHERE name = ? AND status = 'finished'
            ORDER BY round IS NOT ?, ABS(COALESCE(round, 0) - ?), id DESC LIMIT 1"""
        rows = self._rows(query, (name, round_number, round_number or 0))
        return rows[0][0] if rows and isinstance(rows[0][0], int | float) else None

    def note_numbers(self, record_id: int, text: str) -> None:
        """Keep the key numbers of a stage that finished, as they are shown to a person."""
        self._execute("INSERT OR REPLACE INTO numbers (stage_id, text) VALUES (?, ?)", (record_id, text))

    def numbers(self) -> dict[int, str]:
        """Id of a stage's record -> its key numbers."""
        return {row["stage_id"]: row["text"] for row in self._rows("SELECT stage_id, text FROM numbers")}

    def note_failure(self, failure: FailureRecord) -> None:
        """Write down why a start of a stage failed, and what follows."""
        row = (failure.stage_id, failure.cause, failure.text, failure.lost_steps, failure.restart)
        columns = "stage_id, cause, text, lost_steps, restart"
        self._execute(f"INSERT OR REPLACE INTO failures ({columns}) VALUES (?, ?, ?, ?, ?)", row)

    def failures(self) -> dict[int, FailureRecord]:
        """Id of a stage's record -> why it failed."""
        rows = self._rows("SELECT stage_id, cause, text, lost_steps, restart FROM failures ORDER BY stage_id")
        return {row["stage_id"]: FailureRecord(*row) for row in rows}

    def stages(self) -> list[StageRecord]:
        """Every start of every stage, in order."""
        return [self._record(row) for row in self._rows("SELECT * FROM stages ORDER BY id")]

    def runs(self) -> list[RunRecord]:
        rows = self._rows("SELECT * FROM runs ORDER BY id")
        return [
            RunRecord(row["id"], row["command"], self._dict(row, "versions"), row["started"], row["ended"])
            for row in rows
        ]

    def record_choice(self, run_id: int, name: str, after_round: int, path: str, reason: str) -> None:
        """Write down a choice of the best model; the same one, for the same reason, is not written twice."""
        before = [record for record in self.choices() if (record.name, record.after_round) == (name, after_round)]
        if before and (before[-1].path, before[-1].reason) == (path, reason):
            return
        columns = "run_id, name, after_round, path, reason, chosen"
        row = (run_id, name, after_round, path, reason, time.time())
        self._execute(f"INSERT INTO choices ({columns}) VALUES (?, ?, ?, ?, ?, ?)", row)  # nosec B608  # from above

    def choices(self) -> list[ChoiceRecord]:
        """Every choice of the best model, in order."""
        rows = self._rows("SELECT run_id, name, after_round, path, reason, chosen FROM choices ORDER BY id")
        return [ChoiceRecord(*row) for row in rows]

    def _execute(self, query: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(query, values)
        except sqlite3.DatabaseError as error:
            raise _unusable(self.path, "cannot be written", error) from None

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:  # also while rows are fetched: a damaged page, text that is not UTF-8
            raise _unusable(self.path, "cannot be read", error) from None

    def _record(self, row: sqlite3.Row) -> StageRecord:
        values = {**row, **{name: self._dict(row, name) for name in ("config", "inputs", "outputs", "code")}}
        try:
            return record_of(values)
        except (TypeError, ValueError) as error:
            what = f"row {row['id']} of its stages is damaged ({error})"
            raise DamagedLedgerError(self.path, what, _REBUILD) from None

    def _dict(self, row: sqlite3.Row, column: str) -> dict[str, Any]:
        """A column that holds a JSON object."""
        try:
            found = json.loads(row[column])
        except (TypeError, ValueError, RecursionError) as error:
            what = f"row {row['id']} is damaged: its column {column} is not JSON ({str(error)[:80]})"
            raise DamagedLedgerError(self.path, what, _REBUILD) from None
        if not isinstance(found, dict):
            what = f"row {row['id']} is damaged: its column {column} holds {type(found).__name__}, expected an object"
            raise DamagedLedgerError(self.path, what, _REBUILD)
        return found


def record_of(values: Mapping[str, Any]) -> StageRecord:
    """A record from plain values. Raises ValueError or TypeError where one is missing or of another type."""
    record = StageRecord(**values)
    texts = (record.label, record.name, record.recipe, record.key, record.command)
    if not all(isinstance(part, dict) for part in (record.config, record.inputs, record.outputs, record.code)):
        raise ValueError("config, inputs, outputs or code is not an object")
    if not all(isinstance(text, str) for text in texts) or record.status not in get_args(Status):
        raise ValueError(f"label {record.label!r}, status {record.status!r}")
    if not isinstance(record.started, int | float) or not isinstance(record.ended, int | float | None):
        raise ValueError(f"started {record.started!r}, ended {record.ended!r}")
    for name in ("inputs", "outputs"):
        for key, entry in getattr(record, name).items():
            if not isinstance(entry, dict) or not {"path", "blake3"} <= entry.keys():
                raise ValueError(f"{name} {key!r}")
    return record


def _unusable(path: Path, what: str, error: sqlite3.DatabaseError) -> StageError:
    """The error for one of SQLite's: a full or unreadable disk damages nothing, and is not repaired by a new file."""
    code = getattr(error, "sqlite_errorcode", None)
    undecodable = code is None and "decode" in str(error).lower()  # text that is not UTF-8
    if undecodable or (code is not None and code & 0xFF in _DAMAGED) or "no such column" in str(error):
        return DamagedLedgerError(path, f"{what} ({error})", _REBUILD)
    return StageError(path, f"{what} ({error})", "Check the disk and the permissions, then start the rounds again")


def _free_name(path: Path) -> Path:
    """`ledger.sqlite.damaged-1`, or the first number that is free."""
    return next(
        aside
        for number in itertools.count(1)
        if not (aside := path.with_name(f"{path.name}.damaged-{number}")).exists()
    )


def _copied(path: Path) -> sqlite3.Connection:
    copy = sqlite3.connect(":memory:", isolation_level=None)
    if path.is_file():
        source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            source.backup(copy)
        finally:
            source.close()
    return copy


def _id(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None
    return cursor.lastrowid
