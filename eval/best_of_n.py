"""Best-of-n curves over many prompts: what more candidates bring, and whether a held-out judge agrees that they do.

All intervals are 95% percentile bootstrap intervals over prompts, and all of them use the same resamples. A gain is a
difference on the same prompts, so its interval is a paired one.

Dimension letters: P prompts with at least one usable candidate, K candidates of each, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from align.errors import RowError
from align.rows import Candidate
from eval.intervals import resampled_means

if TYPE_CHECKING:
    import numpy as np

MIN_GAIN = 0.1
"""Default of the gain per doubling that is worth its cost, in the judge's units (log-odds for a reward model)."""

MIN_KEPT_GAIN = 0.05
"""A doubling is also worth its cost if it raises the ratio of prompts for which a candidate is kept by this much."""

LOW_AGREEMENT = 0.2
"""The held-out judge does not confirm a rise if even the upper end of its gain is below this ratio of the reward
model's gain, each in standard deviations of its own scores within a prompt."""

RISES, FALLS, FLAT, UNCLEAR, NO_GAIN = "rises", "falls", "does not rise", "unclear", "no gain to confirm"


class Estimate(NamedTuple):
    """A mean over prompts with its 95% interval."""

    value: float
    low: float
    high: float


class Point(NamedTuple):
    """The candidate that is chosen from n of them."""

    n: int
    kept: float
    """Ratio of the draws from which rejection sampling keeps a candidate, over all prompts."""
    score: Estimate
    length: Estimate
    """In characters."""
    heldout: Estimate | None


class Gain(NamedTuple):
    """What is gained by choosing from `upper` candidates instead of `lower`."""

    lower: int
    upper: int
    kept: float
    """How much the ratio of draws from which a candidate is kept rises."""
    score: Estimate
    heldout: Estimate | None
    verdict: str | None
    """What the held-out judge does where the reward model's score rises: see `verdict_of`. None without that judge."""


class Alarm(NamedTuple):
    """The reward model's score still rises with more than n candidates, and the held-out judge's does not."""

    n: int
    verdict: str
    """`falls` or `does not rise`."""


class BestOfN(NamedTuple):
    """The result. Prompts without a usable candidate are in `kept` only."""

    k: int
    prompts: int
    prompts_without_choice: int
    points: tuple[Point, ...]
    """One for each n from 1 to k."""
    doublings: tuple[Gain, ...]
    """From n to 2n candidates, for each n up to k / 2."""
    to_k: tuple[Gain, ...]
    """From n = 1, 2, 4, ... to all k candidates."""
    min_gain: float
    enough: int | None
    """The smallest n from which on every doubling gains less than `min_gain` and keeps less than MIN_KEPT_GAIN more, or
    None if the last doubling brings more."""
    alarm: Alarm | None
    length_correlation: Estimate | None
    """Correlation of score and length within prompts: above 0, the judge scores longer completions higher."""
    score_deviation: float
    """Standard deviation of the scores of a prompt's candidates, pooled over prompts."""
    heldout_deviation: float | None

    @property
    def suggested_k(self) -> int | None:
        """`enough`, but no more than the n of the alarm; None if more candidates than k may be worth their cost."""
        found = [n for n in (self.enough, self.alarm.n if self.alarm else None) if n is not None]
        return min(found) if found else None


