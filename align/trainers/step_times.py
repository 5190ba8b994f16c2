"""What a process does in its optimizer steps: seconds for data, for work, and in collective operations.

    data            rows to batches
    work            data and forward passes, until the loss is known, without collective operations
    communication   collective operations that Python sees, waiting for the other processes included; in DDP, which
                    averages gradients while it computes them, what was left to wait for

On GPUs NCCL runs collective operations in the background, and Python sees only how long it takes to start them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

_COLLECTIVES = (
    *("all_reduce", "all_reduce_coalesced", "reduce", "reduce_scatter", "reduce_scatter_tensor", "broadcast"),
    *("all_gather", "all_gather_into_tensor", "all_gather_coalesced", "all_to_all_single", "all_to_all", "barrier"),
)
"""Methods of DeepSpeed's backend."""

DATA, WORK, COMMUNICATION, SAVING, EVALUATION = "data", "work", "communication", "saving", "evaluation"


class Spent(NamedTuple):
    """Seconds of one process: for each optimizer step, and for saving in all, since the last report."""

    data: float
    work: float
    communication: float
    saving: float

    def metrics(self) -> dict[str, float]:
        """As metrics.jsonl and trackers have them."""
        return {"data_time": self.data, "communication_time": self.communication, "save_time": self.saving}


class StepTimes:
    """Seconds by kind since the last report."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._communicated = 0.0
        """In all, since the process began."""

    @contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """Add the seconds of the block, without collective operations in it."""
        began, before = time.perf_counter(), self._communicated
        try:
            yield
        finally:
            self._seconds[kind] += time.perf_counter() - began - (self._communicated - before)

    @contextmanager
    def whole(self, kind: str) -> Iterator[None]:
        """Add the seconds of the block, with the collective operations in it, which count as nothing else."""
        began, before = time.perf_counter(), self._seconds[COMMUNICATION]
        try:
            yield
        finally:
            self._seconds[kind] += time.perf_counter() - began
            self._seconds[COMMUNICATION] = before

    def communicating(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose seconds count as communication; so do those of `wait` of what it returns."""

        @wraps(function)
        def timed(*arguments: Any, **settings: Any) -> Any:
            began = time.perf_counter()
            try:
                found = function(*arguments, **settings)
            finally:
                seconds = time.perf_counter() - began
                self._communicated += seconds
                self._seconds[COMMUNICATION] += seconds
            return _TimedWork(found, self) if callable(getattr(found, "wait", None)) else found

        timed.is_timed = True  # type: ignore[attr-defined]
        return timed

    def watch_deepspeed(self) -> None:
        """Measure the collective operations of DeepSpeed, which all go through the methods of one object."""
        from deepspeed import comm

        backend = comm.comm.cdb
        for name in _COLLECTIVES:
            method = getattr(backend, name, None)
            if callable(method) and not hasattr(method, "is_timed"):
                setattr(backend, name, self.communicating(method))

    def report(self, steps: int) -> Spent:
        """What was spent since the last report. steps: optimizer steps since then."""
        seconds, each = self._seconds, max(steps, 1)
        spent = Spent(
            data=seconds[DATA] / each,
            work=seconds[WORK] / each,
            communication=seconds[COMMUNICATION] / each,
            saving=seconds[SAVING],
        )
        seconds.clear()
        return spent


class _TimedWork:
    """A collective operation that goes on: waiting for it is communication."""

    def __init__(self, work: Any, times: StepTimes) -> None:
        self._work = work
        self.wait = times.communicating(work.wait)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def exposed_ddp_seconds(model: Any) -> float:
    """Seconds that the last step which DDP has measured spent on averaging gradients while nothing was computed.

    DDP measures its first ten steps and then each hundredth. 0 if the model is not wrapped by it.
    """
    if not hasattr(model, "_get_ddp_logging_data"):
        return 0.0
    data = model._get_ddp_logging_data()
    exposed = data.get("backward_comm_time", 0) - data.get("backward_compute_comm_overlap_time", 0)
    return float(max(exposed, 0)) / 1e9
