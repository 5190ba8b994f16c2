"""The database of a rating: tasks, who took which, every turn that was shown, every judgement.

When a method returns, what it did is on the disk. Nothing is deleted; what is taken back is marked withdrawn. The
tables are in `database.py`.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from align.errors import RowError
from align.rows import Message, Messages, row_id
from data_builders.annotation.database import MESSAGES, RESPONSES, moment_text, now, opened, text_of
from data_builders.annotation.settings import RatingConfig
from data_builders.annotation.tasks import Task

_LAST = """
SELECT judgement.id, turn.task, turn.number FROM judgement JOIN turn ON turn.id = judgement.turn
WHERE turn.rater = ? AND judgement.withdrawn IS NULL ORDER BY judgement.place DESC LIMIT 1
"""
_NEXT = """
SELECT * FROM task
WHERE (:live OR responses IS NOT NULL)
AND NOT EXISTS (SELECT 1 FROM assignment AS mine WHERE mine.task = task.id AND mine.rater = :rater)
AND :wanted > (
    SELECT count(*) FROM assignment WHERE assignment.task = task.id AND (
        (closed IS NULL AND taken > :stale)
        OR EXISTS (
            SELECT 1 FROM turn JOIN judgement ON judgement.turn = turn.id
            WHERE turn.task = assignment.task AND turn.rater = assignment.rater AND judgement.withdrawn IS NULL
        )
    )
)
ORDER BY position LIMIT 1
"""
_OPEN = """
SELECT turn.id FROM assignment JOIN turn ON turn.task = assignment.task AND turn.rater = assignment.rater
WHERE assignment.rater = ? AND closed IS NULL AND withdrawn IS NULL ORDER BY taken DESC, number DESC LIMIT 1
"""


@dataclass(frozen=True)
class Said:
    """A judgement of a turn."""

    id: str
    grade: int
    edited: Messages | None


@dataclass(frozen=True)
class Turn:
    """One comparison as one rater sees it."""

    id: str
    task: str
    rater: str
    number: int
    """From 1."""
    first_is_left: bool
    prompt: Messages
    tools: str
    responses: tuple[Messages, Messages] | None
    """None until the models have answered."""
    models: tuple[str, ...]
    said: Said | None
    """The judgement that holds."""
    before: Said | None
    """The one that its rater took back last."""

    def better(self, grade: int) -> int:
        """The place of the response that a grade prefers; of a tie the left one, which a draw put there."""
        return 0 if grade > 0 or (grade == 0 and self.first_is_left) else 1

    def continued(self) -> Messages:
        """What the dialog goes on with: the edited response, else the better one."""
        assert self.said is not None
        assert self.responses is not None
        return self.said.edited or self.responses[self.better(self.said.grade)]


@dataclass(frozen=True)
class Asked:
    """A prompt that models are to answer."""

    task: str
    rater: str
    """Empty for a task's first turn: all its raters judge the same two responses."""
    number: int
    prompt: Messages
    tools: str


