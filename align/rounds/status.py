"""How far a run of rounds is: every stage with its state, how long it took, when it ended and its key numbers.

It reads the ledger alone, so it answers at once for a run of any size. Whether a finished stage is still up to date is
what `align/rounds/preview.py` says, which compares hashes of its inputs, code and outputs.
"""

from __future__ import annotations

import fcntl
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from align.errors import StageError
from align.reporting import duration
from align.rounds.decisions import LEDGER
from align.rounds.ledger import FailureRecord, Ledger, StageRecord


@dataclass(frozen=True)
class StageState:
    """One stage as `rounds.py status` shows it."""

    label: str
    state: str
    """finished, failed, stopped, running, interrupted (its process is gone and reported no end) or not started."""
    seconds: float | None
    ended: float | None
    """Seconds since 1970."""
    numbers: str = ""
    """Key numbers of what it made, such as `512 rows` or `loss 1.25`."""
    starts: str = ""
    """If it was started more than once: `3 starts (1 interrupted, 1 killed), 34 steps lost`."""


def stage_states(run_dir: Path, planned: Sequence[str] = (), now: float | None = None) -> list[StageState]:
    """The state of each stage: first the planned ones in their order, then others that the ledger knows.

    planned: labels such as `round-1/sft`. now: the current time; by default that of the clock.
    Raises StageError if the run has no ledger, which its first start makes.
    """
    ledger = reading(run_dir)
    records = ledger.stages()
    latest = {record.label: record for record in records}
    numbers, failures = ledger.numbers(), ledger.failures()
    running = is_running(run_dir)
    now = time.time() if now is None else now
    found = []
    for label in dict.fromkeys([*planned, *latest]):
        state = _state(label, latest.get(label), running, now)
        if label in latest:
            starts = _starts([record for record in records if record.label == label], failures, running)
            state = replace(state, numbers=numbers.get(latest[label].id, ""), starts=starts)
        found.append(state)
    return found


def reading(run_dir: Path) -> Ledger:
    """The ledger of a run, as a copy in memory. Raises StageError if the run has none."""
    path = run_dir / LEDGER
    if not path.is_file():
        how = "Start the rounds first, or name the folder that run_dir names in their config"
        raise StageError(run_dir, f"has no {LEDGER}", how)
    return Ledger(path, in_memory=True)


def is_running(run_dir: Path) -> bool:
    """Whether a process drives the run now: it holds a lock in the run's folder for as long as it lives."""
    try:
        with (run_dir / ".lock").open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _state(label: str, record: StageRecord | None, running: bool, now: float) -> StageState:
    if record is None:
        return StageState(label, "not started", None, None)
    if record.ended is not None:
        return StageState(label, record.status, record.seconds, record.ended)
    if running:
        return StageState(label, "running", now - record.started, None)
    return StageState(label, "interrupted", None, None)


def _starts(records: Sequence[StageRecord], failures: Mapping[int, FailureRecord], running: bool) -> str:
    """How often a stage was started until it finished, and why not once: since it last finished, or until then.

    Earlier results, which were made of something else, do not count.
    """
    finished = [place for place, record in enumerate(records[:-1]) if record.status == "finished"]
    own = records[finished[-1] + 1 if finished else 0 :]
    if len(own) < 2:
        return ""
    ends = [
        failures[record.id].cause if record.id in failures else "interrupted" if record.ended is None else record.status
        for record in own
        if record.status != "finished" and not (record is own[-1] and running)
    ]
    lost = sum(failures[record.id].lost_steps or 0 for record in own if record.id in failures)
    causes = ", ".join(f"{count} {cause.replace('_', ' ')}" for cause, count in sorted(Counter(ends).items()))
    return f"{len(own)} starts ({causes})" + (f", {lost} steps lost" if lost else "")


def table(states: Sequence[StageState]) -> str:
    """The states as text: one line for each stage, and the totals."""
    width = max([len(state.label) for state in states], default=0)
    lines = []
    for each in states:
        seconds = "" if each.seconds is None else duration(each.seconds)
        ended = "" if each.ended is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(each.ended))
        lines.append(f"{each.label:{width}}  {each.state:11}  {seconds:>12}  {ended:16}  {_notes(each)}".rstrip())
    counts = Counter(state.state for state in states)
    total = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no stage has started"
    return "\n".join([*lines, f"{len(states)} stages: {total}" if states else total])


def _notes(state: StageState) -> str:
    return "  ".join(part for part in (state.numbers, state.starts) if part)
