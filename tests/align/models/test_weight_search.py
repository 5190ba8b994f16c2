"""The search for weights against brute force, its budget, and what survives a crash."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import pytest

from align.errors import ConfigError
from align.models.weight_search import (
    Trials,
    Weights,
    WeightSearchConfig,
    best_of_grid,
    greedy_soup,
    grid,
    record_of_search,
    search_weights,
)

CONFIG = WeightSearchConfig(score={"e.right": 1.0})


def quadratic(target: Weights):
    """An objective whose maximum is 0, at `target`."""
    return lambda weights: -sum((a - b) ** 2 for a, b in zip(weights, target, strict=True))


def soup_in_words(values: dict[frozenset[int], float], count: int) -> frozenset[int]:
    """Recipe 1 of Wortsman et al., over sets and a table of their values."""
    ranked = sorted(range(count), key=lambda one: (-values[frozenset([one])], one))
    ingredients: frozenset[int] = frozenset()
    for one in ranked:
        if not ingredients or values[ingredients | {one}] >= values[ingredients]:
            ingredients |= {one}
    return ingredients


@pytest.mark.parametrize("seed", range(20))
def test_greedy_soup_is_that_of_the_paper(seed: int) -> None:
    count = 4
    draw = random.Random(seed)
    subsets = [frozenset(s) for size in range(1, count + 1) for s in itertools.combinations(range(count), size)]
    values = {subset: draw.randrange(5) / 4 for subset in subsets}  # few values: many ties
    asked: list[Weights] = []

    def objective(weights: Weights) -> float:
        asked.append(weights)
        return values[frozenset(one for one, share in enumerate(weights) if share)]

    found = greedy_soup(count, objective)
    expected = soup_in_words(values, count)
    assert found == tuple(1 / len(expected) if one in expected else 0 for one in range(count))
    assert len(asked) == 2 * count - 1 == CONFIG.evaluations(count)


@pytest.mark.parametrize("count, divisions", [(1, 3), (2, 4), (3, 4), (4, 3)])
def test_the_grid_has_every_multiple_once(count: int, divisions: int) -> None:
    found = list(grid(count, divisions))
    every = itertools.product(range(divisions + 1), repeat=count)
    expected = {tuple(part / divisions for part in parts) for parts in every if sum(parts) == divisions}
    assert set(found) == expected
    assert len(found) == len(expected)
    config = CONFIG.model_copy(update={"method": "grid", "divisions": divisions})
    assert config.evaluations(count) == len(expected)


def test_the_best_point_of_the_grid_is_the_nearest_and_of_equal_ones_the_most_even() -> None:
    assert best_of_grid(3, 4, quadratic((0.3, 0.65, 0.05))) == (0.25, 0.75, 0)
    assert best_of_grid(3, 3, lambda _: 0.0) == (1 / 3, 1 / 3, 1 / 3)
    assert best_of_grid(2, 3, lambda _: 0.0) == (2 / 3, 1 / 3)


class Evaluator:
    """Scores weights by a formula, counts the calls, and is interrupted before some call."""

    def __init__(self, stop_at: float = math.inf) -> None:
        self.asked: list[Weights] = []
        self.stop_at = stop_at

    def __call__(self, weights: Weights) -> dict[str, dict[str, float]]:
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(weights)
        right = 0.5 + sum(share * value for share, value in zip(weights, (0.1, 0.3, 0.2), strict=False))
        return {"e.right": {"value": right, "n": 8}, "e.wrong": {"value": 1 - right - weights[0] / 4, "n": 8}}


def trials(folder: Path, evaluate: Evaluator, config: WeightSearchConfig = CONFIG, names: str = "abc", key: str = "k"):
    return Trials(config, list(names), key, folder, evaluate)


def test_an_interrupted_search_continues_with_its_trials_and_finds_the_same(tmp_path: Path) -> None:
    whole = trials(tmp_path / "whole", Evaluator())
    expected = search_weights(whole)
    assert expected == (0, 1, 0)
    first, second = Evaluator(stop_at=3), Evaluator()
    with pytest.raises(KeyboardInterrupt):
        search_weights(trials(tmp_path / "parts", first))
    resumed = trials(tmp_path / "parts", second)
    assert search_weights(resumed) == expected
    assert len(first.asked) == 3
    assert first.asked + second.asked == list(whole.tried)
    assert record_of_search(resumed, expected, []) == record_of_search(whole, expected, [])
    assert json.loads(json.dumps(record_of_search(whole, expected, [])))["trials"][0]["weights"] == [1, 0, 0]


def test_trials_of_other_checkpoints_settings_or_rows_are_not_used(tmp_path: Path) -> None:
    search_weights(trials(tmp_path, Evaluator(), names="ab"))
    for names, key, new in (("ab", "k", 0), ("abc", "k", 2), ("xb", "k", 2), ("ab", "other rows", 3)):
        evaluate = Evaluator()
        search_weights(trials(tmp_path, evaluate, names=names, key=key))
        assert len(evaluate.asked) == new, (names, key)
    next(tmp_path.glob("trial-*.json")).write_text("{")  # cut off
    evaluate = Evaluator()
    for names, key in (("ab", "k"), ("abc", "k"), ("xb", "k"), ("ab", "other rows")):
        search_weights(trials(tmp_path, evaluate, names=names, key=key))
    assert len(evaluate.asked) == 1


def test_several_scores_count_by_their_coefficients(tmp_path: Path) -> None:
    config = WeightSearchConfig(score={"e.right": 1.0, "e.wrong": -2.0}, method="grid", divisions=2)
    found = trials(tmp_path, Evaluator(), config)
    weights = search_weights(found)
    scores = {each: Evaluator()(each) for each in grid(3, 2)}
    values = {each: s["e.right"]["value"] - 2 * s["e.wrong"]["value"] for each, s in scores.items()}
    assert {each: trial.objective for each, trial in found.tried.items()} == pytest.approx(values)
    assert weights == max(values, key=lambda each: values[each])


def test_a_score_that_the_evaluation_lacks_is_named_and_its_trial_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search\.score: e\.rihgt is no score .* Name one of e\.right, e\.wrong"):
        search_weights(trials(tmp_path, Evaluator(), WeightSearchConfig(score={"e.rihgt": 1.0})))
    evaluate = Evaluator()
    search_weights(trials(tmp_path, evaluate))
    assert len(evaluate.asked) == 4, "the first of five was evaluated before"


@pytest.mark.parametrize(
    "score, message",
    [
        ({}, "at least 1"),
        ({"right": 1.0}, "'right' is no score; expected EVALUATION.SCORE"),
        ({"e.right": 0.0}, "the coefficient of e.right is 0; expected a number other than 0"),
    ],
)
def test_scores_that_say_nothing_are_refused(score: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightSearchConfig(score=score)
