"""What trackers receive of a run: its name, its project, its recipe as the config, and how fast it is.

transformers has the trackers themselves, and gives each of them `TrainingArguments.to_dict` as the config of the run.
For our trainers these values would mislead: an item of data is a whole optimizer step, so transformers sees a batch
size of 1 and one epoch.
"""

from __future__ import annotations

import inspect
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerState, TrainingArguments

from align.settings import TrainingConfig
from align.trackers import TRACKERS
from align.trainers.guarded_trackers import GuardedTracker
from align.tree.pack import RunPlan

_TENSORBOARD_FOLDER = "TENSORBOARD_LOGGING_DIR"
_MLFLOW_FLAT = "MLFLOW_FLATTEN_PARAMS"


class RunArguments(TrainingArguments):
    """`TrainingArguments` whose dictionary, which trackers log as the config of the run, is `logged`."""

    logged: dict[str, Any] | None = None  # no field: the class is not decorated as a dataclass

    def to_dict(self) -> dict[str, Any]:
        return dict(self.logged) if self.logged is not None else super().to_dict()


def log_recipe(arguments: TrainingArguments, recipe: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Make the recipe, and what is known of the run, the config that trackers log. facts: of the section `run`."""
    if isinstance(arguments, RunArguments):
        arguments.logged = {**recipe, "run": dict(facts)}


def run_name(training: TrainingConfig) -> str:
    """`training.run_name`, or the last two parts of the output folder: `runs/my/sft` -> `my/sft`."""
    return training.run_name or "/".join(Path(training.output_dir).parts[-2:]).strip("/")


@contextmanager
def tracker_environment(training: TrainingConfig) -> Iterator[None]:
    """In the block, the environment variables are set by which trackers take names. They have no other way.

    Trackers read them when a trainer is made and when its training begins. Values of the config come before those of
    the environment; what the config leaves out stays as it is.
    """
    variables: dict[str, str] = {}
    for name in training.report_to:
        tracker = TRACKERS[name]
        if tracker.project and training.project:
            variables[tracker.project] = training.project
        if tracker.run:
            variables[tracker.run] = run_name(training)
    if "tensorboard" in training.report_to and training.run_name:
        variables[_TENSORBOARD_FOLDER] = str(Path(training.output_dir) / "runs" / training.run_name)
    if {"mlflow", "dagshub"} & set(training.report_to) and _MLFLOW_FLAT not in os.environ:
        variables[_MLFLOW_FLAT] = "TRUE"  # or a section of the recipe would be one text, cut off at its end
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value


def start_trackers(callbacks: Iterable[Any], arguments: TrainingArguments, state: TrainerState, model: Any) -> None:
    """Start the trackers among the callbacks of a trainer. On the first process only.

    transformers starts them when training begins, which for DPO is after the reference pass: late for an error such as
    a missing key. A tracker that starts in another way is left to transformers.
    Raises ConfigError if a tracker cannot start, as `GuardedTracker.start` does.
    """
    for callback in callbacks:
        setup = getattr(callback.tracker, "setup", None) if isinstance(callback, GuardedTracker) else None
        if setup is None or getattr(callback.tracker, "_initialized", True):
            continue
        try:
            inspect.signature(setup).bind(arguments, state, model)
        except TypeError:
            continue
        callback.start(arguments, state, model)


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """The number of a model's parameters, and of those that are trained: whole ones, as `whole_count` counts them."""
    total = trained = 0
    for parameter in model.parameters():
        count = whole_count(parameter)
        total += count
        trained += count if parameter.requires_grad else 0
    return total, trained


def whole_count(parameter: nn.Parameter) -> int:
    """The number of a parameter's values: of all processes under ZeRO-3; a byte of a weight in 4 bits holds two."""
    count = int(getattr(parameter, "ds_numel", 0) or parameter.numel())
    return count * 2 * parameter.element_size() if type(parameter).__name__ == "Params4bit" else count


class Speed:
    """Seconds, tokens and memory of the optimizer steps since the last report.

    Example: two steps of 3 s and 5 s with 16,000 tokens in both, over all processes: `step_time` 4 (as TRL calls it)
    and `tokens_per_second` 2,000. Time between steps, for evaluation and saving, does not count.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self.all_steps = 0
        self.all_seconds = 0.0
        """Since this process began, not only since the last report."""
        self.peak = 0.0
        """GiB that this process has used at most by the end of the last step: before the finished model is saved."""
        self._began: float | None = None

    def begin_step(self) -> None:
        self._began = time.monotonic()

    def end_step(self) -> None:
        if self._began is not None:
            passed = time.monotonic() - self._began
            self.steps += 1
            self.seconds += passed
            self.all_steps += 1
            self.all_seconds += passed
            self.peak = peak_memory()
            self._began = None

    def report(self, tokens: float, unshared_tokens: float | None = None) -> dict[str, float]:
        """The figures since the last report; starts again from 0.

        tokens: computed in these steps, over all processes. unshared_tokens: the same if each completion had a copy of
            its prompt, for comparisons with trainers that have no prompt trees.
        """
        steps, seconds = self.steps, self.seconds
        self.steps, self.seconds = 0, 0.0
        memory = {"peak_memory_gib": round(peak_memory(), 3)}
        if not steps or not seconds:
            return memory
        unshared = {} if unshared_tokens is None else {"unshared_tokens_per_second": unshared_tokens / seconds}
        return {"step_time": seconds / steps, "tokens_per_second": tokens / seconds, **unshared, **memory}


def progress_note(logs: Mapping[str, float]) -> str:
    """What the progress line says of a step: `loss 0.611  margin 0.10  1,234 tokens/s`."""
    parts = [f"loss {logs['loss']:.3f}"]
    margin = logs.get("rewards/margins", logs.get("margin"))
    if margin is not None:
        parts.append(f"margin {margin:.2f}")
    if "tokens_per_second" in logs:
        parts.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)


def run_speed(logs: Mapping[str, float], plan: RunPlan, step: int, steps: int) -> dict[str, float]:
    """What transformers logs at the end of a run, with the rows that were trained on as its samples.

    transformers takes an item of data for a sample, which is a step here. step: the last one. steps: how many of them
    this process made; a resumed run made fewer.
    """
    ones = np.ones(len(plan.sizes), np.int64)
    rows = plan.sum_to_step(ones, step) - plan.sum_to_step(ones, step - steps)
    found = {name: value for name, value in logs.items() if name != "total_flos"}  # not computed
    found["train_samples_per_second"] = round(rows / max(logs["train_runtime"], 1e-9), 3)
    return found


def resident_memory() -> int:
    """Bytes of this process that are in the machine's memory now; 0 where the system does not tell (macOS)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()


def peak_memory() -> float:
    """The most memory that this process has used so far, in GiB: of its GPU if it has one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
