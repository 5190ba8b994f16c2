"""Trackers that cannot stop or slow a training: each is called in a thread of its own, and dropped when it fails.

A tracker talks to a server, which may refuse, raise or never answer. What a training logs is handed to the tracker's
thread, and the training goes on. A call that raises, or that takes longer than `CALL_SECONDS`, ends the tracker for
this start: one warning, and a line in `starts.jsonl`. metrics.jsonl has everything in any case.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import CallbackHandler

from align.errors import ConfigError, first_line
from align.hub_errors import chain, is_of_the_network
from align.reporting import duration, logger

log = logger(__name__)

CALL_SECONDS = 60.0
"""The longest call of a tracker; at the end of training, the longest wait for all that is left to send."""
START_SECONDS = 120.0
"""The longest start of a tracker: some look up a host or log in."""
_BACKLOG = 10_000
"""Calls that may wait for a slow tracker."""
_EVENTS = tuple(name for name in vars(TrainerCallback) if name.startswith("on_"))
_OUTAGE = ("timed out", "timeout", "connection", "connect to", "unreachable", "temporary failure", "502", "503", "504")

Lost = Callable[[str, str], None]
"""Called with the name of a tracker and the reason for which it was dropped. It must not hold the trainer: the
thread of a tracker that hangs lives as long as the process."""


def guard_trackers(handler: CallbackHandler, arguments: TrainingArguments, lost: Lost) -> None:
    """Put a guard around each tracker among the callbacks of a trainer."""
    classes = tuple(get_reporting_integration_callbacks(arguments.report_to))
    handler.callbacks = [
        GuardedTracker(each, lost) if isinstance(each, classes) else each for each in handler.callbacks
    ]


@contextmanager
def ending_trackers(handler: CallbackHandler) -> Iterator[None]:
    """End the threads of the trackers after the block, so that none of them keeps a trainer or its model in memory."""
    try:
        yield
    finally:
        for each in handler.callbacks:
            if isinstance(each, GuardedTracker):
                each.end()


class GuardedTracker(TrainerCallback):
    """A tracker of transformers, called in one thread: some keep their run in a variable of the thread."""

    def __init__(self, tracker: TrainerCallback, lost: Lost) -> None:
        self.tracker = tracker
        self.name = type(tracker).__name__.removesuffix("Callback")
        self.is_lost = False
        self._lost = lost
        self._dropping = threading.Lock()
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(_BACKLOG)
        """None ends the thread."""
        self._began: float | None = None
        """When the present call began."""
        self._thread: threading.Thread | None = None

    def start(self, *arguments: Any) -> None:
        """Call `setup` of the tracker now, and wait for it.

        Raises ConfigError if it cannot start for a reason that a user has to change. A server that does not answer is
        none: then the training goes on without the tracker.
        """
        failed: list[Exception] = []

        def call() -> None:
            try:
                self.tracker.setup(*arguments)
            except Exception as error:
                failed.append(error)

        if not self._call_and_wait(call, START_SECONDS):
            self._drop(f"did not start within {duration(START_SECONDS)}")
        elif failed and is_outage(failed[0]):
            self._drop(f"cannot start: {first_line(failed[0])}")
        elif failed:
            reason = first_line(failed[0]).rstrip(".")
            how = "Do what it says, or change training.report_to; docs/reports.md names trackers that need no account"
            raise ConfigError("training.report_to", f"{self.name} cannot start: {reason}", how) from failed[0]

    def hand_over(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Have the tracker called for an event of the training."""
        if self.is_lost:
            return
        began = self._began  # read once: the thread sets it to None
        if began is not None and time.monotonic() - began > CALL_SECONDS:
            self._drop(f"has not answered for {duration(CALL_SECONDS)}")
            return
        state, control = copy.copy(state), copy.copy(control)  # the training changes them while the tracker reads
        for name in ("logs", "metrics"):
            if name in more:
                more[name] = dict(more[name])

        def call() -> None:
            getattr(self.tracker, event)(args, state, control, **more)

        if event == "on_train_end":
            if not self._call_and_wait(call, CALL_SECONDS) and not self.is_lost:
                self._drop(f"did not finish within {duration(CALL_SECONDS)}")
        else:
            self._put(call)

    def end(self) -> None:
        """End the thread, once it has made the calls that wait: they hold what events are given, such as the model.

        A call that hangs keeps what it was given.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            self._calls.put_nowait(None)
        except queue.Full:
            self._drop(f"has {_BACKLOG:,} calls to make still")
        thread.join(0 if self.is_lost else CALL_SECONDS)
        if thread.is_alive():
            self._drop(f"did not finish within {duration(CALL_SECONDS)}")
        self._calls = queue.Queue(_BACKLOG)

    def _call_and_wait(self, call: Callable[[], None], seconds: float) -> bool:
        """Whether the call has ended within the time, or has failed."""
        done = threading.Event()

        def ended() -> None:
            try:
                self._try(call)  # reports a failure before `done`: a training that ends then has its report
            finally:
                done.set()

        self._put(ended)
        deadline = time.monotonic() + seconds
        while not done.wait(0.05) and not self.is_lost:
            if time.monotonic() > deadline:
                return False
        return True

    def _put(self, call: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"tracker {self.name}", daemon=True)
            self._thread.start()
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._drop(f"has {_BACKLOG:,} calls to make still")

    def _work(self) -> None:
        while not self.is_lost:
            call = self._calls.get()
            if call is None:
                return
            self._began = time.monotonic()
            self._try(call)
            self._began = None
            call = None  # not held while the thread waits for the next one

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._drop(f"failed: {type(error).__name__}: {first_line(error)}")

    def _drop(self, reason: str) -> None:
        """Report the loss once. `is_lost` is set after the report: who waits for `is_lost` finds the report made."""
        with self._dropping:
            if self.is_lost:
                return
            try:
                log.warning("%s %s. The training goes on without it; metrics.jsonl has all metrics", self.name, reason)
                self._lost(self.name, reason)
            finally:
                self.is_lost = True


def _event(name: str) -> Callable[..., None]:
    def handler(self: GuardedTracker, args: Any, state: Any, control: Any, **more: Any) -> None:
        if getattr(type(self.tracker), name) is not getattr(TrainerCallback, name):
            self.hand_over(name, args, state, control, **more)

    return handler


for _name in _EVENTS:
    setattr(GuardedTracker, _name, _event(_name))


def is_outage(error: BaseException) -> bool:
    """Whether an error is about a server or the network, and not about what a user has set."""
    links = list(chain(error))
    statuses = [getattr(getattr(link, "response", None), "status_code", None) for link in links]
    if any(isinstance(status, int) and 400 <= status < 429 for status in statuses):
        return False  # such as a key that is not valid
    if any(isinstance(link, ConnectionError | TimeoutError) or is_of_the_network(link) for link in links):
        return True
    said = " ".join(str(link) for link in links).lower()
    return any(sign in said for sign in _OUTAGE)
