"""Store and query everything about an annotation: tasks, assignments to raters, turns and judgements.

When a method returns, its changes are on disk. Nothing is deleted: what a rater undoes is marked as withdrawn. The
tables are in `database.py`.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from align.errors import RowError
from align.rows import Message, Messages, row_id
from data_builders.annotation.database import MESSAGES, RESPONSES, messages_json, moment_text, now, open_database
from data_builders.annotation.queries import COMPLETE, GOING_ON, LAST, NEXT, OPEN
from data_builders.annotation.settings import RatingConfig
from data_builders.annotation.tasks import Task


@dataclass(frozen=True)
class StoredJudgement:
    """A judgement of a turn, as it is in the database."""

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
    """The number of the turn in its dialog, counted from 1."""
    first_is_left: bool
    prompt: Messages
    tools: str
    responses: tuple[Messages, Messages] | None
    """None until the models have answered."""
    models: tuple[str, ...]
    judgement: StoredJudgement | None
    """The current judgement."""
    withdrawn_judgement: StoredJudgement | None
    """The judgement that the rater has undone last, if there is no current one."""

    def better(self, grade: int) -> int:
        """Return the index of the response that a grade prefers; for a tie the left one, which was chosen at random."""
        return 0 if grade > 0 or (grade == 0 and self.first_is_left) else 1

    def continuation(self) -> Messages:
        """Return the response with which the dialog continues: the edited one, else the better one."""
        assert self.judgement is not None
        assert self.responses is not None
        return self.judgement.edited or self.responses[self.better(self.judgement.grade)]


@dataclass(frozen=True)
class PromptToAnswer:
    """A prompt that models have to answer."""

    task: str
    rater: str
    """Empty for the first turn of a task, because all its raters judge the same two responses."""
    number: int
    prompt: Messages
    tools: str


class Store:
    """The state of an annotation, in a database. Its methods can be called from any thread.

    multi_turn: models can answer, so that a rater can continue the dialog of a judged task, up to `max_turns` turns.
    runs_tools: the calls of a chosen response are executed, and the dialog continues with their results.
    enough: the number of comparisons after which no further ones are given to raters; None for all.

    If an action of a rater is not possible, its method raises RowError and changes nothing.
    """

    def __init__(
        self,
        path: Path,
        config: RatingConfig,
        *,
        multi_turn: bool = False,
        runs_tools: bool = False,
        enough: int | None = None,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.config, self.multi_turn, self.runs_tools, self.enough = config, multi_turn, runs_tools, enough
        self._lock = threading.RLock()
        self._db = open_database(path)

    def add(self, tasks: Iterable[Task]) -> int:
        """Add the tasks that are not in the database yet. Returns their number."""
        with self._transaction() as db:
            return _insert(db, tasks)

    def renew(self, tasks: Sequence[Task]) -> int:
        """Make `tasks` the comparisons that are still to be made. Returns the number of those that are new.

        What a rater has opened stays as it is: a prompt of theirs is not asked again with other responses. Other tasks
        that are not among `tasks` are deleted; they are responses of earlier models, and contain no work of a person.
        """
        with self._transaction() as db:
            kept = {task.id for task in tasks}
            opened = "SELECT 1 FROM assignment WHERE assignment.task = task.id"
            found = db.execute(f"SELECT id FROM task WHERE NOT EXISTS ({opened})")  # nosec B608  # from above
            for row in found.fetchall():
                if row["id"] not in kept:
                    db.execute("DELETE FROM task WHERE id = ?", (row["id"],))
            seen = {(row["source"], row["name"]) for row in db.execute("SELECT source, name FROM task")}
            return _insert(db, [task for task in tasks if (task.source, task.name) not in seen])

    def current(self, rater: str) -> Turn | None:
        """Return the rater's current turn: that of the open task assigned last, else of a new task, else None.

        If the turn is already judged, the rater still has to decide whether to continue its dialog.
        """
        with self._transaction() as db:
            return self._open(rater) or self._assigned(db, rater)

    def turn(self, rater: str, turn_id: str) -> Turn:
        """Return a turn of the rater. Raises RowError if it is another rater's, or withdrawn."""
        with self._lock:
            return self._turn(self._db, rater, turn_id)

    def judge(self, rater: str, turn_id: str, judgement_id: str, grade: int, edited: Messages | None) -> None:
        """Store a judgement. If a judgement with this id was stored before, nothing changes, even if it was withdrawn.

        edited: the rater's improved version of the better response.
        """
        with self._transaction() as db:
            if self._is_known(db, judgement_id, rater):
                return
            turn = self._turn(db, rater, turn_id)
            if turn.responses is None:
                raise RowError("judgement", "is for a turn without answers", "Wait for the answers of the models")
            if turn.judgement is not None:
                raise RowError("judgement", "was already given in another tab", "Undo it there to change it")
            db.execute(
                "INSERT INTO judgement (id, turn, grade, edited, said) VALUES (?, ?, ?, ?, ?)",
                (judgement_id, turn.id, grade, messages_json(edited), now()),
            )
            ends = not self.multi_turn or turn.number >= self.config.max_turns
            self._touch(db, turn.task, rater, closed=now() if ends else None)

    def undo(self, rater: str, judgement_id: str) -> None:
        """Withdraw the rater's last judgement and the turn that followed it. If it is already withdrawn, do nothing."""
        with self._transaction() as db:
            last = db.execute(LAST, (rater,)).fetchone()
            if last is None or last["id"] != judgement_id:
                if self._is_known(db, judgement_id, rater, withdrawn=True):
                    return
                raise RowError("undo", "is possible for your last judgement only", "Reload the page")
            moment = now()
            db.execute("UPDATE judgement SET withdrawn = ? WHERE id = ?", (moment, judgement_id))
            db.execute(
                "UPDATE turn SET withdrawn = ? WHERE task = ? AND rater = ? AND number > ? AND withdrawn IS NULL",
                (moment, last["task"], rater, last["number"]),
            )
            self._touch(db, last["task"], rater, closed=None)

    def go_on(self, rater: str, turn_id: str, message: str) -> None:
        """Continue a judged dialog with the rater's next message. If the next turn already exists, nothing changes."""
        with self._transaction() as db:
            turn = self._turn(db, rater, turn_id)
            if self.awaits_tools(turn):
                raise RowError("turn", "has calls that are being made", "Wait for their results")
            if turn.judgement is None or not self._may_go_on(turn):
                how = "Judge it first. The setting rating.max_turns limits the number of turns"
                raise RowError("turn", "cannot be continued", how)
            self._continue(db, turn, (Message(role="user", content=message),))

    def awaits_tools(self, turn: Turn) -> bool:
        """Whether the dialog of a judged turn continues with the results of the calls in its chosen response."""
        if not self.runs_tools or turn.judgement is None or not self._may_go_on(turn):
            return False
        return bool(turn.continuation()[-1].tool_calls)

    def add_results(self, turn: Turn, results: Messages) -> None:
        """Continue the dialog of a judged turn with the results of its calls.

        If the judgement was undone meanwhile, or the next turn already exists, nothing changes.
        """
        with self._transaction() as db:
            try:
                found = self._turn(db, turn.rater, turn.id)
            except RowError:  # the turn itself was withdrawn
                return
            if found.judgement == turn.judgement and self.awaits_tools(found):
                self._continue(db, found, results)

    def _may_go_on(self, turn: Turn) -> bool:
        return self.multi_turn and turn.number < self.config.max_turns

    def _continue(self, db: sqlite3.Connection, turn: Turn, messages: Messages) -> None:
        prompt = (*turn.prompt, *turn.continuation(), *messages)
        self._begin(db, turn.task, turn.rater, turn.number + 1, prompt)
        self._touch(db, turn.task, turn.rater, closed=None)

    def leave(self, rater: str, turn_id: str) -> None:
        """Close the task of a turn that is judged, or that the models could not answer."""
        with self._transaction() as db:
            turn = self._turn(db, rater, turn_id)
            if turn.judgement is None and turn.responses is not None:
                raise RowError("turn", "is not judged yet", "Judge it first")
            self._touch(db, turn.task, rater, closed=now())

    def answer(
        self,
        asked: PromptToAnswer,
        responses: tuple[Messages, Messages],
        models: tuple[str, str],
        seeds: Sequence[int] = (),
    ) -> None:
        """Store the answers of two models, and the seeds that they were sampled with, unless the prompt already has
        answers."""
        texts, names, prompt = messages_json(responses), json.dumps(models), messages_json(asked.prompt)
        drawn = json.dumps(list(seeds))
        with self._transaction() as db:
            if asked.number == 1:
                where = "WHERE id = ? AND responses IS NULL"
                values: tuple[object, ...] = (texts, names, drawn, asked.task)
                db.execute(f"UPDATE task SET responses = ?, models = ?, seeds = ? {where}", values)  # nosec B608  # from above
                found = db.execute("SELECT responses, models, seeds FROM task WHERE id = ?", (asked.task,))
                texts, names, drawn = found.fetchone()
            mine, values = ("AND rater = ?", (asked.rater,)) if asked.rater else ("", ())
            db.execute(
                "UPDATE turn SET responses = ?, models = ?, seeds = ? WHERE task = ? AND number = ? "  # nosec B608  # see `mine`
                f"AND responses IS NULL AND withdrawn IS NULL AND prompt = ? {mine}",  # after an undo it is another one
                (texts, names, drawn, asked.task, asked.number, prompt, *values),
            )

    def unanswered(self, most: int) -> list[PromptToAnswer]:
        """Return the first `most` tasks without responses."""
        with self._lock:
            found = self._db.execute("SELECT * FROM task WHERE responses IS NULL ORDER BY position LIMIT ?", (most,))
            return [
                PromptToAnswer(row["id"], "", 1, MESSAGES.validate_json(row["prompt"]), row["tools"]) for row in found
            ]

    def last_judgement(self, rater: str) -> str | None:
        """Return the id of the rater's last judgement that is not withdrawn."""
        with self._lock:
            found = self._db.execute(LAST, (rater,)).fetchone()
            return found["id"] if found else None

    def progress(self, rater: str) -> dict[str, int]:
        """Count the comparisons that this rater and all raters have judged, and how many there are; and further
        turns."""
        with self._lock:
            current = "FROM judgement JOIN turn ON turn.id = judgement.turn WHERE judgement.withdrawn IS NULL"
            mine, all_ = (
                self._db.execute(f"SELECT count(*) {current} AND number = 1 {more}", values).fetchone()[0]
                for more, values in (("AND rater = ?", (rater,)), ("", ()))
            )
            further = self._db.execute(f"SELECT count(*) {current} AND number > 1").fetchone()[0]
        total = self.comparisons * self.config.raters_per_pair
        return {"mine": mine, "all": all_, "total": total, "further_turns": further}

    @property
    def comparisons(self) -> int:
        """How many comparisons are to be judged: all, or `enough`."""
        with self._lock:
            tasks: int = self._db.execute("SELECT count(*) FROM task").fetchone()[0]
        return tasks if self.enough is None else min(tasks, self.enough)

    @property
    def complete(self) -> int:
        """How many comparisons have the judgements of as many raters as `raters_per_pair` asks for."""
        with self._lock:
            found: int = self._db.execute(COMPLETE, (self.config.raters_per_pair,)).fetchone()[0]
        return found

    @property
    def is_finished(self) -> bool:
        """Whether all comparisons are judged, and no rater is in the middle of a dialog."""
        with self._lock:
            going_on = self._db.execute(GOING_ON, (self._stale,)).fetchone()[0]
        return not going_on and self.complete >= self.comparisons

    def close(self) -> None:
        """Close the database. Judgements are on disk even if this is never called."""
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

    @property
    def _stale(self) -> str:
        """The time before which an open assignment no longer counts."""
        return moment_text(datetime.now(UTC) - timedelta(minutes=self.config.hold_minutes))

    def _open(self, rater: str) -> Turn | None:
        found = self._db.execute(OPEN, (rater,)).fetchone()
        return self._turn(self._db, rater, found["id"]) if found else None

    def _assigned(self, db: sqlite3.Connection, rater: str) -> Turn | None:
        if self.enough is not None and self.complete >= self.enough:
            return None
        values = {
            "rater": rater,
            "required": self.config.raters_per_pair,
            "stale": self._stale,
            "live": self.multi_turn,
        }
        task = db.execute(NEXT, values).fetchone()
        if task is None:
            return None
        db.execute("INSERT INTO assignment (task, rater, taken) VALUES (?, ?, ?)", (task["id"], rater, now()))
        prompt = MESSAGES.validate_json(task["prompt"])
        self._begin(db, task["id"], rater, 1, prompt, (task["responses"], task["models"], task["seeds"]))
        return self._open(rater)

    def _begin(
        self,
        db: sqlite3.Connection,
        task: str,
        rater: str,
        number: int,
        prompt: Messages,
        answers: tuple[str | None, str, str] = (None, "[]", "[]"),
    ) -> None:
        """Begin a turn. answers: responses, models and seeds as they are stored."""
        before = db.execute("SELECT count(*) FROM turn WHERE task = ? AND rater = ?", (task, rater)).fetchone()[0]
        name = row_id(self.config.seed, task, rater, number, before)
        left = int(row_id("left", name), 16) % 2
        db.execute(
            "INSERT OR IGNORE INTO turn (id, task, rater, number, first_is_left, prompt, responses, models, seeds) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (name, task, rater, number, left, messages_json(prompt), *answers),
        )

    def _turn(self, db: sqlite3.Connection, rater: str, turn_id: str) -> Turn:
        row = db.execute(
            "SELECT turn.*, task.tools FROM turn JOIN task ON task.id = turn.task "
            "WHERE turn.id = ? AND rater = ? AND withdrawn IS NULL",
            (turn_id, rater),
        ).fetchone()
        if row is None:
            raise RowError("turn", "is not one of yours, or was undone in another tab", "Reload the page")
        found = db.execute("SELECT * FROM judgement WHERE turn = ? ORDER BY place DESC LIMIT 1", (turn_id,)).fetchone()
        last = found and StoredJudgement(
            found["id"], found["grade"], found["edited"] and MESSAGES.validate_json(found["edited"])
        )
        is_current = found is not None and found["withdrawn"] is None
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
            judgement=last if is_current else None,
            withdrawn_judgement=None if is_current else last,
        )

    def _is_known(self, db: sqlite3.Connection, judgement_id: str, rater: str, withdrawn: bool = False) -> bool:
        and_withdrawn = " AND judgement.withdrawn IS NOT NULL" if withdrawn else ""
        joined = "judgement JOIN turn ON turn.id = judgement.turn"
        query = f"SELECT 1 FROM {joined} WHERE judgement.id = ? AND rater = ?{and_withdrawn}"  # nosec B608  # from above
        found = db.execute(query, (judgement_id, rater))
        return found.fetchone() is not None

    def _touch(self, db: sqlite3.Connection, task: str, rater: str, closed: str | None) -> None:
        db.execute(
            "UPDATE assignment SET taken = ?, closed = ? WHERE task = ? AND rater = ?", (now(), closed, task, rater)
        )


def _insert(db: sqlite3.Connection, tasks: Iterable[Task]) -> int:
    """Insert the tasks that are not in the database. Returns their number."""
    before = db.total_changes
    db.executemany(
        "INSERT OR IGNORE INTO task (id, name, source, round, batch, tools, prompt, responses, models, seeds) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                *(task.id, task.name, task.source, task.round, task.batch, task.tools, messages_json(task.prompt)),
                *(messages_json(task.responses), json.dumps(task.models), json.dumps(task.seeds)),
            )
            for task in tasks
        ),
    )
    return db.total_changes - before
