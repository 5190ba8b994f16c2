"""Stages side by side: real processes that meet, fail, are stopped and are killed, and the order that follows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from align.errors import ConfigError, StageError
from align.rounds.launchers import LauncherConfig
from align.rounds.ledger import Ledger, StageRecord
from align.rounds.schedule import Schedule, gpus_of_this_machine
from tests.fake_slurm import install
from tests.rounds_project import JOIN, Project, wait_for

# With TEST_MEET=2 a stage goes on only when two have begun, which they never do one after the other. After its first
# part it goes on only when the file TEST_RELEASED exists, if that is given.
MEET = JOIN.replace(
    "    read =",
    """    note(f"gpus {os.environ.get('CUDA_VISIBLE_DEVICES')}")
    deadline = time.monotonic() + 300
    while sum(line.startswith("began") for line in open(os.environ["TEST_DIARY"])) < int(os.environ["TEST_MEET"]):
        assert time.monotonic() < deadline, "the other stage did not begin"
        time.sleep(0.01)
    read =""",
).replace(
    "        if not made.exists():",
    """        while part and not Path(os.environ.get("TEST_RELEASED", "/")).exists():
            time.sleep(0.01)
        if not made.exists():""",
)
PAIR = ["round-1/left", "round-1/right"]


class Pair(Project):
    """One round: left and right read nothing of each other, and both reads both."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (self.recipes / "join.py").write_text(MEET)
        self.values |= {
            "rounds": 1,
            "best": "both",
            "launcher": {"parallel": 2},
            "once": [],
            "each_round": [
                self.stage("left", "{round_dir}/left", ["{start}"]),
                self.stage("right", "{round_dir}/right", ["{start}"]),
                self.stage("both", "{round_dir}/both", ["{round_dir}/left", "{round_dir}/right"]),
            ],
            "after": [self.stage("report", "{run}/report", ["{run}"])],
        }

    def records(self) -> dict[str, StageRecord]:
        ledger = Ledger(self.run_dir / "ledger.sqlite")
        found = {record.label: record for record in ledger.stages()}
        ledger.close()
        return found

    def statuses(self) -> dict[str, str]:
        return {label: record.status for label, record in self.records().items()}


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    made = Pair(tmp_path)
    monkeypatch.setenv("TEST_DIARY", str(made.diary_file))
    monkeypatch.setenv("TEST_MEET", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


def begin_both(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    """A driver whose stages left and right have made one of their two parts, and wait."""
    for name in ("left", "right"):
        pair.stage(name, "", [], parts=2)
    monkeypatch.setenv("TEST_STUCK_AT", "1")
    driver = pair.begin()
    wait_for(lambda: {f"made {stage}/0" for stage in PAIR} <= {*pair.diary()}, driver)
    monkeypatch.delenv("TEST_STUCK_AT")
    return driver


@pytest.mark.slow
def test_independent_stages_run_side_by_side_and_make_what_they_make_one_by_one(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.values["launcher"]["gpus"] = 3
    for stage in pair.values["each_round"][:2]:
        stage["resources"] = {"gpus_per_node": 1}
    assert {*pair.run()[:2]} == {*PAIR}, "they have met"
    diary = pair.diary()
    assert max(map(diary.index, (f"ended {stage}" for stage in PAIR))) < diary.index("began round-1/both")
    gpus = Counter(line for line in diary if line.startswith("gpus"))
    assert gpus == {"gpus 0": 1, "gpus 1": 1, "gpus 0,1,2": 2}, "both and report do not say what they need"
    texts, side_by_side = pair.texts(), pair.records()
    assert pair.run() == []

    monkeypatch.setenv("TEST_MEET", "0")
    pair.run_dir.rename(pair.root / "aside")
    del pair.values["launcher"]
    assert pair.run() == [*PAIR, "round-1/both", "run/report"]
    assert {**pair.texts(), "report/0.txt": ""} == {**texts, "report/0.txt": ""}
    one_by_one = pair.records()
    for label in ("round-1/left", "round-1/right", "round-1/both"):
        one, other = side_by_side[label], one_by_one[label]
        assert (one.key, one.inputs, one.outputs, one.config) == (other.key, other.inputs, other.outputs, other.config)


FAILING = JOIN.replace(
    "    read =",
    """    if here.endswith("/bad"):
        note("failed")
        print("the disk of the moon is full")
        sys.exit(3)
    while "failed" not in open(os.environ["TEST_DIARY"]).read().split():
        time.sleep(0.01)
    time.sleep(1)
    read =""",
)


@pytest.mark.slow
def test_the_others_end_when_one_fails_and_nothing_else_starts(pair: Pair) -> None:
    (pair.recipes / "join.py").write_text(FAILING)
    pair.values["each_round"] = [
        *(pair.stage(name, f"{{round_dir}}/{name}", ["{start}"]) for name in ("right", "bad", "later")),
        pair.stage("both", "{round_dir}/both", ["{round_dir}/bad", "{round_dir}/right"]),
    ]
    with pytest.raises(StageError, match=r"stage round-1/bad: .* ended with code 3 after [\s\S]*the disk of the moon"):
        pair.run()
    assert pair.statuses() == {"round-1/right": "finished", "round-1/bad": "failed"}


@pytest.mark.slow
def test_a_signal_ends_all_that_run_and_the_same_command_goes_on(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = begin_both(pair, monkeypatch)
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=30)
    assert driver.returncode == 128 + signal.SIGINT, out
    assert out.count("the same command continues from here") == 2
    assert "Traceback" not in out
    assert pair.statuses() == dict.fromkeys(PAIR, "stopped")
    pair.run()
    assert {*Counter(line for line in pair.diary() if line.startswith("made")).values()} == {1}


@pytest.mark.slow
def test_what_a_killed_driver_left_running_is_ended_and_continued(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = begin_both(pair, monkeypatch)
    driver.kill()
    driver.wait()
    pair.run()
    assert len(re.findall(r"round-1/(left|right): ending what is left of it", capsys.readouterr().out)) == 2
    assert {*Counter(line for line in pair.diary() if line.startswith("made")).values()} == {1}
    assert {*pair.statuses().values()} == {"finished"}


@pytest.mark.slow
@pytest.mark.parametrize("changed", [False, True])
def test_several_jobs_run_at_once_and_are_found_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changed: bool
) -> None:
    """By default there is no bound. The job of a stage that changed meanwhile is ended, the other one is not."""
    jobs = pair.root / "jobs"
    calls = jobs / "calls"
    install(pair.root / "bin", jobs)
    monkeypatch.setenv("FAKE_SLURM", str(jobs))
    monkeypatch.setenv("PATH", f"{pair.root / 'bin'}:{os.environ['PATH']}")
    pair.values["launcher"] = {"slurm": {"poll_seconds": 0.05}}
    pair.values["after"] = []
    pair.values["each_round"][2]["resources"] = {"local": True}
    for name in ("left", "right"):
        pair.stage(name, "", [], parts=3)
    released = pair.root / "released"
    monkeypatch.setenv("TEST_RELEASED", str(released))
    driver = pair.begin()
    wait_for(lambda: {f"made {stage}/0" for stage in PAIR} <= {*pair.diary()}, driver)
    driver.kill()
    driver.wait()
    if changed:
        pair.stage("right", "", [], text="changed;")
    before = len(calls.read_text())
    with ThreadPoolExecutor() as threads:
        # The jobs run until they have been looked for, however long the second start takes to come to that.
        threads.submit(release_when, released, lambda: has_taken_over(calls.read_text()[before:], changed))
        try:
            pair.run()
        finally:
            released.touch()
    out = capsys.readouterr().out
    assert out.count("of an earlier start is followed") == 2 - changed
    assert out.count("ending SLURM job") == changed
    assert calls.read_text().count("sbatch") == 2 + changed
    assert pair.diary().count("began round-1/left") == 1
    made = Counter(line for line in pair.diary() if line.startswith("made"))
    assert made.pop("made round-1/right/0") == 1 + changed
    assert {*made.values()} == {1}


def has_taken_over(calls: str, changed: bool) -> bool:
    """Whether a driver has asked SLURM about both jobs, and has submitted the one that changed again."""
    followed = {*re.findall(r"^squeue .*--jobs (\d+)", calls, re.MULTILINE)}
    return len(followed) >= 2 and calls.count("sbatch") >= changed


def release_when(released: Path, question: Callable[[], bool]) -> None:
    while not question() and not released.exists():
        time.sleep(0.01)
    released.touch()


def test_the_order_follows_what_stages_read_and_what_they_need(pair: Pair) -> None:
    pair.values["launcher"] = {"parallel": 3, "gpus": 2}
    left, right, both = pair.values["each_round"]
    small, alone = ({"resources": {"gpus_per_node": 0} | more} for more in ({}, {"alone": True}))
    pair.values["each_round"] = [
        left | {"resources": {"gpus_per_node": 1}},
        right,  # needs all GPUs
        both,
        pair.stage("alone", "{round_dir}/alone", ["{start}"]) | alone,
        *(pair.stage(name, f"{{round_dir}}/{name}", ["{start}"]) | small for name in "abc"),
        pair.stage("report", "{round_dir}/report", ["{run}"]) | small,
    ]
    pair.values["after"] = []
    stages = {stage.name: stage for stage in pair.plan()}
    schedule = Schedule(pair.run_dir, LauncherConfig(parallel=3, gpus=2))
    schedule.add(stages.values())

    def startable() -> list[str]:
        """The stages that start now, in order."""
        found = []
        while stage := schedule.next():
            schedule.start(stage)
            found.append(stage.name)
        return found

    assert startable() == ["left", "a", "b"]
    assert [stage.name for stage in schedule.independent_of(stages["left"])] == ["right", "alone", "a", "b", "c"]
    schedule.finish(stages["left"])
    assert startable() == ["right"]
    schedule.finish(stages["b"])
    assert startable() == ["c"]
    for name in ("a", "right"):
        schedule.finish(stages[name])
    assert startable() == ["both"], "alone waits for c"
    for name in ("c", "both"):
        schedule.finish(stages[name])
    assert startable() == ["alone"], "the report reads what alone makes"
    schedule.finish(stages["alone"])
    assert startable() == ["report"]


def test_no_stage_takes_gpus_that_an_earlier_one_waits_for(pair: Pair) -> None:
    """people would hold one GPU for days, while probe and tools wait for all eight."""
    pair.values["launcher"] = {"parallel": 4, "gpus": 8}
    needs = {"dev": 1, "probe": 8, "people": 1, "tools": 8, "mix": 0}
    pair.values["each_round"] = [
        pair.stage(name, f"{{round_dir}}/{name}", ["{start}"]) | {"resources": {"gpus_per_node": count}}
        for name, count in needs.items()
    ]
    pair.values |= {"best": "dev", "after": []}
    stages = {stage.name: stage for stage in pair.plan()}
    schedule = Schedule(pair.run_dir, LauncherConfig(parallel=4, gpus=8))
    schedule.add(stages.values())
    order = []
    running: list[str] = []
    while True:
        while stage := schedule.next():
            schedule.start(stage)
            running.append(stage.name)
        order.append(running.copy())
        if not running:
            break
        schedule.finish(stages[running.pop(0)])
    assert order == [["dev", "mix"], ["mix", "probe"], ["probe"], ["people"], ["tools"], []]


def test_mistakes_in_gpus_are_found_before_anything_starts(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(**resources: Any) -> str:
        pair.values["each_round"][0]["resources"] = resources
        with pytest.raises(ConfigError) as caught:
            pair.plan()
        return str(caught.value)

    pair.values["launcher"] = {"parallel": 2, "gpus": 4}
    expected = "stage left: resources.gpus_per_node: is 8, and launcher.gpus, the GPUs of this machine, is 4."
    assert expected in message(gpus_per_node=8)
    launch = pair.root / "launch.yaml"
    launch.write_text("distributed_type: MULTI_GPU\nnum_processes: 4\n")
    pair.values["each_round"][0]["launch"] = str(launch)
    assert "starts 4 processes on 1 nodes with 2 GPUs each. Ask for a GPU for each process" in message(gpus_per_node=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    assert gpus_of_this_machine(2) == ["3", "5"]
    del pair.values["each_round"][0]["launch"], pair.values["each_round"][0]["resources"]
    with pytest.raises(ConfigError, match=r"launcher.gpus: is 4, and CUDA_VISIBLE_DEVICES has 3 \(3,5,7\)"):
        pair.run()
    assert not pair.run_dir.exists()
