"""95% confidence intervals of shares and of other statistics.

Llama 3's formula (section 5.1.1) is symmetric and has no width at 0 and 1, unlike Wilson's, which is used here. Cases
in clusters, such as the pairs of one prompt, are not independent: their interval is a bootstrap over clusters. Two
models that answered the same cases are compared case by case (`paired_difference`): most of the luck of the draw is the
same for both, so the interval of the difference is narrower than the two intervals suggest.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

Z_95 = 1.96
"""95% of a normal distribution are within this many standard deviations, rounded as in the Llama 3 paper."""

RESAMPLES = 2000
"""Resamples of a bootstrap. The ends of a 95% interval then vary by about a thirtieth of its width."""

_T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""Degrees of freedom -> the 97.5% quantile of Student's t; see `few_clusters_factor`."""


class Share(NamedTuple):
    """A share with its 95% interval, all from 0 to 1; for a difference of two shares, from -1 to 1."""

    value: float
    low: float
    high: float
    n: int
    """The number of cases."""


def percent_range(low: float, high: float, digits: int = 0) -> str:
    """The ends of an interval in percent: `25-41`, or `-47 to -16`, which a dash between them would make unreadable."""
    first, last = (f"{round(100 * end, digits) + 0.0:.{digits}f}" for end in (low, high))  # + 0.0: no "-0"
    return f"{first} to {last}" if first.startswith("-") else f"{first}-{last}"


def share(hits: float, n: int, z: float = Z_95) -> Share | None:
    """hits / n with Wilson's score interval; None if there are no cases.

    hits: may be a fraction, since ties count half.
    Edge: 0 of n has low 0 and a high above 0; n of n has high 1 and a low below 1.
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
    """A statistic from 0 to 1 of all cases, with its percentile bootstrap interval.

    statistic: may return None for a resample, which is then left out. If it is the same for all resamples, the interval
        has no width, so use `share` for plain shares.
    Edge: None if the statistic of the cases themselves is None.
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
    """The half-width that Llama 3 reports: 1.96 sqrt(S (1 - S) / N), section 5.1.1."""
    return Z_95 * math.sqrt(value * (1 - value) / n)


def clustered_share(points: Sequence[float], clusters: Sequence[str]) -> Share | None:
    """The mean of points from 0 to 1, with an interval for cases in clusters.

    points, clusters: one of each for every case. Each end of the interval is the outer one of Wilson's interval over
        cases and the bootstrap over clusters, so that a small number of clusters cannot make it too narrow.
    """
    plain = share(sum(points), len(points))
    if plain is None:
        return None
    _, low, high = bootstrap_mean(points, clusters)
    return plain._replace(low=max(0.0, min(plain.low, low)), high=min(1.0, max(plain.high, high)))


def share_of(points: Sequence[float], clusters: Sequence[str]) -> Share | None:
    """`share` if every case is a cluster of its own, else `clustered_share`."""
    if len(set(clusters)) == len(clusters):
        return share(sum(points), len(points))
    return clustered_share(points, clusters)


def clustered_mean(values: Sequence[float], clusters: Sequence[str], reach: float) -> Share | None:
    """The mean of values from -reach to reach, with an interval for cases in clusters.

    values, clusters: one of each for every case. Each end of the interval is the outer one of two: the bootstrap over
        clusters, and the adjusted Wald interval over cases. The latter adds one case of `reach` and one of `-reach`, so
        that it has a width even if all values are equal. For example, 3 of 40 cases that are better and 1 that is
        worse have the mean 0.05; with the two cases, 4 and 2 of 42 have 0.048, and the interval is that of 42 cases.
    Source: Bonett and Price 2012 ("Adjusted Wald confidence interval for a difference of binomial proportions based on
        paired data"), for values of -1, 0 and 1.
    """
    if not values:
        return None
    n = len(values) + 2
    centre = sum(values) / n
    variance = (sum(value * value for value in values) + 2 * reach * reach) / n - centre * centre
    half = Z_95 * math.sqrt(variance / n)
    value, low, high = bootstrap_mean(values, clusters)
    low, high = min(low, centre - half, value), max(high, centre + half, value)
    return Share(value, max(-reach, low), min(reach, high), len(values))


def few_clusters_factor(clusters: int) -> float:
    """By how much a percentile interval over few clusters is too narrow: t sqrt(m / (m - 1)) / 1.96 for m clusters.

    The resampled clusters vary by (m - 1) / m of the true variance, and 1.96 is the quantile of a normal distribution
    and not of Student's t with m - 1 degrees of freedom. Of 5 clusters the factor is 1.58, of 20 1.10, of 200 1.01.
    Without it, a paired difference over 4 to 10 clusters is significant in 12% of the experiments without a difference.
    Edge: 1 for a single cluster, which says nothing of the variation between clusters.
    Source: Hesterberg 2015 ("What Teachers Should Know About the Bootstrap"), section 5.3; t by Cornish and Fisher's
        expansion, with an error below 0.2% from 5 degrees of freedom on.
    """
    if clusters < 2:
        return 1.0
    z, free = 1.959964, clusters - 1
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    t = _T_95.get(free) or sum(term / free**power for power, term in enumerate(terms))
    return t / z * math.sqrt(clusters / free)


