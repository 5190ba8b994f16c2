"""Runs a stage as a SLURM job: submits it, follows it, and finds it again after the driver was killed.

The standard output of a job is the log of its stage, so the driver follows it as that of a process. What it has to know
of a job is in `<run_dir>/logs/<stage>.job.json`, from before the job is submitted until its end has been seen. An
example, in which the driver is killed while a job trains:

    driver 100    writes dpo.job.json with the unique name of the job, submits it, and adds its id, 17
    driver 100    is killed; job 17 goes on
    driver 300    finds dpo.job.json when it comes to this stage. The stage would be made from the same as job 17, so it
                  follows job 17 to its end; otherwise it cancels the job first, and submits another. Jobs whose
                  inputs may change, because a stage that they depend on runs again, are cancelled before it does.

If driver 100 was killed between the submission and the note of the id, the job is found by its name.

A job that was preempted, lost its node or reached its time limit is submitted again: the stage continues from its last
checkpoint. The commands used are sbatch, squeue, sacct and scancel.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from align.config import Section
from align.errors import ConfigError, StageError
from align.files import fingerprint_of, write_text
from align.rounds.job_script import ASKED_CODE, batch_script
from align.rounds.launchers import LauncherConfig, SlurmConfig
from align.rounds.processes import Ending, Signals, failures_file
from align.rounds.screen import HEAD, NewLines
from align.rounds.stage import Stage

_PROGRAMS = ("sbatch", "squeue", "sacct", "scancel")
_INTERRUPTED = {"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REQUEUED", "TIMEOUT"}
_ENDED = _INTERRUPTED | {"CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "REVOKED"}
_UNREACHABLE, _GONE = "UNREACHABLE", "GONE"
"""States of ours: squeue does not answer; the job is not in the queue, and sacct does not know its end yet."""
_WAIT_SECONDS = 1.0
_ANSWER_SECONDS = 120
_ACCOUNTING_SECONDS = 300
"""How long sacct may lag behind squeue."""
_SHARED_FILES_SECONDS = 60
"""How long a file that a node wrote may take to be seen by another one, on a network file system."""


class Job(Section):
    """The record of a job that may be running: the content of `<stage>.job.json`."""

    name: str
    made_of: str
    """Fingerprint of what the stage is made from, its command and what it asks for."""
    log_from: int
    """Where in the stage's log the output of this job begins, in bytes."""
    id: str | None = None
    """None: it may have been submitted or not; its name tells."""


@dataclass(frozen=True)
class _State:
    """How a job is doing: the name of its state, and when it has ended the exit code and signal of its script."""

    name: str
    code: int = 0
    signal: int = 0

    @property
    def has_ended(self) -> bool:
        return self.name in _ENDED

    @property
    def was_interrupted(self) -> bool:
        """Whether the cluster ended it, and not the stage or a person."""
        return self.name in _INTERRUPTED or self._was_asked

    @property
    def _was_asked(self) -> bool:
        asked = self.code in (ASKED_CODE, 128 + signal.SIGTERM) or self.signal == signal.SIGTERM
        return self.name == "FAILED" and asked

    @property
    def cause(self) -> Literal["killed", "error"] | None:
        """Where the state says it: the exit code of a job that used up its memory does not."""
        if self.name == "OUT_OF_MEMORY":
            return "killed"
        return "error" if self.name == "CANCELLED" else None  # by a person: not started again

    @property
    def text(self) -> str:
        if self._was_asked:
            return "was asked to save and end"
        if self.name == "FAILED":
            return Ending.of_process(self.code or -self.signal).text
        return f"ended as {self.name}"


def check_slurm(launcher: LauncherConfig) -> None:
    """Raise ConfigError if stages are to be SLURM jobs and a command of SLURM is missing on this machine."""
    missing = [program for program in _PROGRAMS if launcher.slurm is not None and shutil.which(program) is None]
    if missing:
        how = "Start the rounds on a login node of the cluster, or leave out launcher.slurm"
        raise ConfigError("launcher.slurm", f"{missing[0]} is not installed on this machine", how)


