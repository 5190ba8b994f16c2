"""Runs the plan of a run: each stage a process of its own, finished ones left alone, killed anywhere and continued.

What the stages are is `align/rounds/plan.py`, what they read and made `align/rounds/ledger.py`.

A stage writes straight into its log file, and holds a lock on it through its standard output. So a stage outlives a
driver that is killed without harm, and the next driver can tell whether anything of it is still at work.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import IO, Any

from align.config import dump
from align.errors import StageError
from align.files import fingerprint_of, matching
from align.hub_names import is_hub_name
from align.manifest import data_manifest_path
from align.precision import AUTO, Decision, kept, overrides
from align.reporting import duration
from align.rounds.finished import (
    changes_since,
    damage_in,
    described,
    read_stage_record,
    seal_damage,
    stage_record_path,
    write_stage_record,
)
from align.rounds.hub_inputs import hub_content, with_commits_of
from align.rounds.ledger import Ledger, StageRecord, content_of
from align.rounds.packaged import as_recorded, packaged_data
from align.rounds.plan import RoundsConfig, Stage, plan, within
from align.rounds.results import key_numbers

LEDGER = "ledger.sqlite"
_HEAD = "==> "  # begins the line that a start of a stage writes into its log
_PROGRESS = re.compile(r"\[#*-*\]\s+\d+%")
_POLL_SECONDS = 0.1
_TAIL_LINES = 15


class Stopped(SystemExit):
    """A signal ended the run, in good order. The exit code is the shell's: 128 and the signal's number."""


def run_rounds(config: RoundsConfig, recipes: Path) -> Path:
    """Run every stage that does not hold yet, and return the run's folder.

    recipes: the folder of the recipe scripts.
    Raises ConfigError before anything starts, StageError when a stage does not end well, Stopped after a signal.
    """
    stages = plan(config, recipes)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    with _sole_driver(config.run_dir), _Signals() as signals:
        if config.precision == AUTO and any(overrides(stage.config, "fp32") for stage in stages):
            decision = _decision(config.run_dir)
            print(f"precision: {decision.precision} ({decision.reason})", flush=True)
            stages = plan(config.model_copy(update={"precision": decision.precision}), recipes)
        driver = _Driver(config, stages, Ledger(config.run_dir / LEDGER), signals)
        try:
            driver.run()
        finally:
            driver.ledger.close()
    return config.run_dir


@dataclass(frozen=True)
class _MadeFrom:
    """All that decides what a stage makes, as it is now."""

    stage: Stage
    inputs: dict[str, dict[str, str]]
    """Dotted key -> {"path", "blake3"}."""
    on_hub: tuple[str, ...]
    """The keys of `inputs` that are names on the Hub."""
    launch: str
    code: dict[str, str]
    """Source file -> hash."""

    @cached_property
    def key(self) -> str:
        return self.key_with(self.code)

    def key_with(self, code: dict[str, str]) -> str:
        """The key that the stage would have if its code were `code`."""
        return self.stage.key({name: entry["blake3"] for name, entry in self.inputs.items()}, self.launch, code)

    def with_fetched(self) -> _MadeFrom:
        """The same, with what the stage fetched itself, packages and models: the next start finds them in place."""
        fetched = {name: {**self.inputs[name], "blake3": _content_on_hub(self.stage, name)} for name in self.on_hub}
        return replace(self, code=self.code | packaged_data(self.code), inputs=self.inputs | fetched)

    def compared_with(self, record: StageRecord) -> _MadeFrom:
        """The same, with the packages that the record lists, and the commits that only one of the two knows."""
        return replace(
            self, code=as_recorded(self.code, record.code), inputs=with_commits_of(self.inputs, record.inputs)
        )

    def changes(self, record: StageRecord) -> str:
        """Why the stage's record has another key."""
        found = changes_since(record, dump(self.stage.config), self.inputs, self.code)
        return "; ".join(found) or "its launch file changed, or an older version made it"


