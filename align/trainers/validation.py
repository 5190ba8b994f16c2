"""Validation during training: when the held-out rows are evaluated, which step was the best, and when to stop early.

An evaluation is one pass over all held-out rows with the packing and the losses of training, without gradients and
without random numbers, so a run with held-out rows trains exactly as one without. Its metrics are those of training
with `eval_` before their names.

Best step and patience are no state of their own: they are computed from the evaluations so far, which transformers
keeps in `TrainerState.log_history`, so every checkpoint contains them. An evaluation that is due at the step of a
resumed checkpoint, and is not in its history, is made before the next step. So it may be skipped when a run is asked
to stop.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align.effective_time import VALIDATION, RunClock
from align.errors import CheckpointError
from align.files import fingerprint_of
from align.manifest import verify_folder
from align.reporting import duration, logger
from align.settings import EVAL_METRICS, TrainingConfig
from align.trainers.data import keep_trees
from align.trainers.metrics import MetricSums
from align.trainers.output import CHECKPOINT
from align.trainers.processes import Processes
from align.trainers.reference import rows_fingerprint
from align.trainers.saving import STATE, model_files, require_finite
from align.trainers.step_times import EVALUATION
from align.tree.encode import PromptTree
from align.tree.flops import tree_costs
from align.tree.pack import RunPlan, TreeBatch, tree_numbers

log = logger(__name__)

PREFIX = "eval_"
EVAL_LOSS = "eval_loss"
BEST_STEP = "eval_best_step"
"""Metric: the step with the best evaluation so far."""

_ROWS = "eval_rows"
"""In the history of a run's state: what was evaluated, see `Validation.mark`."""
_STEP_ROWS = 256
"""Held-out rows that are packed together, at least: few for a good fill of the packed rows, many for a plan."""
_NAMED_ROWS = 3


class StoppedEarly(Exception):
    """Ends a resumed run before its next step.

    Either the evaluations up to the step of its checkpoint stop it early, or it was asked to stop during the evaluation
    that it made first: then nothing is saved, and the next start resumes from the same checkpoint.
    """


class Best(NamedTuple):
    """The best evaluation so far."""

    step: int
    value: float


class Verdict(NamedTuple):
    """What the evaluations so far say."""

    best: Best | None
    """None if there is no evaluation after step 0 with a finite value."""
    without_improvement: int
    """Evaluations since the last improvement that was larger than the threshold."""


def verdict(evaluations: Sequence[tuple[int, float]], *, greater_is_better: bool, threshold: float) -> Verdict:
    """The best of some evaluations (step, value), and how many at the end brought no improvement.

    As in transformers' EarlyStoppingCallback, each value is compared with the best one before it. The evaluation of
    step 0 does not count: there is no checkpoint of the starting model.

    Example: losses 1.0, 0.8, 0.79, 0.9 at the steps 10, 20, 30, 40 with a threshold of 0.05. The best step is 30. The
    last improvement by more than 0.05 was at step 20, so two evaluations were without.
    """
    sign = 1.0 if greater_is_better else -1.0
    best: Best | None = None
    without = 0
    for step, value in evaluations:
        if step == 0:
            continue
        gain = math.inf if best is None else sign * (value - best.value)
        if not math.isfinite(value):
            gain = -math.inf
        without = 0 if gain > threshold else without + 1
        if gain > 0:
            best = Best(step, value)
    return Verdict(best, without)


class Validated(Protocol):
    """What validation needs of a trainer."""

    stage: str
    trees: Sequence[PromptTree]
    state: TrainerState
    control: TrainerControl
    args: TrainingArguments
    sums: MetricSums
    processes: Processes
    model_wrapped: torch.nn.Module
    callback_handler: Any
    clock: RunClock

    def denominators(self, rows: Sequence[PromptTree]) -> dict[str, float]: ...
    def batch_loss(self, model: torch.nn.Module, batch: TreeBatch, denominators: dict[str, float]) -> torch.Tensor: ...
    def held_out_batch(self, members: Sequence[int], weight: float) -> TreeBatch: ...
    def asked_to_stop(self) -> bool: ...
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None: ...


