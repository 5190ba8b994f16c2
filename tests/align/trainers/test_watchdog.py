"""A process that hangs is ended with the stacks of all; one that is slow is named."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from align.leaving import HANG_CODE
from align.trainers import watchdog as module
from align.trainers.slow_ranks import IN_A_ROW, SlowRanks
from align.trainers.step_times import SAVING, WORK, Spent, StepTimes
from align.trainers.watchdog import STACKS, Watchdog

HANGING = """
import ctypes, sys, time
from pathlib import Path
from align.trainers import watchdog

watchdog._BACKUP_SECONDS = 0.5

def stuck():
    if sys.argv[2] == "python":
        time.sleep(60)
    ctypes.PyDLL(None).sleep(60)  # keeps the interpreter's lock, as a library can that hangs

watched = watchdog.Watchdog(Path(sys.argv[1]), rank=0, ranks=1, seconds=0.3, last_word=lambda: print("last word"))
with watched.watching():
    for step in range(5):
        watched.note_progress(f"step {step}")
        time.sleep(0.2)
    stuck()
"""


@pytest.mark.slow
@pytest.mark.parametrize("where, code", [("python", HANG_CODE), ("a library", 1)])
def test_a_process_that_hangs_ends_with_its_stack(where: str, code: int, tmp_path: Path) -> None:
    began = time.monotonic()
    words = [sys.executable, "-c", HANGING, str(tmp_path), where]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == code, done.stderr
    assert "in stuck" in done.stderr
    assert time.monotonic() - began < 40
    if code == HANG_CODE:
        assert "no progress for 0 s (training.watchdog_minutes) in step 4" in done.stderr
        assert "in stuck" in (tmp_path / STACKS / "rank-0.txt").read_text()
        assert "last word" in done.stdout


def test_a_process_waits_for_the_stacks_of_the_others_and_not_for_old_ones(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, rank=0, ranks=2, seconds=1.0)
    watchdog._write_stacks()
    other = Watchdog(tmp_path, rank=1, ranks=2, seconds=1.0)
    other._write_stacks()
    began = time.monotonic()
    watchdog._wait_for_the_others(time.time() - 5)
    assert time.monotonic() - began < 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("align.trainers.watchdog.GATHER_SECONDS", 0.3)
        watchdog._wait_for_the_others(time.time() + 5)
    assert time.monotonic() - began >= 0.3


def test_a_disk_and_a_log_that_never_answer_do_not_keep_the_process_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, ended, armed = threading.Event(), [], []
    for name in ("GATHER_SECONDS", "_WRITE_SECONDS"):
        monkeypatch.setattr(module, name, 0.05)
    monkeypatch.setattr(module, "_arm", armed.append)
    monkeypatch.setattr(module.faulthandler, "dump_traceback", lambda *arguments, **more: None)
    monkeypatch.setattr(module.os, "_exit", ended.append)
    monkeypatch.setattr(module.log, "error", lambda *words: gone.wait(20))
    monkeypatch.setattr(Path, "mkdir", lambda *arguments, **more: gone.wait(20))
    watchdog = Watchdog(tmp_path, rank=0, ranks=1, seconds=1.0, last_word=lambda: gone.wait(20) or None)
    thread = threading.Thread(target=watchdog._end, args=(1.0,), daemon=True)
    thread.start()
    thread.join(5)
    gone.set()
    assert ended == [HANG_CODE]
    assert armed == [0.05 + module._BACKUP_SECONDS], "the backup needs no thread of Python"


def test_progress_keeps_a_process_alive_and_nothing_is_watched_afterwards(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, rank=0, ranks=1, seconds=0.2)
    with watchdog.watching():
        for step in range(6):
            watchdog.note_progress(f"step {step}")
            time.sleep(0.05)
    time.sleep(0.3)
    with Watchdog(tmp_path, rank=0, ranks=1, seconds=None).watching():
        pass
    assert not (tmp_path / STACKS).exists()


def test_a_rank_is_named_once_when_it_was_slow_three_times_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    slow, steady = [1.0, 1.1, 1.9, 1.0], [1.0, 1.1, 1.2, 1.0]
    ranks = SlowRanks(0, 1.5)
    assert [ranks.compare(slow) for _ in range(IN_A_ROW + 2)] == [[]] * (IN_A_ROW - 1) + [[2], [], []]
    assert ranks.compare(steady) == []
    assert [ranks.compare(slow) for _ in range(IN_A_ROW)] == [[]] * (IN_A_ROW - 1) + [[2]]


def test_noise_names_no_rank() -> None:
    rng = random.Random(0)
    for scale in (1e-3, 1.0, 100.0):
        ranks = SlowRanks(0, 1.5)
        for _ in range(1000):
            assert ranks.compare([scale * rng.uniform(0.9, 1.3) for _ in range(8)]) == []
    tiny = SlowRanks(0, 1.5)
    assert all(tiny.compare([1e-4, 4e-3]) == [] for _ in range(10)), "milliseconds are noise"


def test_work_is_counted_without_the_collective_operations_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("align.trainers.step_times.time.perf_counter", lambda: now[0])

    def spend(seconds: float) -> None:
        now[0] += seconds

    class Gather:
        def wait(self) -> None:
            spend(4.0)

    def gather() -> Gather:
        spend(1.0)
        return Gather()

    times = StepTimes()
    with times.spent(WORK):
        spend(2.0)
        handle = times.communicating(gather)()
        spend(0.5)
        handle.wait()
    with times.whole(SAVING):
        times.communicating(gather)().wait()
    assert times.report(steps=5) == Spent(data=0, work=0.5, communication=1.0, saving=5.0)
    assert times.report(steps=0) == Spent(0, 0, 0, 0)


def test_deepspeed_calls_the_methods_that_are_measured() -> None:
    from deepspeed import comm

    source = inspect.getsource(comm.comm)
    for name in ("all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce", "broadcast", "barrier"):
        assert f"return cdb.{name}(" in source, name
