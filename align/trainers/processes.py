"""How the processes of one run agree: on an answer, on whether one of them has a problem, on sums of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate.utils import broadcast_object_list

from align.errors import AlignError
from align.trainers.step_times import StepTimes

T = TypeVar("T")


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

    @property
    def is_first(self) -> bool:
        return self.number == 0

    def agree(self, question: Callable[[], T]) -> T:
        """Call `question` on the first process, and return its answer on all of them.

        If it raises an AlignError, all processes raise it, so that none waits for one that has left.
        """
        answer: list[Any] = [None, None]
        if self.is_first:
            try:
                answer[0] = question()
            except AlignError as error:
                answer[1] = error
        self.times.communicating(broadcast_object_list)(answer)
        if answer[1] is not None:
            raise answer[1]
        found: T = answer[0]
        return found

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
        self.times.communicating(dist.all_gather_object)(found, here)
        return found

    def summed(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum of each value over all processes, by name and in the order of the names.

        The processes must give the same names; they may give them in different orders.
        """
        names = sorted(values)
        if self.count == 1 or not values:
            return {name: float(values[name]) for name in names}
        sums = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.device)
        self.times.communicating(dist.all_reduce)(sums)
        return dict(zip(names, sums.tolist(), strict=True))
