"""Averages, spread, chances, surveys and series. `archive_column_mean` stands in for a data archive: its results are
made up."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from typing import Literal

from data_builders.tool_use.dialogs.samplers import Sampler, Value, decimal, one_of, percent, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up


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


def _votes(*options: str) -> Sampler:
    def sample(rng: random.Random) -> Value:
        chosen = [rng.choice(options) for _ in range(rng.randint(5, 9))]
        return Value(chosen, ", ".join(chosen))

    return sample


FIVE = several(whole(2, 99), 5, 5)
DATASETS = one_of("Harbor Traffic 2019", "Coastal Birds", "Night Bus Riders", "School Lunch Survey", "River Levels",
                  "Museum Visitors", "Orchard Yields", "City Noise Map", "Ferry Delays", "Library Loans")  # fmt: skip

TASKS = (
    Task(
        trimmed_mean,
        arguments={"values": several(decimal(2, 80), 7, 10), "cut_each_end": one_of(2, 3)},
        queries=(
            "Average these judges' marks without the highest and the lowest: {values}.",
            "Leave out the {cut_each_end} largest and the {cut_each_end} smallest of {values} and average the rest.",
            "trimmed mean, {cut_each_end} cut at each end: {values}",
            "My stopwatch gave {values} seconds. Drop the best and the worst time; what is the mean of the others?",
        ),
        answers=("The trimmed average is {result}.", "Without the extremes the mean is {result}."),
        names=("mean_without_extremes", "truncated_average", "robust_average"),
        parameters={"values": ("numbers", "data"), "cut_each_end": ("trim", "drop_count")},
    ),
    Task(
        spread_of,
        arguments={"readings": several(decimal(1, 60), 4, 8), "measure": one_of("range", "variance", "deviation")},
        queries=(
            "What is the {measure} of {readings}?",
            "How far apart are the smallest and the largest of {readings}? I mean the plain spread.",
            Query("Treat {readings} as a sample and give me its {measure}.", {"sample": True}),
            "measure: {measure}; readings: {readings}",
        ),
        answers=("The result is {result}.", "For these readings it comes to {result}."),
        names=("scatter_of", "dispersion", "variability"),
        parameters={"readings": ("values", "observations"), "measure": ("statistic",), "sample": ("is_sample",)},
        slips={"measure": (("standard deviation", "deviation"), ("std", "deviation"), ("var", "variance"))},
    ),
    Task(
        standard_score,
        arguments={"score": whole(40, 100), "group_mean": decimal(50, 80), "group_deviation": decimal(4, 15)},
        queries=(
            "I scored {score} in a test with mean {group_mean} and standard deviation {group_deviation}. My z-score?",
            "z for {score}, mean {group_mean}, sd {group_deviation}",
            "The class averaged {group_mean} points (standard deviation {group_deviation}). How many deviations from "
            "that is {score}?",
            "Please standardize the value {score}: the group has mean {group_mean} and deviation {group_deviation}.",
        ),
        answers=("The z-score is {result}.", "It lies {result} standard deviations from the mean."),
        names=("z_score_of", "standardize", "deviations_from_mean"),
        parameters={"score": ("value", "points"), "group_mean": ("mean", "mu"), "group_deviation": ("sd", "sigma")},
    ),
    Task(
        normal_percentile,
        arguments={"z": decimal(-2.9, 2.9, 2)},
        queries=(
            "What percentage of a normal distribution lies below z = {z}?",
            Query("How much of the bell curve is above {z} standard deviations, in percent?", {"above": True}),
            "percentile for z {z}",
            "My doctor gave me a z value of {z}. What share of people is below me, if it's normally distributed?",
        ),
        answers=("That is {result} percent.", "{result}% of the distribution."),
        names=("bell_curve_share", "percent_below_z", "normal_share"),
        parameters={"z": ("z_value", "standard_units"), "above": ("upper_tail",)},
    ),
    Task(
        link_between,
        arguments={"first_series": FIVE, "second_series": FIVE, "method": one_of("pearson", "spearman")},
        queries=(
            "How strongly are these two series correlated: {first_series}; {second_series}?",
            "Hours of sun: {first_series}. Ice creams sold: {second_series}. What's the correlation?",
            "{method} correlation, please. First series: {first_series}. Second series: {second_series}.",
            Query(
                "Compute the rank correlation (Spearman) of {first_series} with {second_series}.",
                {"method": "spearman"},
            ),
        ),
        answers=("The correlation is {result}.", "I get a coefficient of {result}."),
        names=("correlate", "correlation_coefficient_of", "series_correlation"),
        parameters={"first_series": ("xs", "series_a"), "second_series": ("ys", "series_b"), "method": ("kind",)},
    ),
    Task(
        explained_percent,
        arguments={"coefficient": decimal(-0.99, 0.99, 2)},
        queries=(
            "What part of the variance does a correlation of {coefficient} explain?",
            "r = {coefficient}. r squared in percent?",
            "The paper reports a correlation coefficient of {coefficient}; how many percent of the variance is that?",
            "Turn a coefficient of {coefficient} into the explained variance.",
        ),
        answers=("It explains {result}% of the variance.", "{result} percent of the variance."),
        names=("variance_explained", "r_squared_percent", "determination"),
        parameters={"coefficient": ("r", "correlation")},
    ),
    Task(
        project_series,
        arguments={"history": several(whole(10, 400), 4, 8), "steps_ahead": whole(2, 6)},
        queries=(
            "Our sales were {history}. Following the trend line, what comes next?",
            "Extrapolate {history} by {steps_ahead} steps along the linear trend.",
            "history: {history} / steps ahead: {steps_ahead} / forecast?",
            "The club had {history} members in the last years. If it goes on in a straight line, how many in "
            "{steps_ahead} years?",
        ),
        answers=("The trend gives {result}.", "Along the line I expect {result}."),
        names=("extend_trend", "linear_forecast", "forecast_value"),
        parameters={"history": ("past_values", "series"), "steps_ahead": ("horizon", "periods")},
    ),
    Task(
        dice_total_chance,
        arguments={"dice": whole(2, 4), "total": whole(5, 12), "faces": one_of(4, 8, 10, 12, 20)},
        queries=(
            "What is the chance of throwing {total} in all with {dice} dice?",
            "I roll {dice} dice with {faces} faces each. How likely is a total of {total}?",
            "P(sum = {total}) for {dice} ordinary dice?",
            "board game question: {dice} dice, {faces}-sided, I need exactly {total}. probability?",
        ),
        answers=("The probability is {result}.", "The chance is {result}."),
        names=("dice_sum_probability", "roll_odds", "probability_of_total"),
        parameters={"dice": ("number_of_dice", "rolls"), "total": ("target_sum",), "faces": ("sides", "die_size")},
    ),
    Task(
        chance_of_hits,
        arguments={"attempts": whole(6, 25), "hits": whole(1, 6), "hit_rate": percent(5, 80, 0, as_share=True)},
        queries=(
            "Each throw scores with a chance of {hit_rate}. How likely are exactly {hits} hits in {attempts} throws?",
            Query("Chance of at least {hits} successes in {attempts} tries at {hit_rate} each?", {"at_least": True}),
            "attempts {attempts}, hits {hits}, rate {hit_rate}: probability",
            "{hit_rate} of our seeds sprout. If I sow {attempts}, what's the probability that just {hits} come up?",
        ),
        answers=("The probability is {result}.", "It happens with a chance of {result}."),
        names=("hits_probability", "success_count_chance", "repeated_trials"),
        parameters={"attempts": ("trials", "n"), "hits": ("successes", "k"), "hit_rate": ("p", "success_rate")},
    ),
    Task(
        people_to_survey,
        arguments={"margin_percent": decimal(1, 8), "confidence": one_of((90, "90%"), (95, "95%"), (99, "99%"))},
        queries=(
            "How many people do we have to ask for a margin of error of {margin_percent} points?",
            "Sample size for {confidence} confidence and a margin of {margin_percent} percentage points, please.",
            "margin {margin_percent} points, confidence {confidence}. how many respondents?",
            "The mayor wants a poll that is off by no more than {margin_percent} points. How large must it be?",
        ),
        answers=("You have to ask {result} people.", "{result} respondents are enough."),
        names=("poll_size", "respondents_needed", "required_sample"),
        parameters={"margin_percent": ("margin", "error_points"), "confidence": ("confidence_level",)},
    ),
    Task(
        survey_budget,
        arguments={"people": whole(100, 3000), "fee_each": decimal(0.5, 12, 2), "fixed_costs": whole(200, 5000)},
        queries=(
            "What does it cost to survey {people} people at {fee_each} euros each?",
            "{people} respondents get {fee_each} each, plus {fixed_costs} of fixed costs. Total?",
            "Budget for a poll - people: {people}, fee: {fee_each}, fixed: {fixed_costs}",
            "We pay everyone who fills in the form {fee_each}. What if {people} do?",
        ),
        answers=("The survey costs {result}.", "The budget comes to {result}."),
        names=("poll_cost", "cost_of_survey", "survey_expenses"),
        parameters={"people": ("respondents", "participants"), "fee_each": ("fee",), "fixed_costs": ("overhead",)},
    ),
    Task(
        commonest_answer,
        arguments={"answers": _votes("tea", "coffee", "cocoa", "juice")},
        queries=(
            "I asked around in the office what to drink: {answers}. What was named most often?",
            "Most frequent of {answers}?",
            "Which answer won, and how many times was it given: {answers}",
            "Count these votes and tell me the winner: {answers}.",
        ),
        answers=("Most often it was {answer}, {times} times.", "The winner is {answer} with {times}."),
        names=("most_frequent_answer", "mode_of_votes", "top_vote"),
        parameters={"answers": ("votes", "replies")},
    ),
    Task(
        archive_column_mean,
        arguments={"dataset": DATASETS, "column": one_of("weight", "duration", "count", "length", "delay", "score")},
        queries=(
            'Get the mean of the column {column} in the data set "{dataset}".',
            "What is the average {column} in {dataset}?",
            "dataset={dataset}, column={column}, mean please",
            "For my thesis I use the archived data set {dataset}. Look up the mean {column} there.",
        ),
        answers=("The mean is {result}.", "The archive gives a mean of {result}."),
        names=("fetch_column_mean", "dataset_average", "lookup_mean"),
        parameters={"dataset": ("title", "data_set"), "column": ("field", "variable")},
    ),
)

CHAINS = (
    Chain(
        standard_score,
        normal_percentile,
        feeds="z",
        queries=(
            "I got {score} points; mean {group_mean}, standard deviation {group_deviation}. What percentage did worse?",
            "Percentile of {score} in a normal group with mean {group_mean} and sd {group_deviation}?",
            Query(
                "Mean {group_mean}, deviation {group_deviation}, normal. What percentage lies above {score}?",
                {"above": True},
            ),
        ),
        between=("The z-score is {given}.", "That is {given} deviations from the mean. Now the percentage."),
        answers=("It is {result} percent.", "At z = {given} the answer is {result}%."),
    ),
    Chain(
        link_between,
        explained_percent,
        feeds="coefficient",
        queries=(
            "Correlate these: how much variance is explained? First: {first_series}. Second: {second_series}.",
            "Correlate {first_series} with {second_series} and give me the explained variance in percent.",
            "Rain: {first_series}. Umbrellas: {second_series}. Explained variance ({method})?",
        ),
        between=("The correlation is {given}.", "Their coefficient is {given}; from it I get the variance."),
        answers=("It explains {result}% of the variance.", "A correlation of {given} explains {result} percent."),
    ),
    Chain(
        people_to_survey,
        survey_budget,
        feeds="people",
        queries=(
            "What would a poll cost with a margin of {margin_percent} points if each person gets {fee_each}?",
            "Margin {margin_percent} points, {confidence} confidence, {fee_each} per respondent: total cost?",
            "We need a survey exact to {margin_percent} points. Everyone is paid {fee_each} and the fixed costs are "
            "{fixed_costs}. What will we spend?",
        ),
        between=("{given} people have to be asked.", "The poll needs {given} respondents. Now its cost."),
        answers=("It would cost {result}.", "Asking {given} people costs {result}."),
    ),
    Chain(
        archive_column_mean,
        standard_score,
        feeds="group_mean",
        queries=(
            "Take the mean {column} from {dataset}. With deviation {group_deviation}, what is the z-score of {score}?",
            'How many deviations of {group_deviation} is {score} from the average {column} in "{dataset}"?',
            "dataset {dataset}, column {column}: standardize {score} with its mean, sd {group_deviation}",
        ),
        between=("The mean there is {given}.", "The archive's mean is {given}; now the score."),
        answers=("The z-score is {result}.", "Against a mean of {given}, the score is {result}."),
    ),
    Chain(
        trimmed_mean,
        standard_score,
        feeds="group_mean",
        queries=(
            "Average {values} without the highest and lowest. How many deviations of {group_deviation} off is {score}?",
            "z-score of {score} against mean ({cut_each_end} off each end) of {values}, SD {group_deviation}",
            "Take the mean of {values}, minus the two extremes, and standardize {score} with a deviation of "
            "{group_deviation}.",
        ),
        between=("The trimmed mean is {given}.", "Without the extremes the mean is {given}. Next, the z-score."),
        answers=("The z-score is {result}.", "It is {result} deviations from {given}."),
    ),
)
