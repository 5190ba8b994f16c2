"""The metrics of a run: what is added up from batch to batch, and the lines of metrics.jsonl that come of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import TrainerState, TrainingArguments

from align.effective_time import RunClock
from align.reporting import MetricsFile
from align.settings import TrainingConfig
from align.trainers.alarms import Alarms
from align.trainers.output import METRICS
from align.trainers.processes import Processes
from align.trainers.rollbacks import SkippedRows
from align.trainers.slow_ranks import SlowRanks
from align.trainers.step_times import exposed_ddp_seconds
from align.trainers.throughput import arithmetic
from align.trainers.trackers import Speed, progress_note, run_speed
from align.tree.encode import PromptTree
from align.tree.pack import RunPlan, StepPlan, tree_numbers


class MetricSums:
    """Sums that grow from batch to batch until they are reported.

    Example: two batches add rows=3, margin_sum=1.5 and rows=1, margin_sum=0.5. `report` then gives margin 0.5, which is
    (1.5 + 0.5) / (3 + 1): the mean over rows, however the rows were packed.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = defaultdict(float)

    def add(self, **values: Tensor | float) -> None:
        """Add to the sums. A name ending in `_sum` is reported as its mean over `rows`, without the ending.

        Tensors are added where they are, in float64, and read by `totals` only: reading a value on a GPU would wait for
        all work that was queued before it.
        """
        for name, value in values.items():
            self._sums[name] += value.detach().double() if isinstance(value, Tensor) else float(value)

    def totals(self, processes: Processes) -> dict[str, float]:
        """The sums so far, over all processes. Every process calls it."""
        names = [name for name, value in self._sums.items() if isinstance(value, Tensor)]
        if names:  # one copy for all of them
            read = torch.stack([torch.as_tensor(self._sums[name]) for name in names]).tolist()
            self._sums.update(zip(names, read, strict=True))
        return processes.summed({name: float(value) for name, value in self._sums.items()})

    def report(self, processes: Processes) -> dict[str, float]:
        """The metrics since the last report, and start again from 0. Every process calls it.

        `filled_share` is the share of the packed rows' token places that held a token.
        """
        totals = self.totals(processes)
        self._sums.clear()
        rows = max(totals.pop("rows", 0.0), 1.0)
        metrics = {}
        if "token_places" in totals:
            metrics["filled_share"] = totals["tokens"] / totals.pop("token_places")
        means = {k.removesuffix("_sum"): v / rows if k.endswith("_sum") else v for k, v in totals.items()}
        return metrics | means


class Measured(Protocol):
    """What the metrics of a run need of a trainer."""

    stage: str
    training: TrainingConfig
    output: Path
    trees: Sequence[PromptTree]
    plan: RunPlan
    processes: Processes
    args: TrainingArguments
    state: TrainerState
    sums: MetricSums
    speed: Speed
    clock: RunClock

    @property
    def model_wrapped(self) -> Any: ...


class MetricLine(NamedTuple):
    """One line of metrics.jsonl, and what is in none."""

    metrics: dict[str, float]
    speed: dict[str, float]
    """Differs between equal runs, and is in no checkpoint."""
    alarms: dict[str, float]
    """Those of `metrics` that are alarms."""


class RunMetrics:
    """What is counted in each step of a trainer, and written every `training.log_steps`.

    model: the `TreeModel` of the trainer, with its adapters attached.
    """

    def __init__(self, trainer: Measured, model: Any) -> None:
        self.trainer = trainer
        arguments, trees = trainer.args, trainer.trees
        self.note = ""
        """What the progress line says of the last step."""
        self.alarms = Alarms(trainer.training.guards.alarms, trainer.stage, tree_numbers(trees, "labels"))
        self._skips = SkippedRows(trainer.plan)
        self._slow_ranks = SlowRanks(arguments.process_index, trainer.training.slow_rank_factor)
        self._unshared_tokens = tree_numbers(trees, "unshared_tokens")
        self._arithmetic = arithmetic(trees, model, device=arguments.device, processes=arguments.world_size)
        self._file: MetricsFile | None = None

    def open(self, step: int, evaluations: int) -> None:
        """Open metrics.jsonl, with the lines up to the step that is resumed from. On the first process only.

        evaluations: how many of that step's lines are kept, see `align.trainers.validation.evaluations_at`.
        """
        self._file = MetricsFile(self.trainer.output / METRICS, keep_to_step=step, evaluations=evaluations)

    def count_step(self, planned: StepPlan) -> None:
        """Count the rows of a step, over all processes."""
        self._skips.count(self.trainer.state.global_step, planned)
        self.alarms.count(planned.rows)

    def count_packed_row(self, tokens: int, members: Sequence[int]) -> None:
        """Count one packed row of this process. members: the trees in it; none for one that only fills a round."""
        tokens = tokens if members else 0
        self.trainer.sums.add(
            tokens=tokens,
            token_places=max(tokens, self.trainer.plan.token_budget),
            unshared_tokens=int(self._unshared_tokens[list(members)].sum()),
            flops=self._arithmetic.of(members),
        )

    def write(self, logs: dict[str, float]) -> MetricLine:
        """Complete what transformers or an evaluation logs, and write it to metrics.jsonl. Every process calls it."""
        step, plan = self.trainer.state.global_step, self.trainer.plan
        line = self._of_steps(logs) if "loss" in logs else MetricLine(logs, {}, {})
        metrics, speed = line.metrics, line.speed
        if "train_runtime" in metrics:
            metrics = run_speed(metrics, plan, step, self.trainer.speed.all_steps)
        epoch = round(step / plan.steps_per_epoch, 4)
        if self._file is not None and not metrics.keys().isdisjoint(("loss", "eval_loss")):
            self._file.write(step, {"epoch": epoch, **metrics, **({"speed": speed} if speed else {})})
        return line._replace(metrics={**metrics, "epoch": epoch})

    def _of_steps(self, logs: dict[str, float]) -> MetricLine:
        """The means over the steps since the last line. logs: their mean loss, and the learning rate."""
        trainer = self.trainer
        metrics = logs | self._skips.report(logs["loss"]) | trainer.sums.report(trainer.processes)
        alarms = self.alarms.judge(metrics, trainer.state.log_history)
        metrics |= alarms
        metrics["num_tokens"] = trainer.plan.sum_to_step(self._unshared_tokens, trainer.state.global_step)
        rates = self._arithmetic.rates(metrics.pop("flops", 0.0), trainer.speed.seconds)
        spent = self._spent_time()
        speed = trainer.speed.report(metrics.get("tokens", 0.0), metrics.pop("unshared_tokens", 0.0)) | rates | spent
        self.note = progress_note(metrics | speed)
        return MetricLine(metrics, speed, alarms)

    def _spent_time(self) -> dict[str, float]:
        """Where the time since the last line of metrics went. Compares the processes; every process calls it."""
        trainer = self.trainer
        spent = trainer.processes.times.report(trainer.speed.steps)
        self._slow_ranks.compare([seconds for (seconds,) in trainer.processes.gathered([spent.data + spent.work])])
        exposed = exposed_ddp_seconds(trainer.model_wrapped)
        spent = spent._replace(communication=spent.communication + exposed)
        return {**spent.metrics(), "effective_time": trainer.clock.effective_time().ratio}
