"""Units that several processes share: each is made once, also after kills, and the files are those of one process.

Work is a few milliseconds of sleep here, in forks of this process. `test_candidates.py` has units with a real model.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align.rows import Row
from align.sampling import claims, work_units
from align.sampling.claims import Claims, claim_path
from align.sampling.work_units import run_units

FORK = multiprocessing.get_context("fork")


class Made(Row):
    """A row of the fake work."""

    value: int


def rows_of(number: int) -> list[Made]:
    return [Made(id=f"{number}-{place}", source="test", value=number * place) for place in range(number % 3 + 1)]


def work(folder: Path, count: int, seconds: float = 0.0, diary: Path | None = None, **changed: Any) -> list[Made]:
    """All units, each after `seconds` of work; a line of `diary` says which process has begun which unit."""

    def make(number: int) -> tuple[list[Made], int]:
        if diary is not None:
            with diary.open("a") as handle:
                handle.write(f"{number} {os.getpid()}\n")
        time.sleep(seconds)
        return rows_of(number), 1

    settings = {"folder": folder, "key": {"count": count}, "label": "fake", "things": "rows"} | changed
    return list(run_units(range(count), make, Made, **settings).rows())  # type: ignore[arg-type]


def in_a_fork(folder: Path, count: int, seconds: float, diary: Path, start: Any) -> None:
    if start is not None:
        start.wait(60)
    found = work(folder, count, seconds, diary)
    assert found == expected(count)
    os._exit(0)  # without the exit handlers of pytest


def started(folder: Path, count: int, seconds: float, diary: Path, start: Any = None) -> Any:
    process = FORK.Process(target=in_a_fork, args=(folder, count, seconds, diary, start))
    process.start()
    return process


def expected(count: int) -> list[Made]:
    return [row for number in range(count) for row in rows_of(number)]


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def began(diary: Path) -> Counter[int]:
    """Unit -> how often it was begun."""
    return Counter(int(line.split()[0]) for line in diary.read_text().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_make_each_unit_once_and_leave_the_files_of_one_process(tmp_path: Path, count: int) -> None:
    work(tmp_path / "one", 24)
    start = FORK.Barrier(count)
    processes = [started(tmp_path / "many", 24, 0.004, tmp_path / "diary", start) for _ in range(count)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * count
    assert files_in(tmp_path / "many") == files_in(tmp_path / "one")
    assert began(tmp_path / "diary") == dict.fromkeys(range(24), 1)
    assert len({line.split()[1] for line in (tmp_path / "diary").read_text().splitlines()}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_killed_twenty_times_at_random_equals_one_run(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: None
    )  # a kill loses nothing that was written; a power cut would
    units, diary, folder = 300 * count, tmp_path / "diary", tmp_path / "killed"
    work(tmp_path / "whole", units)
    chance = random.Random(count)
    processes = [started(folder, units, 0.004, diary) for _ in range(count)]
    kills = 0
    finished: dict[str, int] = {}
    while kills < 20:
        time.sleep(chance.uniform(0.0, 0.03))
        victim = processes.pop(chance.randrange(count))
        victim.kill()
        victim.join(60)
        kills += victim.exitcode == -signal.SIGKILL
        now = {path.name: path.stat().st_ino for path in folder.glob("unit-*.jsonl")}
        assert now.items() >= finished.items(), "a finished unit was lost or made again"
        finished = now
        processes.append(started(folder, units, 0.004, diary))
        assert len(finished) < units or kills == 20, "it was over before it was killed 20 times"
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert files_in(folder) == files_in(tmp_path / "whole"), "nothing lost, doubled, or left over"
    assert began(diary).total() <= units + kills, "more than one unit was lost by a kill"
    assert work(folder, units) == expected(units)


def test_a_unit_whose_process_failed_is_free_at_once(tmp_path: Path) -> None:
    def fail(number: int) -> tuple[list[Made], int]:
        raise ValueError("no")

    settings: dict[str, Any] = {"folder": tmp_path, "key": {"count": 3}, "label": "fake", "things": "rows"}
    with pytest.raises(ValueError, match="no"):
        run_units(range(3), fail, Made, **settings)
    assert not list(tmp_path.glob(".*"))
    assert work(tmp_path, 3) == expected(3)


def test_the_first_of_two_results_is_kept(tmp_path: Path) -> None:
    """A process that was paused for so long that another node made its unit."""

    def late(number: int) -> tuple[list[Made], int]:
        if number == 1:
            claim_path(tmp_path, 1).unlink()  # as if the lease were over
            work(tmp_path, 3)
        return [Made(id="late", source="test", value=0)] if number == 1 else rows_of(number), 1

    found = run_units(range(3), late, Made, folder=tmp_path, key={"count": 3}, label="fake", things="rows")
    assert list(found.rows()) == expected(3)
    assert sorted(files_in(tmp_path)) == ["unit-00000.jsonl", "unit-00001.jsonl", "unit-00002.jsonl", "units.json"]


def test_a_claim_of_this_machine_is_taken_over_when_its_lock_is_gone(tmp_path: Path) -> None:
    first, second = Claims(tmp_path), Claims(tmp_path)
    claim = first.take(0)
    assert claim is not None
    assert second.take(0) is None
    assert second.take(1) is not None
    owner = claim_path(tmp_path, 0).read_text()
    os.close(claim._descriptor)  # as the kernel does when a process is killed
    assert claim_path(tmp_path, 0).read_text() == owner
    assert second.take(0) is not None


def test_a_claim_of_another_machine_is_taken_over_after_a_lease_without_heartbeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [50.0]
    monkeypatch.setattr(claims, "time", SimpleNamespace(monotonic=lambda: now[0]))
    path = claim_path(tmp_path, 0)
    path.write_text("another-host another-boot 7 7")
    here = Claims(tmp_path)
    assert here.take(0) is None
    now[0] = 100.0
    os.utime(path, ns=(5, 5))  # a heartbeat; the other machine's clock may show any time
    assert here.take(0) is None
    now[0] = 100.0 + claims.LEASE_SECONDS - 1
    assert here.take(0) is None
    assert Claims(tmp_path).take(0) is None, "a process that has just come has to watch for a lease"
    now[0] += 1
    claim = here.take(0)
    assert claim is not None
    assert Claims(tmp_path).take(0) is None
    with claim:
        assert path.read_text() != "another-host another-boot 7 7"
    assert not path.exists()


def test_a_claim_has_a_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.002)
    path = claim_path(tmp_path, 0)
    claim = Claims(tmp_path).take(0)
    assert claim is not None
    os.utime(path, ns=(5, 5))
    with claim:
        until = time.monotonic() + 10
        while path.stat().st_mtime_ns == 5 and time.monotonic() < until:
            time.sleep(0.002)
        assert path.stat().st_mtime_ns != 5


def test_a_process_waits_for_the_units_of_others(tmp_path: Path) -> None:
    claim = Claims(tmp_path).take(1)
    assert claim is not None
    found: list[Sequence[Made]] = []
    thread = threading.Thread(target=lambda: found.append(work(tmp_path, 3)))
    with claim:
        thread.start()
        until = time.monotonic() + 10
        while len(list(tmp_path.glob("unit-*.jsonl"))) < 2 and time.monotonic() < until:
            time.sleep(0.002)
        thread.join(0.1)
        assert not found
        assert not (tmp_path / "unit-00001.jsonl").exists()
    thread.join(10)
    assert found == [expected(3)]


@pytest.mark.parametrize("missing", ["hard links", "locks"])
def test_a_file_system_without_hard_links_or_locks_gives_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    work(tmp_path / "usual", 5)
    monkeypatch.setattr(logging.getLogger("align"), "propagate", True)
    if missing == "hard links":
        monkeypatch.setattr(work_units.os, "link", refuse)
    else:
        monkeypatch.setattr(fcntl, "flock", refuse)
    work(tmp_path / "here", 5)
    assert files_in(tmp_path / "here") == files_in(tmp_path / "usual")
    assert ("has no locks (Operation not supported)" in caplog.text) == (missing == "locks")
