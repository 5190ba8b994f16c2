"""The training loop that all methods share: packed prompt trees, one item of data for each optimizer step.

`transformers.Trainer` provides the loop, the optimizer, trackers, ZeRO-3 and `accelerate launch`. This class adds what
an optimizer step is (`align/tree/pack.py`), the denominator of its loss, and that no faulty step is saved. Its parts
are in files of their own:

    checks.py       what must be true before the first step          guards.py     faulty steps; rollbacks.py
    checkpoints.py  which folders a run resumes from and deletes     saving.py     a model's files in a folder
    sealing.py      the manifest of a checkpoint                     resharding.py another number of processes
    processes.py    how processes agree                              metrics.py    sums and means of a step
    steering.py     progress, signals                                hooks.py      the private hooks of transformers
    validation.py   held-out rows, the best step, early stopping
    summary.py      what a run says before and after training        trackers.py   what trackers receive
    watchdog.py     a process that hangs                             step_times.py, slow_ranks.py   where time goes
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerControl, TrainingArguments

from align.chat.protocol import ChatProtocol
from align.config import Section, dump
from align.effective_time import SAVING, RunClock, clock_of
from align.files import whole_file
from align.leaving import exit_code
from align.manifest import remove_manifest, write_folder_manifest
from align.models.adapters import is_adapted
from align.models.bases import base_note
from align.models.exactness import (
    local_settings,
    refuse_untrainable,
    require_rows_within,
    warn_of_untrained_positions,
)
from align.models.logps import TreeModel, TreePolicy
from align.reporting import MetricsFile, logger
from align.settings import ModelConfig, TrainingConfig
from align.trainers import step_times
from align.trainers.alarms import Alarms
from align.trainers.checkpoints import CheckpointFolders, run_identity
from align.trainers.checks import check_longest_row, check_packing, check_terminators, show_supervision
from align.trainers.data import discard_temporary, keep_trees
from align.trainers.disk import disk_need, require_space, require_space_for_checkpoint, require_space_for_model
from align.trainers.guarded_trackers import ending_trackers, guard_trackers
from align.trainers.guards import BinLoss, StepGuards
from align.trainers.memory import StepMemory, memory_errors
from align.trainers.metrics import MetricSums
from align.trainers.output import CHECKPOINT, METRICS, release_output, write_errors
from align.trainers.probe import Probe
from align.trainers.processes import Processes
from align.trainers.resharding import random_states, reshard_while_loading
from align.trainers.resuming import changed_schedule, default_values
from align.trainers.rollbacks import (
    SkippedRows,
    read_rollbacks,
    require_rows_left,
    require_run_of,
    skipped_trees,
)
from align.trainers.saving import (
    call_before_loading,
    convert_weights,
    expected_shapes,
    leave_frozen_weights_out,
    model_files,
    read_model,
    refuse_code_while_loading,
    require_savable,
    require_saved,
    write_model,
)
from align.trainers.schedules import Schedule, ScheduledRates, restore_rates, warmup_steps
from align.trainers.sealing import seal_together
from align.trainers.slow_ranks import SlowRanks
from align.trainers.steering import Steering
from align.trainers.step_times import DATA, WORK, exposed_ddp_seconds
from align.trainers.summary import first_word, last_word, run_facts
from align.trainers.throughput import arithmetic
from align.trainers.trackers import (
    Speed,
    log_recipe,
    progress_note,
    resident_memory,
    run_speed,
    start_trackers,
    tracker_environment,
)
from align.trainers.validation import StoppedEarly, Validation, copy_model, evaluations_at, plan_of, whole_model
from align.trainers.watchdog import Watchdog
from align.trainers.weights import require_storable_weights, sharded_norm
from align.tree.encode import PromptTree, Segment
from align.tree.flops import tree_costs
from align.tree.pack import RunPlan, StepPlan, TreeBatch, collate, tree_numbers
from align.tree.sequence_parallel import SequenceGroup
from align.tree.store import TreeStore

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
        self.plan = RunPlan(
            tree_numbers(trees, "tokens"),
            costs=tree_costs(trees, model.config, head=isinstance(model, TreePolicy)),
            batch_size=training.batch_size,
            token_budget=token_budget,
            epochs=training.epochs,
            max_steps=training.max_steps,
            seed=training.seed,
            processes=self.processes.groups,
            process=self.processes.group,
            skipped=skipped_trees(self.rollbacks),
        )
        self.guards = StepGuards(self)
        self.sums = MetricSums()
        self.skips = SkippedRows(self.plan)
        self.probe = Probe(self)
        self.alarms = Alarms(training.guards.alarms, self.stage, tree_numbers(trees, "labels"))
        self.speed = Speed()
        self.clock = clock_of(self.output)
        self.watchdog = Watchdog(
            self.output,
            rank=arguments.process_index,
            ranks=arguments.world_size,
            seconds=training.watchdog_minutes and 60 * training.watchdog_minutes,
            last_word=partial(self.clock.close, "hung"),
        )
        self._slow_ranks = SlowRanks(arguments.process_index, training.slow_rank_factor)
        self.identity: dict[str, str] = {}
        """What the run is made of, known once `fit` has begun: see `run_identity`."""
        self.extended_from: int | None = None
        """Steps that the run had in all in its earlier start, if it has another number now."""
        self.progress_note = ""
        self._unshared_tokens = tree_numbers(trees, "unshared_tokens")
        self.arithmetic = arithmetic(trees, model, device=arguments.device, processes=arguments.world_size)
        self._losses: list[BinLoss] = []
        self._began = time.monotonic()
        self._metrics: MetricsFile | None = None
        with tracker_environment(training):
            super().__init__(model=model, args=arguments, train_dataset=self.plan, data_collator=_only)
        log_recipe(arguments, self.recipe, run_facts(self))
        self.remove_callback(PrinterCallback)
        guard_trackers(self.callback_handler, arguments, partial(_note_lost_tracker, self.clock))
        self._steering = Steering(self)
        self.add_callback(self._steering)
        self.validation: Validation | None = None
        if eval_trees is not None:
            head = isinstance(model, TreePolicy)
            plan = plan_of(eval_trees, model.config, self.processes, training, token_budget, head=head)
            self.validation = Validation(self, eval_trees, plan, training)
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
        memory = memory_errors(lambda: self.state.global_step + 1, self._step_memory())
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

    def _step_memory(self) -> StepMemory:
        plans = [self.plan] if self.validation is None else [self.plan, self.validation.plan]
        return StepMemory(
            self.start,
            self.training,
            token_budget=self.plan.token_budget,
            longest_row=max(int(plan.sizes.max()) for plan in plans),
            precision=self.model.precision,
            on_gpu=self.args.device.type == "cuda",
            sharded=self.is_deepspeed_enabled,
        )

    def _fit(self) -> Path:
        agree, note_progress = self.processes.agree, self.watchdog.note_progress
        note_progress("reading the starting weights and the rows")
        self.identity = agree(lambda: run_identity(self.start, self.model.precision, self.trees, self.protocol))
        self.checkpoints = CheckpointFolders(
            self.output,
            stage=self.stage,
            recipe=self.recipe,
            identity=self.identity,
            keep=self.training.keep_checkpoints,
            sharded=self.is_deepspeed_enabled,
            steps=len(self.plan),
            keep_optimizer=self.training.keep_optimizer,
            defaults=self._defaults,
        )
        note_progress("verifying the finished model")
        if agree(self.checkpoints.finished):
            log.info("%s is finished already; nothing to train", self.output)
            self._clear_finished()
            return self.output
        require_savable(self.hugging_face_model, self.start.path)
        require_storable_weights(self.hugging_face_model, self.training.save_dtype, self.processes)
        note_progress("verifying checkpoints")
        checkpoint = agree(self.checkpoints.newest)
        note_progress("the start")
        agree(lambda: require_run_of(self.checkpoints, self.rollbacks, checkpoint))
        require_rows_left(self.plan, self.output)
        self.clock.record()
        if self.is_world_process_zero():
            keep_trees(self.trees)
        if self.validation is not None:
            self.validation.begin()
        step = int(checkpoint.name.removeprefix(CHECKPOINT)) if checkpoint else 0
        self.disk = disk_need(
            self.hugging_face_model,
            self.training,
            len(self.plan),
            sharded=self.is_deepspeed_enabled,
            validated=self.validation is not None,
        )
        agree(lambda: require_space(self.disk, self.output, step, self.checkpoints.whole()))
        if self.is_world_process_zero():
            evaluations = evaluations_at(checkpoint, step) if checkpoint else 0
            self._metrics = MetricsFile(self.output / METRICS, keep_to_step=step, evaluations=evaluations)
        if checkpoint:
            log.info("resuming from %s", checkpoint)
            self.extended_from = agree(lambda: self.checkpoints.steps_before(checkpoint))
            if self.extended_from is not None:
                log.info(changed_schedule(self.training, self.extended_from, len(self.plan), step))
                remove_manifest(self.output)  # a model that was finished with fewer steps is no longer the result
        agree(lambda: start_trackers(self.callback_handler.callbacks, self.args, self.state, self.model))
        first_word(self, step)
        note_progress("loading")
        try:
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except StoppedEarly:
            self.callback_handler.on_train_end(self.args, self.state, self.control)
        stopped_early = self.validation is not None and self.validation.stopped_early
        interrupted = self.validation is not None and self.validation.interrupted
        if interrupted or (self.state.global_step < len(self.plan) and not stopped_early):
            raise SystemExit(self._stop_code())  # asked to stop: the checkpoint is written, the run is not over
        self._steering.catch_signals()
        with self.clock.phase(SAVING):
            output = self._finish()
        if self._steering.stop_is_asked():
            raise SystemExit(self._stop_code())  # the model is finished, but what follows (the Hub) is not
        return output

    def _stop_code(self) -> int:
        """The exit code after a signal; SIGTERM's if another process has received it."""
        return exit_code(self._steering.asked or signal.SIGTERM)

    def training_step(self, model: torch.nn.Module, inputs: StepPlan, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward passes of one optimizer step. Returns a loss whose mean over processes is the step's.

        The loss of each bin is a sum over its rows divided by a count over all rows of the step, so neither packing nor
        the number of bins or processes changes the gradient. Example, SFT on two processes: a step has 40 labels, 30 of
        them in the bins of process 0. The losses are sum_30 / 40 and sum_10 / 40, each times 2, and the processes
        average their gradients: (2 sum_30 / 40 + 2 sum_10 / 40) / 2 = sum_40 / 40, the mean over all labels.
        """
        self.guards.begin(inputs)
        self.skips.count(self.state.global_step, inputs)
        self.alarms.count(inputs.rows)
        if self.probe.is_due():
            self.probe.check(model)
        losses = self.passes(model, inputs)
        if self.state.global_step == 0 and inputs.rows and self.training.checks:
            self.check_first_step(self.sums.totals(self.processes))
        if self.is_deepspeed_enabled and inputs.rows:
            self.guards.judge(model, losses, self.gradient_norm(model))
            self._engine.step()
        self._losses = losses
        return sum((each.loss.detach() for each in losses), torch.zeros((), device=self.args.device))

    def passes(self, model: torch.nn.Module, planned: StepPlan) -> list[BinLoss]:
        """Forward and backward passes of a step's packed rows. The gradients are complete afterwards, and unused."""
        model.train()
        times = self.processes.times
        with times.spent(DATA):
            denominators = self.denominators([self.trees[row] for row in planned.rows])
        losses = []
        for place, members in enumerate(planned.bins):
            last = place == len(planned.bins) - 1
            # A process without a bin in this round repeats a row with weight 0: ZeRO-3 gathers weights in every pass.
            with times.spent(DATA):
                batch = self._batch(members or planned.rows[:1], weight=1.0 if members else 0.0)
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last or self.is_deepspeed_enabled else self.accelerator.no_sync(model):
                # Processes average their gradients; the denominators are global, so the average is scaled back.
                # Those that share a row all have its whole loss: their average is one of them.
                with times.spent(WORK):
                    loss = self.batch_loss(model, batch, denominators) * self.processes.groups
                if self.is_deepspeed_enabled:  # not by accelerate, which would use the gradients at once
                    self._engine.set_gradient_accumulation_boundary(is_boundary=last)
                    self._engine.backward(loss, scale_wrt_gas=False)
                else:
                    self.accelerator.backward(loss)
            losses.append(BinLoss(loss.detach(), batch.tree_ids))
            tokens = batch.input_ids.shape[1] if members else 0
            self.sums.add(
                tokens=tokens,
                token_places=max(tokens, self.plan.token_budget),
                unshared_tokens=int(self._unshared_tokens[list(members)].sum()),
                flops=self.arithmetic.of(members),
            )
        return losses

    def gradient_norm(self, model: torch.nn.Module) -> float:
        """The norm of the complete gradients over all processes, before clipping."""
        if self.is_deepspeed_enabled:
            return sharded_norm(model, self.processes)
        return float(self.accelerator.clip_grad_norm_(model.parameters(), math.inf))

    def clear_gradients(self, model: torch.nn.Module) -> None:
        """Forget the gradients of a step that is not used."""
        (self._engine.optimizer if self.is_deepspeed_enabled else model).zero_grad()

    @property
    def _engine(self) -> Any:
        """DeepSpeed's engine."""
        return self.accelerator.deepspeed_engine_wrapped.engine

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Metrics to the trackers, and on rank zero to metrics.jsonl. Every process calls it.

        Equal runs have equal lines in metrics.jsonl except for `speed`, which is in no checkpoint.
        """
        speed: dict[str, float] = {}
        alarms: dict[str, float] = {}
        if "loss" in logs:
            logs |= self.skips.report(logs["loss"]) | self.sums.report(self.processes)
            alarms = self.alarms.judge(logs, self.state.log_history)
            logs |= alarms
            logs["num_tokens"] = self.plan.sum_to_step(self._unshared_tokens, self.state.global_step)
            rates = self.arithmetic.rates(logs.pop("flops", 0.0), self.speed.seconds)
            spent = self._spent_time()
            speed = self.speed.report(logs.get("tokens", 0.0), logs.pop("unshared_tokens", 0.0)) | rates | spent
            self.progress_note = progress_note(logs | speed)
        if "train_runtime" in logs:
            logs = run_speed(logs, self.plan, self.state.global_step, self.speed.all_steps)
        epoch = round(self.state.global_step / self.plan.steps_per_epoch, 4)
        if self._metrics is not None and not logs.keys().isdisjoint(("loss", "eval_loss")):
            line = {"epoch": epoch, **logs, **({"speed": speed} if speed else {})}
            self._metrics.write(self.state.global_step, line)
        logs["epoch"] = epoch
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs | speed)
        self.alarms.stop_if_asked(self.state.global_step, alarms)

    def _spent_time(self) -> dict[str, float]:
        """Where the time since the last line of metrics went. Compares the processes; every process calls it."""
        spent = self.processes.times.report(self.speed.steps)
        self._slow_ranks.compare([seconds for (seconds,) in self.processes.gathered([spent.data + spent.work])])
        exposed = exposed_ddp_seconds(self.model_wrapped)
        spent = spent._replace(communication=spent.communication + exposed)
        return {**spent.metrics(), "effective_time": self.clock.effective_time().ratio}

    def run_checks(self, model: torch.nn.Module) -> None:
        """The checks of align/trainers/checks.py on the first step's rows. All processes make the same passes."""
        rows = [self.trees[row] for row in self.plan.first_with_rows().rows]
        show_supervision(rows[:2], self.supervised, self.protocol)
        check_terminators(rows, self.supervised, self.protocol)
        model.eval()
        self._check_packing(model, rows)
        if self.model.precision == "bf16" and self.hugging_face_model.dtype == torch.float32:
            self.model.precision = "fp32"  # once more without bfloat16's rounding, which would hide a small fault
            self._check_packing(model, rows)
            self.model.precision = "bf16"

    @torch.no_grad()
    def _check_packing(self, model: torch.nn.Module, rows: Sequence[PromptTree]) -> None:
        def values_of(batch: TreeBatch) -> torch.Tensor:
            return cast(torch.Tensor, model(batch.to(self.args.device)))

        check_packing(values_of, rows, low_precision=self.model.low_precision)
        if settings := local_settings(self.model.config):
            check_longest_row(values_of, self.trees, settings, low_precision=self.model.low_precision)

    def _batch(self, members: Sequence[int], weight: float = 1.0) -> TreeBatch:
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

    # The end of a run

    def _finish(self) -> Path:
        """Write the finished model and its manifest, and delete the optimizer states of the checkpoints before it."""
        self.watchdog.note_progress("writing the finished model")
        self._require_finite_weights()
        self.processes.agree(lambda: require_space_for_model(self.disk, self.output))
        if self.is_world_process_zero():
            remove_manifest(self.output)
        self.processes.wait()
        best = self._best_to_load()
        if best is None:
            self.save_model(str(self.output), _internal_call=True)
        self.processes.agree(lambda: self._seal_finished(best))
        if self.validation is not None:
            self.validation.tell(self.output, loaded=best is not None)
        self.watchdog.note_progress("verifying checkpoints")
        self._clear_finished()
        self.processes.wait()
        last_word(self, time.monotonic() - self._began)
        return self.output

    def _seal_finished(self, best: Path | None) -> None:
        """best: the checkpoint whose model is copied; None if the finished model is written already."""
        if best is not None:
            copy_model(best, self.output)
        convert_weights(self.output, self.training.save_dtype)
        require_saved(self.output, expected_shapes(self.hugging_face_model), sharded=self.is_deepspeed_enabled)
        with whole_file(self.output / "timing.json") as handle:
            json.dump({"steps": self.state.global_step, **self.clock.effective_time().record()}, handle)
        write_folder_manifest(self.output, model_files(self.output), self._notes(self.output, loaded=best is not None))

    def _best_to_load(self) -> Path | None:
        """The checkpoint whose model is to be the finished one; None for the model as it is now."""
        if self.validation is None or not self.training.load_best_model_at_end:
            return None
        best = self.validation.best_checkpoint(self.output)
        return best if best is not None and self.processes.agree(lambda: whole_model(best)) else None

    def _clear_finished(self) -> None:
        """Delete what a finished run no longer needs: its encoded rows, and what resuming reads.

        Trees that are mapped into memory can still be read.
        """
        if self.is_world_process_zero():
            self.checkpoints.clear_states()
            for trees in (self.trees, None if self.validation is None else self.validation.trees):
                if isinstance(trees, TreeStore):
                    trees.path.unlink(missing_ok=True)

    def _require_finite_weights(self) -> None:
        self.guards.require_finite_weights(self.hugging_face_model)

    def run_notes(self) -> dict[str, Any]:
        """What the record of a run says of it: enough to refuse another run."""
        return {
            "stage": self.stage,
            "processes": self.args.world_size,
            "config": self.recipe,
            "steps": len(self.plan),
            "identity": self.identity,
        }

    def _notes(self, folder: Path, *, loaded: bool = False) -> dict[str, Any]:
        """What the manifest of each folder of this run records. loaded: whether it is of the best step's model."""
        return {
            **self.run_notes(),
            **({"rollbacks": [asdict(each) for each in self.rollbacks]} if self.rollbacks else {}),
            **({} if self.validation is None else {"validation": self.validation.notes(loaded=loaded)}),
            **base_note(self.hugging_face_model, folder),
        }

    # Methods of transformers.Trainer that are replaced. The private ones are listed in align/trainers/hooks.py.

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
            reshard_while_loading(wrapped.engine, self.processes)
            if is_adapted(self.hugging_face_model):
                leave_frozen_weights_out(wrapped.engine)
            refuse_code_while_loading(wrapped.engine)
            call_before_loading(wrapped.engine, self.before_loading)
            self.processes.times.watch_deepspeed()
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
            self.run_checks(prepared[0])
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
        self.watchdog.note_progress("saving")
        with self.clock.phase(SAVING), self.processes.times.whole(step_times.SAVING):
            try:
                self._save_sealed(model, trial)
            except Exception:
                if self.is_world_process_zero():
                    self.checkpoints.delete_unsealed(self.state.global_step)
                raise
        self.watchdog.note_progress("saving")
        self.clock.saved()

    def _save_sealed(self, model: Any, trial: Any) -> None:
        self._require_finite_weights()
        folder = self.checkpoints.of_step(self.state.global_step)
        self.processes.agree(lambda: require_space_for_checkpoint(self.disk, self.output, self.checkpoints.whole()))
        if self.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)  # what a killed run left half-written
        self.processes.wait()
        super()._save_checkpoint(model, trial)
        self.processes.wait()
        self.processes.agree(lambda: self._complete_checkpoint(folder))
        seal_together(folder, self.processes, lambda: {"step": self.state.global_step, **self._notes(folder)})
        self.processes.agree(lambda: self._prune(folder))

    def _complete_checkpoint(self, folder: Path) -> None:
        require_saved(folder, expected_shapes(self.hugging_face_model), sharded=self.is_deepspeed_enabled)
        self.guards.save(folder)

    def _prune(self, sealed: Path) -> None:
        self.checkpoints.prune(sealed, best=self.validation and self.validation.best_checkpoint(self.output))


def _note_lost_tracker(clock: RunClock, name: str, reason: str) -> None:
    clock.write("lost", tracker=name, reason=reason)


def _only(items: list[Any]) -> Any:
    """The one item of a batch: a plan of an optimizer step."""
    return items[0]
