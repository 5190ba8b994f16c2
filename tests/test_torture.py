"""`make torture`: what it makes of the output of its programs, its table, and a short form of the row damage.

Those of the other rows are elsewhere. kills, stops, disk, time: tests/align/trainers/test_stops.py; sampling:
tests/align/sampling/test_candidates.py; guards: tests/align/trainers/test_guards.py; hub, addresses: all of it, in
tests that are run anyway; malformed: tests/recipes/test_malformed.py; typed: tests/align/chat/test_protocols.py.
restarts has no short form.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.processes import PYTHON, Started
from tests.torture import damage, kills, run
from tests.torture.run import ROWS, Row

GOOD = {"test": "kills", "tried": 3, "failures": []}


def row(program: Path, *, by_pytest: bool = False, limit: int = 60) -> Row:
    return Row("kills", "Kills", "3 of 3", 3, str(program), by_pytest=by_pytest, limit_seconds=limit)


def program(folder: Path, *lines: object, end: str = "") -> Path:
    file = folder / "program.py"
    file.write_text("\n".join(f"print({line!r})" for line in ["a warning", *map(json.dumps, lines)]) + f"\n{end}\n")
    return file


def result(*tests: dict[str, Any], failures: tuple[str, ...] = ()) -> dict[str, Any]:
    all_failures = [*failures, *(text for test in tests for text in test["failures"])]
    tried = sum(test["tried"] for test in tests)
    return {"tests": list(tests), "tried": tried, "failures": all_failures, "seconds": 61, "seed": 7,
            "measured_on": "2026-11-29"}  # fmt: skip


def test_every_row_has_a_program_that_exists_and_a_name_of_its_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for each in ROWS:
        assert (run.ROOT / each.program).is_file(), each
        assert each.short or each.least == 1, each


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines, end, failures, reached",
    [
        ([GOOD], "", [], True),
        ([{**GOOD, "tried": 2}], "", [], False),
        ([{**GOOD, "failures": ["step 3"]}], "raise SystemExit(1)", ["step 3"], False),
        ([GOOD], "raise ValueError('broken')", ["exit code 1: .*broken"], False),
        ([GOOD], "import time; time.sleep(60)", ["not done after 1 s: "], False),
        ([{"test": "kills", "left out": "no tmpfs"}], "", [], False),
        ([], "", [], False),
    ],
)
def test_a_row_is_reached_if_its_program_tried_all_cases_and_ended_well(
    lines: list[Any], end: str, failures: list[str], reached: bool, tmp_path: Path
) -> None:
    each = row(program(tmp_path, *lines, end=end), limit=1 if "sleep" in end else 60)
    found = run.measured(each, 7, short=False)
    assert len(found["failures"]) == len(failures)
    for text, expected in zip(found["failures"], failures, strict=True):
        assert re.search(f"(?s){expected}", text)
    assert found["seed"] == 7
    assert run.is_reached(each, found, short=False) == reached


@pytest.mark.slow
def test_a_case_of_pytest_is_a_test_that_was_not_skipped(tmp_path: Path) -> None:
    file = tmp_path / "test_cases.py"
    file.write_text(
        "import os, pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(n):\n"
        "    if n == 3: pytest.skip('not here')\n    assert n != int(os.environ['TORTURE_SEED'])\n"
    )
    found = run.measured(row(file, by_pytest=True), 2, short=False)
    assert found["tried"] == 3
    assert [text.partition(":")[0] for text in found["failures"]] == ["test_it[2]"]
    assert run.found_in(found) == "2 of 3"


def test_what_is_said_of_a_row() -> None:
    clean = {"test": "clean", "tried": 1, "steps": 1000, "failures": []}
    assert run.found_in(result({"test": "faults", "tried": 30, "failures": []}, clean)) == "30 of 30; 0 in 1,000 steps"
    assert (
        run.found_in(result({"test": "t", "tried": 1, "failures": [], "ratio": 0.934, "kills": 4})) == "93.4%, 4 kills"
    )
    assert run.found_in(result(failures=("exit code 1",))) == "failed"
    assert run.found_in(result(GOOD, failures=("exit code 1",))) == "3 of 3; and then it failed"


def test_the_table_has_a_line_for_each_row_and_those_that_missed_are_bold() -> None:
    page = "# T\n<!-- table torture -->\nold\n<!-- end -->\nrest\n"
    first, second = ROWS[:2]
    found = {
        first.name: result({"test": "t", "tried": first.least, "failures": []}),
        second.name: result({"test": "t", "tried": second.least, "failures": ["x"]}),
    }
    lines = run.filled(page, found).splitlines()
    assert lines[:2] == ["# T", "<!-- table torture -->"]
    assert lines[-2:] == ["<!-- end -->", "rest"]
    assert len(lines) == len(ROWS) + 2 + 4
    assert f"| {first.least} of {first.least} | 1 min 1 s | 7 | 2026-11-29 |" in lines[4]
    assert f"| **{second.least - 1} of {second.least}** |" in lines[5]
    assert lines[6].endswith("| - | - | - | - |")


def test_the_page_has_the_table_of_its_results() -> None:
    """The table is made, not written."""
    path = run.DOCS / "torture.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    page = (run.DOCS / "torture.md").read_text(encoding="utf-8")
    assert run.filled(page, results) == page


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, tiny_checkpoint: Path) -> None:
    found = damage.damages(("sft",), 3, 1, tiny_checkpoint, tmp_path)
    assert found["tried"] == 3
    assert found["failures"] == []


@pytest.mark.slow
def test_a_damage_that_is_not_found_is_a_failure(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """The test of damages can fail: here with a file of which the manifest knows nothing."""
    damage.write_data(tmp_path)
    interrupted = damage.interrupted("sft", tiny_checkpoint, tmp_path, tmp_path)
    (interrupted.output / damage.NEWEST / "other.txt").write_text("x")
    case = damage.Case("sft", "other.txt", "delete")
    fault = damage.fault_in(case, interrupted, tiny_checkpoint, tmp_path, tmp_path / "damaged", random.Random(1))
    assert "not named, not resumed from checkpoint-2" in fault
    for count in (3, 100):
        assert len(damage.cases_of({"sft": interrupted}, count, random.Random(1))) == count
    everything = damage.cases_of({"sft": interrupted}, 3 * len(interrupted.files), random.Random(1))
    assert {(each.file, each.damage) for each in everything} == set(
        itertools.product(interrupted.files, damage.DAMAGES)
    )


def test_the_row_of_typed_tokens_has_the_dialogs_that_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in the environment of the one who starts it."""
    monkeypatch.setenv("TORTURE_CASES", "10")
    (typed,) = (row for row in ROWS if row.name == "typed")
    assert f"{runpy.run_path(str(run.ROOT / typed.program))['CASES']:,} dialogs" in typed.test


