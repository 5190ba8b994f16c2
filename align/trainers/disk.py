"""Disk space that a run needs: estimated before the first step, and checked again before every save.

With C bytes in a checkpoint, F in the finished model and K = `training.keep_checkpoints`, a run that saves often needs

    (K + 1) C     while it trains: K checkpoints, and one that is being written before the oldest is deleted
    K C + F       at the end: the finished model is written before optimizer states are deleted
    + F           with held-out rows: the weights of the best step

    C = saved weights + optimizer states,    8 bytes a trained weight for AdamW

With `training.save_dtype` the end needs more: a file is deleted once its converted copy is written.

Example: 135 million weights in float32, AdamW, K = 2. C = 135e6 (4 + 8) = 1.6 GB and F = 0.54 GB, so 4.9 GB. At the end
2 C + F = 3.8 GB, and 0.27 GB more while the model is converted to bfloat16.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from align.errors import CheckpointError, UnreadableCheckpointError
from align.manifest import read_manifest
from align.models.adapters import is_adapted
from align.optimizers import OPTIMIZERS, OptimizerFacts
from align.reporting import size_text
from align.settings import TrainingConfig
from align.trainers.checkpoints import NOT_RESUMABLE
from align.trainers.saving import expected_shapes

_OTHER_FILES = 32 * 2**20
"""Tokenizer, settings, random states and metrics, of a checkpoint or a finished model."""
_SMALL = 4096
"""bitsandbytes stores the states of smaller tensors in 32 bits, and transformers makes it do so for embeddings."""
_CONVERTING = " while it is converted (training.save_dtype)"


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that the saves of a run take."""

    weights: int
    """Of the finished model as it is first written."""
    states: int
    """Optimizer states and float32 master weights, of a checkpoint."""
    training: TrainingConfig
    steps: int
    validated: bool = False
    """Whether held-out rows are evaluated: then a new best step is saved too, and its weights stay."""
    converted: int = 0
    """Of the weights in `training.save_dtype`, if the finished model is converted: its file and the converted copy are
    on the disk together. An upper bound for a model in several files, which are converted one after another."""

    @property
    def checkpoint(self) -> int:
        return self.weights + self.states + _OTHER_FILES

    @property
    def model(self) -> int:
        """Of the finished model while it is written."""
        return self.weights + self.converted + _OTHER_FILES

    def saves(self, done: int, step_seconds: float = 0.0) -> int:
        """How many checkpoints are still to be written after `done` steps, at most.

        step_seconds: of one step; 0 if that is not known, and then `save_minutes` may save after each.
        """
        intervals = {self.training.save_steps}
        if self.training.save_minutes is not None:
            by_time = math.ceil(60 * self.training.save_minutes / step_seconds) if step_seconds else 1
            if (
                by_time < self.training.save_steps
            ):  # else a save by steps always comes first, and the minutes begin again
                intervals = {1} if by_time == 1 else {by_time, self.training.save_steps}
        if self.validated:
            intervals.add(self.training.eval_steps or self.training.save_steps)
        before_the_last = sum(max((self.steps - 1) // every - done // every, 0) for every in intervals)
        return before_the_last + (self.training.keep_optimizer and done < self.steps)

    def bytes_at_the_peak(self, done: int, existing: int) -> int:
        """What the checkpoints and the finished model take when they take most. existing: checkpoints on the disk."""
        written = existing + self.saves(done)
        kept = min(written, self.training.keep_checkpoints)
        rotating = min(written, self.training.keep_checkpoints + 1)
        of_best = self.weights + _OTHER_FILES
        best = of_best if self.validated and written > self.training.keep_checkpoints else 0
        return max(rotating * self.checkpoint, kept * self.checkpoint + self.model) + best


def disk_need(
    model: Any, training: TrainingConfig, steps: int, *, sharded: bool = False, validated: bool = False
) -> DiskNeed:
    """The estimate for a model that is about to be trained.

    sharded: under DeepSpeed, which saves a float32 copy of the trained weights with the optimizer states.
    validated: whether there are held-out rows.
    """
    facts = OPTIMIZERS[training.optimizer]
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    states = sum(state_bytes(facts, _shape(weight), embedding=id(weight) in embeddings) for weight in trained)
    if sharded:
        states += sum(4 * _count(_shape(weight)) for weight in trained)
    # An adapter is trained and saved in float32; a whole model in the type of its weights.
    size = 4 if is_adapted(model) else max(weight.element_size() for weight in model.parameters())
    saved = sum(_count(shape) for shape in expected_shapes(model).values())
    converted = 0 if training.save_dtype == "auto" else saved * getattr(torch, training.save_dtype).itemsize
    return DiskNeed(size * saved, round(states), training, steps, validated, converted)


def _shape(weight: Any) -> Sequence[int]:
    return tuple(getattr(weight, "ds_shape", weight.shape))  # under ZeRO-3 a process has a part of each weight


def _count(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def state_bytes(facts: OptimizerFacts, shape: Sequence[int], *, embedding: bool) -> float:
    """Bytes of an optimizer's states for a trained weight."""
    count = _count(shape)
    if facts.factored and len(shape) >= 2:
        return 4.0 * (count // shape[-1] + count // shape[-2])  # adafactor: a value for each row and each column
    if facts.package and facts.state_bytes % 4 and (embedding or count < _SMALL):
        return 4.0 * int(facts.state_bytes) * count
    return facts.state_bytes * count


def require_space(need: DiskNeed, output: Path, done: int, checkpoints: Sequence[Path]) -> None:
    """Raise CheckpointError before training if the disk has too little free space for the run's saves.

    done: optimizer steps behind the run. checkpoints: folders that are on the disk already.
    """
    there = sum(_size(folder) for folder in checkpoints)
    peak = need.bytes_at_the_peak(done, len(checkpoints))
    needed = peak - there
    free = shutil.disk_usage(output).free
    if needed <= free:
        return
    training = need.training
    many = min(len(checkpoints) + need.saves(done), training.keep_checkpoints + 1)
    saved = f"{many} checkpoint{'s' * (many != 1)} of {size_text(need.checkpoint)} at a time, and " if many else ""
    what = (
        f"has {size_text(free)} of free disk space, and this run needs {size_text(needed)}: "
        f"{saved}a finished model of {size_text(need.model)}{_CONVERTING if need.converted else ''}"
    )
    raise CheckpointError(
        output, what, f"Free some space, name another training.output_dir, or {_to_lower(need, many)}"
    )


def _to_lower(need: DiskNeed, many: int) -> str:
    training = need.training
    adapter, ways = "train an adapter (model.lora)", []
    if need.converted:
        ways.append("set training.save_dtype: auto")
    if not many:
        return ", ".join([*ways, adapter])
    if training.keep_checkpoints > 2:
        ways.append(f"lower training.keep_checkpoints (now {training.keep_checkpoints})")
    if need.saves(0) > training.keep_optimizer:
        minutes = "" if training.save_minutes is None else "; training.save_minutes: null"
        ways.append(f"save no checkpoint (training.save_steps above {need.steps}, now {training.save_steps}{minutes})")
    if training.keep_optimizer:
        ways.append("set training.keep_optimizer: false")
    if OPTIMIZERS[training.optimizer].state_bytes >= 8:
        ways.append("use an optimizer with smaller states (training.optimizer: adafactor or adamw_8bit)")
    return ", ".join([*ways, adapter])


def require_space_for_checkpoint(need: DiskNeed, output: Path, checkpoints: Sequence[Path]) -> None:
    """Raise CheckpointError before a checkpoint is written that would not fit. Nothing is deleted then.

    checkpoints: newest first. Its size is that of the newest resumable one, or the estimate if there is none.
    """
    sizes = (_size(folder, resumable=True) for folder in checkpoints)
    size = next((each + _OTHER_FILES for each in sizes if each), need.checkpoint)
    _require(size, "a checkpoint", output)


def require_space_for_model(need: DiskNeed, output: Path) -> None:
    """Raise CheckpointError before the finished model is written if it would not fit."""
    _require(need.model, f"the finished model{_CONVERTING if need.converted else ''}", output)


def _require(needed: int, what: str, output: Path) -> None:
    free = shutil.disk_usage(output).free
    if needed > free:
        found = f"has {size_text(free)} of free disk space, and {what} needs {size_text(needed)}"
        raise CheckpointError(output, found, "Free some space; the same command resumes from the last checkpoint")


def _size(folder: Path, *, resumable: bool = False) -> int:
    """Bytes of a checkpoint by its manifest; 0 for one that is not whole, which is deleted in time.

    resumable: 0 also for the checkpoint of a finished run, which has no optimizer states.
    """
    try:
        manifest = read_manifest(folder)
    except (CheckpointError, UnreadableCheckpointError):
        return 0
    if resumable and manifest.get(NOT_RESUMABLE):
        return 0
    return sum(entry["bytes"] for entry in manifest["files"].values())
