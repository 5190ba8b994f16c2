"""Effective training time: the part of the time since a run's first start that went into optimizer steps that count.

Every start of a run appends lines to `starts.jsonl` in the run's folder, each written to the disk at once (fsync). A
line has the seconds that the start has spent so far, by cause, so the last line of a start that was killed is its last
sign of life. Example, with a checkpoint at step 50:

    {"start": 1, "event": "begin", "time": 1000.0, "step": null, "trained": 0.0, "seconds": {}}
    {"start": 1, "event": "train", "time": 1008.0, "step": 0, "trained": 0.0, "seconds": {"start-up": 8.0}}
    {"start": 1, "event": "saved", "time": 1102.0, "step": 50, "trained": 90.0, "seconds": {..., "saving": 4.0}}
    {"start": 1, "event": "alive", "time": 1130.0, "step": 65, "trained": 117.0, "seconds": {..., "saving": 4.0}}
    (SIGKILL, and the same command again)
    {"start": 2, "event": "begin", "time": 1142.0, ...}
    {"start": 2, "event": "train", "time": 1150.0, "step": 50, "trained": 0.0, "seconds": {"start-up": 8.0}}
    {"start": 2, "event": "end", "time": 1250.0, "step": 100, "trained": 90.0, "seconds": {..., "saving": 8.0}}

250 s have passed. 90 s of each start were steps that count: 72%. The rest is 16 s of start-up, 12 s of saving, 27 s of
lost steps (51 to 65, made again by the second start), 12 s between starts, and 3 s of other things.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

STARTS = "starts.jsonl"
"""In the output folder of a training run."""

START_UP, ENCODING, REFERENCE, VALIDATION, SAVING = "start-up", "encoding", "reference pass", "validation", "saving"
"""What a start does outside of its optimizer steps."""
OTHER = "other"
"""Between steps: logging, trackers."""
LOST, BETWEEN = "lost steps", "between starts"
CAUSES = (START_UP, ENCODING, REFERENCE, VALIDATION, SAVING, OTHER, LOST, BETWEEN)

FIRST_SECONDS, ALIVE_SECONDS = 5.0, 30.0
"""A start writes a line this long after `RunClock.record`, and then at least this often."""

_UNFINISHED = "unfinished step"
"""In the lines of a start: the part of a step that was being made."""
_BEGIN, _TRAIN, _SAVED, _ALIVE, _END = "begin", "train", "saved", "alive", "end"
_FINISHED = "finished"
_NOTHING_YET: dict[str, Any] = {"trained": 0.0, "seconds": {}}

Line = Mapping[str, Any]

_process_began: float | None = None


def note_process_began() -> None:
    """Note that a recipe begins in this process now, before its imports: the start-up of a run counts from here."""
    global _process_began
    _process_began = time.time()


@dataclass(frozen=True)
class EffectiveTime:
    """How a run has spent the time since its first start."""

    elapsed: float
    """Seconds since the first start. Time after a run was finished, before it was extended, does not count."""
    useful: float
    """Seconds of the optimizer steps that count: without those that a later start made again."""
    causes: Mapping[str, float]
    """Cause, one of `CAUSES` -> seconds. Together with `useful` they are `elapsed`."""
    starts: int
    killed: int
    """Starts that ended without a last word, and not the present one."""
    lost_steps: int

    @property
    def ratio(self) -> float:
        return self.useful / self.elapsed if self.elapsed > 0 else 0.0

    def record(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "ratio": round(self.ratio, 4),
            "elapsed_seconds": round(self.elapsed, 3),
            "useful_seconds": round(self.useful, 3),
            "other_seconds": {cause: round(seconds, 3) for cause, seconds in self.causes.items()},
            "starts": self.starts,
            "killed": self.killed,
            "lost_steps": self.lost_steps,
        }


def effective_time(lines: Iterable[Line], running: int | None = None) -> EffectiveTime | None:
    """What the lines of a run's starts say; None if there are none. running: the start that has not ended yet."""
    by_start: dict[int, list[Line]] = {}
    for line in lines:
        by_start.setdefault(line["start"], []).append(line)
    if not by_start:
        return None
    starts = [by_start[number] for number in sorted(by_start)]
    useful, lost, lost_steps = 0.0, 0.0, 0
    causes = dict.fromkeys(CAUSES, 0.0)
    limit = math.inf  # the earliest step from which a later start has resumed: what was made after it does not count
    for own in reversed(starts):
        counted = [line for line in own if line["step"] is not None and line["step"] <= limit]
        last, kept = own[-1], counted[-1]["trained"] if counted else 0.0
        useful += kept
        seconds = dict(last["seconds"])
        causes[OTHER] += max(_length(own) - last["trained"] - sum(seconds.values()), 0.0)
        lost += last["trained"] - kept + seconds.pop(_UNFINISHED, 0.0) + seconds.pop(LOST, 0.0)
        resumed = [line["step"] for line in own if line["event"] == _TRAIN]
        if resumed:
            lost_steps += last["lost_steps"] + max(last["step"] - max(int(min(limit, last["step"])), resumed[0]), 0)
        for cause, spent in seconds.items():
            causes[cause] = causes.get(cause, 0.0) + spent
        limit = min([limit, *resumed])
    waits = [after[0]["time"] - before[-1]["time"] for before, after in pairwise(starts) if not _is_finished(before)]
    between = sum(max(wait, 0.0) for wait in waits)
    causes[LOST], causes[BETWEEN] = lost, between
    killed = sum(own[-1]["event"] != _END and own[0]["start"] != running for own in starts)
    elapsed = sum(map(_length, starts)) + between
    return EffectiveTime(elapsed, useful, causes, len(starts), killed, lost_steps)