class Store:
    """All that is known of one rating. Its methods may be called from any thread.

    goes_on: models can answer, so a judged task stays its rater's until it is closed or has `max_turns` turns.
    Methods that a rater's doing calls raise RowError where it cannot be done, with nothing changed.
    """

    def __init__(self, path: Path, config: RatingConfig, *, goes_on: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.config, self.goes_on = config, goes_on
        self._lock = threading.RLock()
        self._db = opened(path)

    def add(self, tasks: Iterable[Task]) -> int:
        """Take in those that are not here yet. Returns how many."""
        with self._transaction() as db:
            before = db.total_changes
            db.executemany(
                "INSERT OR IGNORE INTO task (id, name, source, round, batch, tools, prompt, responses, models) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        *(task.id, task.name, task.source, task.round, task.batch, task.tools),
                        *(text_of(task.prompt), text_of(task.responses), json.dumps(task.models)),
                    )
                    for task in tasks
                ),
            )
            return db.total_changes - before

    def current(self, rater: str) -> Turn | None:
        """The turn that the rater is at: of the task taken last that is open, else of a new one; None for nothing.

        It is judged already where the rater has yet to say whether the dialog goes on.
        """
        with self._transaction() as db:
            return self._open(rater) or self._assigned(db, rater)

    def turn(self, rater: str, turn_id: str) -> Turn:
        """A turn of the rater's that was not taken back."""
        with self._lock:
            return self._turn(self._db, rater, turn_id)

    def judge(self, rater: str, turn_id: str, judgement_id: str, grade: int, edited: Messages | None) -> None:
        """Keep a judgement. The same judgement_id again changes nothing, whatever became of it since.

        edited: the better response, rewritten.
        """
        with self._transaction() as db:
            if self._is_known(db, judgement_id, rater):
                return
            turn = self._turn(db, rater, turn_id)
            if turn.responses is None:
                raise RowError("judgement", "is of a turn that nobody has answered yet", "Wait for the answers")
            if turn.said is not None:
                raise RowError("judgement", "was given already, in another tab", "Undo it there to change it")
            db.execute(
                "INSERT INTO judgement (id, turn, grade, edited, said) VALUES (?, ?, ?, ?, ?)",
                (judgement_id, turn.id, grade, text_of(edited), now()),
            )
            ends = not self.goes_on or turn.number >= self.config.max_turns
            self._touch(db, turn.task, rater, closed=now() if ends else None)

    def undo(self, rater: str, judgement_id: str) -> None:
        """Withdraw the rater's last judgement, and the turn that followed it. One that is withdrawn stays so."""
        with self._transaction() as db:
            last = db.execute(_LAST, (rater,)).fetchone()
            if last is None or last["id"] != judgement_id:
                if self._is_known(db, judgement_id, rater, withdrawn=True):
                    return
                raise RowError("undo", "is of a judgement that is not your last one", "Load the page again")
            moment = now()
            db.execute("UPDATE judgement SET withdrawn = ? WHERE id = ?", (moment, judgement_id))
            db.execute(
                "UPDATE turn SET withdrawn = ? WHERE task = ? AND rater = ? AND number > ? AND withdrawn IS NULL",
                (moment, last["task"], rater, last["number"]),
            )
            self._touch(db, last["task"], rater, closed=None)

    def go_on(self, rater: str, turn_id: str, message: str) -> None:
        """Open the turn after a judged one with the rater's next message. One that is open already stays as it is."""
        with self._transaction() as db:
            turn = self._turn(db, rater, turn_id)
            if turn.said is None or not self.goes_on or turn.number >= self.config.max_turns:
                raise RowError("turn", "cannot go on", "Judge it first; rating.max_turns says how far a dialog goes")
            prompt = (*turn.prompt, *turn.continued(), Message(role="user", content=message))
            self._begin(db, turn.task, rater, turn.number + 1, prompt, None, "[]")
            self._touch(db, turn.task, rater, closed=None)

    def leave(self, rater: str, turn_id: str) -> None:
        """Leave the task of a turn that is judged, or that no model could answer."""
        with self._transaction() as db:
            turn = self._turn(db, rater, turn_id)
            if turn.said is None and turn.responses is not None:
                raise RowError("turn", "is not judged yet", "Judge it first")
            self._touch(db, turn.task, rater, closed=now())

    def answer(self, asked: Asked, responses: tuple[Messages, Messages], models: tuple[str, str]) -> None:
        """Keep what two models answered, where nothing stands yet."""
        said, names, prompt = text_of(responses), json.dumps(models), text_of(asked.prompt)
        with self._transaction() as db:
            if asked.number == 1:
                where = "WHERE id = ? AND responses IS NULL"
                db.execute(f"UPDATE task SET responses = ?, models = ? {where}", (said, names, asked.task))
                said, names = db.execute("SELECT responses, models FROM task WHERE id = ?", (asked.task,)).fetchone()
            mine, values = ("AND rater = ?", (asked.rater,)) if asked.rater else ("", ())
            db.execute(
                "UPDATE turn SET responses = ?, models = ? WHERE task = ? AND number = ? AND responses IS NULL "
                f"AND withdrawn IS NULL AND prompt = ? {mine}",  # one that was undone and begun anew has another
                (said, names, asked.task, asked.number, prompt, *values),
            )

    def unanswered(self, most: int) -> list[Asked]:
        """The first tasks without responses, in their order."""
        with self._lock:
            found = self._db.execute("SELECT * FROM task WHERE responses IS NULL ORDER BY position LIMIT ?", (most,))
            return [Asked(row["id"], "", 1, MESSAGES.validate_json(row["prompt"]), row["tools"]) for row in found]

    def last_judgement(self, rater: str) -> str | None:
        """The id of the rater's last judgement that holds."""
        with self._lock:
            found = self._db.execute(_LAST, (rater,)).fetchone()
            return found["id"] if found else None

    def progress(self, rater: str) -> dict[str, int]:
        """How many comparisons the rater has judged, all raters have judged, and are wanted; further turns besides."""
        with self._lock:
            held = "FROM judgement JOIN turn ON turn.id = judgement.turn WHERE judgement.withdrawn IS NULL"
            mine, all_ = (
                self._db.execute(f"SELECT count(*) {held} AND number = 1 {more}", values).fetchone()[0]
                for more, values in (("AND rater = ?", (rater,)), ("", ()))
            )
            further = self._db.execute(f"SELECT count(*) {held} AND number > 1").fetchone()[0]
            tasks = self._db.execute("SELECT count(*) FROM task").fetchone()[0]
        return {"mine": mine, "all": all_, "wanted": tasks * self.config.raters_per_pair, "further_turns": further}

    def close(self) -> None:
        """Close the file. What was judged is on the disk whether or not this is called."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _open(self, rater: str) -> Turn | None:
        found = self._db.execute(_OPEN, (rater,)).fetchone()
        return self._turn(self._db, rater, found["id"]) if found else None

    def _assigned(self, db: sqlite3.Connection, rater: str) -> Turn | None:
        stale = moment_text(datetime.now(UTC) - timedelta(minutes=self.config.hold_minutes))
        wanted = {"rater": rater, "wanted": self.config.raters_per_pair, "stale": stale, "live": self.goes_on}
        task = db.execute(_NEXT, wanted).fetchone()
        if task is None:
            return None
        db.execute("INSERT INTO assignment (task, rater, taken) VALUES (?, ?, ?)", (task["id"], rater, now()))
        prompt = MESSAGES.validate_json(task["prompt"])
        self._begin(db, task["id"], rater, 1, prompt, task["responses"], task["models"])
        return self._open(rater)

    def _begin(
        self,
        db: sqlite3.Connection,
        task: str,
        rater: str,
        number: int,
        prompt: Messages,
        said: str | None,
        models: str,
    ) -> None:
        before = db.execute("SELECT count(*) FROM turn WHERE task = ? AND rater = ?", (task, rater)).fetchone()[0]
        name = row_id(self.config.seed, task, rater, number, before)
        left = int(row_id("left", name), 16) % 2
        db.execute(
            "INSERT OR IGNORE INTO turn (id, task, rater, number, first_is_left, prompt, responses, models) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (name, task, rater, number, left, text_of(prompt), said, models),
        )

    def _turn(self, db: sqlite3.Connection, rater: str, turn_id: str) -> Turn:
        row = db.execute(
            "SELECT turn.*, task.tools FROM turn JOIN task ON task.id = turn.task "
            "WHERE turn.id = ? AND rater = ? AND withdrawn IS NULL",
            (turn_id, rater),
        ).fetchone()
        if row is None:
            raise RowError("turn", "is none of yours, or was taken back in another tab", "Load the page again")
        said = db.execute("SELECT * FROM judgement WHERE turn = ? ORDER BY place DESC LIMIT 1", (turn_id,)).fetchone()
        last = said and Said(said["id"], said["grade"], said["edited"] and MESSAGES.validate_json(said["edited"]))
        holds = said is not None and said["withdrawn"] is None
        return Turn(
            id=row["id"],
            task=row["task"],
            rater=row["rater"],
            number=row["number"],
            first_is_left=bool(row["first_is_left"]),
            prompt=MESSAGES.validate_json(row["prompt"]),
            tools=row["tools"],
            responses=row["responses"] and RESPONSES.validate_json(row["responses"]),
            models=tuple(json.loads(row["models"])),
            said=last if holds else None,
            before=None if holds else last,
        )

    def _is_known(self, db: sqlite3.Connection, judgement_id: str, rater: str, withdrawn: bool = False) -> bool:
        found = db.execute(
            "SELECT 1 FROM judgement JOIN turn ON turn.id = judgement.turn WHERE judgement.id = ? AND rater = ?"
            + (" AND judgement.withdrawn IS NOT NULL" if withdrawn else ""),
            (judgement_id, rater),
        )
        return found.fetchone() is not None

    def _touch(self, db: sqlite3.Connection, task: str, rater: str, closed: str | None) -> None:
        db.execute(
            "UPDATE assignment SET taken = ?, closed = ? WHERE task = ? AND rater = ?", (now(), closed, task, rater)
        )
