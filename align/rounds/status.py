"""Print how far a run of rounds is: every stage with its state, how long it took and when it ended.

    align rounds status recipes/configs/rounds/rehearsal.yaml       # every stage, also those that have not started
    align rounds status runs/rehearsal                              # the stages that have started
    python -m align.rounds.status runs/rehearsal                    # the same, without the console command

It reads the ledger and starts nothing. Whether a finished stage is still up to date is decided by the next start of
the rounds, which compares hashes of its inputs, code and outputs.
"""

from __future__ import annotations

import fcntl
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from align.config import answering, config_from_argv
from align.errors import StageError
from align.reporting import duration
from align.rounds.decisions import LEDGER
from align.rounds.ledger import Ledger, StageRecord
from align.rounds.plan import RoundsConfig, load_stages

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@dataclass(frozen=True)
class StageState:
    """One stage as `align rounds status` shows it."""

    label: str
    state: str
    """finished, failed, stopped, running, interrupted (its process is gone and reported no end) or not started."""
    seconds: float | None
    ended: float | None
    """Seconds since 1970."""


def stage_states(run_dir: Path, planned: Sequence[str] = (), now: float | None = None) -> list[StageState]:
    """The state of each stage: first the planned ones in their order, then others that the ledger knows.

    planned: labels such as `round-1/sft`. now: the current time; by default that of the clock.
    Raises StageError if the run has no ledger, which its first start makes.
    """
    path = run_dir / LEDGER
    if not path.is_file():
        how = "Start the rounds first, or name the folder that run_dir names in their config"
        raise StageError(run_dir, f"has no {LEDGER}", how)
    ledger = Ledger(path)
    try:
        latest = {record.label: record for record in ledger.stages()}
    finally:
        ledger.close()
    running = is_running(run_dir)
    labels = dict.fromkeys([*planned, *latest])
    return [_state(label, latest.get(label), running, time.time() if now is None else now) for label in labels]


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


def table(states: Sequence[StageState]) -> str:
    """The states as text: one line for each stage, and the totals."""
    width = max([len(state.label) for state in states], default=0)
    lines = []
    for each in states:
        seconds = "" if each.seconds is None else duration(each.seconds)
        ended = "" if each.ended is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(each.ended))
        lines.append(f"{each.label:{width}}  {each.state:11}  {seconds:>12}  {ended}".rstrip())
    counts = Counter(state.state for state in states)
    total = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no stage has started"
    return "\n".join([*lines, f"{len(states)} stages: {total}" if states else total])


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table for a config of rounds, with its key=value, or for the folder of a run."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) == 1 and Path(words[0]).is_dir():
        answering(lambda: print(table(stage_states(Path(words[0])))))
        return
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {Path(sys.argv[0]).name} CONFIG.yaml [key=value ...] | RUN_FOLDER\n\n{__doc__ or ''}".rstrip())
        raise SystemExit(0 if words else 2)
    config = config_from_argv(RoundsConfig, words)
    answering(lambda: print(table(stage_states(config.run_dir, _planned(config)))))


def _planned(config: RoundsConfig) -> list[str]:
    return [stage.label for stage in load_stages(config, RECIPES)]


if __name__ == "__main__":
    main()
