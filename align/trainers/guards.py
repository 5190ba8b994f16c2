"""Guards during training: no faulty step is used or saved, and faults of the machine differ from faults of the rows.

A step is faulty if its loss or its gradient norm is not finite or a spike (`spikes.py`). It is judged with complete
gradients, before the optimizer uses them, by all processes together. Then the step is computed again, from the same
weights, rows and random state:

    other values    the machine computes wrongly: the run ends and names the rank (`CorruptionError`)
    the same ones   the rows or the weights are at fault: back to the last checkpoint, on without these rows
                    (`rollbacks.py`)

On a CPU "the same" means every bit; elsewhere RECOMPUTED_TOLERANCE. The weights are checked before every save. What is
checked before the first step is in `checks.py`.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import TrainerState, TrainingArguments

from align.errors import CheckError, CorruptionError, RolledBack
from align.files import whole_file
from align.models.fitting import is_finite
from align.settings import TrainingConfig
from align.trainers.gradients import BinLoss, Gradients
from align.trainers.processes import Processes
from align.trainers.rollbacks import SKIPPED, Rollback, skipped_trees, write_rollbacks
from align.trainers.spikes import LEAST_NORM_SPREAD, SpikeMeter
from align.trainers.weights import trained_parts
from align.tree.encode import PromptTree
from align.tree.pack import RunPlan, StepPlan

GUARDS = "guards.json"
"""In a checkpoint: the losses and gradient norms that later steps are compared with."""

RECOMPUTED_TOLERANCE = {False: 1e-3, True: 5e-2}
"""Whether products run in bfloat16 -> relative difference up to which two computations of a loss or gradient norm count
as the same on a GPU, where sums are not always added in the same order."""

LEAST_RISE = 0.5
"""A loss is a spike only if it is this much above the median of the steps before, in nats."""
LEAST_NORM = 1.0
"""A gradient norm is a spike only if it is above this, or above `max_grad_norm` if that is smaller."""

_NAMED_ROWS = 8
"""At most this many rows are named in an error."""


class StepValues(NamedTuple):
    """What is judged of a step."""

    losses: tuple[float, ...]  # of this process's packed rows
    norm: float  # of the gradients over all processes, before clipping


class Guarded(Protocol):
    """What guards need of a trainer."""

    output: Path
    trees: Sequence[PromptTree]
    training: TrainingConfig
    plan: RunPlan
    processes: Processes
    args: TrainingArguments
    state: TrainerState
    model: Any
    rollbacks: list[Rollback]
    gradients: Gradients

    def run_notes(self) -> dict[str, Any]: ...


class StepGuards:
    """Judge each optimizer step of a trainer, and refuse weights that are not finite."""

    def __init__(self, trainer: Guarded) -> None:
        self.trainer = trainer
        self.training = trainer.training
        guards = self.training.guards
        self.losses = SpikeMeter(guards, least_rise=LEAST_RISE)
        least_norm = min(LEAST_NORM, self.training.max_grad_norm)
        self.norms = SpikeMeter(guards, least_value=least_norm, least_spread=LEAST_NORM_SPREAD)
        self.planned = StepPlan((), ())
        self._random: list[Tensor] = []

    # A step

    def begin(self, planned: StepPlan) -> None:
        """Note the rows of the step and the random state that it starts from."""
        self.planned = planned
        self._random = _random_state(self.trainer.args.device)

    def judge(self, model: nn.Module, losses: Sequence[BinLoss], norm: float | Tensor) -> None:
        """Accept the step, or end the trainer. Every process calls it, with complete gradients.

        losses: of this process's packed rows. norm: of the gradients over all processes, before clipping.
        Raises CorruptionError if the step has other values when it is computed again, RolledBack if it is faulty and
        its rows are left out from now on, and CheckError if it is faulty and there were enough roll-backs.
        """
        first = _values(losses, norm)
        cause = self._fault(losses, first)
        if cause is None:
            return
        gradients = self.trainer.gradients
        gradients.clear(model)
        _set_random_state(self._random, self.trainer.args.device)
        again = gradients.compute(model, self.planned)
        self._refuse_corruption(first, _values(again, gradients.norm(model)))
        self._roll_back(cause)

    def _fault(self, losses: Sequence[BinLoss], values: StepValues) -> str | None:
        """What is wrong with a step, on all processes; None if nothing is."""
        gathered = self.trainer.processes.gathered([sum(values.losses), values.norm])
        loss = sum(each[0] for each in gathered) / len(gathered)
        norm = max((each[1] for each in gathered), key=lambda each: (not math.isfinite(each), each))
        if not math.isfinite(loss):
            return f"the loss is {loss} on rows {self._named_rows(self._ids_of_faulty(losses, values))}"
        rows = f"on rows {self._named_rows()}"
        if not math.isfinite(norm):
            return f"the gradient norm is {norm}, with a finite loss, {rows}"
        for name, value, meter in (("loss", loss, self.losses), ("gradient norm", norm, self.norms)):
            if meter.is_spike(value):
                before = f"after a median of {meter.middle:.4g}, and a spike is above {meter.limit:.4g}"
                return f"the {name} is {value:.4g} ({before}) {rows}"
        self.losses.add(loss)
        self.norms.add(norm)
        return None

    def _ids_of_faulty(self, losses: Sequence[BinLoss], values: StepValues) -> list[str]:
        """The rows of all packed rows whose loss is not finite, over all processes."""
        pairs = zip(losses, values.losses, strict=True)
        here = [row for each, loss in pairs if not math.isfinite(loss) for row in each.ids]
        everywhere = self.trainer.processes.gathered_objects(here)
        return list(dict.fromkeys(row for rows in everywhere for row in rows))  # once, if processes share a row

    def _refuse_corruption(self, first: StepValues, again: StepValues) -> None:
        on_cpu = self.trainer.args.device.type == "cpu"
        tolerance = 0.0 if on_cpu else RECOMPUTED_TOLERANCE[self.trainer.model.low_precision]
        pairs = list(zip(first.losses, again.losses, strict=True))
        other_loss = not all(is_same(one, two, tolerance) for one, two in pairs)
        other_norm = not is_same(first.norm, again.norm, tolerance)
        found = self.trainer.processes.gathered_objects(
            (other_loss, other_norm, sum(first.losses), sum(again.losses), platform.node())
        )
        ranks = [rank for rank, each in enumerate(found) if each[0]] or [
            rank for rank, each in enumerate(found) if each[1]
        ]
        if not ranks:
            return
        if found[ranks[0]][0]:
            values = f"its loss was {found[ranks[0]][2]:.9g} and is {found[ranks[0]][3]:.9g}"
        else:
            values = f"the gradient norm was {first.norm:.9g} and is {again.norm:.9g}"
        raise corruption(
            self.trainer.state.global_step + 1,
            [(rank, found[rank][-1]) for rank in ranks],
            f"{values} when the step is computed again from the same weights, rows and random state",
        )

    def _roll_back(self, cause: str) -> None:
        trainer, step = self.trainer, self.trainer.state.global_step + 1
        before, most = len(trainer.rollbacks), self.training.guards.max_rollbacks
        rows = self.planned.rows
        ids = tuple(trainer.trees[row].id for row in rows)
        record = [*trainer.rollbacks, Rollback(step, cause, rows, ids)]
        left = trainer.plan.skipping(skipped_trees(record))
        none_left = not left.has_rows() or (step < len(left) and not left.has_rows(step))
        if before >= most or none_left:
            already = f"after {before} roll-backs (steps {', '.join(str(each.step) for each in trainer.rollbacks)}): "
            why = ", and without its rows no later step has any" if none_left and before < most else ""
            raise CheckError(
                f"step {step}",
                f"{already if before else ''}{cause}{why}",
                f"Nothing of this step was saved. {self._what_to_change()}",
            )
        trainer.processes.agree(lambda: write_rollbacks(trainer.output, record, trainer.run_notes()))
        raise RolledBack(
            f"step {step}",
            f"{cause}, and the same when it is computed again",
            f"Its {len(rows)} rows are left out from now on ({SKIPPED}); the same command resumes without them",
        )

    # Over several starts

    def save(self, folder: Path) -> None:
        """Write what later steps are compared with into the folder of a checkpoint."""
        with whole_file(folder / GUARDS) as handle:
            json.dump({"losses": list(self.losses.values), "norms": list(self.norms.values)}, handle)

    def load(self, folder: Path) -> None:
        """Go on from what a checkpoint holds. One of an earlier version holds nothing; then the warm-up is made."""
        if (folder / GUARDS).exists():
            values = json.loads((folder / GUARDS).read_text(encoding="utf-8"))
            self.losses.restore(values["losses"])
            self.norms.restore(values["norms"])

    # Weights

    def require_finite_weights(self, model: nn.Module) -> None:
        """End the trainer, on all processes, if a trained weight of any process is NaN or infinite. For before a save.

        The steps since the last checkpoint are computed again, with all of their rows: a bit may have flipped in
        memory. Raises RolledBack for that; CheckError if it is at this step again, or after enough roll-backs.
        """
        broken = [name for name, part in trained_parts(model) if not is_finite(part)]
        trainer, step = self.trainer, self.trainer.state.global_step
        if not trainer.processes.anywhere(bool(broken)):
            return
        cause = f"the weight {broken[0] if broken else 'of another process'} is not finite after the update"
        again = any(each.step == step and not each.rows for each in trainer.rollbacks)
        if again or len(trainer.rollbacks) >= self.training.guards.max_rollbacks:
            what = f"{cause} on rows {self._named_rows()}"
            raise CheckError(f"step {step}", what, f"Nothing of this step was saved. {self._what_to_change()}")
        record = [*trainer.rollbacks, Rollback(step, cause, (), ())]
        trainer.processes.agree(lambda: write_rollbacks(trainer.output, record, trainer.run_notes()))
        raise RolledBack(f"step {step}", cause, "The same command computes the steps since the last checkpoint again")

    def _named_rows(self, ids: Sequence[str] | None = None) -> str:
        if ids is None:
            ids = [self.trainer.trees[row].id for row in self.planned.rows]
        more = len(ids) - _NAMED_ROWS
        return ", ".join(ids[:_NAMED_ROWS]) + (f" and {more} more" if more > 0 else "")

    def _what_to_change(self) -> str:
        rate = f"training.learning_rate ({self.training.learning_rate:g})"
        return f"Look at these rows, or lower {rate} or training.max_grad_norm ({self.training.max_grad_norm:g})"


def corruption(step: int, places: Sequence[tuple[int, str]], what: str) -> CorruptionError:
    """The error for values that should be the same and are not. places: rank and machine of each that differs."""
    named = ", ".join(f"rank {rank} ({machine})" for rank, machine in places)
    how = "Test the memory and the accelerator of this machine, or use another; the same command resumes"
    return CorruptionError(f"step {step}", f"suspected silent data corruption on {named}: {what}", how)


def is_same(one: float, two: float, tolerance: float, scale: float | None = None) -> bool:
    """Whether two results of one computation count as the same. tolerance: relative to `scale`; 0 for every bit.

    scale: None for the larger of the two. For sums in which terms cancel: the sum of the absolute terms.

    Values that are not finite count as the same: infinity may be NaN the next time.
    """
    if not (math.isfinite(one) and math.isfinite(two)):
        return not math.isfinite(one) and not math.isfinite(two)
    return abs(one - two) <= tolerance * (max(abs(one), abs(two)) if scale is None else scale)


def _values(losses: Sequence[BinLoss], norm: float | Tensor) -> StepValues:
    numbers = torch.stack([each.loss.detach().float() for each in losses]).tolist() if losses else []
    return StepValues(tuple(numbers), float(norm))


def _random_state(device: torch.device) -> list[Tensor]:
    """The state of the generators that dropout draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(states: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