class Validation(TrainerCallback):
    """Evaluate held-out rows during training, name the best step, and stop early.

    Args:
        trainer: the trainer that this is a callback of.
        trees: the held-out rows. plan: their packing, one pass over all of them.
        training: when, by which metric, and with how much patience.
    """

    def __init__(
        self, trainer: Validated, trees: Sequence[PromptTree], plan: RunPlan, training: TrainingConfig
    ) -> None:
        self.trainer = trainer
        self.trees = trees
        self.plan = plan
        self.training = training
        self.metric = PREFIX + training.metric_for_best_model.removeprefix(PREFIX)
        self.greater_is_better = EVAL_METRICS.get(trainer.stage, {"loss": False})[self.metric.removeprefix(PREFIX)]
        self.every = training.eval_steps or training.save_steps
        self.rows = ""
        """A fingerprint of the held-out rows, known once `begin` was called."""
        self.overlap = 0
        """Held-out rows whose prompt is trained on."""
        self.stopped_early = False
        self.interrupted = False
        """Whether the run was asked to stop during the evaluation after its last step."""
        self._denominators: dict[str, float] = {}

    def begin(self) -> None:
        """Before training: keep the file of the held-out rows, and report rows that are trained on too.

        Every process calls it; the first one reads the rows.
        """
        agree = self.trainer.processes.agree
        self.rows = agree(self._keep_rows)
        self.overlap = agree(lambda: warn_of_overlap(self.trainer.trees, self.trees))

    def _keep_rows(self) -> str:
        keep_trees(self.trees)
        return rows_fingerprint(self.trees)

    # When

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if any(step == state.global_step for step, _ in self.evaluations()):
            # With keep_optimizer the evaluation that stops a run early is in a checkpoint, which the run resumes from
            # if it was killed before its model was written.
            if state.global_step < state.max_steps:
                self._stop_if_out_of_patience()
        elif self._is_due(state) and not self.evaluate():
            raise StoppedEarly  # transformers would make one more step before it looks at `should_training_stop`
        if self.stopped_early:
            raise StoppedEarly

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self._is_due(state):
            return
        if control.should_training_stop and state.global_step < state.max_steps:
            return  # asked to stop: the run that resumes makes this evaluation
        control.should_evaluate = True
        # It may be followed by a checkpoint, and the metrics since the last line would be lost if that is resumed.
        control.should_log = True

    def _is_due(self, state: TrainerState) -> bool:
        step = state.global_step
        if step == 0:
            return self.training.eval_on_start
        return step % self.every == 0 or bool(step >= state.max_steps)

    # One evaluation

    def evaluate(self) -> dict[str, float]:
        """Evaluate the held-out rows, log the metrics, and decide what follows. Every process calls it.

        Empty if the run was asked to stop meanwhile: the run that resumes makes this evaluation.
        """
        state = self.trainer.state
        began = time.monotonic()
        with self.trainer.clock.phase(VALIDATION), self.trainer.processes.times.whole(EVALUATION):
            metrics = self._means()
        if metrics is None:
            control = self.trainer.control
            control.should_evaluate = False
            control.should_save = control.should_training_stop = True
            self.interrupted = state.global_step >= state.max_steps
            return {}
        self._record(metrics)
        control = self.trainer.control
        best_now = self.verdict().best
        is_best = best_now is not None and best_now.step == state.global_step
        last = state.global_step >= state.max_steps
        if not last and self._stop_if_out_of_patience():
            control.should_training_stop = True
            control.should_save = self.training.keep_optimizer  # otherwise the finished model alone is written
        elif is_best and not last:
            control.should_save = True  # its checkpoint is kept
        names = [PREFIX + name for name in EVAL_METRICS.get(self.trainer.stage, ("loss",))]
        shown = ", ".join(f"{name} {metrics[name]:.4g}" for name in names if name in metrics)
        best = " (best so far)" if is_best else ""
        seconds = duration(time.monotonic() - began)
        log.info("step %d: %s%s, %d held-out rows in %s", state.global_step, shown, best, len(self.trees), seconds)
        return metrics

    def _stop_if_out_of_patience(self) -> bool:
        """Whether the evaluations so far stop the run early; if so, say it."""
        patience, without = self.training.early_stopping_patience, self.verdict().without_improvement
        step = self.trainer.state.global_step
        if patience is not None and without >= patience and step:
            self.stopped_early = True
            log.info("step %d: no improvement of %s in %d evaluations; stopping early", step, self.metric, without)
        return self.stopped_early

    @torch.no_grad()
    def _means(self) -> dict[str, float] | None:
        """The loss and the metrics over all held-out rows; None if the run was asked to stop meanwhile.

        Losses are sums over a bin's rows divided by counts over all held-out rows, as in a step of training, so neither
        the packing nor the number of processes changes the result.
        """
        trainer = self.trainer
        may_stop = trainer.state.global_step > 0
        if not self._denominators:
            self._denominators = trainer.denominators(self.trees)
        model = trainer.model_wrapped
        model.eval()
        loss = 0.0
        sums_of_training, trainer.sums = trainer.sums, MetricSums()
        try:
            for step in range(len(self.plan)):
                planned = self.plan[step]
                for members in planned.bins:
                    if may_stop and trainer.processes.anywhere(trainer.asked_to_stop()):
                        return None
                    # As in training, every process makes as many passes: ZeRO-3 gathers weights in each.
                    batch = trainer.held_out_batch(members or planned.rows[:1], weight=1.0 if members else 0.0)
                    part = float(trainer.batch_loss(model, batch, self._denominators))
                    if not math.isfinite(part):
                        named = ", ".join(batch.tree_ids[:_NAMED_ROWS])
                        log.warning("the held-out loss is %s on rows %s, ...", part, named)
                    loss += part
            counts = trainer.sums.report(trainer.processes)
        finally:
            trainer.sums = sums_of_training
        loss = trainer.processes.summed({"loss": loss})["loss"]
        # Counts of tokens are the same in every evaluation.
        means = {"loss": loss, **{name: value for name, value in counts.items() if not name.endswith("tokens")}}
        return {f"{PREFIX}{name}": value for name, value in means.items()}

    def _record(self, metrics: dict[str, float]) -> None:
        """Log the metrics, with the best step so far, and call the callbacks for an evaluation."""
        trainer = self.trainer
        step = trainer.state.global_step
        evaluations = [*self.evaluations(), (step, metrics[self.metric])]
        best = self._verdict_of(evaluations).best
        if best is not None:
            metrics[BEST_STEP] = best.step
        trainer.log(dict(metrics))
        trainer.state.log_history[-1][_ROWS] = self.mark
        trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)

    # What the evaluations say

    @property
    def mark(self) -> str:
        """What the evaluations of now are made of: a fingerprint of the held-out rows, and the metric if it is not the
        default.
        """
        return self.rows if self.metric == EVAL_LOSS else f"{self.rows} {self.metric}"

    def evaluations(self) -> list[tuple[int, float]]:
        """Step and value of the metric in each evaluation that counts, from the state of the run.

        An evaluation counts if it was made of these held-out rows for this metric. The checkpoint of a step that was
        the best by another metric may be deleted by now.
        """
        history = self.trainer.state.log_history
        return [
            (int(line["step"]), float(line[self.metric]))
            for line in history
            if self.metric in line and line.get(_ROWS) == self.mark
        ]

    def verdict(self) -> Verdict:
        """What the evaluations so far say."""
        return self._verdict_of(self.evaluations())

    def _verdict_of(self, evaluations: Sequence[tuple[int, float]]) -> Verdict:
        threshold = self.training.early_stopping_threshold
        return verdict(evaluations, greater_is_better=self.greater_is_better, threshold=threshold)

    def best_checkpoint(self, output: Path) -> Path | None:
        """The folder of the best step's checkpoint, if that is not the step that the run is at."""
        best = self.verdict().best
        if best is None or best.step == self.trainer.state.global_step:
            return None
        return output / f"{CHECKPOINT}{best.step}"

    def notes(self, *, loaded: bool) -> dict[str, Any]:
        """What manifests record: how many rows are held out, the best step so far, and which step the model is of.

        loaded: whether it is the best step's.
        """
        best = self.verdict().best
        found = {} if best is None else {"best_step": best.step, "best_value": best.value}
        early = {"stopped_early_at": self.trainer.state.global_step} if self.stopped_early else {}
        step = best.step if loaded and best is not None else self.trainer.state.global_step
        rows = {"rows": len(self.trees), "fingerprint": self.rows, "overlap": self.overlap}
        return {**rows, "model_step": step, "metric": self.metric, **found, **early}

    def tell(self, output: Path, *, loaded: bool) -> None:
        """Name the best step, at the end of a run. loaded: whether the finished model is that of the best step."""
        evaluations = self.evaluations()
        best = self.verdict().best
        if best is None:
            return
        last_step, last = evaluations[-1]
        named = f"best step {best.step} of {last_step}: {self.metric} {best.value:.4g}"
        folder = output / f"{CHECKPOINT}{best.step}"
        if best.step == last_step:
            log.info("%s; it is the finished model in %s", named, output)
        elif loaded:
            log.info(
                "%s, and %.4g after the last step; the finished model in %s is that of the best", named, last, output
            )
        else:
            how = "training.load_best_model_at_end: true makes the best one the finished model"
            log.info(
                "%s, in %s; the finished model is that of step %d with %.4g. %s", named, folder, last_step, last, how
            )
        start = dict(evaluations).get(0)
        sign = 1.0 if self.greater_is_better else -1.0
        if start is not None and sign * (start - best.value) > 0:
            log.warning("%s was better before training: %.4g at step 0", self.metric, start)


