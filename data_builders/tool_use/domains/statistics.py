"""Averages, spread, chances, surveys and series. `archive_column_mean` simulates a data archive: its results are
made up."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import Literal

from data_builders.tool_use.made_up import made_up


def trimmed_mean(values: list[float], cut_each_end: int = 1) -> float:
    """Average of the values without the most extreme ones.

    Args:
        values: The values, in any order.
        cut_each_end: How many of the largest, and how many of the smallest, are left out. Default is 1.
    """
    if cut_each_end < 0 or 2 * cut_each_end >= len(values):
        raise ValueError("cut_each_end must leave at least one value")
    return round(statistics.fmean(sorted(values)[cut_each_end : len(values) - cut_each_end]), 4)


def spread_of(readings: list[float], measure: str = "range", sample: bool = False) -> float:
    """How widely readings are scattered.

    Args:
        readings: At least two numbers.
        measure: One of range, variance, deviation (the standard deviation).
        sample: Whether the readings are a sample and not everything there is (divides by n - 1).
    """
    if measure not in ("range", "variance", "deviation"):
        raise ValueError(f"measure {measure!r} is not known; use one of range, variance, deviation")
    if measure == "range":
        return round(max(readings) - min(readings), 4)
    variance = statistics.variance(readings) if sample else statistics.pvariance(readings)
    return round(variance if measure == "variance" else math.sqrt(variance), 4)


def standard_score(score: float, group_mean: float, group_deviation: float) -> float:
    """How many standard deviations a score lies above (or, negative, below) the mean of its group.

    Args:
        score: The single score.
        group_mean: Mean of the group.
        group_deviation: Standard deviation of the group, above 0.
    """
    return round((score - group_mean) / group_deviation, 4)


def normal_percentile(z: float, above: bool = False) -> float:
    """Percentage of a normal distribution that lies below a z value.

    Args:
        z: Distance from the mean in standard deviations.
        above: Give the percentage above it instead.
    """
    return round(50 * math.erfc(z / math.sqrt(2) if above else -z / math.sqrt(2)), 2)


def link_between(
    first_series: list[float], second_series: list[float], method: Literal["pearson", "spearman"] = "pearson"
) -> float:
    """Correlation of two series of equal length.

    Args:
        first_series: One series.
        second_series: The other one, in the same order.
        method: "pearson" uses the values, "spearman" their ranks.
    """
    if len(first_series) != len(second_series) or len(set(first_series)) < 2 or len(set(second_series)) < 2:
        raise ValueError("both series must be equally long and must not be constant")
    if method == "pearson":
        return round(statistics.correlation(first_series, second_series), 4)
    ranks = [[sum(a < b for a in row) + row.count(b) / 2 for b in row] for row in (first_series, second_series)]
    return round(statistics.correlation(*ranks), 4)


def explained_percent(coefficient: float) -> float:
    """Percentage of the variance that a correlation explains.

    Args:
        coefficient: Correlation coefficient from -1 to 1.
    """
    if not -1 <= coefficient <= 1:
        raise ValueError("coefficient must lie between -1 and 1")
    return round(100 * coefficient**2, 2)


def project_series(history: list[float], steps_ahead: int = 1) -> float:
    """Continue a series along its straight trend line.

    Args:
        history: Past values at equal intervals, oldest first.
        steps_ahead: How many intervals after the last value. Default is 1.
    """
    slope, intercept = statistics.linear_regression(range(len(history)), history)
    return round(intercept + slope * (len(history) - 1 + steps_ahead), 4)


def dice_total_chance(dice: int, total: int, faces: int = 6) -> float:
    """Probability that several fair dice show a given total.

    Args:
        dice: Number of dice thrown, 1 to 10.
        total: Sum that is wanted.
        faces: Faces of each die. Default is 6.
    """
    ways = Counter({0: 1})
    for _ in range(dice):
        ways = Counter(
            {at: sum(ways[at - face] for face in range(1, faces + 1)) for at in range(1, max(ways) + faces + 1)}
        )
    return round(ways[total] / faces**dice, 4)


def chance_of_hits(attempts: int, hits: int, hit_rate: float, at_least: bool = False) -> float:
    """Probability of a number of hits in independent attempts.

    Args:
        attempts: How often it is tried.
        hits: Number of successes in question.
        hit_rate: Chance of a single success as a fraction, such as 0.3.
        at_least: Count larger numbers of hits too.
    """
    wanted = range(hits, attempts + 1) if at_least else (hits,)
    return round(sum(math.comb(attempts, k) * hit_rate**k * (1 - hit_rate) ** (attempts - k) for k in wanted), 4)


def people_to_survey(margin_percent: float, confidence: Literal[90, 95, 99] = 95) -> int:
    """Number of people to ask so that a survey has at most a given margin of error.

    Args:
        margin_percent: Margin of error in percentage points.
        confidence: Confidence level in percent. Default is 95.
    """
    z = {90: 1.6449, 95: 1.96, 99: 2.5758}[confidence]
    return math.ceil(0.25 * (z / (margin_percent / 100)) ** 2)


def survey_budget(people: int, fee_each: float, fixed_costs: float = 0) -> float:
    """Cost of a survey.

    Args:
        people: Number of people asked.
        fee_each: What each of them is paid.
        fixed_costs: Costs that do not depend on the number of people.
    """
    return round(people * fee_each + fixed_costs, 2)


def commonest_answer(answers: list[str]) -> dict:
    """Find the answer given most often; of equally frequent ones, the first.

    Args:
        answers: All the answers, in the order in which they came.
    """
    answer, times = Counter(answers).most_common(1)[0]
    return {"answer": answer, "times": times}


def archive_column_mean(dataset: str, column: str) -> int:
    """Fetch the mean of one column of an archived data set.

    Args:
        dataset: Title of the data set.
        column: Name of the column.
    """
    return made_up(40, 160, "archive", dataset.lower(), column.lower())
