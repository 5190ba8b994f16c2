"""The metrics of a run between two log lines: sums over rows, processes and steps, reported as means."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from align.trainers.processes import Processes


class MetricSums:
    """Sums that grow from batch to batch until they are reported.

    Example: two batches add rows=3, margin_sum=1.5 and rows=1, margin_sum=0.5. `report` then gives margin 0.5, which is
    (1.5 + 0.5) / (3 + 1): the mean over rows, however the rows were packed.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = defaultdict(float)

    def add(self, **values: Tensor | float) -> None:
        """Add to the sums. A name ending in `_sum` is reported as its mean over `rows`, without the ending.

        Tensors are added where they are, in float64, and read by `totals` only: reading a value on a GPU would wait for
        all work that was queued before it.
        """
        for name, value in values.items():
            self._sums[name] += value.detach().double() if isinstance(value, Tensor) else float(value)

    def totals(self, processes: Processes) -> dict[str, float]:
        """The sums so far, over all processes. Every process calls it."""
        names = [name for name, value in self._sums.items() if isinstance(value, Tensor)]
        if names:  # one copy for all of them
            read = torch.stack([torch.as_tensor(self._sums[name]) for name in names]).tolist()
            self._sums.update(zip(names, read, strict=True))
        return processes.summed({name: float(value) for name, value in self._sums.items()})

    def report(self, processes: Processes) -> dict[str, float]:
        """The metrics since the last report, and start again from 0. Every process calls it.

        `filled_share` is the share of the packed rows' token places that held a token.
        """
        totals = self.totals(processes)
        self._sums.clear()
        rows = max(totals.pop("rows", 0.0), 1.0)
        metrics = {}
        if "token_places" in totals:
            metrics["filled_share"] = totals["tokens"] / totals.pop("token_places")
        means = {k.removesuffix("_sum"): v / rows if k.endswith("_sum") else v for k, v in totals.items()}
        return metrics | means
