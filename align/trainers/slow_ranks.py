"""Names a process that is slower than the others.

All processes take the same time for a step, because each waits for the slowest one in collective operations. So what is
compared is the time in which a process works and does not wait: reading its rows and its forward passes, without the
collective operations in them that Python sees (`StepTimes`). On GPUs under ZeRO-3 weights are gathered inside the
forward pass by the GPU itself, which Python does not see: there a slow device makes all of them slow, and this finds
only slow hosts and disks.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from statistics import median

from align.reporting import logger

log = logger(__name__)

IN_A_ROW = 3
"""A process is named when it was slow in this many comparisons, one after another."""
_LEAST_SECONDS = 0.005
"""Shorter differences are noise."""


class SlowRanks:
    """Compares the seconds of work of all processes. factor: of the median, above which a process is slow."""

    def __init__(self, rank: int, factor: float) -> None:
        self.rank, self.factor = rank, factor
        self._slow_for: dict[int, int] = {}

    def compare(self, seconds: Sequence[float]) -> list[int]:
        """Note the work of each process in a step, and return the processes that are named now.

        Example with a factor of 1.5: 1.0, 1.1, 1.9 and 1.0 s have the median 1.05 s, so process 2 is slow. If it is
        slow three times in a row, it is named: once, and again only after it has been as fast as the others.
        """
        middle = median(seconds)
        limit = max(self.factor * middle, middle + _LEAST_SECONDS)
        named = []
        for rank, spent in enumerate(seconds):
            count = self._slow_for.get(rank, 0) + 1 if spent > limit else 0
            self._slow_for[rank] = count
            if count == IN_A_ROW:
                named.append(rank)
                self._name(rank, spent, middle, len(seconds))
        return named

    def _name(self, rank: int, spent: float, middle: float, ranks: int) -> None:
        if self.rank not in (0, rank):
            return
        where = f" on {socket.gethostname()}" if rank == self.rank else ""
        log.warning(
            "rank %d%s is slow: %.3g s of work in a step, and the median of %d processes is %.3g s "
            "(training.slow_rank_factor: %g). All processes wait for it in every step",
            rank,
            where,
            spent,
            ranks,
            middle,
            self.factor,
        )