@pytest.mark.slow
def test_only_sigkill_counts_as_a_kill() -> None:
    def ended(code: str) -> Started:
        started = Started([PYTHON, "-c", code], real=True)
        started.wait()
        return started

    shot = ended("import os; os.kill(os.getpid(), 9)")
    assert kills.was_killed(shot, by_kill=True)
    assert not kills.was_killed(ended(""), by_kill=False)
    with pytest.raises(kills.Failed, match="not killed, and ended with 3: the disk is full"):
        kills.was_killed(ended("print('the disk is full'); raise SystemExit(3)"), by_kill=False)
    with pytest.raises(kills.Failed, match="not killed, and ended with -9"):
        kills.was_killed(shot, by_kill=False)
    with pytest.raises(kills.Failed, match="killed, and ended with 0"):
        kills.was_killed(ended(""), by_kill=True)
    rng = random.Random(1)
    with pytest.raises(kills.Failed, match="not killed, and ended with 3"):
        kills.kill_at_a_moment(ended("raise SystemExit(3)"), 1, 0.1, rng)
    assert not kills.kill_at_a_moment(ended(""), 1, 0.1, rng)
    sleeping = Started([PYTHON, "-c", "import time; time.sleep(99)"], real=True)
    assert kills.kill_at_a_moment(sleeping, 1, 0.1, rng)


def test_a_start_that_fails_without_a_kill_is_a_failure_and_ends_the_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any) -> bool:
        raise kills.Failed("not killed, and ended with 1: Traceback")

    monkeypatch.setattr(kills, "Runs", lambda folder, rng: SimpleNamespace(kill_in=fails))
    found = kills.kills(2, 1, tmp_path)
    assert found["tried"] == len(found["failures"]) == 2
    assert "saving: not killed, and ended with 1: Traceback" in found["failures"][0]
