"""How the processes of one run agree: on an answer, on whether one of them has a problem, on sums of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from align.errors import AlignError
from align.trainers.step_times import StepTimes

T = TypeVar("T")

_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them. Every process has to call each method, in the same order."""

    count: int
    number: int
    """Which of them this process is, from 0."""
    device: torch.device
    """Where the tensors of a collective must be."""
    times: StepTimes = field(default_factory=StepTimes, compare=False)
    """Collective operations are measured here."""
    sharing: int = 1
    """This many neighbors share each packed row (`training.sequence_parallel`). All of them have all of its values."""

    @classmethod
    def launched(cls) -> Processes:
        """Those that a launcher has started together, once torch.distributed knows of them; else this one alone.

        For agreements before there is a model: they need no device.
        """
        together = dist.is_available() and dist.is_initialized()
        count, number = (dist.get_world_size(), dist.get_rank()) if together else (1, 0)
        return cls(count, number, torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        return self.number == 0

    @property
    def groups(self) -> int:
        """How many packed rows the processes compute at a time."""
        return self.count // self.sharing

    @property
    def group(self) -> int:
        """Which of the groups this process is in, from 0."""
        return self.number // self.sharing

    @property
    def leads(self) -> bool:
        """Whether this process is the first of its group: it alone counts and writes what all of the group have."""
        return self.number % self.sharing == 0

    @cached_property
    def _patient_group(self) -> Any:
        """A group of all processes in which some may be hours late: one of them reads or writes terabytes meanwhile.

        The default group would abort the run after its time-out (30 minutes for NCCL). A hang is the watchdog's to
        find, and if a process ends, the others notice at once: gloo's connections to it are closed.
        """
        return dist.new_group(backend="gloo", timeout=_PATIENCE)

    def wait(self) -> None:
        """Return once every process has called this, however late the last one is."""
        if self.count > 1:
            self.times.communicating(dist.barrier)(group=self._patient_group)

    def agree(self, question: Callable[[], T]) -> T:
        """Call `question` on the first process, however long it takes, and return its answer on all of them.

        If it raises an AlignError or OSError, all processes raise it, so that none waits for one that has left.
        """
        answer: list[Any] = [None, None]
        if self.is_first:
            answer = list(answer_or_error(question))
        if self.count > 1:
            self.times.communicating(dist.broadcast_object_list)(answer, src=0, group=self._patient_group)
        if answer[1] is not None:
            raise answer[1]
        found: T = answer[0]
        return found

    def everywhere(self, task: Callable[[], T]) -> list[T]:
        """Call `task` on every process, however long it takes, and return all results, in the order of the processes.

        If it raises an AlignError or OSError on any of them, all processes raise the first of these.
        """
        found = self.gathered_objects(answer_or_error(task))
        for _, error in found:
            if error is not None:
                raise error
        return [cast(T, answer) for answer, _ in found]

    def anywhere(self, here: bool) -> bool:
        """Whether `here` is true on any process."""
        if self.count == 1:
            return here
        flag = torch.tensor(float(here), device=self.device)
        self.times.communicating(dist.all_reduce)(flag)
        return bool(flag.item() > 0)

    def gathered(self, values: Sequence[float]) -> list[list[float]]:
        """The values of each process, in the order of the processes. All give as many."""
        if self.count == 1:
            return [list(values)]
        here = torch.tensor(values, dtype=torch.float64, device=self.device)
        found = [torch.empty_like(here) for _ in range(self.count)]
        self.times.communicating(dist.all_gather)(found, here)
        return [each.tolist() for each in found]

    def gathered_objects(self, here: T) -> list[T]:
        """An object of each process, in the order of the processes. Slower than `gathered`."""
        if self.count == 1:
            return [here]
        found: list[Any] = [None] * self.count
        self.times.communicating(dist.all_gather_object)(found, here, group=self._patient_group)
        return found

    def summed(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum of each value over all processes, by name and in the order of the names.

        The processes must give the same names; they may give them in different orders. Values of packed rows: of the
        processes that share a row, those of the first one count.
        """
        names = sorted(values)
        if self.count == 1 or not values:
            return {name: float(values[name]) for name in names}
        here = [values[name] if self.leads else 0.0 for name in names]
        sums = torch.tensor(here, dtype=torch.float64, device=self.device)
        self.times.communicating(dist.all_reduce)(sums)
        return dict(zip(names, sums.tolist(), strict=True))


def answer_or_error(question: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """The answer to a question, or the AlignError or OSError that it raises."""
    try:
        return question(), None
    except (AlignError, OSError) as error:
        return None, error
