"""The SQLite file of a rating: its tables, how it is opened, and how messages and moments are written in it.

A task goes to raters as an *assignment*; a *turn* is one comparison as one rater sees it; a *judgement* is what was
said of a turn. Grades are those of `Judgement.grade`: 4, the first response is significantly better, to -4. Which
response stands left is the turn's own matter.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from align.errors import RowError
from align.rows import Message, Messages

VERSION = 1
_SCHEMA = """
CREATE TABLE task (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, source TEXT NOT NULL,
    round INTEGER, batch TEXT NOT NULL, tools TEXT NOT NULL, prompt TEXT NOT NULL, responses TEXT, models TEXT NOT NULL
) STRICT;
CREATE TABLE assignment (
    task TEXT NOT NULL REFERENCES task (id), rater TEXT NOT NULL, taken TEXT NOT NULL, closed TEXT,
    PRIMARY KEY (task, rater)
) STRICT;
CREATE INDEX assignment_by_rater ON assignment (rater, closed);
CREATE TABLE turn (
    id TEXT PRIMARY KEY, task TEXT NOT NULL REFERENCES task (id), rater TEXT NOT NULL, number INTEGER NOT NULL,
    first_is_left INTEGER NOT NULL, prompt TEXT NOT NULL, responses TEXT, models TEXT NOT NULL, withdrawn TEXT
) STRICT;
CREATE INDEX turn_by_task ON turn (task, rater);
CREATE UNIQUE INDEX one_turn ON turn (task, rater, number) WHERE withdrawn IS NULL;
CREATE TABLE judgement (
    place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, turn TEXT NOT NULL REFERENCES turn (id),
    grade INTEGER NOT NULL CHECK (grade BETWEEN -4 AND 4), edited TEXT, said TEXT NOT NULL, withdrawn TEXT
) STRICT;
CREATE INDEX judgement_by_turn ON judgement (turn);
CREATE UNIQUE INDEX one_judgement ON judgement (turn) WHERE withdrawn IS NULL;
"""
MESSAGES = TypeAdapter(Messages)
RESPONSES = TypeAdapter(tuple[Messages, Messages])


def opened(path: Path) -> sqlite3.Connection:
    """The database, made where there is none. WAL and synchronous=FULL: a commit returns when the disk has it.

    Raises RowError where the file is no such database, or one of another version.
    """
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
    db.row_factory = sqlite3.Row
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        elif found != VERSION:
            raise RowError(path, f"is a rating of version {found}, this is version {VERSION}", "Name another file")
    except sqlite3.DatabaseError as error:
        raise RowError(path, f"cannot be used as a rating's database ({error})", "Name another file") from None
    return db


def text_of(messages: Any) -> str | None:
    """Messages, or two runs of them, as JSON; None for nothing."""
    if messages is None:
        return None
    plain = [_plain(message) if isinstance(message, Message) else list(map(_plain, message)) for message in messages]
    return json.dumps(plain, ensure_ascii=False)


def _plain(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json", exclude_defaults=True)


def now() -> str:
    """This moment, as `moment_text` writes it."""
    return moment_text(datetime.now(UTC))


def moment_text(moment: datetime) -> str:
    """A moment in UTC; later ones are larger as text too."""
    return moment.isoformat(timespec="microseconds")
