"""The SQLite database of the annotation page: its tables, and how messages and times are stored.

- task: a prompt with two responses, or a prompt that models will answer.
- assignment: a task that was given to a rater.
- turn: one comparison as one rater sees it, including which response is shown on the left.
- judgement: a rater's grade of a turn, from 4 (the first response is significantly better) to -4, as in
  `Judgement.grade`. The grade refers to the first response, not to the left one.

`models` and `seeds` are JSON lists: who wrote each of the two responses, and the seed that it was sampled with; empty
where that is unknown.
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

VERSION = 2
_SCHEMA = """
CREATE TABLE task (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, source TEXT NOT NULL,
    round INTEGER, batch TEXT NOT NULL, tools TEXT NOT NULL, prompt TEXT NOT NULL, responses TEXT, models TEXT NOT NULL,
    seeds TEXT NOT NULL DEFAULT '[]'
) STRICT;
CREATE TABLE assignment (
    task TEXT NOT NULL REFERENCES task (id), rater TEXT NOT NULL, taken TEXT NOT NULL, closed TEXT,
    PRIMARY KEY (task, rater)
) STRICT;
CREATE INDEX assignment_by_rater ON assignment (rater, closed);
CREATE TABLE turn (
    id TEXT PRIMARY KEY, task TEXT NOT NULL REFERENCES task (id), rater TEXT NOT NULL, number INTEGER NOT NULL,
    first_is_left INTEGER NOT NULL, prompt TEXT NOT NULL, responses TEXT, models TEXT NOT NULL,
    seeds TEXT NOT NULL DEFAULT '[]', withdrawn TEXT
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
_FROM_VERSION_1 = """
ALTER TABLE task ADD COLUMN seeds TEXT NOT NULL DEFAULT '[]';
ALTER TABLE turn ADD COLUMN seeds TEXT NOT NULL DEFAULT '[]';
"""
MESSAGES = TypeAdapter(Messages)
RESPONSES = TypeAdapter(tuple[Messages, Messages])


def open_database(path: Path) -> sqlite3.Connection:
    """Open the database, and create it if it does not exist.

    With WAL and synchronous=FULL, a commit returns only when the data is on disk. Raises RowError if the file is not a
    database of the annotation page, or was written by another version.
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
        elif found == 1:
            db.executescript(f"BEGIN IMMEDIATE; {_FROM_VERSION_1} PRAGMA user_version = {VERSION}; COMMIT;")
        elif found != VERSION:
            what = f"has database version {found}, expected version {VERSION}"
            raise RowError(path, what, "Use another file, or the version of this program that made it")
    except sqlite3.DatabaseError as error:
        what = f"cannot be used as the database of the annotation page ({error})"
        raise RowError(path, what, "Use another file") from None
    return db


def messages_json(messages: Any) -> str | None:
    """Convert messages, or a pair of lists of messages, to JSON. None stays None."""
    if messages is None:
        return None
    plain = [_plain(message) if isinstance(message, Message) else list(map(_plain, message)) for message in messages]
    return json.dumps(plain, ensure_ascii=False)


def _plain(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json", exclude_defaults=True)


def now() -> str:
    """Return the current time as `moment_text` writes it."""
    return moment_text(datetime.now(UTC))


def moment_text(moment: datetime) -> str:
    """Format a time in UTC. The texts sort in the order of the times."""
    return moment.isoformat(timespec="microseconds")