def effective_time_of(folder: Path) -> EffectiveTime | None:
    """How the run of a folder has spent its time; None if there is no record of it."""
    return effective_time(read_starts(folder))


def read_starts(folder: Path) -> list[Line]:
    """The lines of a run's starts. Half a line, which a killed start or a full disk may leave, is left out."""
    try:
        content = (folder / STARTS).read_bytes()
    except OSError:
        return []
    lines = []
    for text in content.split(b"\n"):
        with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            lines.append(_checked(json.loads(text)))
    return lines


def _checked(line: Any) -> Line:
    """The line with its values as numbers. Raises what a line that no start has written makes of itself."""
    return {
        "start": int(line["start"]),
        "event": str(line["event"]),
        "time": float(line["time"]),
        "step": None if line["step"] is None else int(line["step"]),
        "trained": float(line["trained"]),
        "seconds": {str(cause): float(seconds) for cause, seconds in line["seconds"].items()},
        "lost_steps": int(line.get("lost_steps", 0)),
        "outcome": str(line.get("outcome", "")),
    }


def _length(own: Sequence[Line]) -> float:
    return float(max(own[-1]["time"] - own[0]["time"], 0.0))


def _is_finished(own: Sequence[Line]) -> bool:
    return bool(own[-1]["event"] == _END and own[-1]["outcome"] == _FINISHED)


