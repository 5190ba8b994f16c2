"""Whether the loss or the gradient norm of a step is a spike against the steps before it.

Both are compared by their logarithms, since they are positive and vary by ratios. The middle is the median and the
spread the median absolute deviation (MAD), which a few outliers do not move (Leys et al. 2013, "Detecting outliers: Do
not use standard deviation around the mean, use absolute deviation around the median"). 1.4826 MAD is the standard
deviation of normal values.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

from align.settings import GuardsConfig

LEAST_SPREAD = 0.1
"""A smaller spread counts as this one: where every step is alike, a value 5% higher is no spike."""
LEAST_NORM_SPREAD = 0.3
"""The same of gradient norms. They rise by several times within a few steps when a model begins to fit its rows, and
clipping makes such an update no larger than others. With the default threshold a spike is 20 times the median."""

_TINY = 1e-12


class SpikeMeter:
    """The values of the last accepted steps, and the limit above which the next one is a spike.

    Example: the last values are 2.0, 2.2, 1.8, 2.1 and 2.0, and the threshold is 10. The median is 2.0; the logarithms
    differ from its own by 0, 0.095, 0.105, 0.049 and 0, so MAD is 0.049 and the spread 0.072, less than LEAST_SPREAD.
    The limit is 2.0 e^(10 * 0.1) = 5.4.

    Args:
        least_rise: a spike is at least this much above the median.
        least_value: a spike is at least this large.
        least_spread: a smaller spread counts as this one.
    """

    def __init__(
        self,
        guards: GuardsConfig,
        *,
        least_rise: float = 0.0,
        least_value: float = 0.0,
        least_spread: float = LEAST_SPREAD,
    ) -> None:
        self.threshold, self.warmup = guards.spike_threshold, guards.spike_warmup
        self.least_rise, self.least_value, self.least_spread = least_rise, least_value, least_spread
        self.values: deque[float] = deque(maxlen=max(guards.spike_window, guards.spike_warmup))

    def is_spike(self, value: float) -> bool:
        """Whether a finite value is above the limit."""
        return value > self.limit

    def add(self, value: float) -> None:
        """Count the value of an accepted step."""
        self.values.append(value)

    def restore(self, values: Iterable[float]) -> None:
        """Go on from the values of an earlier start."""
        self.values.clear()
        self.values.extend(values)

    @property
    def middle(self) -> float:
        """The median of the values."""
        return median(self.values)

    @property
    def limit(self) -> float:
        """The largest value that is no spike; infinity during the warm-up and without a threshold."""
        if self.threshold is None or len(self.values) < self.warmup:
            return math.inf
        logs = [math.log(max(value, _TINY)) for value in self.values]
        middle = median(logs)
        spread = max(1.4826 * median(abs(each - middle) for each in logs), self.least_spread)
        exponent = middle + self.threshold * spread
        limit = math.exp(exponent) if exponent < 700 else math.inf
        return max(limit, math.exp(middle) + self.least_rise, self.least_value)
