"""Starts a stage as a process of its own, passes signals on, and ends what an earlier start left running.

How locks protect a run. Two files are locked with flock, which the kernel releases when the last process that has the
open file ends, however it ends:

    <run_dir>/.lock                 by the driver: one driver at a time uses the folder of a run
    <run_dir>/logs/<stage>.log      by a stage: the lock is taken on the log before the stage starts, and the log is
                                    the stage's standard output, so the lock belongs to the stage and to every process
                                    that it starts

An example, in which the driver of a training on two GPUs is killed with SIGKILL:

    driver 100    starts stage 200 (accelerate), which starts workers 201 and 202; all of 200 to 202 have the log open
    driver 100    is killed. The kernel releases <run_dir>/.lock; 200, 201 and 202 go on and keep the lock on the log
    driver 300    locks <run_dir>/.lock, and finds the log of the stage locked: something of it is still running.
                  /proc says that the standard output of 200, 201 and 202 is this log: they are asked to end (SIGTERM),
                  and killed when `stop_seconds` are over. When no process has the lock any more, the stage starts again
                  and continues from its last checkpoint.

Without the wait two trainings would write into one folder and damage each other's checkpoints.
"""

from __future__ import annotations

import fcntl
import math
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from align.errors import StageError
from align.failures import FAILURES
from align.files import PID_WIDTH, holder_in
from align.rounds.screen import HEAD, NewLines

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Ending:
    """How a stage ended: the exit code, and the text that an error message says of it."""

    code: int
    text: str
    used_up: bool = False
    """Whether it was already started again as often as it may be, by whoever ran it: `launcher.slurm.max_restarts`."""
    cause: Literal["killed", "error"] | None = None
    """Why it ended, as `restarts.py` names it, where SLURM reported it; None: the exit code and the log say it."""

    @classmethod
    def of_process(cls, code: int) -> Ending:
        """code: as `subprocess` gives it, negative for a signal."""
        text = f"ended with code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
            text += ", which Linux does when the memory of the machine is used up,"
        return cls(code, text)


class Signals:
    """Collects SIGINT, SIGTERM and SIGHUP while the run goes. Outside the main thread signals stay as they are."""

    def __init__(self) -> None:
        self.caught: list[int] = []
        self._old: dict[int, signal._HANDLER] = {}
        self._woken = threading.Event()

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._old[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def wait(self, seconds: float) -> None:
        self._woken.wait(seconds)
        self._woken.clear()

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.caught.append(number)
        self._woken.set()


@contextmanager
def sole_driver(run_dir: Path) -> Iterator[None]:
    """Lock the folder of the run for a block. Raises StageError if another driver has the lock."""
    with (run_dir / ".lock").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            what = f"is in use by another start of the rounds ({holder_in(handle.read())})"
            raise StageError(run_dir, what, "Wait for it, or name another run_dir") from None
        handle.truncate(0)
        handle.write(f"{os.getpid():<{PID_WIDTH}}{socket.gethostname()}\n")
        handle.flush()
        yield


def run_process(
    command: Sequence[str],
    shell: str,
    log: Path,
    stop_seconds: float,
    signals: Signals,
    follow: Callable[[list[str], float], None],
    asked_to_stop: Callable[[], None],
    gpus: Sequence[str] | None = None,
) -> int:
    """Run a stage's command to its end and return its exit code. Processes that it started may still be running.

    shell: the command as a person would type it, for the log.
    gpus: the GPUs that the stage may use, as CUDA_VISIBLE_DEVICES names them; None leaves that variable as it is.
    follow: called several times a second, with the lines that are new in the log and the seconds since the start.
    asked_to_stop: called once, when a first signal has arrived and the stage has been asked to save and end. A second
        signal, or `stop_seconds` without an end, kills it.
    """
    failures_file(log).unlink(missing_ok=True)
    with log.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # the stage inherits it with the descriptor, and so does all that it starts
        handle.write(f"{HEAD}{time.strftime('%Y-%m-%d %H:%M:%S')} {shell}\n".encode())
        handle.flush()
        from_here = handle.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            env={**_environment(stop_seconds, gpus), FAILURES: str(failures_file(log))},
            start_new_session=True,  # Ctrl-C on the terminal reaches the stage only through the driver
        )
    began = time.monotonic()
    with log.open("rb") as reader:
        reader.seek(from_here)
        lines = NewLines(reader)
        asked_at = None
        while process.poll() is None:
            follow(lines.new(), time.monotonic() - began)
            if signals.caught and asked_at is None:
                asked_at = time.monotonic()
                asked_to_stop()
                _signal_group(process.pid, signal.SIGTERM)
            if asked_at and (len(signals.caught) > 1 or time.monotonic() - asked_at > stop_seconds):
                _signal_group(process.pid, signal.SIGKILL)
            signals.wait(_POLL_SECONDS)
        follow(lines.new(), time.monotonic() - began)
    return process.returncode


def failures_file(log: Path) -> Path:
    """Where the processes of a stage write why they failed, for `restarts.py`."""
    return log.with_suffix(".failures.jsonl")


def end_leftovers(
    label: str, log: Path, stop_seconds: float, signals: Signals, ending: Callable[[Sequence[int]], None]
) -> None:
    """End the processes of a stage that still have its log open, and wait until none is left.

    They are workers whose launcher has ended, or the stage of a driver that was killed (see the example above).
    ending: called once, with the process ids, before they are asked to end.
    Raises StageError if the log is still locked after `stop_seconds` and no process can be found.
    """
    deadline = time.monotonic() + stop_seconds
    asked = False
    while not _is_quiet(log):
        writers = _writers(log)
        if not writers and time.monotonic() > deadline:
            how = f"Find the processes that write to {log} and end them"
            raise StageError(f"stage {label}", "is still running from an earlier start", how)
        if not asked:
            asked = True
            ending(writers)
        late = time.monotonic() > deadline or len(signals.caught) > 1
        for process in writers:
            _signal_one(process, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(_POLL_SECONDS)


def _environment(stop_seconds: float, gpus: Sequence[str] | None) -> dict[str, str]:
    """The environment variables of a stage.

    torchrun, which `accelerate launch` starts, kills its workers 30 s after it was asked to stop, which is too soon to
    save a large checkpoint. TORCH_ELASTIC_SHUTDOWN_TIMEOUT gives them as long as a stage without a launcher has.
    """
    seconds = str(math.ceil(stop_seconds))
    own = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    return {**os.environ, "PYTHONUNBUFFERED": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": seconds, **own}


def _is_quiet(log: Path) -> bool:
    """Whether no process has the log locked."""
    if not log.exists():
        return True
    with log.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _writers(log: Path) -> list[int]:
    """Ids of the processes whose standard output or error is the log. Found in /proc, so on Linux only.

    For process 201 the link /proc/201/fd/1 names the file that is its standard output.
    """
    expected = os.path.realpath(log)
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        for descriptor in ("1", "2"):
            try:
                if os.readlink(entry / "fd" / descriptor) == expected and int(entry.name) != os.getpid():
                    found.add(int(entry.name))
            except OSError:
                continue  # gone meanwhile, or another user's
    return sorted(found)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _signal_one(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return
