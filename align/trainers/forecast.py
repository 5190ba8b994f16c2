"""How far the planned memory of a run is from what it used, for the last word of a run.

Planned: `align/trainers/footprint.py` for the run's own model, rows and processes. Measured: on a GPU what PyTorch has
allocated at most, which is without CUDA's context; on a CPU by how much the process has grown since the trainer was
made, with the weights that it had by then.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from align.errors import first_line
from align.reporting import logger
from align.trainers.activations import activations
from align.trainers.deepspeed_file import FILE, zero_settings
from align.trainers.footprint import Footprint, counted, footprint

LEAST_WEIGHTS = 10_000_000
"""Of a smaller model the libraries need more than the model, and nothing about it has to be planned."""
_STEPS = 20
"""Optimizer steps among which the largest packed row is looked for."""


log = logger(__name__)


class Forecast(NamedTuple):
    """Memory of the first process, in bytes."""

    planned: int
    measured: int

    @property
    def error(self) -> float:
        """0.05 if 5% more was planned than was used."""
        return self.planned / self.measured - 1


def forecast(trainer: Any) -> Forecast | None:
    """The planned and the measured memory of a run that has ended; None for a small model, or if nothing was measured.

    trainer: a `TreeTrainer`. On the first process only.
    """
    model = trainer.hugging_face_model
    weights = counted(model, trainer.training, quantized=False)
    measured = _measured(trainer)
    if weights.number < LEAST_WEIGHTS or measured <= 0 or trainer.start.quantization is not None:
        return None
    try:
        planned = planned_memory(trainer)
    except Exception as error:  # of a model's own code on tensors without values: no reason to fail a run that is over
        log.warning("the planner cannot repeat a step of this model: %s", first_line(error))
        return None
    return Forecast(planned.total - planned.parts.get("context", 0), measured)


def planned_memory(trainer: Any) -> Footprint:
    """What the first process of a run needs, by its largest packed row."""
    row, rows_a_step = _largest_row(trainer)
    on_gpu = trainer.args.device.type == "cuda"
    model = trainer.hugging_face_model
    dtype = "bfloat16" if str(model.dtype).endswith("bfloat16") else "float32"
    found = activations(
        model.config,
        trainer.start.model_copy(update={"dtype": dtype}),
        row,
        scorer=trainer.stage == "reward",
        precision=trainer.model.precision,
        on_gpu=on_gpu,
        sequence_parallel=trainer.training.sequence_parallel,
    )
    file = os.environ.get(FILE)
    sharded = trainer.is_deepspeed_enabled and file is not None
    return footprint(
        counted(model, trainer.training),
        found,
        processes=trainer.args.world_size,
        zero=zero_settings(Path(file)) if sharded and file is not None else None,
        on_gpu=on_gpu,
        rows_a_step=rows_a_step,
    )


def _largest_row(trainer: Any) -> tuple[Sequence[Any], int]:
    """The trees of this process's largest packed row, and how many rows its steps have at most."""
    plan = trainer.plan
    steps = [plan[step].bins for step in range(min(_STEPS, len(plan)))]
    largest = max(
        (members for bins in steps for members in bins), key=lambda members: int(plan.sizes[list(members)].sum())
    )
    return [trainer.trees[member] for member in largest], max(map(len, steps))


def _measured(trainer: Any) -> int:
    peak = int(trainer.speed.peak * 2**30)
    if trainer.args.device.type == "cuda":
        return peak
    if not trainer.resident_before:
        return 0
    parts = (getattr(weight, "ds_tensor", weight) for weight in trainer.hugging_face_model.parameters())
    held = sum(
        int(part.numel()) * int(part.element_size()) for part in parts
    )  # under ZeRO-3 this process's parts of them
    return peak - int(trainer.resident_before) + held
