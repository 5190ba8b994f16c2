"""The ledger of a run: what each stage read and made, under which key, and whether that still holds.

One SQLite file, `<run_dir>/ledger.sqlite`. Starting stages is `align/rounds/driver.py`.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from align.errors import StageError
from align.files import fingerprint, fingerprint_of
from align.manifest import SEAL, versions

Status = Literal["running", "finished", "failed", "stopped"]

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY, command TEXT NOT NULL, versions TEXT NOT NULL, started REAL NOT NULL, ended REAL
);
CREATE TABLE IF NOT EXISTS stages (
    id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL REFERENCES runs (id),
    label TEXT NOT NULL, name TEXT NOT NULL, round INTEGER, recipe TEXT NOT NULL,
    key TEXT NOT NULL, status TEXT NOT NULL, command TEXT NOT NULL, config TEXT NOT NULL,
    inputs TEXT NOT NULL, outputs TEXT NOT NULL, started REAL NOT NULL, ended REAL
);
CREATE INDEX IF NOT EXISTS stages_by_label ON stages (label, id);
"""


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
    outputs: dict[str, dict[str, str]]
    started: float
    ended: float | None

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


class Ledger:
    """Reads and writes one ledger file. Every write is committed before the call returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                what = f"is of version {version}, and this code reads version {_VERSION}"
                raise StageError(path, what, "Use the code that wrote it, or another run_dir")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.DatabaseError as error:
            raise StageError(
                path, f"cannot be read as a ledger ({error})", "Move the run's folder away: all stages run again"
            ) from None

    def close(self) -> None:
        self._db.close()

    def begin_run(self, command: str) -> int:
        row = (command, json.dumps(versions()), time.time())
        return _id(self._db.execute("INSERT INTO runs (command, versions, started) VALUES (?, ?, ?)", row))

    def end_run(self, run_id: int) -> None:
        self._db.execute("UPDATE runs SET ended = ? WHERE id = ?", (time.time(), run_id))

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
    ) -> int:
        """Write that a stage starts, before it does. Returns the record's id."""
        row = (run_id, label, name, round_number, recipe, key, "running", command)
        texts = (json.dumps(config), json.dumps(inputs), "{}")
        names = "run_id, label, name, round, recipe, key, status, command, config, inputs, outputs, started"
        marks = ", ".join("?" * 12)
        return _id(self._db.execute(f"INSERT INTO stages ({names}) VALUES ({marks})", (*row, *texts, time.time())))

    def end_stage(self, record_id: int, status: Status, outputs: Mapping[str, Mapping[str, str]] | None = None) -> None:
        values = (status, json.dumps(outputs or {}), time.time(), record_id)
        self._db.execute("UPDATE stages SET status = ?, outputs = ?, ended = ? WHERE id = ?", values)

    def latest(self, label: str) -> StageRecord | None:
        """The last start of a stage, however it ended."""
        row = self._db.execute("SELECT * FROM stages WHERE label = ? ORDER BY id DESC LIMIT 1", (label,)).fetchone()
        return _record(row) if row else None

    def last_seconds(self, name: str, round_number: int | None) -> float | None:
        """How long the stage took when it last ran to its end: in this round, else in the nearest other one."""
        query = """
            SELECT ended - started FROM stages WHERE name = ? AND status = 'finished'
            ORDER BY round IS NOT ?, ABS(COALESCE(round, 0) - ?), id DESC LIMIT 1"""
        row = self._db.execute(query, (name, round_number, round_number or 0)).fetchone()
        return row[0] if row else None

    def stages(self) -> list[StageRecord]:
        """Every start of every stage, in order."""
        return [_record(row) for row in self._db.execute("SELECT * FROM stages ORDER BY id")]

    def runs(self) -> list[RunRecord]:
        rows = self._db.execute("SELECT * FROM runs ORDER BY id")
        return [
            RunRecord(row["id"], row["command"], json.loads(row["versions"]), row["started"], row["ended"])
            for row in rows
        ]


def still_holds(record: StageRecord | None, key: str, outputs: Mapping[str, Path]) -> bool:
    """Whether the stage's last start finished under this key, and what it made stands unchanged."""
    if record is None or record.status != "finished" or record.key != key:
        return False
    return {name: entry["blake3"] for name, entry in record.outputs.items()} == {
        name: content_of(path) for name, path in outputs.items()
    }


def content_of(path: Path) -> str:
    """A fingerprint of what stands at `path`; empty when nothing does.

    A checkpoint counts by its MANIFEST.json, which lists the hash of each file, and by the files' presence and sizes:
    reading tens of gigabytes again for every stage would cost minutes.
    """
    if not path.exists():
        return ""
    seal = path / SEAL
    if not seal.is_file():
        return fingerprint(path)
    try:
        listed = json.loads(seal.read_text(encoding="utf-8"))["files"]
        whole = all((path / name).stat().st_size == entry["bytes"] for name, entry in listed.items())
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return fingerprint_of("checkpoint", fingerprint(seal)) if whole else ""


def _id(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _record(row: sqlite3.Row) -> StageRecord:
    values = {**row}
    for name in ("config", "inputs", "outputs"):
        values[name] = json.loads(values[name])
    return StageRecord(**values)
