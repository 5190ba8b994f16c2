"""The database of the annotation page: what is confirmed is saved, raters see only their turns, nothing is deleted."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from align.errors import RowError
from align.rows import Message, Messages
from data_builders.annotation.settings import RatingConfig
from data_builders.annotation.store import PromptToAnswer, Store
from data_builders.annotation.tasks import Task

pytestmark = pytest.mark.usefixtures("closed_stores")


def said(text: str) -> Messages:
    return (Message(role="assistant", content=text),)


def ready(count: int) -> list[Task]:
    return [
        Task(
            name=f"pair-{number}",
            source="test",
            prompt=(Message(role="user", content=f"Question {number}?"),),
            responses=(said(f"first {number}"), said(f"second {number}")),
            models=("a", "b"),
        )
        for number in range(count)
    ]


def store_of(path: Path, tasks: int = 5, *, multi_turn: bool = False, **config: object) -> Store:
    store = Store(path / "r.sqlite", RatingConfig.model_validate(config), multi_turn=multi_turn)
    store.add(ready(tasks))
    return store


def rows(path: Path, query: str) -> list[tuple]:
    with sqlite3.connect(path / "r.sqlite") as db:
        return db.execute(query).fetchall()


def judge_all(store: Store, rater: str, grade: int = 1) -> int:
    """Judge until nothing is left; how many."""
    count = 0
    while (turn := store.current(rater)) is not None:
        store.judge(rater, turn.id, f"{rater}-{count:08d}", grade, None)
        count += 1
    return count


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


RATE_UNTIL_KILLED = """
import sys
from pathlib import Path
from data_builders.annotation.settings import RatingConfig
from data_builders.annotation.store import Store

store = Store(Path(sys.argv[1]), RatingConfig())
number = 0
while (turn := store.current("ann")) is not None:
    name = f"{turn.task}-{number}"
    store.judge("ann", turn.id, name, number % 9 - 4, None)
    print(name, number % 9 - 4, flush=True)
    number += 1