@dataclass(eq=False)
class RunClock:
    """Measures what one start of a run does, and writes it into `starts.jsonl`.

    clock = clock_of(folder)
    clock.record()                   # what was measured before counts too
    with clock.phase(ENCODING):
        ...
    clock.train(step=50)             # what follows are steps, after a checkpoint of step 50
    clock.begin_step()
    clock.end_step(51)
    clock.saved()
    clock.close("finished")

    Only the first process of a run writes. A line that cannot be written, on a full disk, is lost: the record never
    ends a run.
    """

    folder: Path
    began: float
    """Seconds since 1970."""
    writes: bool = True
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    trained: float = 0.0
    """Seconds of finished optimizer steps."""
    step: int | None = None
    lost_steps: int = 0
    """Steps that this start has made, and has made again from an earlier checkpoint."""
    _phase: str | None = START_UP
    """None between steps, where nothing is measured: what is left over is `OTHER`."""
    _since: float = 0.0
    _earlier: list[Line] = field(default_factory=list)
    """Of the starts before this one."""
    _number: int = 0
    """Of this start, from 1; 0 before `record`."""
    _resumed: int | None = None
    _trained_at: dict[int, float] = field(default_factory=dict)
    """Step of a checkpoint -> `trained` when it was saved."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _writing: threading.Lock = field(default_factory=threading.Lock)
    """Not the same lock: a disk that is slow delays no step."""
    _has_begun: bool = False
    _closed: threading.Event = field(default_factory=threading.Event)
    _offset: float = field(default_factory=lambda: time.time() - time.monotonic())
    """Adds to the monotonic clock, so that a clock that is set during a run changes no length of time."""

    def __post_init__(self) -> None:
        self._since = self.began - self._offset

    @property
    def records(self) -> bool:
        """Whether `record` was called."""
        return self._number > 0

    def now(self) -> float:
        """Seconds since 1970."""
        return time.monotonic() + self._offset

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what the block does as `name`. In a block inside it the inner name counts."""
        outer = self._enter(name)
        try:
            yield
        finally:
            self._enter(outer)

    def begin_step(self) -> None:
        self._enter(_UNFINISHED)

    def end_step(self, step: int) -> None:
        """step: the number of optimizer steps that are done now."""
        with self._lock:
            self._enter(None)
            self.trained += self.seconds.pop(_UNFINISHED, 0.0)
            self.step = step

    def record(self) -> None:
        """From now on this is a start of the run. Repeated calls do nothing.

        The first line is written with the first step, or some seconds later: a start that is refused before leaves
        nothing.
        """
        if self.records:
            return
        with self._lock:
            self._earlier = read_starts(self.folder)
            self._number = max((line["start"] for line in self._earlier), default=0) + 1
        if self.writes:
            threading.Thread(target=self._keep_alive, name=STARTS, daemon=True).start()
            atexit.register(self.close, "failed")

    def train(self, step: int) -> None:
        """Steps follow. step: optimizer steps of the checkpoint that was resumed from, 0 for none.

        Called again in the same start if a run goes back to a checkpoint: the steps after it are lost.
        """
        with self._lock:
            self._enter(None)
            if self.step is not None and step < self.step:
                kept = self._trained_at.get(step, 0.0)
                self.seconds[LOST] += self.trained - kept
                self.lost_steps += self.step - step
                self.trained = kept
            self.step = step
            self._resumed = step if self._resumed is None else min(self._resumed, step)
            self._trained_at.setdefault(step, self.trained)
        self.write(_TRAIN)

    def saved(self) -> None:
        """A checkpoint of the present step can be resumed from now."""
        with self._lock:
            if self.step is not None:
                self._trained_at[self.step] = self.trained
        self.write(_SAVED)

    def write(self, event: str, **notes: Any) -> None:
        """Append a line, once `record` was called."""
        if self.writes and self.records:
            with self._writing:
                self._write(event, notes)

    def _write(self, event: str, notes: dict[str, Any]) -> None:
        """As `write`, for who holds `_writing`. After `close` nothing is written."""
        if self._closed.is_set():
            return
        line = self._line(event) | notes
        if not self._has_begun:
            self._has_begun = True
            self._append({**line, "event": _BEGIN, "time": round(self.began, 3), "step": None, **_NOTHING_YET})
        self._append(line)

    def close(self, outcome: str) -> None:
        """Write the last line of this start. outcome: how it ended, in a word."""
        with self._writing:
            if self._has_begun:
                self._write(_END, {"outcome": outcome})
            self._closed.set()
        if _clocks.get(self.folder.resolve()) is self:
            del _clocks[self.folder.resolve()]
        atexit.unregister(self.close)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Close the clock after the block: the run is finished if the block ends well."""
        try:
            yield
        except (SystemExit, KeyboardInterrupt):
            self.close("stopped")
            raise
        except BaseException:
            self.close("failed")
            raise
        self.close(_FINISHED)

    def effective_time(self) -> EffectiveTime:
        """How the run has spent its time so far, this start included."""
        now = self._line(_ALIVE)
        begin = now | {"event": _BEGIN, "time": self.began, "step": None} | _NOTHING_YET
        resumed = [] if self._resumed is None else [begin | {"event": _TRAIN, "step": self._resumed}]
        found = effective_time([*self._earlier, begin, *resumed, now], running=now["start"])
        assert found is not None
        return found

    def _enter(self, name: str | None) -> str | None:
        """Begin a phase, and return the one that has ended by it."""
        with self._lock:
            now = time.monotonic()
            ended = self._phase
            if ended is not None:
                self.seconds[ended] += now - self._since
            self._phase, self._since = name, now
            return ended

    def _line(self, event: str) -> dict[str, Any]:
        with self._lock:
            self._enter(self._phase)  # what the present phase has taken so far
            return {
                "start": self._number,
                "event": event,
                "time": round(self.now(), 3),
                "step": self.step,
                "trained": round(self.trained, 4),
                "seconds": {cause: round(seconds, 4) for cause, seconds in self.seconds.items()},
                "lost_steps": self.lost_steps,
            }

    def _append(self, line: Line) -> None:
        text = json.dumps(line) + "\n"
        with suppress(OSError), (self.folder / STARTS).open("ab+") as handle:
            if handle.seek(0, os.SEEK_END):
                handle.seek(-1, os.SEEK_END)
                if handle.read(1) != b"\n":  # an earlier start was killed in the middle of a line
                    text = "\n" + text
            handle.write(text.encode())
            handle.flush()
            os.fsync(handle.fileno())

    def _keep_alive(self) -> None:
        wait = FIRST_SECONDS
        while not self._closed.wait(wait):
            self.write(_ALIVE)
            wait = ALIVE_SECONDS


_clocks: dict[Path, RunClock] = {}
"""The clocks of this process, by resolved folder."""


def begin_clock(folder: Path) -> RunClock:
    """A new clock for the run in `folder`, unless it has one that records.

    It counts from `note_process_began` in a recipe's first run, and from now otherwise.
    """
    global _process_began
    key = folder.resolve()
    if key not in _clocks or not _clocks[key].records:
        began, _process_began = _process_began or time.time(), None
        _clocks[key] = RunClock(folder, began, writes=int(os.environ.get("RANK", "0")) == 0)
    return _clocks[key]


def begun_clock(folder: Path) -> RunClock | None:
    """The clock of the run in `folder`; None if this process does not train there."""
    return _clocks.get(folder.resolve())


def clock_of(folder: Path) -> RunClock:
    """The clock of the run in `folder`, begun now if it has none."""
    return begun_clock(folder) or begin_clock(folder)