def paired_difference(
    before: Sequence[float], after: Sequence[float], clusters: Sequence[str], reach: float = 1.0
) -> Share | None:
    """The mean of after minus before, case by case, with its 95% interval; see `clustered_mean`.

    before, after: of the same cases in the same order. reach: how far a case can be apart, 1 for points from 0 to 1.
    """
    return clustered_mean([new - old for old, new in zip(before, after, strict=True)], clusters, reach)


def mean_share(shares: Sequence[Share]) -> Share:
    """The mean of shares, or of differences, of independent cases, such as those of several benchmarks.

    Each share counts the same, whatever its number of cases. The squared distances from the shares to the ends of their
    intervals are added up, as variances are. Two shares 0.5 (0.4 to 0.6) and 0.7 (0.6 to 0.8) have the mean 0.6, and
    half of the root of 0.1 squared plus 0.1 squared on each side: 0.53 to 0.67.
    Source: Zou and Donner 2008 ("Construction of confidence limits about effect measures: a general approach").
    """
    value = sum(each.value for each in shares) / len(shares)
    below = math.sqrt(sum((each.value - each.low) ** 2 for each in shares)) / len(shares)
    above = math.sqrt(sum((each.high - each.value) ** 2 for each in shares)) / len(shares)
    return Share(value, value - below, value + above, sum(each.n for each in shares))


def paired_ratio_difference(
    before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]], clusters: Sequence[str]
) -> Share | None:
    """The ratio sum(a) / sum(b) after minus that before, for a and b of 0 or 1, with its 95% interval.

    before, after: (a, b) of the same cases in the same order, such as (right, answered).
    Each end of the interval is the outer one of two. The bootstrap draws the same clusters for both ratios, without the
    resamples in which one ratio has nothing to divide by. The linearized variance over cases adds two cases, one that
    gets better and one that gets worse, as `clustered_mean` does: the bootstrap alone takes 3 right answers of 3 for a
    ratio of exactly 1.
    Edge: None if one of the two ratios has nothing to divide by.
    """
    import numpy as np

    columns = [(*old, *new) for old, new in zip(before, after, strict=True)]
    grouped: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for cluster, column in zip(clusters, columns, strict=True):
        grouped[cluster].append(column)
    sums = np.array([np.sum(group, axis=0) for group in grouped.values()], dtype=float).reshape(-1, 4)
    totals = sums.sum(axis=0)
    if not totals[1] or not totals[3]:
        return None
    many = len(sums)
    drawn = np.random.default_rng(0).multinomial(many, np.full(many, 1 / many), size=RESAMPLES) @ sums
    drawn = drawn[(drawn[:, 1] > 0) & (drawn[:, 3] > 0)]
    value = float(totals[2] / totals[3] - totals[0] / totals[1])
    low, high = np.quantile(drawn[:, 2] / drawn[:, 3] - drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    factor = few_clusters_factor(many)
    low, high = value - factor * (value - float(low)), value + factor * (float(high) - value)
    cases = np.array([*columns, (1, 1, 0, 1), (0, 1, 1, 1)], dtype=float)
    old, old_of, new, new_of = cases.sum(axis=0)
    centre = float(new / new_of - old / old_of)
    parts = (cases[:, 2] - new / new_of * cases[:, 3]) / new_of - (cases[:, 0] - old / old_of * cases[:, 1]) / old_of
    half = Z_95 * float(np.sqrt((parts * parts).sum()))
    low, high = min(value, low, centre - half), max(value, high, centre + half)
    return Share(value, max(-1.0, low), min(1.0, high), len(columns))


def clustered_bootstrap(
    statistic: Callable[[Sequence[T]], float | None],
    cases: Sequence[T],
    clusters: Sequence[str],
    resamples: int = 1000,
) -> Share | None:
    """`bootstrapped` for cases in clusters: a resample draws clusters, and takes all cases of each."""
    grouped: dict[str, list[T]] = defaultdict(list)
    for case, cluster in zip(cases, clusters, strict=True):
        grouped[cluster].append(case)
    found = bootstrapped(lambda drawn: statistic(list(chain(*drawn))), list(grouped.values()), resamples)
    return None if found is None else found._replace(n=len(cases))


def bootstrap_mean(values: Sequence[float], clusters: Sequence[str], seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): the mean of the values, and its 95% percentile interval over resampled clusters.

    Clusters a = [1, 1] and b = [0], resampled as (a, a), (a, b), (b, a), (b, b), have the means 1, 2/3, 2/3 and 0. Both
    ends are then moved away from the mean by `few_clusters_factor`, and may be outside the range of the values.
    Edge: one cluster, or equal values, give an interval without width.
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
    value, factor = float(sums.sum() / counts.sum()), few_clusters_factor(many)
    low, high = (value + factor * (float(end) - value) for end in np.quantile(means, [0.025, 0.975]))
    return value, low, high


def resampled_means(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """The mean of each column over resampled rows, for intervals of statistics that are functions of several means.

    Shapes: values is [cases, columns]; the result is [RESAMPLES, columns]. A resample draws the same rows for all
    columns, so the difference of two columns of the result belongs to a paired interval.
    Source: Efron and Tibshirani 1993, chapter 13.
    """
    import numpy as np

    many = len(values)
    generator, chances = np.random.default_rng(seed), np.full(many, 1 / many)
    return np.stack([generator.multinomial(many, chances) @ values for _ in range(RESAMPLES)]) / many