def plan_of(
    trees: Sequence[PromptTree], config: Any, processes: Processes, training: TrainingConfig, token_budget: int,
    *, head: bool,
) -> RunPlan:  # fmt: skip
    """One pass over the held-out rows, packed as in training: the same number of passes for each process.

    config: the Hugging Face model's. head: as for `tree_costs`.
    """
    return RunPlan(
        tree_numbers(trees, "tokens"),
        costs=tree_costs(trees, config, head=head),
        batch_size=max(training.batch_size, _STEP_ROWS),
        token_budget=token_budget,
        epochs=1,
        max_steps=None,
        seed=training.seed,
        processes=processes.groups,
        process=processes.group,
    )


def evaluations_at(checkpoint: Path, step: int) -> int:
    """How many evaluations of a step the state in its checkpoint has: several if other rows were evaluated on resume.

    metrics.jsonl may have more of them: one that a resumed run made first, before it was killed, is made again.
    """
    history = TrainerState.load_from_json(str(checkpoint / STATE)).log_history
    return sum(line["step"] == step and EVAL_LOSS in line for line in history)


def whole_model(folder: Path) -> bool:
    """Whether a checkpoint's files are all there and its weights finite; otherwise say what is wrong."""
    try:
        require_finite(folder, verify_folder(folder))
    except CheckpointError as error:
        log.warning("the finished model is that of the last step: the best one cannot be read: %s", error)
        return False
    return True


