"""95% intervals of shares, and of statistics that are no shares.

The paper's formula (P 5.1.1) is symmetric and collapses to nothing at 0 and 1; we report Wilson's, which does not.
Cases that come in clusters, such as pairs of one prompt, say less than as many that stand alone: theirs is a bootstrap.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")

Z_95 = 1.96
"""Standard deviations on either side that hold 95% of a normal distribution, rounded as the paper rounds it."""


RESAMPLES = 2000
"""Draws of a bootstrap: the edges of a 95% interval are then sure to about a thirtieth of its width."""


class Share(NamedTuple):
    """A share with its 95% interval, all from 0 to 1."""

    value: float
    low: float
    high: float
    n: int
    """Cases that it is a share of."""


def share(hits: float, n: int, z: float = Z_95) -> Share | None:
    """hits / n with Wilson's score interval; None of no cases.

    hits: may be broken, where ties count half.
    Edge: 0 of n has low 0 and a high above 0; n of n the mirror image.
    Source: Wilson 1927; Brown, Cai and DasGupta 2001, eq. 4.
    """
    assert 0 <= hits <= n, f"{hits} hits of {n}"
    if n == 0:
        return None
    value = hits / n
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n * value * (1 - value) + z * z / 4)
    return Share(value, max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half)), n)


def bootstrapped(
    statistic: Callable[[Sequence[T]], float | None], cases: Sequence[T], resamples: int = 1000, seed: int = 0
) -> Share | None:
    """A statistic from 0 to 1 of all cases, with its percentile bootstrap interval: cases are drawn with replacement.

    statistic: None where it has no value; such resamples are left out. Resamples in which it is always the same give an
        interval of no width, so for a plain share take `share`.
    Edge: None where the cases themselves give no value.
    Source: Efron 1979; Efron and Tibshirani 1993, chapter 13.
    """
    value = statistic(cases) if cases else None
    if value is None:
        return None
    draw = random.Random(seed)
    found = sorted(
        again for again in (statistic(draw.choices(cases, k=len(cases))) for _ in range(resamples)) if again is not None
    )
    low, high = found[int(0.025 * len(found))], found[min(len(found) - 1, int(0.975 * len(found)))]
    return Share(value, min(low, value), max(high, value), len(cases))


def paper_half_width(value: float, n: int) -> float:
    """The half-width that Llama 3 reports: 1.96 sqrt(S (1 - S) / N), P 5.1.1. A lower bound on the real variation."""
    return Z_95 * math.sqrt(value * (1 - value) / n)


def clustered_share(points: Sequence[float], clusters: Sequence[str]) -> Share | None:
    """The mean of points from 0 to 1 with an interval for cases of which those of one cluster hang together.

    points, clusters: one of each a case. On each side the wider one of Wilson's interval over cases and the bootstrap
    over clusters: where every cluster has one case they agree, and few clusters cannot make it narrow.
    """
    plain = share(sum(points), len(points))
    if plain is None:
        return None
    _, low, high = bootstrap_mean(points, clusters)
    return plain._replace(low=min(plain.low, low), high=max(plain.high, high))


def bootstrap_mean(values: Sequence[float], clusters: Sequence[str], seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): the mean of the values, and its 95% percentile interval over whole clusters drawn anew.

    Edge: one cluster, or values that are all the same, give an interval of no width.
    Source: Efron and Tibshirani 1993, chapter 13; clusters as Davison and Hinkley 1997, section 3.8.
    """
    import numpy as np

    grouped: dict[str, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        grouped[cluster].append(value)
    sums = np.array([sum(group) for group in grouped.values()])
    counts = np.array([len(group) for group in grouped.values()])
    many = len(grouped)
    generator, chances = np.random.default_rng(seed), np.full(many, 1 / many)
    times_drawn = (generator.multinomial(many, chances) for _ in range(RESAMPLES))
    means = [(times @ sums) / (times @ counts) for times in times_drawn]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(sums.sum() / counts.sum()), float(low), float(high)
