"""The learning rate of each optimizer step. transformers' own warm-up begins at 0, which would waste the first step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim.lr_scheduler import LambdaLR


@dataclass
class Schedule:
    """Step number -> ratio of its learning rate to the peak. Called by `torch.optim.lr_scheduler.LambdaLR`.

    With N steps in all, W of them warm-up, step k of 1 to N has

        k / W                            while k <= W
        1 - p                            linear,   p = (k - 1 - W) / (N - W)
        m + (1 - m) (1 + cos(pi p)) / 2  cosine,   m = min_ratio
        1                                constant

    Example: N 10, W 2, linear: 0.5, 1, 1, 0.875, 0.75, ... 0.125. The decay is transformers' own: p would be 1, and
    the rate 0 or m, one step after the last.
    """

    kind: Literal["cosine", "linear", "constant"]
    steps: int
    warmup_steps: int
    min_ratio: float

    def __call__(self, done: int) -> float:
        """The ratio for the step after `done` finished steps."""
        step = done + 1
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        if self.kind == "constant":
            return 1.0
        progress = min((step - 1 - self.warmup_steps) / max(self.steps - self.warmup_steps, 1), 1.0)
        if self.kind == "linear":
            return 1.0 - progress
        return self.min_ratio + (1 - self.min_ratio) * (1 + math.cos(math.pi * progress)) / 2


class ScheduledRates(LambdaLR):
    """LambdaLR for a `Schedule` whose number of steps may change when a run is resumed.

    Example: a linear schedule of 10 steps is saved after step 4 with the ratio of step 5, 0.6. Resumed with 20 steps,
    step 5 has the ratio 0.8. LambdaLR alone would restore the saved schedule with all its fields, and the optimizer's
    saved state contains the rate of step 5.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "lr_lambdas": [None] * len(self.lr_lambdas)})

    def restore_rates(self) -> None:
        """Give the optimizer the rates of this schedule. Call it once the optimizer's state is loaded, too."""
        ratios = [ratio(self.last_epoch) for ratio in self.lr_lambdas]
        self._last_lr = [base * ratio for base, ratio in zip(self.base_lrs, ratios, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def restore_rates(scheduler: Any) -> None:
    """`ScheduledRates.restore_rates`, also for a scheduler that accelerate has wrapped."""
    inner = getattr(scheduler, "scheduler", scheduler)
    assert isinstance(inner, ScheduledRates)
    inner.restore_rates()


def warmup_steps(ratio: float, steps: int) -> int:
    """`ratio` times `steps`, rounded up; 0.07 of 100 is 7, though 0.07 * 100 is 7.000000000000001."""
    return min(math.ceil(ratio * steps - 1e-9), steps)
