"""What happens between the steps of a run: progress, and a clean end when the run is asked to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align.effective_time import RunClock
from align.reporting import Progress, logger
from align.settings import TrainingConfig
from align.trainers.metrics import RunMetrics
from align.trainers.processes import Processes
from align.trainers.trackers import Speed
from align.tree.pack import RunPlan

log = logger(__name__)

AGAIN_SECONDS = 1.0
"""A second Ctrl-C counts as one after this time: a launcher may send the first one to its processes again."""


class Steered(Protocol):
    """What steering needs of a trainer."""

    stage: str
    plan: RunPlan
    processes: Processes
    training: TrainingConfig
    speed: Speed
    metrics: RunMetrics
    clock: RunClock


class Steering(TrainerCallback):
    """Report progress, and stop with a checkpoint when a signal asks for it."""

    def __init__(self, trainer: Steered) -> None:
        self.trainer = trainer
        self.asked: int | None = None
        """The signal that has asked the run to stop."""
        self.progress: Progress | None = None
        self._asked_at = 0.0
        self._saved_at = 0.0
        """When the last checkpoint was written, or the first step of this start began."""
        self._before: dict[int, Any] | None = None

    @contextmanager
    def signals(self) -> Iterator[None]:
        """After the block SIGTERM and SIGINT do what they did before it, whatever `catch_signals` did inside."""
        try:
            yield
        finally:
            for number, handler in (self._before or {}).items():
                signal.signal(number, handler)
            self._before = None

    def catch_signals(self) -> None:
        """From here on SIGTERM and SIGINT ask for a checkpoint after the current step, and for the end of the run.

        Called before the first step and before the finished model is written. Until then a signal does what it did
        before, which ends the process: nothing has begun that could be saved. Only the main thread can set signal
        handlers; in other threads signals are left as they are.
        """
        if self._before is None and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop_is_asked(self) -> bool:
        """Whether a signal has asked any process of the run to stop. Every process calls it."""
        return self.trainer.processes.anywhere(self.asked is not None)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.clock.train(state.global_step)
        self._saved_at = time.monotonic()
        self.progress = Progress(self.trainer.stage, len(self.trainer.plan), done=state.global_step)
        state.compute_steps(args, state.max_steps)  # a resumed state has the earlier log_steps and save_steps

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.catch_signals()
        self.trainer.speed.begin_step()
        self.trainer.clock.begin_step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.speed.end_step()
        self.trainer.clock.end_step(state.global_step)
        # One collective operation for both questions; a second one only if the answer is yes.
        if self.trainer.processes.anywhere(self.asked is not None or self._save_is_due()):
            control.should_save = True
            control.should_training_stop |= self.stop_is_asked()
        if control.should_save:
            # The means that metrics.jsonl reports would otherwise lose the steps since the last line.
            control.should_log = True
        if state.global_step >= state.max_steps:
            control.should_save = self.trainer.training.keep_optimizer  # otherwise the finished model alone is written

    def _save_is_due(self) -> bool:
        """Whether `training.save_minutes` have passed since the last save. Only the first process's clock counts."""
        minutes = self.trainer.training.save_minutes
        due = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        return due and self.trainer.processes.is_first

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved_at = time.monotonic()
        if self.stop_is_asked():
            control.should_training_stop = True  # asked while it was saving: without a further step

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.progress and state.global_step > self.progress.done:
            self.progress.advance(state.global_step - self.progress.done, self.trainer.metrics.note)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.progress:
            self.progress.close()  # a run that was asked to stop has not reached its end

    def _ask(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.asked is not None:
            if number == signal.SIGINT and now - self._asked_at > AGAIN_SECONDS:
                raise KeyboardInterrupt
            return
        self.asked, self._asked_at = number, now
        with suppress(RuntimeError):  # the signal has interrupted a line that was being written to the same stream
            log.warning("asked to stop: a checkpoint is written after this step (a second Ctrl-C ends without it)")
