"""The training loop that all methods share: packed prompt trees, one item of data for each optimizer step.

`transformers.Trainer` provides the loop, the optimizer, trackers, ZeRO-3 and `accelerate launch`. This class adds what
an optimizer step is (`align/tree/pack.py`), the denominator of its loss, and that no faulty step is saved. Its parts
are in files of their own:

    gradients.py      the passes of a step                  guards.py         faulty steps; rollbacks.py
    metrics.py        sums and means, metrics.jsonl         checks.py         what must be true before the first step
    checkpointing.py  a start, a save, the end of a run     checkpoints.py    which folders are resumed from and deleted
    saving.py         a model's files in a folder           sealing.py        the manifest of a checkpoint
    engine.py         what is changed at DeepSpeed's        schedules.py      learning rates
    resharding.py     another number of processes           processes.py      how processes agree
    verifying.py      the hashes of a checkpoint            rendezvous.py     processes that are started again
    steering.py       progress, signals                     hooks.py          the private hooks of transformers
    validation.py     held-out rows, the best step, early stopping
    summary.py        what a run says before and after      trackers.py       what trackers receive
    watchdog.py       a process that hangs                  step_times.py, slow_ranks.py   where time goes
"""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerControl, TrainingArguments

from align.chat.protocol import ChatProtocol
from align.config import Section, dump
from align.effective_time import SAVING, RunClock, clock_of
from align.leaving import exit_code
from align.manifest import remove_manifest
from align.models.adapters import is_adapted
from align.models.exactness import refuse_untrainable, require_rows_within, warn_of_untrained_positions
from align.models.logps import TreeModel, TreePolicy
from align.reporting import logger
from align.settings import ModelConfig, TrainingConfig
from align.trainers.checkpointing import Checkpointing
from align.trainers.checkpoints import run_identity
from align.trainers.checks import run_checks
from align.trainers.data import discard_temporary, keep_trees
from align.trainers.engine import prepare_engine
from align.trainers.gradients import BinLoss, Gradients
from align.trainers.guarded_trackers import ending_trackers, guard_trackers
from align.trainers.guards import StepGuards
from align.trainers.memory import StepMemory, memory_errors
from align.trainers.metrics import MetricSums, RunMetrics
from align.trainers.output import CHECKPOINT, release_output, write_errors
from align.trainers.probe import Probe
from align.trainers.processes import Processes
from align.trainers.resharding import random_states
from align.trainers.resuming import changed_schedule, default_values
from align.trainers.rollbacks import read_rollbacks, skipped_trees
from align.trainers.saving import read_model, write_model, write_trainer_state
from align.trainers.schedules import Schedule, ScheduledRates, restore_rates, warmup_steps
from align.trainers.steering import Steering
from align.trainers.summary import first_word, last_word, run_facts
from align.trainers.trackers import Speed, log_recipe, resident_memory, start_trackers, tracker_environment
from align.trainers.validation import StoppedEarly, Validation, evaluations_at, plan_of
from align.trainers.watchdog import Watchdog
from align.tree.encode import PromptTree, Segment
from align.tree.flops import tree_costs
from align.tree.pack import RunPlan, StepPlan, TreeBatch, collate, tree_numbers
from align.tree.sequence_parallel import SequenceGroup

log = logger(__name__)


