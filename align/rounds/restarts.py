"""Starts a stage again that failed for a reason that may pass, without a person: how often, and after which wait.

A process that ends with an error appends its cause to the file that the variable ALIGN_FAILURES names
(`align.failures.note_cause`), since a launcher ends with code 1 whatever the code of its workers was. One that was
killed writes nothing: then the exit code says so, or the table that torchrun prints of its workers.

    cause           example                                          started again
    killed          SIGKILL, a crash of the interpreter              restarts.killed times
    hung            its watchdog has ended it                        restarts.hung times
    network         the Hub or a server does not answer              restarts.network times
    rolled_back     a faulty step under DeepSpeed                    restarts.rolled_back times
    corruption      a step has other values the second time          restarts.corruption times
    out_of_memory   of the machine or a GPU                          so often a training, with half the token budget
    error           a setting, a row, a check, a fault in the code   never: it would fail again
"""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from align.config import Section, dump
from align.leaving import HANG_CODE
from align.manifest import SEAL
from align.rounds.processes import Ending, failures_file
from align.rounds.screen import last_start
from align.rounds.stage import Stage

Cause = Literal["killed", "hung", "network", "rolled_back", "corruption", "out_of_memory", "error"]

_BY_WEIGHT: tuple[Cause, ...] = ("error", "corruption", "out_of_memory", "rolled_back", "network", "hung", "killed")
"""If processes of one stage give several causes, the first of these counts: one that would come again."""

_KILLED_WORKER = re.compile(r"exitcode\s*:\s*-(?!15\b)\d+ \(pid")
_HUNG_WORKER = re.compile(rf"exitcode\s*:\s*{HANG_CODE} \(pid")
"""What torchrun prints of a worker that a signal, or its watchdog, has ended. It ends the others with SIGTERM (15)."""

_BUDGET = "data.token_budget"


class RestartsConfig(Section):
    """How often a stage that failed is started again, by cause. It continues from what is saved.

    A wrong setting, a row that cannot be read, a failed check or a fault in the code is never tried again.
    """

    killed: int = Field(3, ge=0)
    """After a signal that the driver did not send, such as SIGKILL when the memory of the machine is used up, or a
    crash of the interpreter."""
    hung: int = Field(2, ge=0)
    """After the watchdog of a training has ended it (training.watchdog_minutes)."""
    network: int = Field(5, ge=0)
    """After the Hub or a server did not answer, beyond the retries of each request."""
    rolled_back: int = Field(100, ge=0)
    """After a faulty step under DeepSpeed, to return to the last checkpoint. The training has a bound of its own
    (training.guards.max_rollbacks)."""
    corruption: int = Field(1, ge=0)
    """After suspected silent data corruption (docs/guards.md): on a machine that computes wrongly it comes again."""
    out_of_memory: int = Field(0, ge=0)
    """After a training has used up the memory of the machine or of a GPU. Each time its data.token_budget is halved,
    which changes the last bits of its result. 0: not at all. Another stage ends with the error."""
    first_wait_seconds: float = Field(10, ge=0)
    """Wait before the first further start. It doubles with each of the same cause."""
    longest_wait_seconds: float = Field(600, ge=0)
    """The longest wait."""


@dataclass(frozen=True)
class Failure:
    """Why a start of a stage failed."""

    cause: Cause
    text: str
    lost_steps: int | None = None
    """Optimizer steps that were made and not saved; None for a stage that is no training."""


@dataclass(frozen=True)
class Restart:
    """How a stage is started again."""

    wait_seconds: float
    what: str
    """For a person, and for the ledger."""
    settings: tuple[str, ...] = ()
    """Added to the command."""


@dataclass
class Restarts:
    """The starts of one stage that have failed so far, in this start of the rounds."""

    config: RestartsConfig
    counts: Counter[Cause] = field(default_factory=Counter)
    settings: tuple[str, ...] = ()

    def after(self, failure: Failure, stage: Stage) -> Restart | None:
        """How to start the stage again; None if it is not."""
        cause = failure.cause
        most = 0 if cause == "error" else getattr(self.config, cause)
        if self.counts[cause] >= most:
            return None
        if cause == "out_of_memory":
            halved = _halved(stage, self.counts[cause] + 1)
            if halved is None:
                return None
            self.settings = (halved,)
        wait = min(self.config.first_wait_seconds * 2.0 ** self.counts[cause], self.config.longest_wait_seconds)
        self.counts[cause] += 1
        number = f"{cause.replace('_', ' ')} {self.counts[cause]} of {most}"
        with_budget = f" with {self.settings[0]}" if cause == "out_of_memory" else ""
        return Restart(wait, f"started again in {wait:g} s{with_budget} ({number})", self.settings)


def failure_of(stage: Stage, log: Path, ending: Ending) -> Failure:
    """Why a start of a stage ended with a code other than 0. log: the stage's."""
    noted = _noted(failures_file(log))
    text = ending.text
    causes = {ending.cause, *(each["cause"] for each in noted)}
    cause = next((each for each in _BY_WEIGHT if each in causes), None)
    if cause is not None:
        text = next((each["text"] for each in noted if each["cause"] == cause), text)
    elif ending.code == HANG_CODE or any(_HUNG_WORKER.search(line) for line in last_start(log)):
        cause = "hung"
    elif _killed_by(ending.code) or any(_KILLED_WORKER.search(line) for line in last_start(log)):
        cause = "killed"
    return Failure(cause or "error", text, _lost_steps(stage))


def _killed_by(code: int) -> bool:
    """Whether an exit code says that a signal ended the process: -9, or 137 from a shell or `srun`."""
    numbers = {int(each) for each in signal.Signals}
    return -code in numbers or code - 128 in numbers


def _noted(path: Path) -> list[dict[str, Any]]:
    """The causes that processes have written. A line that a kill has cut off is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("cause") in get_args(Cause):
            found.append({"cause": entry["cause"], "text": str(entry.get("text", ""))})
    return found


def _halved(stage: Stage, times: int) -> str | None:
    """`data.token_budget=2048`: the budget of a training, halved some times; None for another stage, or if it is 0.

    The `token_budget` of a stage that samples or evaluates is that of its judge alone.
    """
    value: Any = dump(stage.config)
    for part in _BUDGET.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return f"{_BUDGET}={value >> times}" if isinstance(value, int) and value >> times else None


def _lost_steps(stage: Stage) -> int | None:
    """Steps in the metrics of a training that no checkpoint holds.

    Example: the last line of metrics.jsonl is of step 57, and the newest sealed checkpoint is checkpoint-50: 7.
    """
    for folder in stage.outputs.values():
        metrics = folder / "metrics.jsonl"
        if metrics.is_file():
            steps = [step for line in metrics.read_bytes().split(b"\n")[-3:] if (step := _step(line)) is not None]
            saved = [
                int(seal.parent.name.removeprefix("checkpoint-"))
                for seal in folder.glob(f"checkpoint-*/{SEAL}")
                if seal.parent.name.removeprefix("checkpoint-").isdecimal()
            ]
            return max(0, max(steps, default=0) - max(saved, default=0))
    return None


def _step(line: bytes) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None
