"""Stages that fail and are started again: how often by cause, after which wait, and what the ledger has of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align.errors import CheckError, CorruptionError, NetworkError, OutOfMemoryError, RolledBack, UnreachableServerError
from align.failures import FAILURES, note_cause
from align.leaving import HANG_CODE
from align.rounds.ledger import Ledger
from align.rounds.processes import Ending, failures_file
from align.rounds.restarts import Failure, Restarts, RestartsConfig, failure_of
from align.rounds.screen import HEAD
from align.rounds.status import stage_states, table
from tests.rounds_project import JOIN, Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path)
    monkeypatch.setenv("TEST_DIARY", str(made.diary_file))
    made.values["rounds"] = 1
    made.values["restarts"] = {"first_wait_seconds": 0}
    return made


def failing(project: Project, how: str, times: int) -> None:
    """Stage round-1/sft makes one of its two parts and then does `how`, the first `times` times."""
    project.stage("sft", "", [], parts=2)
    fails = f"""        began = Path(os.environ["TEST_DIARY"]).read_text().count("began " + here)
        if here == "round-1/sft" and began <= {times}:
            {how}
"""
    line = '            note(f"made {here}/{part}")\n'
    text = JOIN.replace(line, line + fails)
    (project.recipes / "join.py").write_text(text.replace("import json, os,", "import json, os, signal,"))


def noting(cause: str) -> str:
    line = json.dumps({"cause": cause, "text": "why"})
    return f"print({line!r}, file=open(os.environ['ALIGN_FAILURES'], 'a')); sys.exit(1)"


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, cause",
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed"),
        (noting("network"), "network"),
        (noting("corruption"), "corruption"),
    ],
    ids=["killed", "network", "corruption"],
)
def test_a_stage_that_fails_for_a_reason_that_may_pass_continues_and_every_start_is_in_the_ledger(
    how: str, cause: str, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    times = 1 if cause == "corruption" else 2
    failing(project, how, times)
    ran = project.run()
    assert Counter(ran)["round-1/sft"] == 1 + times
    assert Counter(ran)["run/last"] == 1
    made = Counter(line for line in project.diary() if line.startswith("made round-1/sft"))
    assert made["made round-1/sft/1"] == 1
    out = capsys.readouterr().out
    assert out.count("; started again in 0 s (") == times
    assert f"({cause} {times} of " in out
    ledger = Ledger(project.run_dir / "ledger.sqlite")
    records = [record for record in ledger.stages() if record.label == "round-1/sft"]
    assert [record.status for record in records] == ["failed"] * times + ["finished"]
    failures = ledger.failures()
    assert [failures[record.id].cause for record in records[:-1]] == [cause] * times
    assert all(failures[record.id].restart.startswith("started again") for record in records[:-1])
    assert {record.key for record in records[1:]} == {records[-1].key}
    ledger.close()
    (state,) = [each for each in stage_states(project.run_dir) if each.label == "round-1/sft"]
    assert state.starts == f"{1 + times} starts ({times} {cause})"
    assert state.starts in table([state])
    assert project.run() == []


@pytest.mark.slow
@pytest.mark.parametrize("how, starts", [(noting("error"), 1), ("sys.exit(1)", 1), (noting("network"), 3)])
def test_an_error_that_would_come_again_is_not_tried_again_and_others_not_for_ever(
    how: str, starts: int, project: Project
) -> None:
    from align.errors import StageError

    project.values["restarts"] = {"first_wait_seconds": 0, "network": 2}
    failing(project, how, 99)
    with pytest.raises(StageError, match="stage round-1/sft"):
        project.run()
    assert project.diary().count("began round-1/sft") == starts
    ledger = Ledger(project.run_dir / "ledger.sqlite")
    assert len(ledger.failures()) == starts
    assert list(ledger.failures().values())[-1].restart == ""
    ledger.close()


# Causes, waits, settings


def stage(**config: Any) -> Any:
    return SimpleNamespace(config=SimpleNamespace(**config), outputs={})


def test_the_wait_doubles_for_each_cause_apart_up_to_the_longest() -> None:
    restarts = Restarts(RestartsConfig(network=5, killed=1, first_wait_seconds=10, longest_wait_seconds=60))
    waits = [restarts.after(Failure("network", ""), stage()) for _ in range(6)]
    assert [each and each.wait_seconds for each in waits] == [10, 20, 40, 60, 60, None]
    killed = restarts.after(Failure("killed", ""), stage())
    assert killed is not None
    assert killed.what == "started again in 10 s (killed 1 of 1)"
    assert restarts.after(Failure("killed", ""), stage()) is None
    assert restarts.after(Failure("error", ""), stage()) is None


def test_out_of_memory_halves_the_token_budget_only_if_the_config_allows_it(tmp_path: Path) -> None:
    from align.settings import ModelConfig, TrainingConfig, TreeDataConfig
    from recipes.run_eval import RunEvalRecipe
    from recipes.sft import SFTRecipe

    recipe = SFTRecipe(
        model=ModelConfig(path=tmp_path),
        data=TreeDataConfig(path=tmp_path / "rows.jsonl", token_budget=4096),
        training=TrainingConfig(output_dir=tmp_path / "run"),
    )
    training: Any = SimpleNamespace(config=recipe)
    assert Restarts(RestartsConfig()).after(Failure("out_of_memory", ""), training) is None
    restarts = Restarts(RestartsConfig(out_of_memory=2))
    found = [restarts.after(Failure("out_of_memory", ""), training) for _ in range(3)]
    assert [each and each.settings for each in found] == [
        ("data.token_budget=2048",),
        ("data.token_budget=1024",),
        None,
    ]
    assert found[0] is not None
    assert found[0].what == "started again in 10 s with data.token_budget=2048 (out of memory 1 of 2)"
    scoring: Any = SimpleNamespace(config=RunEvalRecipe.model_construct(token_budget=4096))
    assert Restarts(RestartsConfig(out_of_memory=2)).after(Failure("out_of_memory", ""), scoring) is None
    later = Restarts(RestartsConfig(out_of_memory=1))
    later.after(Failure("out_of_memory", ""), training)
    network = later.after(Failure("network", ""), training)
    assert network is not None
    assert network.settings == ("data.token_budget=2048",), "a further start keeps the smaller budget"


def test_the_cause_is_what_a_process_wrote_or_the_signal_that_ended_it(tmp_path: Path) -> None:
    from torch.distributed.elastic.multiprocessing.errors import _FAILURE_FORMAT_TEMPLATE as WORKER

    log = tmp_path / "sft.log"

    def cause(code: int, *noted: str, printed: str = "", state: Any = None) -> str:
        log.write_text(
            f"{HEAD}2026-01-01 00:00:00 before\nexitcode  : -9 (pid: 1)\n{HEAD}2026-01-01 00:00:01 now\n{printed}"
        )
        failures_file(log).write_text("".join(f'{{"cause": "{each}", "text": "t"}}\n' for each in noted) + '{"cau')
        return failure_of(stage(), log, Ending(code, "ended", cause=state)).cause

    assert [cause(code) for code in (1, 2, -9, 137, -11, 143)] == [
        "error",
        "error",
        "killed",
        "killed",
        "killed",
        "killed",
    ]
    assert "  exitcode  : ${exitcode} (pid: ${pid})" in WORKER
    assert cause(1, printed="  exitcode  : -9 (pid: 17)\n") == "killed"
    assert cause(1, printed="  exitcode  : 1 (pid: 17)\n") == "error"
    assert cause(1, printed="  exitcode  : 1 (pid: 17)\n  exitcode  : -15 (pid: 18)\n") == "error"
    assert cause(HANG_CODE) == "hung"
    assert cause(1, printed=f"  exitcode  : -15 (pid: 16)\n  exitcode  : {HANG_CODE} (pid: 17)\n") == "hung"
    assert cause(1, "network") == "network"
    assert cause(1, "network", "out_of_memory") == "out_of_memory"
    assert cause(1, "out_of_memory", "error") == "error"
    assert cause(1, "something else") == "error"
    assert cause(1, state="killed") == "killed"
    assert cause(1, "out_of_memory", state="killed") == "out_of_memory"
    assert cause(-9, "network", state="error") == "error"


def test_lost_steps_are_those_after_the_newest_sealed_checkpoint(tmp_path: Path) -> None:
    log = tmp_path / "sft.log"
    log.touch()
    folder = tmp_path / "out"
    for name in ("checkpoint-40", "checkpoint-50", "checkpoint-60", "checkpoint-x"):
        (folder / name).mkdir(parents=True)
        if name != "checkpoint-60":  # half-written
            (folder / name / "MANIFEST.json").touch()
    (folder / "metrics.jsonl").write_text('{"step": 56}\n{"step": 57}\n{"st')
    training: Any = SimpleNamespace(config=None, outputs={"training.output_dir": folder})
    assert failure_of(training, log, Ending(-9, "")).lost_steps == 7
    assert failure_of(stage(), log, Ending(-9, "")).lost_steps is None


@pytest.mark.parametrize(
    "error, cause",
    [
        (OutOfMemoryError("memory", "a", "b"), "out_of_memory"),
        (CorruptionError("step 3", "a", "b"), "corruption"),
        (CheckError("step 3", "a", "b"), "error"),
        (RolledBack("step 3", "a", "b"), "rolled_back"),
        (NetworkError("Hub", "a", "b"), "network"),
        (UnreachableServerError("server", "a", "b"), "network"),
    ],
)
def test_a_process_notes_the_cause_of_its_error(
    error: Any, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_cause(error)  # without the variable: nothing
    monkeypatch.setenv(FAILURES, str(tmp_path / "failures.jsonl"))
    note_cause(error)
    assert json.loads((tmp_path / "failures.jsonl").read_text()) == {"cause": cause, "text": str(error)}