class TreeTrainer(Trainer, ABC):
    """Train a model on prompt trees. A subclass defines the loss of a batch and what it is divided by.

    Args:
        model: the policy or scorer to train, not yet wrapped or sharded.
        arguments: from `training_arguments`, made before the model.
        trees: the encoded rows, all of them.
        protocol: the chat protocol that encoded them. It is saved with the model.
        start: the checkpoint that the model was loaded from.
        training: the optimizer and the run.
        token_budget: at most this many tokens in one packed row; a larger tree has a row of its own.
        recipe: the whole config, which is recorded in the manifest of every checkpoint.
        eval_trees: the encoded held-out rows, which are evaluated and not trained on. None for none.
    """

    stage = "train"
    control: TrainerControl

    def __init__(
        self,
        model: TreeModel,
        arguments: TrainingArguments,
        trees: Sequence[PromptTree],
        protocol: ChatProtocol,
        *,
        start: ModelConfig,
        training: TrainingConfig,
        token_budget: int,
        recipe: Section,
        eval_trees: Sequence[PromptTree] | None = None,
    ) -> None:
        self.resident_before = resident_memory()
        refuse_untrainable(model.model)
        require_rows_within(model.limit, trees, eval_trees)
        if arguments.process_index == 0:
            warn_of_untrained_positions(model.model, trees)
        self.trees = trees
        self.protocol = protocol
        self.start = start
        self.training = training
        self.recipe = dump(recipe)
        self._defaults = default_values(recipe)
        self.output = Path(arguments.output_dir)
        together = (arguments.world_size, arguments.process_index)
        self.processes = Processes(*together, arguments.device, sharing=training.sequence_parallel)
        timeout = timedelta(seconds=arguments.ddp_timeout)
        model.shared_by = SequenceGroup.of(training.sequence_parallel, *together, timeout)
        self.rollbacks = self.processes.agree(lambda: read_rollbacks(self.output))
        self.plan = self._planned(model, token_budget)
        self.guards = StepGuards(self)
        self.gradients = Gradients(self)
        self.sums = MetricSums()
        self.speed = Speed()
        self.probe = Probe(self)
        self.clock = clock_of(self.output)
        self.watchdog = self._watchdog(arguments)
        self.identity: dict[str, str] = {}
        """What the run is made of, known once `fit` has begun: see `run_identity`."""
        self.extended_from: int | None = None
        """Steps that the run had in all in its earlier start, if it has another number now."""
        self._losses: list[BinLoss] = []
        self._began = time.monotonic()
        with tracker_environment(training):
            super().__init__(model=model, args=arguments, train_dataset=self.plan, data_collator=_only)
        self.metrics = RunMetrics(self, model)
        log_recipe(arguments, self.recipe, run_facts(self))
        self._steering = Steering(self)
        self.validation = None if eval_trees is None else self._validation(eval_trees, token_budget)
        self._add_callbacks()

    def _planned(self, model: TreeModel, token_budget: int) -> RunPlan:
        """Which rows are in each step, and how they are packed."""
        training = self.training
        return RunPlan(
            tree_numbers(self.trees, "tokens"),
            costs=tree_costs(self.trees, model.config, head=isinstance(model, TreePolicy)),
            batch_size=training.batch_size,
            token_budget=token_budget,
            epochs=training.epochs,
            max_steps=training.max_steps,
            seed=training.seed,
            processes=self.processes.groups,
            process=self.processes.group,
            skipped=skipped_trees(self.rollbacks),
        )

    def _watchdog(self, arguments: TrainingArguments) -> Watchdog:
        minutes = self.training.watchdog_minutes
        return Watchdog(
            self.output,
            rank=arguments.process_index,
            ranks=arguments.world_size,
            seconds=minutes and 60 * minutes,
            last_word=partial(self.clock.close, "hung"),
        )

    def _validation(self, trees: Sequence[PromptTree], token_budget: int) -> Validation:
        head = isinstance(self.model, TreePolicy)
        plan = plan_of(trees, self.model.config, self.processes, self.training, token_budget, head=head)
        return Validation(self, trees, plan, self.training)

    def _add_callbacks(self) -> None:
        self.remove_callback(PrinterCallback)
        guard_trackers(self.callback_handler, self.args, partial(_note_lost_tracker, self.clock))
        self.add_callback(self._steering)
        if self.validation is not None:
            self.add_callback(self.validation)

    # What a method defines

    @abstractmethod
    def denominators(self, rows: Sequence[PromptTree]) -> dict[str, float]:
        """What the losses of an optimizer step are divided by. rows: all rows of the step, over all processes."""

    @abstractmethod
    def batch_loss(self, model: torch.nn.Module, batch: TreeBatch, denominators: dict[str, float]) -> Tensor:
        """This batch's part of the step's loss: a sum over its rows, divided by the step's denominators."""

    def supervised(self, branch: Segment) -> Sequence[bool] | np.ndarray:
        """Which tokens of a branch the loss reads: one value for each token."""
        return branch.loss_mask

    def before_loading(self, model: torch.nn.Module) -> None:
        """Called when a run is resumed, while the model still has the weights that the run started from."""

    def before_first_step(self, model: torch.nn.Module, resumed: bool) -> None:
        """Called once the model is wrapped and sharded. DPO computes its reference log-probabilities here."""

    def check_first_step(self, totals: dict[str, float]) -> None:
        """Raise CheckError if the sums of the first step are not those of an untrained policy."""

    # The run

    def fit(self) -> Path:
        """Train to the end, and return the folder of the finished model.

        A run resumes from its newest whole checkpoint. If the folder has the finished model of the same config, start,
        rows and tokenizer, it is left as it is; if they differ, the run is refused. With another number of steps it is
        extended, if it has kept its optimizer states.
        """
        how = "Free some space, or name another training.output_dir; the same command resumes from the last checkpoint"
        memory = memory_errors(lambda: self.state.global_step + 1, StepMemory.of(self))
        try:
            with (
                self.clock.closing(),
                self.watchdog.watching(),
                self._steering.signals(),
                write_errors(self.output, how),
                memory,
                tracker_environment(self.training),
                ending_trackers(self.callback_handler),
            ):
                return self._fit()
        finally:
            if self.is_world_process_zero():
                discard_temporary(self.output)
                release_output(self.output)

    def _fit(self) -> Path:
        note_progress = self.watchdog.note_progress
        note_progress("reading the starting weights and the rows")
        self.identity = self.processes.agree(
            lambda: run_identity(self.start, self.model.precision, self.trees, self.protocol)
        )
        self.checkpointing = Checkpointing(self, self._defaults)
        if self.checkpointing.is_finished():
            return self.output
        checkpoint = self.checkpointing.newest()
        self._begin(checkpoint)
        note_progress("loading")
        self._train(checkpoint)
        self._steering.catch_signals()
        with self.clock.phase(SAVING):
            self.checkpointing.finish()
            last_word(self, time.monotonic() - self._began)
        if self._steering.stop_is_asked():
            raise SystemExit(self._stop_code())  # the model is finished, but what follows (the Hub) is not
        return self.output

    def _begin(self, checkpoint: Path | None) -> None:
        """Record the start, look for space on the disk, and say what is trained. checkpoint: that it resumes from."""
        agree = self.processes.agree
        self.clock.record()
        if self.is_world_process_zero():
            keep_trees(self.trees)
        if self.validation is not None:
            self.validation.begin()
        step = int(checkpoint.name.removeprefix(CHECKPOINT)) if checkpoint else 0
        self.checkpointing.require_space(step)
        if self.is_world_process_zero():
            self.metrics.open(step, evaluations_at(checkpoint, step) if checkpoint else 0)
        if checkpoint:
            log.info("resuming from %s", checkpoint)
            self.extended_from = agree(lambda: self.checkpointing.folders.steps_before(checkpoint))
            if self.extended_from is not None:
                log.info(changed_schedule(self.training, self.extended_from, len(self.plan), step))
                remove_manifest(self.output)  # a model that was finished with fewer steps is no longer the result
        agree(lambda: start_trackers(self.callback_handler.callbacks, self.args, self.state, self.model))
        first_word(self, step)

    def _train(self, checkpoint: Path | None) -> None:
        """Make the optimizer steps. Raises SystemExit if a signal has asked for an end before the last one."""
        try:
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except StoppedEarly:
            self.callback_handler.on_train_end(self.args, self.state, self.control)
        stopped_early = self.validation is not None and self.validation.stopped_early
        interrupted = self.validation is not None and self.validation.interrupted
        if interrupted or (self.state.global_step < len(self.plan) and not stopped_early):
            raise SystemExit(self._stop_code())  # asked to stop: the checkpoint is written, the run is not over

    def _stop_code(self) -> int:
        """The exit code after a signal; SIGTERM's if another process has received it."""
        return exit_code(self._steering.asked or signal.SIGTERM)

    def training_step(self, model: torch.nn.Module, inputs: StepPlan, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward passes of one optimizer step. Returns a loss whose mean over processes is the step's.

        They follow `align/trainers/gradients.py`; the step is judged before the optimizer uses them.
        """
        self.guards.begin(inputs)
        self.metrics.count_step(inputs)
        if self.probe.is_due():
            self.probe.check(model)
        losses = self.gradients.compute(model, inputs)
        if self.state.global_step == 0 and inputs.rows and self.training.checks:
            self.check_first_step(self.sums.totals(self.processes))
        if self.is_deepspeed_enabled and inputs.rows:
            self.guards.judge(model, losses, self.gradients.norm(model))
            self.gradients.use_sharded()
        self._losses = losses
        return sum((each.loss.detach() for each in losses), torch.zeros((), device=self.args.device))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Metrics to the trackers, and on rank zero to metrics.jsonl. Every process calls it.

        Equal runs have equal lines in metrics.jsonl except for `speed`, which is in no checkpoint.
        """
        line, step = self.metrics.write(logs), self.state.global_step
        self.state.log_history.append({**line.metrics, "step": step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, line.metrics | line.speed)
        self.metrics.alarms.stop_if_asked(step, line.alarms)

    def batch(self, members: Sequence[int], weight: float = 1.0) -> TreeBatch:
        """A batch of rows that are trained on. members: their indices."""
        return self._collated(self.trees, members, weight)

    def held_out_batch(self, members: Sequence[int], weight: float = 1.0) -> TreeBatch:
        """A batch of held-out rows. members: their indices."""
        assert self.validation is not None, "there are no held-out rows"
        return self._collated(self.validation.trees, members, weight)

    def _collated(self, trees: Sequence[PromptTree], members: Sequence[int], weight: float) -> TreeBatch:
        self.watchdog.note_progress(f"step {self.state.global_step + 1}")
        return collate([trees[member] for member in members], [weight] * len(members)).to(self.args.device)

    def asked_to_stop(self) -> bool:
        """Whether a signal has asked this process to stop."""
        return self._steering.asked is not None

    @property
    def hugging_face_model(self) -> Any:
        """The model inside the trained module, whatever wraps that module."""
        return self.model.model

    def run_notes(self) -> dict[str, Any]:
        """What the record of a run says of it: enough to refuse another run."""
        return {
            "stage": self.stage,
            "processes": self.args.world_size,
            "config": self.recipe,
            "steps": len(self.plan),
            "identity": self.identity,
        }

    # Methods of transformers.Trainer that are replaced: see align/trainers/hooks.py

    def get_train_dataloader(self) -> DataLoader[StepPlan]:
        # Not prepared by accelerate: the plan of each process names its own bins already.
        return DataLoader(self.plan, batch_size=1, shuffle=False, collate_fn=_only)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        assert self.validation is not None, "there are no held-out rows"
        return self.validation.evaluate()

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> ScheduledRates:
        if getattr(self, "lr_scheduler", None) is None:
            warmup = warmup_steps(self.training.warmup_ratio, num_training_steps)
            least = self.training.min_learning_rate_ratio
            schedule = Schedule(self.training.schedule, num_training_steps, warmup, least)
            self.lr_scheduler = ScheduledRates(optimizer or self.optimizer, schedule)
            self._created_lr_scheduler = True
        wrapped = self.accelerator.deepspeed_engine_wrapped if self.is_deepspeed_enabled else None
        if wrapped is not None:
            adapted = is_adapted(self.hugging_face_model)
            prepare_engine(wrapped.engine, self.processes, adapted=adapted, before_loading=self.before_loading)
        return self.lr_scheduler

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        return None  # the step's `denominators` are known without asking other processes

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if resume_from_checkpoint is not None:
            restore_rates(self.lr_scheduler)
            self.guards.load(Path(resume_from_checkpoint))
        self.watchdog.note_progress("the checks before the first step")
        if self.training.checks:
            run_checks(self, prepared[0])
        self.before_first_step(prepared[0], resumed=resume_from_checkpoint is not None)
        return prepared

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Called once the gradients of a step are complete, before the optimizer uses them.

        DeepSpeed has used them by then: its steps are judged in `training_step`.
        """
        if not self.guards.planned.rows:
            return 0.0  # every row of the step is left out
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not self.is_deepspeed_enabled:
            self.guards.judge(model, self._losses, norm)
        return norm

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.before_loading(self.model)
        read_model(self.hugging_face_model, Path(resume_from_checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with random_states(Path(checkpoint), self.processes) as folder:
                super()._load_rng_state(str(folder))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            write_model(self.hugging_face_model, folder, self.protocol, state_dict)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        write = super()._save_checkpoint
        self.state.save_to_json = partial(write_trainer_state, self.state)
        self.checkpointing.save(lambda: write(model, trial))


def _note_lost_tracker(clock: RunClock, name: str, reason: str) -> None:
    clock.write("lost", tracker=name, reason=reason)


def _only(items: list[Any]) -> Any:
    """The one item of a batch: a plan of an optimizer step."""
    return items[0]