"""


@pytest.mark.slow
def test_every_acknowledged_judgement_outlives_sigkill(tmp_path: Path) -> None:
    store_of(tmp_path, tasks=3000).close()
    acknowledged: list[list[str]] = []
    for count in (3, 40, 111):
        command = [sys.executable, "-c", RATE_UNTIL_KILLED, str(tmp_path / "r.sqlite")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as rating:
            assert rating.stdout is not None
            for _ in range(count):
                acknowledged.append(rating.stdout.readline().split())
            rating.send_signal(signal.SIGKILL)
            acknowledged += [line.split() for line in rating.stdout if line.endswith("\n")]
        assert rating.returncode == -signal.SIGKILL
    kept = dict(rows(tmp_path, "SELECT id, grade FROM judgement WHERE withdrawn IS NULL"))
    assert len(acknowledged) >= 154
    assert {name: int(grade) for name, grade in acknowledged}.items() <= kept.items()
    assert len(kept) <= len(acknowledged) + 3, "at most the one that was on its way at each kill"
    assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]


def test_many_raters_at_once_each_get_a_pair_once_and_each_pair_gets_its_raters(tmp_path: Path) -> None:
    store = store_of(tmp_path, tasks=30, raters_per_pair=3)
    names = [f"rater-{number}" for number in range(6)]
    threads = [threading.Thread(target=judge_all, args=(store, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    judged = rows(tmp_path, "SELECT turn.task, turn.rater FROM judgement JOIN turn ON turn.id = judgement.turn")
    assert len(judged) == len(set(judged)) == 90
    assert set(Counter(task for task, _ in judged).values()) == {3}


def test_a_reserved_pair_goes_to_no_other_rater_until_its_time_is_over(tmp_path: Path) -> None:
    store = store_of(tmp_path, tasks=1)
    held = store.current("ann")
    assert held is not None
    assert store.current("ann") == held, "a second tab sees the same turn"
    assert store.current("bob") is None
    with sqlite3.connect(tmp_path / "r.sqlite") as db:
        db.execute("UPDATE assignment SET taken = '2020-01-01T00:00:00+00:00'")
    late = store.current("bob")
    assert late is not None
    assert late.task == held.task


@pytest.mark.slow
def test_the_side_of_a_response_depends_on_seed_pair_and_rater(tmp_path: Path) -> None:
    def choose_two(folder: str, seed: int) -> dict[str, list[bool]]:
        (tmp_path / folder).mkdir()
        store = store_of(tmp_path / folder, tasks=100, seed=seed, raters_per_pair=2)
        sides: dict[str, list[bool]] = {}
        for rater in ("ann", "bob"):
            for number in range(100):
                turn = store.current(rater)
                assert turn is not None
                sides.setdefault(rater, []).append(turn.first_is_left)
                store.judge(rater, turn.id, f"{rater}-{number:08d}", 1, None)
        return sides

    first, again, other = choose_two("first", 0), choose_two("again", 0), choose_two("other", 1)
    assert first == again != other
    assert first["ann"] != first["bob"]
    for sides in (*first.values(), *other.values()):
        assert 29 <= sum(sides) <= 71, "100 fair draws stay within 4.2 standard deviations"


def test_the_same_judgement_sent_again_counts_once_even_after_undo(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    turn = store.current("ann")
    assert turn is not None
    store.judge("ann", turn.id, "judgement-1", 3, None)
    store.judge("ann", turn.id, "judgement-1", 3, None)
    assert store.progress("ann")["mine"] == 1
    store.undo("ann", "judgement-1")
    store.judge("ann", turn.id, "judgement-1", 3, None)  # a retry that was late
    assert store.progress("ann")["mine"] == 0
    store.undo("ann", "judgement-1")
    assert rows(tmp_path, "SELECT count(*) FROM judgement") == [(1,)]


def test_the_same_pair_in_a_second_tab_is_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    turn = store.current("ann")
    assert turn is not None
    store.judge("ann", turn.id, "judgement-1", 3, None)
    with pytest.raises(RowError, match=r"judgement: was already given in another tab\. Undo it there to change it\."):
        store.judge("ann", turn.id, "judgement-2", -3, None)
    assert rows(tmp_path, "SELECT id, grade FROM judgement") == [("judgement-1", 3)]


def test_a_rater_cannot_judge_or_undo_for_another(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    turn = store.current("ann")
    assert turn is not None
    with pytest.raises(RowError, match="turn: is not one of yours"):
        store.judge("bob", turn.id, "judgement-1", 1, None)
    store.judge("ann", turn.id, "judgement-1", 1, None)
    with pytest.raises(RowError, match=r"undo: is possible for your last judgement only"):
        store.undo("bob", "judgement-1")
    assert store.progress("ann")["mine"] == 1


def test_undo_brings_the_pair_back_with_what_was_said_and_keeps_it_as_withdrawn(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    first = store.current("ann")
    assert first is not None
    store.judge("ann", first.id, "judgement-1", 2, said("better still"))
    second = store.current("ann")
    assert second is not None
    assert second.task != first.task
    store.undo("ann", "judgement-1")
    back = store.current("ann")
    assert back is not None
    assert (back.id, back.judgement) == (first.id, None)
    assert back.withdrawn_judgement is not None
    assert (back.withdrawn_judgement.grade, back.withdrawn_judgement.edited) == (2, said("better still"))
    store.judge("ann", back.id, "judgement-2", -1, None)
    assert rows(tmp_path, "SELECT id, grade, withdrawn IS NULL FROM judgement ORDER BY place") == [
        ("judgement-1", 2, 0),
        ("judgement-2", -1, 1),
    ]
    after = store.current("ann")
    assert after is not None
    assert after.id == second.id, "the pair that was open before the undo comes next"


def test_undo_goes_back_one_judgement_after_the_other(tmp_path: Path) -> None:
    store = store_of(tmp_path, tasks=3)
    assert judge_all(store, "ann") == 3
    for number in (2, 1, 0):
        assert store.last_judgement("ann") == f"ann-{number:08d}"
        store.undo("ann", f"ann-{number:08d}")
    assert store.last_judgement("ann") is None
    assert store.progress("ann") == {"mine": 0, "all": 0, "total": 3, "further_turns": 0}


def test_a_dialog_goes_on_with_the_edited_answer_and_ends_at_its_last_turn(tmp_path: Path) -> None:
    store = store_of(tmp_path, tasks=1, multi_turn=True, max_turns=2)
    turn = store.current("ann")
    assert turn is not None
    with pytest.raises(RowError, match="turn: cannot be continued"):
        store.go_on("ann", turn.id, "too early")
    store.judge("ann", turn.id, "judgement-1", -2, said("improved"))
    store.go_on("ann", turn.id, "And then?")
    store.go_on("ann", turn.id, "sent again")
    following = store.current("ann")
    assert following is not None
    assert [message.content for message in following.prompt] == ["Question 0?", "improved", "And then?"]
    assert following.responses is None
    with pytest.raises(RowError, match="is for a turn without answers"):
        store.judge("ann", following.id, "judgement-2", 1, None)
    asked = PromptToAnswer(following.task, "ann", 2, following.prompt, "")
    store.answer(asked, (said("yes"), said("no")), ("b", "a"))
    store.judge("ann", following.id, "judgement-2", 1, None)
    assert store.current("ann") is None, "the last turn of the only task"
    assert store.progress("ann")["further_turns"] == 1


@pytest.mark.parametrize("grade, goes_on_with", [(4, 0), (1, 0), (-1, 1), (-4, 1), (0, None)])
def test_a_dialog_goes_on_with_the_better_response_and_of_a_tie_with_the_left(
    tmp_path: Path, grade: int, goes_on_with: int | None
) -> None:
    store = store_of(tmp_path, tasks=1, multi_turn=True)
    turn = store.current("ann")
    assert turn is not None
    assert turn.responses is not None
    store.judge("ann", turn.id, "judgement-1", grade, None)
    judged = store.current("ann")
    assert judged is not None
    place = goes_on_with if goes_on_with is not None else (0 if turn.first_is_left else 1)
    assert judged.continuation() == turn.responses[place]


def test_undo_takes_the_following_turn_back_too(tmp_path: Path) -> None:
    store = store_of(tmp_path, tasks=1, multi_turn=True)
    turn = store.current("ann")
    assert turn is not None
    store.judge("ann", turn.id, "judgement-1", 4, None)
    store.go_on("ann", turn.id, "And then?")
    dropped = store.current("ann")
    assert dropped is not None
    store.undo("ann", "judgement-1")
    with pytest.raises(RowError, match="was undone in another tab"):
        store.turn("ann", dropped.id)
    late = (PromptToAnswer(turn.task, "ann", 2, dropped.prompt, ""), (said("late"), said("later")), ("a", "b"))
    store.answer(*late)
    store.judge("ann", turn.id, "judgement-2", -4, None)
    store.go_on("ann", turn.id, "And now?")
    store.answer(*late)
    following = store.current("ann")
    assert following is not None
    assert following.id != dropped.id
    assert following.responses is None, "an answer to the turn that was undone is not taken for this one's"
    assert [message.content for message in following.prompt][1:] == ["second 0", "And now?"]


def test_all_raters_of_a_prompt_judge_the_same_two_answers(tmp_path: Path) -> None:
    store = Store(tmp_path / "r.sqlite", RatingConfig(raters_per_pair=2), multi_turn=True)
    store.add([Task(name="open", source="test", prompt=(Message(role="user", content="Well?"),))])
    first = store.current("ann")
    assert first is not None
    assert [asked.number for asked in store.unanswered(9)] == [1]
    store.answer(PromptToAnswer(first.task, "", 1, first.prompt, ""), (said("one"), said("two")), ("a", "b"))
    store.answer(PromptToAnswer(first.task, "", 1, first.prompt, ""), (said("three"), said("four")), ("b", "a"))
    for rater in ("ann", "bob"):
        turn = store.current(rater)
        assert turn is not None
        assert (turn.responses, turn.models) == ((said("one"), said("two")), ("a", "b"))
    assert store.unanswered(9) == []


def test_what_no_model_answers_is_kept_for_a_start_with_models(tmp_path: Path) -> None:
    store = Store(tmp_path / "r.sqlite", RatingConfig())
    store.add([Task(name="open", source="test", prompt=(Message(role="user", content="Well?"),))])
    assert store.current("ann") is None
    store.close()
    assert Store(tmp_path / "r.sqlite", RatingConfig(), multi_turn=True).current("ann") is not None


def test_files_read_again_add_only_what_is_new(tmp_path: Path) -> None:
    store = store_of(tmp_path, tasks=3)
    assert store.add(ready(5)) == 2
    assert store.progress("ann")["total"] == 5


def test_a_file_that_is_no_rating_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.sqlite").write_text("not a database at all, and longer than a header of one" * 40)
    expected = r"r\.sqlite: cannot be used as the database of the annotation page \(file is not a database\)"
    with pytest.raises(RowError, match=expected):
        store_of(tmp_path)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(RowError, match=r"has database version 7, expected version 2\. Use another file"):
        Store(other, RatingConfig())


def test_a_database_of_version_1_is_brought_to_this_version(tmp_path: Path) -> None:
    """With all that it holds; its answers have no seeds."""
    path = tmp_path / "r.sqlite"
    store = Store(path, RatingConfig())
    store.add(ready(2))
    turn = store.current("ann")
    assert turn is not None
    store.judge("ann", turn.id, "judgement-1", 3, None)
    store.close()
    with sqlite3.connect(path) as db:
        older = "ALTER TABLE task DROP COLUMN seeds; ALTER TABLE turn DROP COLUMN seeds; PRAGMA user_version = 1"
        db.executescript(older)
    store = Store(path, RatingConfig())
    assert store.last_judgement("ann") == "judgement-1"
    assert store.current("ann") is not None
    store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT DISTINCT seeds FROM task UNION SELECT seeds FROM turn").fetchall() == [("[]",)]
