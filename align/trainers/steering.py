"""What happens between the steps of a run: progress, and a clean end when the run is asked to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align.reporting import Progress, logger
from align.settings import TrainingConfig
from align.trainers.processes import Processes
from align.trainers.trackers import Speed
from align.tree.pack import RunPlan

log = logger(__name__)


class Steered(Protocol):
    """What steering needs of a trainer."""

    stage: str
    plan: RunPlan
    progress_note: str
    processes: Processes
    training: TrainingConfig
    speed: Speed


class Steering(TrainerCallback):
    """Report progress, and stop with a checkpoint when a signal asks for it."""

    def __init__(self, trainer: Steered) -> None:
        self.trainer = trainer
        self.stop = False
        self.progress: Progress | None = None

    @contextmanager
    def signals(self) -> Iterator[None]:
        """In the block, SIGTERM and SIGINT ask for a checkpoint after the current step, and for the end of the run.

        After the block they do what they did before. Only the main thread can set signal handlers; in other threads
        signals are left as they are.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.progress = Progress(self.trainer.stage, len(self.trainer.plan), done=state.global_step)
        state.compute_steps(args, state.max_steps)  # a resumed state has the earlier log_steps and save_steps

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.speed.begin_step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.speed.end_step()
        if self.trainer.processes.anywhere(self.stop):
            control.should_save = control.should_training_stop = True
        if control.should_save:
            # The means that metrics.jsonl reports would otherwise lose the steps since the last line.
            control.should_log = True
        if state.global_step >= state.max_steps:
            control.should_save = self.trainer.training.keep_optimizer  # otherwise the finished model alone is written

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.progress and state.global_step > self.progress.done:
            self.progress.advance(state.global_step - self.progress.done, self.trainer.progress_note)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.progress:
            self.progress.close()  # a run that was asked to stop has not reached its end

    def _ask(self, number: int, frame: Any) -> None:
        self.stop = True
        log.warning("asked to stop: a checkpoint is written after this step")