def best_of_n(
    candidates: Iterable[Candidate], heldout: Mapping[str, float] | None = None, *, min_gain: float = MIN_GAIN
) -> BestOfN:
    """The best-of-n curve of scored candidates, averaged over prompts.

    heldout: candidate id -> score of a judge that took no part in the selection.
    Raises RowError as `prompt_curves` does, and if there is no usable candidate at all.

    The score of a prompt at n is the mean over the draws from which something is kept. So each n averages over the same
    prompts, and a prompt whose candidates are often truncated does not lower the mean by appearing at a larger n.
    """
    import numpy as np

    from align.sampling.best_of_n import prompt_curves

    every = prompt_curves(candidates, heldout)
    curves = [curve for curve in every if curve.usable]
    if not curves:
        what = f"contain no candidate that may be chosen for any of {len(every)} prompts"
        raise RowError(
            "candidates",
            what,
            "Look at their `finished` and `failed`: raise sampling.max_completion_tokens, or fix the verifiers",
        )
    k, judged = curves[0].k, heldout is not None
    columns = [np.stack([curve.score for curve in curves]), np.stack([curve.length for curve in curves])]
    if judged:
        columns.append(np.stack([curve.heldout for curve in curves if curve.heldout is not None]))
    products = np.array([_products(curve.values) for curve in curves])  # [P, 4]
    kept = np.stack([curve.kept for curve in every]).mean(axis=0)
    means = np.concatenate([*columns, products], axis=1)  # [P, 2K + 4 or 3K + 4]
    value, drawn = means.mean(axis=0), resampled_means(means)

    def estimate(plus: int, minus: int | None = None) -> Estimate:
        """The mean of column `plus`, less that of column `minus`."""
        if minus is None:
            return _estimate(value[plus], drawn[:, plus])
        return _estimate(value[plus] - value[minus], drawn[:, plus] - drawn[:, minus])

    score_scale, length_scale, both, heldout_scale = value[-4:]
    score_at, length_at, heldout_at = -1, k - 1, 2 * k - 1  # plus n: the column of n
    freedom = sum(curve.usable - 1 for curve in curves) / len(curves)

    def deviation(squares: float) -> float:
        return math.sqrt(squares / freedom) if freedom else 0.0

    def gain(lower: int, upper: int) -> Gain:
        rise = float(kept[upper - 1] - kept[lower - 1])
        score = estimate(score_at + upper, score_at + lower)
        if not judged:
            return Gain(lower, upper, rise, score, None, None)
        other = estimate(heldout_at + upper, heldout_at + lower)
        verdict = verdict_of(score, deviation(score_scale), other, deviation(heldout_scale))
        return Gain(lower, upper, rise, score, other, verdict)

    points = tuple(
        Point(
            n,
            float(kept[n - 1]),
            estimate(score_at + n),
            estimate(length_at + n),
            estimate(heldout_at + n) if judged else None,
        )
        for n in range(1, k + 1)
    )
    doublings = tuple(gain(n, 2 * n) for n in range(1, k // 2 + 1))
    to_k = tuple(gain(n, k) for n in powers_of_two(k) if n < k)
    correlation = None
    if score_scale > 0 and length_scale > 0:
        with np.errstate(invalid="ignore", divide="ignore"):
            again = drawn[:, -2] / np.sqrt(drawn[:, -4] * drawn[:, -3])
        correlation = _estimate(both / math.sqrt(score_scale * length_scale), again[np.isfinite(again)])
    return BestOfN(
        k=k,
        prompts=len(every),
        prompts_without_choice=len(every) - len(curves),
        points=points,
        doublings=doublings,
        to_k=to_k,
        min_gain=min_gain,
        enough=enough_candidates(doublings, min_gain),
        alarm=alarm_of(to_k, points),
        length_correlation=correlation,
        score_deviation=deviation(score_scale),
        heldout_deviation=deviation(heldout_scale) if judged else None,
    )


def verdict_of(score: Estimate, score_deviation: float, heldout: Estimate, heldout_deviation: float) -> str:
    """What the held-out judge says of a gain in the reward model's score.

    no gain to confirm: the interval of the reward model's gain contains 0, or all scores of a prompt are equal.
    rises, falls: the interval of the held-out judge's gain is above 0, or below 0.
    does not rise: it contains 0, and even its upper end is below LOW_AGREEMENT of the reward model's gain, each in
        standard deviations of its own scores within a prompt. Or the held-out scores of each prompt are all equal.
    unclear: it contains 0 and reaches further; more prompts would decide.

    In these units, two judges that rank alike gain the same, and a held-out judge that scores independently of the
    reward model gains nothing. A reward gain of 1.2 deviations is confirmed by an interval of 0.1 to 0.9, is not
    confirmed by -0.2 to 0.1 (0.1 < 0.2 * 1.2), and is left open by -0.2 to 0.5.
    """
    if score.low <= 0 or score_deviation == 0:
        return NO_GAIN
    if heldout_deviation == 0:
        return FLAT
    if heldout.low > 0:
        return RISES
    if heldout.high < 0:
        return FALLS
    agreement = (heldout.high / heldout_deviation) / (score.value / score_deviation)
    return FLAT if agreement < LOW_AGREEMENT else UNCLEAR


def alarm_of(to_k: Sequence[Gain], points: Sequence[Point]) -> Alarm | None:
    """The alarm, from the gains of choosing among all candidates instead of n; None if there is none.

    If the held-out score falls from some n on, the n with the highest held-out score of them; otherwise the smallest n
    from which it does not rise. Held-out scores 0, 1, 2, 1, -1 at n = 1, 2, 4, 8, 16 fall from each n to 16, and the
    alarm is at 4: up to there, more candidates were better.
    """
    falling = [gain.lower for gain in to_k if gain.verdict == FALLS]
    if falling:
        return Alarm(max(falling, key=lambda n: (_heldout_at(points, n), -n)), FALLS)
    flat = [gain.lower for gain in to_k if gain.verdict == FLAT]
    return Alarm(min(flat), FLAT) if flat else None


def enough_candidates(doublings: Sequence[Gain], min_gain: float) -> int | None:
    """The smallest n from which on every measured doubling of the candidates gains less than `min_gain`, or None.

    Gains of 0.9, 0.3, 0.05 and 0.04 from 1, 2, 3 and 4 candidates, with 0.1: from 3 on, all are smaller.

    A doubling counts as small only if `kept` gains less than MIN_KEPT_GAIN too: if half of all candidates are
    truncated, a second one keeps a row for many more prompts, even if its score is no better.
    """
    found = None
    for gain in reversed(doublings):
        if gain.score.value >= min_gain or gain.kept >= MIN_KEPT_GAIN:
            break
        found = gain.lower
    return found


def powers_of_two(k: int) -> list[int]:
    """1, 2, 4, ... up to k, and k itself."""
    return sorted({2**power for power in range(k.bit_length())} | {k})


def _heldout_at(points: Sequence[Point], n: int) -> float:
    found = points[n - 1].heldout
    assert found is not None
    return found.value


def _products(values: np.ndarray) -> list[float]:
    """Of one prompt, the sums of squared deviations of score and length, of their product, and of the held-out score.

    Deviations are from the prompt's own mean: a prompt that asks for long answers is no sign of a bias for length.
    """
    import numpy as np

    differ = np.ptp(values, axis=1, keepdims=True) > 0  # the mean of equal values can differ from them by rounding
    from_mean = np.where(differ, values - values.mean(axis=1, keepdims=True), 0.0)
    score, length, heldout = from_mean[0], from_mean[1], from_mean[-1]
    return [float(score @ score), float(length @ length), float(score @ length), float(heldout @ heldout)]


def _estimate(value: float, drawn: np.ndarray) -> Estimate:
    import numpy as np

    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))