def copy_model(folder: Path, output: Path) -> None:
    """Copy the files of the model in a checkpoint: weights, config, tokenizer."""
    for file in model_files(folder):
        shutil.copyfile(file, output / file.name)


def prompts_in_both(trees: Sequence[PromptTree], held_out: Sequence[PromptTree]) -> list[str]:
    """The ids of the held-out rows whose prompt, token by token, is also the prompt of a row that is trained on."""
    ids: dict[str, list[str]] = {}
    for tree in held_out:
        ids.setdefault(_prompt_key(tree), []).append(tree.id)
    trained = {key for tree in trees if (key := _prompt_key(tree)) in ids}
    return [row for key, rows in ids.items() if key in trained for row in rows]


def warn_of_overlap(trees: Sequence[PromptTree], held_out: Sequence[PromptTree]) -> int:
    """Say how many held-out rows have a prompt that is trained on. Returns their number.

    It is a warning and not an error, because a run may evaluate rows that it trains on deliberately.
    """
    both = prompts_in_both(trees, held_out)
    if both:
        named = ", ".join(both[:_NAMED_ROWS]) + (", ..." if len(both) > _NAMED_ROWS else "")
        log.warning(
            "%d of %d held-out rows have a prompt that is trained on too (%s): the held-out metrics are better than on "
            "new prompts. Remove these rows from data.eval_path or data.path, or use data.eval_ratio, which splits by "
            "prompt",
            len(both),
            len(held_out),
            named,
        )
    return len(both)


def _prompt_key(tree: PromptTree) -> str:
    return fingerprint_of(tree.prompt.tobytes().hex())