def _decision(run_dir: Path) -> Decision:
    """What `precision: auto` means in this run: kept in its folder, so that a later start makes no stage again."""
    decision = kept(run_dir)
    if decision is None:  # a process of its own: the driver lives for days, and needs neither torch nor a GPU
        command = [sys.executable, "-m", "align.precision", str(run_dir)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        decision = kept(run_dir)
        if done.returncode != 0 or decision is None:
            said = "".join(f"\n    | {line}" for line in done.stderr.splitlines()[-_TAIL_LINES:])
            raise StageError("precision: auto", f"could not be decided:{said}\n", "Set precision to fp32 or bf16")
    return decision


class _Driver:
    def __init__(self, config: RoundsConfig, stages: Sequence[Stage], ledger: Ledger, signals: _Signals) -> None:
        self.config, self.stages, self.ledger, self.signals = config, stages, ledger, signals
        self.screen = _Screen()
        self.logs = config.run_dir / "logs"
        self.logs.mkdir(exist_ok=True)
        self._contents: dict[Path, str] = {}  # of paths outside the run, which stay as they are while it goes
        self._width = max(len(stage.name) for stage in stages)

    def run(self) -> None:
        began = time.monotonic()
        program, *arguments = sys.argv  # the console command `align rounds`, or the path of recipes/rounds.py
        command = shlex.join([*(program.split() if program.startswith("align ") else ("python", program)), *arguments])
        self._ledger_was_empty = not self.ledger.stages()
        run_id = self.ledger.begin_run(command)
        for stage in self.stages:
            self._end_leftovers(self._log(stage), stage)
        ran = 0
        for place, stage in enumerate(self.stages):
            if place == 0 or stage.round != self.stages[place - 1].round:
                aside = "before the rounds" if place == 0 else "after the rounds"
                self.screen.say(f"round {stage.round} of {self.config.rounds}" if stage.round else aside)
            made_from = self._made_from(stage, place)
            record = self._record(stage, made_from, run_id)
            if record is not None and self._holds(stage, record, made_from):
                if stage.show:
                    self.screen.say(*_last_start(self._log(stage)))
                continue
            if record is None or record.key != made_from.compared_with(record).key or record.status == "finished":
                self._clear(stage, known=record is not None)
            self._run_stage(stage, place, run_id, made_from)
            ran += 1
        self.ledger.end_run(run_id)
        kept = len(self.stages) - ran
        self.screen.say(f"finished: {ran} stages run, {kept} up to date · {duration(time.monotonic() - began)}")

    def _made_from(self, stage: Stage, place: int) -> _MadeFrom:
        inputs, on_hub = {}, []
        for name, path in stage.inputs.items():
            if not within(path, self.config.run_dir) and is_hub_name(path):
                on_hub.append(name)
            content = _content_on_hub(stage, name) if name in on_hub else self._content(stage, path, place)
            inputs[name] = {"path": str(path), "blake3": content}
        return _MadeFrom(
            stage, inputs, tuple(on_hub), _launch_content(stage.launch) if stage.launch else "", stage.code()
        )

    def _record(self, stage: Stage, made_from: _MadeFrom, run_id: int) -> StageRecord | None:
        """The stage's last start. One that the ledger does not know is taken from the stage's own folder: always when
        the ledger was empty at the start, because it was lost; otherwise only what this very stage would make."""
        record = self.ledger.latest(stage.label)
        if record is not None:
            return record
        found = read_stage_record(stage.label, stage.outputs)
        if found is None or not (self._ledger_was_empty or found.key == made_from.compared_with(found).key):
            return None
        self.ledger.adopt(run_id, found)
        self._tell(stage, "the ledger has no record of it; taken from the record in its folder")
        return self.ledger.latest(stage.label)

    def _holds(self, stage: Stage, record: StageRecord, made_from: _MadeFrom) -> bool:
        """Whether a stage need not run; the log says why it must. Reads all that it made, once a start."""
        made_from = made_from.compared_with(record)
        if record.status != "finished":
            if record.key != made_from.key:
                self._tell(stage, f"started from scratch: {made_from.changes(record)}")
            return False
        kept = ""
        if record.key != made_from.key:
            if self.config.changed_code == "remake" or record.key != made_from.key_with(record.code):
                self._tell(stage, f"made again: {made_from.changes(record)}")
                return False
            kept = f", though {made_from.changes(record)} (changed_code: keep)"
        if self.screen.live:
            self.screen.progress(f"  {stage.name:<{self._width}}  checking what it made")
        if fault := damage_in(record, stage.outputs):
            self._tell(stage, f"made again: {fault}")
            return False
        self._tell(stage, f"up to date{kept}")
        return True

    def _content(self, stage: Stage, path: Path, place: int) -> str:
        if within(self.config.run_dir, path):  # the run itself: every stage before this one, each as it last ended
            records = [self.ledger.latest(earlier.label) for earlier in self.stages[:place]]
            return fingerprint_of(*[(record.label, record.key, record.ended) for record in records if record])
        if within(path, self.config.run_dir):
            if not matching(path):
                what = f"reads {path}, which is not there"
                raise StageError(f"stage {stage.label}", what, f"See {self.logs} of the stage that was to make it")
            return content_of(path)
        if path not in self._contents:
            if fault := seal_damage(path):
                how = "Fetch or make that checkpoint again; this run cannot"
                raise StageError(f"stage {stage.label}: {path}", f"is damaged: {fault}", how)
            self._contents[path] = content_of(path)
        return self._contents[path]

    def _run_stage(self, stage: Stage, place: int, run_id: int, made_from: _MadeFrom) -> None:
        record_id = self.ledger.begin_stage(
            run_id,
            label=stage.label,
            name=stage.name,
            round_number=stage.round,
            recipe=stage.recipe,
            key=made_from.key,
            command=stage.shell,
            config=dump(stage.config),
            inputs=made_from.inputs,
            code=made_from.code,
        )
        began = time.monotonic()
        code = self._process(stage, place)
        if self.signals.caught:
            self.ledger.end_stage(record_id, "stopped")
            self._tell(stage, f"stopped after {duration(time.monotonic() - began)}; the same command goes on from here")
            raise Stopped(128 + self.signals.caught[0])
        if code != 0:
            self.ledger.end_stage(record_id, "failed")
            self._tell(stage, "failed")
            ended = f"ended with code {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
            raise self._failure(stage, f"{ended} after {duration(time.monotonic() - began)}")
        missing = [path for path in stage.outputs.values() if not path.exists()]
        if missing:
            self.ledger.end_stage(record_id, "failed")
            self._tell(stage, "failed")
            raise self._failure(stage, f"ended well and did not make {missing[0]}")
        made_from = made_from.with_fetched()
        self.ledger.end_stage(
            record_id, "finished", described(stage.outputs), made_from.key, made_from.code, made_from.inputs
        )
        finished = self.ledger.latest(stage.label)
        assert finished is not None
        write_stage_record(finished, stage.outputs)
        left = self._left(place + 1)
        self._tell(stage, key_numbers(stage.outputs), duration(time.monotonic() - began), left)

    def _process(self, stage: Stage, place: int) -> int:
        """Run the stage's command to its end; its exit code."""
        log = self._log(stage)
        with log.open("ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # goes with the descriptor to the stage and all that it starts
            handle.write(f"{_HEAD}{time.strftime('%Y-%m-%d %H:%M:%S')} {stage.shell}\n".encode())
            handle.flush()
            from_here = handle.tell()
            process = subprocess.Popen(
                stage.command,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C reaches the stage through us alone
            )
        began = time.monotonic()
        with log.open("rb") as reader:
            reader.seek(from_here)
            lines = _Lines(reader)
            asked_at = None
            while process.poll() is None:
                self._follow(stage, place, lines, time.monotonic() - began)
                if self.signals.caught and asked_at is None:
                    asked_at = time.monotonic()
                    self.screen.say(f"  {stage.name}: asked to save and leave (again to kill it)")
                    _signal_group(process.pid, signal.SIGTERM)
                if asked_at and (
                    len(self.signals.caught) > 1 or time.monotonic() - asked_at > self.config.stop_seconds
                ):
                    _signal_group(process.pid, signal.SIGKILL)
                self.signals.wait(_POLL_SECONDS)
            self._end_leftovers(log, stage)
            self._follow(stage, place, lines, time.monotonic() - began)
        return process.returncode

    def _environment(self) -> dict[str, str]:
        """Of a stage. torchrun, which `accelerate launch` starts, kills its workers 30 s after it was asked to stop:
        too soon to save a large checkpoint. With this variable they get as long as a stage without a launcher.
        """
        seconds = str(math.ceil(self.config.stop_seconds))
        return {**os.environ, "PYTHONUNBUFFERED": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": seconds}

    def _follow(self, stage: Stage, place: int, lines: _Lines, elapsed: float) -> None:
        for line in lines.new():
            if _PROGRESS.search(line):
                self.screen.progress(f"  {line}")
            elif stage.show:
                self.screen.say(line)
        if self.screen.idle():
            left = self._left(place, elapsed)
            self.screen.progress(f"  {stage.name:<{self._width}}  {duration(elapsed)}{', ' + left if left else ''}")

    def _end_leftovers(self, log: Path, stage: Stage) -> None:
        """Wait for, then end, processes of the stage that still write to its log: workers whose launcher is gone,
        or the stage of a driver that was killed. Two of them in one folder would spoil each other's checkpoints."""
        deadline = time.monotonic() + self.config.stop_seconds
        asked = False
        while not _is_quiet(log):
            writers = _writers(log)
            if not writers and time.monotonic() > deadline:
                how = f"Find the processes that write to {log} and end them"
                raise StageError(f"stage {stage.label}", "is still at work from an earlier start", how)
            if not asked:
                asked = True
                self.screen.say(
                    f"  {stage.label}: ending what is left of it (processes {', '.join(map(str, writers))})"
                )
            late = time.monotonic() > deadline or len(self.signals.caught) > 1
            for process in writers:
                _signal_one(process, signal.SIGKILL if late else signal.SIGTERM)
            time.sleep(_POLL_SECONDS)

    def _clear(self, stage: Stage, *, known: bool) -> None:
        """Take away what the stage made under other settings, so that nothing of it is taken for a part of the new."""
        for path in stage.outputs.values():
            assert within(path, self.config.run_dir)
            if not path.exists():
                continue
            if not known:
                how = "Move it away, or name another run_dir"
                what = f"already exists, but this run has no record of creating it (stage {stage.label})"
                raise StageError(path, what, how)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
                data_manifest_path(path).unlink(missing_ok=True)
        own = stage_record_path(stage.outputs)
        if own is not None:
            own.unlink(missing_ok=True)  # next to an output that is a file

    def _failure(self, stage: Stage, what: str) -> StageError:
        log = self._log(stage)
        printed = [line for line in _last_start(log) if not _PROGRESS.search(line)][-_TAIL_LINES:]
        tail = "".join(f"\n    | {line}" for line in printed) or " (it printed nothing)"
        how = f"The whole log is {log}. Fix the cause, then start the same command again: it continues from here"
        return StageError(f"stage {stage.label}: {stage.shell}", f"{what}. Its last lines:{tail}\n", how)

    def _left(self, place: int, elapsed: float = 0.0) -> str:
        """Time left for the whole run, from how long its stages took in an earlier round or start."""
        known = [self.ledger.last_seconds(stage.name, stage.round) for stage in self.stages[place:]]
        seconds = sum(took for took in known if took is not None) - elapsed
        if seconds < 1 or not self.stages[place:]:
            return ""
        bound = "about" if None not in known else "at least"
        return f"{bound} {duration(seconds)} left in all"

    def _tell(self, stage: Stage, *parts: str) -> None:
        self.screen.say(f"  {stage.name:<{self._width}}  " + "  ".join(part for part in parts if part))

    def _log(self, stage: Stage) -> Path:
        return self.logs / f"{stage.label.replace('/', '-')}.log"


class _Signals:
    """Collects SIGINT, SIGTERM and SIGHUP while the run goes. Outside the main thread signals stay as they are."""

    def __init__(self) -> None:
        self.caught: list[int] = []
        self._old: dict[int, signal._HANDLER] = {}
        self._woken = threading.Event()

    def __enter__(self) -> _Signals:
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


class _Screen:
    """Standard output: lines that stay, and on a terminal one line that is drawn again and again."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self._drawn = 0.0

    def say(self, *lines: str) -> None:
        for line in lines:
            print(f"\r\033[K{line}" if self.live else line, flush=True)

    def progress(self, line: str) -> None:
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{line[:width]}", end="", flush=True)
            self._drawn = time.monotonic()
        else:
            print(line, flush=True)

    def idle(self) -> bool:
        """Nothing was drawn for so long that a reader may wonder."""
        return self.live and time.monotonic() - self._drawn > 12  # stages speak each ten seconds


class _Lines:
    """The lines that a growing file has gained; `\\r` ends one too, and half a line waits for its end."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._half = b""

    def new(self) -> list[str]:
        *whole, self._half = re.split(rb"[\r\n]+", self._half + self._handle.read())
        return [line.decode("utf-8", "replace") for line in whole if line.strip()]


@contextmanager
def _sole_driver(run_dir: Path) -> Iterator[None]:
    """Holds the run's folder; raises StageError when another driver does."""
    with (run_dir / ".lock").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            what = f"is in use by another start of the rounds (process {handle.read().strip() or 'unknown'})"
            raise StageError(run_dir, what, "Wait for it, or name another run_dir") from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _content_on_hub(stage: Stage, name: str) -> str:
    """Of an input with a name on the Hub, at the revision that the same section of the config names."""
    section: Any = dump(stage.config)
    for part in name.split(".")[:-1]:
        section = section[int(part)] if isinstance(section, list) else section[part]
    revision = section.get("revision") if isinstance(section, dict) else None
    return hub_content(stage.inputs[name], revision)


def _launch_content(launch: Path) -> str:
    """A fingerprint of an accelerate config and of the DeepSpeed JSON that it names, from here or from its folder."""
    names = re.findall(r"[\w./-]+\.json", launch.read_text(encoding="utf-8"))
    named = [path for name in names for path in (Path(name), launch.parent / name) if path.is_file()]
    return fingerprint_of(content_of(launch), *(content_of(path) for path in named))


def _is_quiet(log: Path) -> bool:
    """Whether no process holds the lock that a stage has on its log."""
    if not log.exists():
        return True
    with log.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _writers(log: Path) -> list[int]:
    """Processes whose standard output or error is the log. Linux only; elsewhere none are found."""
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


def _last_start(log: Path) -> list[str]:
    """What the stage printed in its last start."""
    if not log.exists():
        return []
    lines = re.split(r"[\r\n]+", log.read_text(encoding="utf-8", errors="replace"))
    heads = [place for place, line in enumerate(lines) if line.startswith(_HEAD)]
    return [line for line in lines[heads[-1] + 1 if heads else 0 :] if line.strip()]
