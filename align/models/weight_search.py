"""Choose the weights of an average by its scores on a development set.

    greedy   greedy soup (Wortsman et al. 2022, arXiv:2203.05482, recipe 1): the best checkpoint alone, then each other
             one in the order of their scores, kept if the equal mean with it scores at least as much
    grid     every mean whose weights are multiples of 1/divisions

How many evaluations a search needs follows from the number of checkpoints, so a budget is checked before the first one.
What evaluates is given as a function: this file reads no checkpoint and imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from align.config import Section
from align.errors import ConfigError
from align.files import fingerprint_of, whole_file
from align.reporting import logger

log = logger(__name__)

Weights = tuple[float, ...]
"""A share for each checkpoint, from 0 on; they add up to 1."""
Scores = Mapping[str, Mapping[str, float]]
"""`evaluation.score` -> its value, interval and number of cases, as `eval/runner.py` writes them."""


class WeightSearchConfig(Section):
    """How the weights of an average are chosen."""

    score: dict[str, float] = Field(min_length=1)
    """What is maximized: one score of an evaluation, such as `factuality.right_minus_wrong`, or several with a
    coefficient each: {factuality.wrong: -1, maths.exact: 0.5} is minus the one plus half of the other. Names are those
    that recipes/run_eval.py prints, with a dot between evaluation and score."""
    method: Literal["greedy", "grid"] = "greedy"
    """greedy: start from the best checkpoint and add each other one if the equal mean does not score less (greedy soup,
    arXiv:2203.05482); n checkpoints need 2n - 1 evaluations. grid: all weights that are multiples of 1/divisions; for
    two or three checkpoints, of which some should count more than others."""
    divisions: int = Field(4, ge=2, le=100)
    """For grid: 4 tries weights 0, 0.25, 0.5, 0.75 and 1. Two checkpoints then need 5 evaluations, three need 15."""
    max_evaluations: int = Field(16, gt=0)
    """Most evaluations of averages. A search that needs more is refused before it starts."""

    @field_validator("score", mode="before")
    @classmethod
    def _a_name_alone(cls, value: Any) -> Any:
        return {value: 1.0} if isinstance(value, str) else value

    @field_validator("score")
    @classmethod
    def _names_have_two_parts(cls, score: dict[str, float]) -> dict[str, float]:
        for name, coefficient in score.items():
            evaluation, dot, metric = name.partition(".")
            if not (evaluation and dot and metric):
                raise ValueError(f"{name!r} is no score; expected EVALUATION.SCORE, such as factuality.right")
            if coefficient == 0 or not math.isfinite(coefficient):
                raise ValueError(f"the coefficient of {name} is {coefficient:g}; expected a number other than 0")
        return score

    def evaluations(self, checkpoints: int) -> int:
        """The most averages that are evaluated for this number of checkpoints."""
        if self.method == "greedy":
            return 2 * checkpoints - 1
        return math.comb(self.divisions + checkpoints - 1, checkpoints - 1)


@dataclass(frozen=True)
class Trial:
    """Weights that were tried, and how their average scored."""

    weights: Weights
    objective: float
    """The sum of the scores times their coefficients."""
    scores: Scores


@dataclass
class Trials:
    """Evaluates averages, each once: a trial that an interrupted run has finished is read from its file.

    key: of everything that scores depend on, except for the checkpoints and their weights.
    fingerprints: of the checkpoints. Checkpoints with weight 0 are no part of a trial's key, so that trials remain
        when another checkpoint is added.
    """

    config: WeightSearchConfig
    fingerprints: Sequence[str]
    key: str
    folder: Path
    evaluate: Callable[[Weights], Scores]

    def __post_init__(self) -> None:
        self.tried: dict[Weights, Trial] = {}

    def objective(self, weights: Weights) -> float:
        """What these weights score. Raises ConfigError if an evaluation has no score of a name in the config."""
        if weights not in self.tried:
            assert len(self.tried) < self.config.evaluations(len(weights)), "more evaluations than the search needs"
            scores = self._scores(weights)
            self.tried[weights] = Trial(weights, self._weighted(scores), scores)
            log.info("average %s: %s", _text(weights), self._described(self.tried[weights]))
        return self.tried[weights].objective

    def _scores(self, weights: Weights) -> Scores:
        parts = [f"{one} {share!r}" for one, share in zip(self.fingerprints, weights, strict=True) if share]
        file = self.folder / f"trial-{fingerprint_of(self.key, *parts)[:24]}.json"
        try:
            known: Scores = json.loads(file.read_text(encoding="utf-8"))["scores"]
        except (OSError, ValueError, KeyError, TypeError):  # not tried yet, or cut off: it is tried again
            known = self.evaluate(weights)
            with whole_file(file) as handle:
                json.dump({"weights": weights, "scores": known}, handle, indent=1)
        return known

    def _weighted(self, scores: Scores) -> float:
        for name in self.config.score:
            if name not in scores:
                what = f"{name} is no score that the evaluation has, or it has no cases"
                raise ConfigError("search.score", what, f"Name one of {', '.join(sorted(scores))}")
        return sum(coefficient * scores[name]["value"] for name, coefficient in self.config.score.items())

    def _described(self, trial: Trial) -> str:
        values = ", ".join(f"{name} {trial.scores[name]['value']:.4f}" for name in self.config.score)
        return values if list(self.config.score.values()) == [1.0] else f"{trial.objective:.4f} ({values})"


def search_weights(trials: Trials) -> Weights:
    """The weights with the largest objective among those that the configured search tries."""
    count = len(trials.fingerprints)
    if trials.config.method == "greedy":
        return greedy_soup(count, trials.objective)
    return best_of_grid(count, trials.config.divisions, trials.objective)


def greedy_soup(count: int, objective: Callable[[Weights], float]) -> Weights:
    """Greedy soup over `count` checkpoints: 2 count - 1 calls of `objective` at most.

    Example of three, whose scores alone are 0.5, 0.7, 0.6. The order is 1, 2, 0. The mean of 1 and 2 scores 0.72, so 2
    is kept; that of 1, 2 and 0 scores 0.69, so 0 is left out. The result is (0, 0.5, 0.5).

    Edge: an equal score keeps the checkpoint. Checkpoints with equal scores alone are taken in their order.
    """
    alone = [objective(_equal(count, [one])) for one in range(count)]
    first, *others = sorted(range(count), key=lambda one: -alone[one])
    kept, best = [first], alone[first]
    for one in others:
        found = objective(_equal(count, [*kept, one]))
        if found >= best:
            kept, best = [*kept, one], found
    return _equal(count, kept)


def best_of_grid(count: int, divisions: int, objective: Callable[[Weights], float]) -> Weights:
    """The best of all weights that are multiples of 1/divisions; of equal ones the most even, then the first."""
    return max(grid(count, divisions), key=lambda weights: (objective(weights), -sum(w * w for w in weights)))


def grid(count: int, divisions: int) -> Iterator[Weights]:
    """All C(divisions + count - 1, count - 1) weights of `count` checkpoints that are multiples of 1/divisions.

    grid(2, 2) gives (1, 0), (0.5, 0.5), (0, 1).
    """
    yield from (tuple(part / divisions for part in parts) for parts in _parts(count, divisions))


def _parts(count: int, total: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as an ordered sum of `count` numbers from 0 on, the largest first number first."""
    if count == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        yield from ((first, *rest) for rest in _parts(count - 1, total - first))


def record_of_search(trials: Trials, chosen: Weights, checkpoints: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the manifest of the average records: every trial in the order in which it was made, and the choice.

    checkpoints: a note on each checkpoint, whether it is part of the average or not.
    """
    return {
        "settings": trials.config.model_dump(mode="json", include=set(WeightSearchConfig.model_fields)),
        "checkpoints": list(checkpoints),
        "trials": [asdict(trial) for trial in trials.tried.values()],
        "weights": chosen,
        "objective": trials.tried[chosen].objective,
    }


def _equal(count: int, kept: Sequence[int]) -> Weights:
    return tuple(1 / len(kept) if one in kept else 0.0 for one in range(count))


def _text(weights: Weights) -> str:
    return " ".join(f"{share:.3g}" for share in weights)
