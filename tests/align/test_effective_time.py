"""Effective training time: the file that survives kills, and what its lines add up to."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from align import effective_time as module
from align.effective_time import (
    BETWEEN,
    ENCODING,
    LOST,
    OTHER,
    SAVING,
    START_UP,
    STARTS,
    RunClock,
    effective_time_of,
    read_starts,
)


class Machine:
    """A run on a clock that the test moves. It keeps its own account: seconds of each step, and of all else."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.seconds = folder, 1000.0
        self.clock = RunClock(folder, 0.0)
        self.resumed = 0
        monkeypatch.setattr(module.time, "time", lambda: self.seconds)
        monkeypatch.setattr(module.time, "monotonic", lambda: self.seconds - 77.0)

    def start(self, resumed: int, start_up: float) -> None:
        self.clock = RunClock(self.folder, self.seconds)
        self.seconds += start_up
        self.clock.record()
        self.clock.train(resumed)

    def make_step(self, seconds: float) -> None:
        self.clock.begin_step()
        self.seconds += seconds
        assert self.clock.step is not None
        self.clock.end_step(self.clock.step + 1)

    def save(self, seconds: float) -> None:
        with self.clock.phase(SAVING):
            self.seconds += seconds
        self.clock.saved()

    def kill(self) -> None:
        """Nothing more is written by this start."""
        self.clock._closed.set()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path, monkeypatch)
    yield made
    made.kill()  # or its thread would go on


def test_a_killed_start_counts_with_its_lost_steps_and_the_time_until_the_next_start(machine: Machine) -> None:
    """The numbers of the module's example, in which a step takes 1.8 s."""
    machine.start(0, 8.0)
    for _ in range(50):
        machine.make_step(1.8)
    machine.save(4.0)
    for _ in range(15):
        machine.make_step(1.8)
    machine.seconds += 1.0
    machine.clock.write("alive")
    machine.kill()
    machine.seconds += 12.0
    machine.start(50, 8.0)
    for _ in range(50):
        machine.make_step(1.8)
    machine.save(8.0)
    machine.seconds += 2.0
    machine.clock.close("finished")
    found = effective_time_of(machine.folder)
    assert found is not None
    assert (found.elapsed, found.useful) == (pytest.approx(250.0), pytest.approx(180.0))
    assert found.ratio == pytest.approx(0.72)
    expected = {START_UP: 16.0, SAVING: 12.0, LOST: 27.0, BETWEEN: 12.0, OTHER: 3.0}
    assert {cause: seconds for cause, seconds in found.causes.items() if seconds} == pytest.approx(expected)
    assert (found.starts, found.killed, found.lost_steps) == (2, 1, 15)


def test_causes_and_useful_time_are_the_elapsed_time_however_a_run_is_killed(machine: Machine) -> None:
    """Random runs. The account of the test: each step's seconds under its number, which a later start replaces."""
    rng = random.Random(5)
    for case in range(30):
        machine.folder = machine.folder.parent / f"case-{case}"
        machine.folder.mkdir()
        began, steps, made, saved = machine.seconds, {}, 0, [0]
        for _ in range(rng.randint(1, 6)):
            resumed = rng.choice(saved[-2:])  # not always the newest: it may be damaged
            saved = [step for step in saved if step <= resumed]
            machine.start(resumed, rng.random())
            with machine.clock.phase(ENCODING):
                machine.seconds += rng.random()
            steps = {step: seconds for step, seconds in steps.items() if step <= resumed}
            for step in range(resumed + 1, resumed + rng.randint(1, 9)):
                steps[step] = rng.random()
                machine.make_step(steps[step])
                made += 1
                if rng.random() < 0.3:
                    machine.save(rng.random())
                    saved.append(step)
                machine.seconds += 0.1 * rng.random()
            if rng.random() < 0.5:
                machine.clock.begin_step()
                machine.seconds += rng.random()
            machine.clock.write("alive")
            machine.kill()
            machine.seconds += rng.random()
        live, found = machine.clock.effective_time(), effective_time_of(machine.folder)
        assert found is not None
        assert found.useful == pytest.approx(sum(steps.values()), abs=1e-2)
        assert live.useful == pytest.approx(found.useful, abs=1e-2)
        assert found.useful + sum(found.causes.values()) == pytest.approx(found.elapsed, abs=1e-2)
        assert live.elapsed == pytest.approx(machine.seconds - began, abs=1e-2)
        assert found.lost_steps == made - len(steps)


