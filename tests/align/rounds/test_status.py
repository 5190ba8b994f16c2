"""`rounds.py status`: the state of each stage, from the ledger and the lock of a running process."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from align.cli import RECIPES
from align.errors import StageError
from align.rounds.commands import answered
from align.rounds.decisions import LEDGER
from align.rounds.ledger import Ledger
from align.rounds.status import is_running, stage_states, table

PLANNED = ("data", "round-1/sft", "round-1/dpo", "report")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose first stage is finished, whose second failed and was started again, and whose third is missing."""
    ledger = Ledger(tmp_path / LEDGER)
    run_id = ledger.begin_run("python recipes/rounds.py")

    def begin(label: str) -> int:
        settings = {"name": label, "round_number": None, "recipe": "sft", "key": "k", "command": "c"}
        return ledger.begin_stage(run_id, label=label, config={}, inputs={}, **settings)  # type: ignore[arg-type]

    ledger.end_stage(begin("data"), "finished")
    ledger.end_stage(begin("round-1/sft"), "failed")
    begin("round-1/sft")
    ledger.close()
    return tmp_path


def test_a_stage_without_an_end_runs_only_while_its_driver_lives(run: Path) -> None:
    states = {each.label: each.state for each in stage_states(run, PLANNED)}
    expected = {"data": "finished", "round-1/sft": "interrupted", "round-1/dpo": "not started", "report": "not started"}
    assert states == expected
    assert list(states) == list(PLANNED)
    with (run / ".lock").open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert is_running(run)
        states = {each.label: each.state for each in stage_states(run)}
        assert states == {"data": "finished", "round-1/sft": "running"}
    assert not is_running(run)


def test_the_table_has_a_line_for_each_stage_and_the_totals(run: Path) -> None:
    lines = table(stage_states(run, PLANNED)).splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(PLANNED)
    assert lines[-1] == "4 stages: 1 finished, 1 interrupted, 2 not started"


def test_status_of_a_folder_prints_it_and_makes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.iterdir())
    assert answered(["status", str(run)], RECIPES)
    assert "2 stages: 1 finished, 1 interrupted" in capsys.readouterr().out
    assert sorted(run.iterdir()) == before


def test_a_folder_that_is_no_run_is_refused_and_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"has no ledger\.sqlite"):
        stage_states(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as left:
        answered(["status", str(tmp_path)], RECIPES)
    assert left.value.code == 1