class SlurmJobs:
    """The jobs of one run. Without `config` it submits none, and only ends those of an earlier start.

    stop_seconds: how long a stage may take to save and end before its job is cancelled.
    say: shows a line to a person.
    """

    def __init__(
        self,
        config: SlurmConfig | None,
        logs: Path,
        stop_seconds: float,
        signals: Signals,
        say: Callable[[str], None],
    ) -> None:
        self._config = config or SlurmConfig()
        self._logs, self._stop_seconds, self._signals, self._say = logs, stop_seconds, signals, say

    def run(
        self,
        stage: Stage,
        log: Path,
        key: str,
        follow: Callable[[list[str], float], None],
        asked_to_stop: Callable[[], None],
    ) -> Ending:
        """Run a stage as a job to its end, or follow the one that an earlier start submitted.

        key: of the stage, from what it would be made now.
        follow, asked_to_stop: as in `align.rounds.processes.run_process`.
        """
        assert stage.allocation is not None
        made_of = fingerprint_of(key, stage.shell, stage.allocation)
        record = self._record_of(log)
        began = time.monotonic()
        job = self._from_before(record, made_of) if record.exists() else None
        restarts, why = 0, ""
        while True:
            current = job or self._submit(stage, log, made_of, why)
            if isinstance(current, Ending):
                return current
            state = self._follow(
                stage, current, log, lambda lines: follow(lines, time.monotonic() - began), asked_to_stop
            )
            if state is None:
                return Ending(1, f"as SLURM job {current.id} left the queue, and sacct does not say how it ended,")
            record.unlink()
            if state.name == "COMPLETED":
                _await_files(stage.outputs.values())
                return Ending(0, "ended well")
            ending = Ending(state.code or 1, f"as SLURM job {current.id} {state.text}", cause=state.cause)
            if self._signals.caught or not state.was_interrupted:
                return ending
            if restarts == self._config.max_restarts:
                text = f"{ending.text}, after it was submitted {restarts + 1} times,"
                return Ending(ending.code, text, used_up=True)
            job, restarts = None, restarts + 1
            why = f"job {current.id} {state.text}; submitted again ({restarts} of {self._config.max_restarts})"
            self._say(f"  {stage.name}: {why}")

    def end_others(self, logs: Collection[Path] = ()) -> None:
        """End the jobs that an earlier start left running, except those of the stages with these logs.

        Records of the jobs of this start are in the folder too, so `logs` has those of every stage that is running.
        """
        kept = {self._record_of(log) for log in logs}
        for path in sorted(self._logs.glob("*.job.json")):
            if path not in kept:
                self._end(path, self._read(path))

    def _end(self, record: Path, job: Job) -> None:
        """End the job of an earlier start, and forget it."""
        number = job.id or self._find(job.name)
        if number is not None:
            self._say(f"  ending SLURM job {number} of an earlier start ({job.name})")
            if self._until_end(number, lambda state: None, lambda: None, stop=True) is None:
                how = f"Cancel it (scancel {number}), then delete {record}"
                raise StageError(f"SLURM job {number}", "is of an earlier start, and may still be running", how)
        record.unlink()

    def _from_before(self, record: Path, made_of: str) -> Job | None:
        """The job of this stage that an earlier start submitted, if it is running or has ended well meanwhile.

        A job that makes the stage from something else than `made_of` is ended.
        """
        job = self._read(record)
        if job.made_of != made_of:
            self._end(record, job)
            return None
        number = job.id or self._find(job.name)
        if number is None:
            return None
        state = self._state(number)
        if state.has_ended and state.name != "COMPLETED":
            self._say(f"  SLURM job {number} of an earlier start {state.text}")
            return None
        job = job.model_copy(update={"id": number})
        write_text(record, job.model_dump_json())
        self._say(f"  SLURM job {number} of an earlier start is followed")
        return job

    def _submit(self, stage: Stage, log: Path, made_of: str, why: str) -> Job | Ending:
        name = f"{self._logs.absolute().parent.name}-{stage.label.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
        script = log.with_suffix(".job.sh")
        write_text(script, batch_script(stage, name, log, self._config.setup, self._stop_seconds))
        with log.open("a", encoding="utf-8") as handle:  # the job begins to write later
            handle.write(f"{HEAD}{time.strftime('%Y-%m-%d %H:%M:%S')} {stage.shell}\n" + (f"{why}\n" if why else ""))
            handle.flush()
            job = Job(name=name, made_of=made_of, log_from=handle.tell())
        failures_file(log).unlink(missing_ok=True)
        record = self._record_of(log)
        write_text(record, job.model_dump_json())
        done = _call("sbatch", "--parsable", str(script))
        number = done.stdout.strip().partition(";")[0] if done.returncode == 0 else self._find(name)  # "17;cluster"
        if not number:
            record.unlink()
            return Ending(done.returncode or 1, f"could not be submitted ({done.stderr.strip()}), and failed")
        job = job.model_copy(update={"id": number})
        write_text(record, job.model_dump_json())
        return job

    def _follow(
        self,
        stage: Stage,
        job: Job,
        log: Path,
        follow: Callable[[list[str]], None],
        asked_to_stop: Callable[[], None],
    ) -> _State | None:
        """Show what a job prints and how its state changes until it has ended."""
        assert job.id is not None
        seen: set[str] = set()

        def tick(state: _State) -> None:
            if not state.has_ended and state.name not in {*seen, _GONE}:
                seen.add(state.name)
                self._say(f"  {stage.name}: SLURM job {job.id} is {state.name.lower()}")
            follow(lines.new())

        with log.open("rb") as reader:
            reader.seek(job.log_from)
            lines = NewLines(reader)
            return self._until_end(job.id, tick, asked_to_stop)

    def _until_end(
        self, number: str, tick: Callable[[_State], None], asked_to_stop: Callable[[], None], stop: bool = False
    ) -> _State | None:
        """Wait until a job has ended. A signal, or `stop`, asks its stage to save and end, as for a local process.

        tick: called about once a second, with the last known state.
        Returns how it ended, None if SLURM does not know that.
        """
        polled = known = time.monotonic()
        state = self._state(number)
        asked_at, cancelled = None, False
        while True:
            now = time.monotonic()
            if now - polled >= self._config.poll_seconds:
                polled, state = now, self._state(number)
            tick(state)
            if state.has_ended:
                return state
            if state.name != _GONE:
                known = now
            elif now - known > _ACCOUNTING_SECONDS:
                return None
            if (stop or self._signals.caught) and asked_at is None:
                asked_at = now
                asked_to_stop()
                _call("scancel", "--state=PENDING", number)
                _call("scancel", "--batch", "--signal=TERM", number)  # job.sh.jinja passes it on to the stage
            if asked_at and not cancelled and (len(self._signals.caught) > 1 or now - asked_at > self._stop_seconds):
                cancelled = True
                _call("scancel", number)
            self._signals.wait(min(_WAIT_SECONDS, self._config.poll_seconds))

    def _state(self, number: str) -> _State:
        queue = _call("squeue", "--noheader", "--jobs", number, "--format", "%T")
        name = queue.stdout.strip()
        if queue.returncode == 0 and name and name not in _ENDED:
            return _State(name)
        if queue.returncode != 0 and "Invalid job id" not in queue.stderr:
            return _State(_UNREACHABLE)
        columns = ("--noheader", "--parsable2", "--allocations", "--format", "State,ExitCode")
        rows = _call("sacct", "--jobs", number, *columns).stdout.split("\n")
        for state, _, code in (row.partition("|") for row in rows):  # CANCELLED by 1000|0:15
            if state and (name := state.split()[0]) in _ENDED:
                return _State(name, *(int(part) for part in code.split(":")))
        return _State(_GONE)

    def _find(self, name: str) -> str | None:
        """The id of the job of this unique name; None if it was never submitted.

        Raises StageError if SLURM does not answer: the job might be submitted twice.
        """
        week = ("--starttime", "now-7days")
        for command in (
            ("squeue", "--noheader", "--me", "--name", name, "--format", "%i"),
            ("sacct", "--noheader", "--parsable2", "--allocations", *week, "--name", name, "--format", "JobID"),
        ):
            answer = _call(*command)
            if answer.returncode != 0:
                how = "Start the same command again when SLURM answers"
                raise StageError(shlex.join(command), f"failed: {answer.stderr.strip()}", how)
            if numbers := answer.stdout.split():
                return numbers[0]
        return None

    def _record_of(self, log: Path) -> Path:
        return log.with_suffix(".job.json")

    def _read(self, path: Path) -> Job:
        try:
            return Job.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError):
            how = "Look for a job of this stage (squeue --me), cancel it, and delete this file"
            raise StageError(path, "is damaged; expected the record of a SLURM job", how) from None


def _await_files(paths: Iterable[Path]) -> None:
    """Wait for files that a node has written. Listing a folder makes a network file system look for new ones."""
    deadline = time.monotonic() + _SHARED_FILES_SECONDS
    while missing := [path for path in paths if not path.exists()]:
        if time.monotonic() > deadline:
            return  # the driver says what is missing
        for path in missing:
            if path.parent.is_dir():
                os.listdir(path.parent)
        time.sleep(_WAIT_SECONDS)


def _call(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM. Raises StageError if this machine does not have it.

    Variables of a job in which the driver itself may run are left out: SLURM would take them as options.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}
    try:
        return subprocess.run(
            (program, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=kept,
            timeout=_ANSWER_SECONDS,
            start_new_session=True,  # Ctrl-C on the terminal does not reach it
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess((program, *arguments), 1, "", f"no answer in {_ANSWER_SECONDS} s")
    except FileNotFoundError:
        how = "Start the rounds on a login node of the cluster"
        raise StageError(program, "is not installed on this machine, and a SLURM job may be running", how) from None