def test_a_run_that_goes_back_to_a_checkpoint_in_the_same_start_loses_the_steps_after_it(machine: Machine) -> None:
    machine.start(0, 1.0)
    for _ in range(3):
        machine.make_step(2.0)
    machine.save(0.5)
    for _ in range(2):
        machine.make_step(2.0)
    machine.clock.train(3)
    machine.make_step(2.0)
    found = machine.clock.effective_time()
    assert (found.useful, found.causes[LOST], found.lost_steps) == (8.0, 4.0, 2)


def test_time_between_the_end_of_a_finished_run_and_its_extension_does_not_count(machine: Machine) -> None:
    machine.start(0, 1.0)
    machine.make_step(9.0)
    machine.clock.close("finished")
    machine.seconds += 1e6
    machine.start(1, 1.0)
    machine.make_step(9.0)
    machine.clock.close("finished")
    found = effective_time_of(machine.folder)
    assert found is not None
    assert (found.elapsed, found.useful, found.causes[BETWEEN]) == (20.0, 18.0, 0.0)


def test_half_a_line_and_lines_of_others_are_left_out_and_spoil_no_other(machine: Machine) -> None:
    machine.start(0, 1.0)
    machine.kill()
    path = machine.folder / STARTS
    whole = path.read_text()
    others = [
        "[]",
        "null",
        '{"start": 1}',
        "\x00\xff",
        '{"start": "x", "event": 1, "time": 1, "step": 2, "trained": 1}',
    ]
    path.write_text(whole + "\n".join(others) + '\n{"start": 1, "ev')
    machine.start(0, 1.0)
    machine.clock.close("stopped")
    lines = read_starts(machine.folder)
    assert [(line["start"], line["event"]) for line in lines] == [
        *((1, event) for event in ("begin", "train")),
        *((2, event) for event in ("begin", "train", "end")),
    ]
    assert json.loads(path.read_text().splitlines()[-1])["outcome"] == "stopped"


def test_a_folder_that_cannot_be_written_to_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path / "missing", monkeypatch)
    machine.start(0, 1.0)
    machine.make_step(3.0)
    assert machine.clock.effective_time().ratio == pytest.approx(0.75)
    machine.clock.close("finished")
    assert effective_time_of(tmp_path / "missing") is None


def test_a_sign_of_life_that_waits_for_the_disk_does_not_follow_the_end(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that writes signs of life is stopped before it has the lock; meanwhile the run ends."""
    machine.start(0, 1.0)
    clock, reached, go = machine.clock, threading.Event(), threading.Event()
    line = RunClock._line

    def slow(self: RunClock, event: str) -> dict[str, Any]:
        if event == "alive":
            reached.set()
            go.wait(5)
        return line(self, event)

    monkeypatch.setattr(RunClock, "_line", slow)
    alive = threading.Thread(target=clock.write, args=("alive",))
    alive.start()
    assert reached.wait(5)
    closing = threading.Thread(target=clock.close, args=("finished",))
    closing.start()
    closing.join(0.2)
    go.set()
    alive.join()
    closing.join()
    clock.write("alive")
    assert [each["event"] for each in read_starts(machine.folder)] == ["begin", "train", "alive", "end"]
    found = effective_time_of(machine.folder)
    assert found is not None
    assert found.killed == 0


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    clock = module.clock_of(tmp_path)
    clock.record()
    clock.close("finished")
    assert not (tmp_path / STARTS).exists()
    assert module.clock_of(tmp_path) is not clock
    module.clock_of(tmp_path).close("finished")
