"""Returning to the last checkpoint after a faulty step, and going on without its rows.

A step whose loss or gradient is not finite or a spike, and is the same when it is computed again, is recorded in
`<output_dir>/skipped.json` with the ids of its rows. Then the trainer is ended by `RolledBack`, and the run is started
again as after a kill: a new trainer resumes from the last whole checkpoint (or from the start, if there is none), and
its plan leaves those rows out, from that step on. The record is complete before the trainer ends, so a run that is
killed at any moment around it continues in the same way, with the same result.

PaLM was trained past its spikes in this way (arXiv:2204.02311, section 5.1).
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from align.errors import CheckpointError, RolledBack
from align.files import whole_file
from align.manifest import read_manifest
from align.reporting import logger, stop_drawing
from align.trainers.checkpoints import CheckpointFolders
from align.trainers.output import claim_output
from align.tree.pack import RunPlan, StepPlan

log = logger(__name__)

SKIPPED = "skipped.json"

_HOW = "Restore it, or delete the folder to start over"


@dataclass(frozen=True)
class Rollback:
    """One faulty step, and the rows that are left out from it on."""

    step: int
    """The optimizer step, from 1."""
    cause: str
    trees: tuple[int, ...]
    """Places of the rows among the encoded ones."""
    rows: tuple[str, ...]
    """Their ids."""


def read_rollbacks(output: Path) -> list[Rollback]:
    """The roll-backs of a run so far, in order. Raises CheckpointError if the record cannot be read."""
    path = output / SKIPPED
    if not path.exists():
        return []
    try:
        return _rollbacks_of(json.loads(path.read_text(encoding="utf-8"))["rollbacks"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(path, f"is not a record of skipped rows ({error!r})", _HOW) from None


def _rollbacks_of(entries: Sequence[Mapping[str, Any]]) -> list[Rollback]:
    """Roll-backs from plain values. Raises KeyError, TypeError or ValueError if they are something else."""
    return [
        Rollback(int(entry["step"]), str(entry["cause"]), tuple(map(int, entry["trees"])), tuple(entry["rows"]))
        for entry in entries
    ]


def write_rollbacks(output: Path, rollbacks: Sequence[Rollback], run: Mapping[str, Any]) -> None:
    """Write the record, whole or not at all. run: what the manifest of a checkpoint records of the run."""
    with whole_file(output / SKIPPED) as handle:
        json.dump({**run, "rollbacks": [asdict(each) for each in rollbacks]}, handle, indent=1)


def skipped_trees(rollbacks: Sequence[Rollback]) -> dict[int, int]:
    """Tree -> the step, from 0, from which on it is left out."""
    found: dict[int, int] = {}
    for each in rollbacks:
        for tree in each.trees:
            found[tree] = min(each.step - 1, found.get(tree, each.step))
    return found


def require_run_of(folders: CheckpointFolders, rollbacks: Sequence[Rollback], checkpoint: Path | None) -> None:
    """Raise CheckpointError if the record is of another run, or lacks rows that a checkpoint was trained without."""
    record = folders.output / SKIPPED
    if rollbacks:
        folders.require_same_run(record, json.loads(record.read_text(encoding="utf-8")))
    if checkpoint is None:
        return
    for each in _rollbacks_of(read_manifest(checkpoint).get("rollbacks", [])):
        if each not in rollbacks:
            what = f"was trained without {len(each.rows)} rows of step {each.step}, which {record} does not name"
            raise CheckpointError(checkpoint, what, f"Restore {SKIPPED}, or delete {folders.output} to start over")


def require_rows_left(plan: RunPlan, output: Path) -> None:
    """Raise CheckpointError if the record leaves no row to train on, as it may if the run has fewer steps now."""
    if not plan.has_rows():
        what = f"leaves out every row of the run's {len(plan):,} steps"
        how = f"Set more steps (training.epochs, training.max_steps), or delete {output} to start over"
        raise CheckpointError(output / SKIPPED, what, how)


class SkippedRows:
    """Counts what is left out between two log lines, for metrics."""

    def __init__(self, plan: RunPlan) -> None:
        self.plan = plan
        self._steps = self._empty = self._rows = 0

    def count(self, step: int, planned: StepPlan) -> None:
        """Count one step, from 0, as it is trained."""
        self._steps += 1
        self._empty += not planned.rows
        self._rows += self.plan.planned_rows(step) - len(planned.rows)

    def report(self, loss: float) -> dict[str, float]:
        """What the line says beyond or instead of other metrics, and start again.

        loss: the mean over the steps, in which a step without rows counts as 0. Without any rows there is no loss.
        """
        steps, empty, rows = self._steps, self._empty, self._rows
        self._steps = self._empty = self._rows = 0
        if not rows:
            return {}
        mean = loss * steps / (steps - empty) if steps > empty else math.nan
        return {"loss": mean, "skipped_rows": rows}


class Fitted(Protocol):
    """What `fit_with_rollbacks` needs of a trainer."""

    output: Path
    start: Any
    is_deepspeed_enabled: bool

    def fit(self) -> Path: ...


def fit_with_rollbacks(build: Callable[[], Fitted]) -> Path:
    """Train to the end, with a new trainer after each roll-back. Returns the folder of the finished model.

    Raises RolledBack under DeepSpeed, whose engine is made once in a process: the launcher (`--max_restarts`), the
    rounds or a person start the same command again.

    build: makes the trainer, with its model. It is called again after the former one and its model were deleted.
    """
    while True:
        trainer = build()
        output, start = trainer.output, trainer.start.path
        try:
            return trainer.fit()
        except RolledBack as error:
            if trainer.is_deepspeed_enabled:
                raise
            log.warning("%s", error)
            error.__traceback__ = None  # its frames hold the trainer
            stop_drawing()  # its progress bar
        del trainer
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        claim_output(output, start)  # `fit` has released it
