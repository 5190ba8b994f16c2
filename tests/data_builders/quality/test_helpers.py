"""The processes that share the work with the first one: what they may do, and how they end."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from align.config import Section
from data_builders.quality import builder
from data_builders.quality.builder import QualityConfig
from tests.processes import TIMEOUT, Started

pytestmark = pytest.mark.engine


def until(question: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not question():
        assert time.monotonic() < deadline, f"not so after {TIMEOUT:.0f} s"
        time.sleep(0.01)


def wait_for(path: Path) -> str:
    until(path.exists)
    return path.read_text()


def starts_a_process(config: Section, output: Path, number: int) -> None:
    """As vLLM does for its engine."""
    child = multiprocessing.Process(target=time.sleep, args=(600,))
    child.start()
    part = output / f"{number}.part"
    part.write_text(f"{os.getpid()} {child.pid}")
    part.rename(output / str(number))
    child.join()


def helps_like_that(config: Section, output: Path, number: int) -> None:
    """A helper whose work is `starts_a_process`."""
    builder.pipeline_of = lambda *given: Work(output, number)
    builder._help(config, output, number)


class Work:
    def __init__(self, output: Path, number: int) -> None:
        self._output, self._number = output, number

    def complete(self) -> None:
        starts_a_process(Section(), self._output, self._number)


def alive(found: str) -> list[int]:
    """Those of several processes that run; a zombie has ended, and only its parent has not asked how."""
    processes = [psutil.Process(int(one)) for one in found.split() if psutil.pid_exists(int(one))]
    return [each.pid for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_helpers_may_start_processes_and_end_with_them_also_if_the_first_process_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "_help", helps_like_that)
    found: list[str] = []

    def first_process() -> None:
        with builder._helpers(QualityConfig(path=tmp_path), tmp_path, 2):
            found.extend(wait_for(tmp_path / number) for number in "12")
            assert all(len(alive(each)) == 2 for each in found)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        first_process()
    assert not multiprocessing.active_children()
    until(lambda: not alive(" ".join(found)))


FIRST = """
import os, signal, sys, time
from pathlib import Path
import tests.data_builders.quality.test_helpers as here

if __name__ == "__main__":
    here.builder._help = here.helps_like_that
    output = Path(sys.argv[1])
    with here.builder._helpers(here.QualityConfig(path=output), output, 1):
        here.wait_for(output / "1")
        (output / "here").touch()
        time.sleep(600)
"""


def test_helpers_and_what_they_have_started_end_with_a_first_process_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(FIRST)
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = Started([sys.executable, str(tmp_path / "first.py"), str(tmp_path)], real=True, **environment)
    started.wait_for((tmp_path / "here").exists)
    os.kill(started.pid, signal.SIGKILL)
    found = wait_for(tmp_path / "1")
    until(lambda: not alive(found))


def test_a_helper_that_ends_early_says_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = QualityConfig(path=tmp_path / "missing.jsonl")
    with builder._helpers(config, tmp_path, 1):
        (helper,) = multiprocessing.active_children()
        helper.join()
    assert re.search(r"quality-1 ended early: .*missing\.jsonl", capfd.readouterr().err)
    assert caplog.messages == ["quality-1 ended early (exit code 1); the other processes have done its work"]
