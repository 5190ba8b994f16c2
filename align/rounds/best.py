"""Which round's model is the best one: by a rule over evaluations on a development split, or always the newest.

The results of an evaluation are the JSON files that `recipes/run_eval.py` writes. The choice depends on these files
alone, so that every start of the rounds makes the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from align.config import Section
from align.errors import ConfigError, StageError
from align.rounds.results import evaluations_of
from align.rounds.stage import Stage


class BestConfig(Section):
    """How the best model so far is chosen. A text alone is the name of a stage, whose newest model is taken."""

    stage: str
    """The stage of a round that makes a model that may be the best one: its folder is `{round_dir}/<stage>`."""
    evaluation: str | None = None
    """The stage of a round that evaluates this model on a development split, into `{round_dir}/<evaluation>`. Use no
    test data here: what a model is chosen by says nothing about it any more. None: the newest model is always taken."""
    start_evaluation: str | None = None
    """The stage of `once` that evaluates `start` in the same way, into `{run}/<start_evaluation>`. None: the first
    round's model is better than `start`, whatever its score."""
    score: dict[str, float] = Field(default_factory=dict)
    """Metric -> weight, such as {factuality.right_minus_wrong: 1.0, tool_use.match: 0.5}: the evaluation's name and the
    name of one of its scores. A model's score is the weighted sum; the highest is the best."""
    floors: dict[str, float] = Field(default_factory=dict)
    """Metric -> the least value that a model must have to be chosen, whatever its score."""
    max_losses: dict[str, float] = Field(default_factory=dict)
    """Metric -> by how much it may be below that of `start`, such as {factuality.right: 0.1}: a model that lost more is
    not chosen, whatever its score. Requires start_evaluation."""
    min_gain: float = Field(0.0, ge=0)
    """How much higher than that of the former best the score must be. A round with less keeps the former best."""

    @model_validator(mode="before")
    @classmethod
    def _a_stage_alone(cls, value: Any) -> Any:
        return {"stage": value} if isinstance(value, str) else value

    @field_validator("score", "floors", "max_losses")
    @classmethod
    def _metrics_have_two_parts(cls, values: dict[str, float]) -> dict[str, float]:
        for metric in values:
            evaluation, _, name = metric.partition(".")
            if not evaluation or not name:
                raise ValueError(f"{metric!r} is no metric; write <evaluation>.<score>, such as factuality.right")
        return values

    @model_validator(mode="after")
    def _a_rule_is_whole(self) -> Self:
        if self.evaluation is not None and not self.score:
            raise ValueError(f"evaluation is {self.evaluation}, and score names no metric to choose by")
        for name in ("start_evaluation", "score", "floors", "max_losses", "min_gain"):
            if self.evaluation is None and getattr(self, name):
                raise ValueError(f"{name} is given, and evaluation, whose results it is about, is missing")
        if self.max_losses and self.start_evaluation is None:
            raise ValueError("max_losses compares with start, and start_evaluation, which evaluates it, is missing")
        if negative := [name for name, most in self.max_losses.items() if most < 0]:
            raise ValueError(f"max_losses of {negative[0]} is below 0; write how much may be lost, such as 0.1")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that the rule reads."""
        return tuple(dict.fromkeys((*self.score, *self.floors, *self.max_losses)))


@dataclass(frozen=True)
class Choice:
    """The best model after some round."""

    path: Path
    round: int
    """The round that made it; 0 for the starting checkpoint."""
    reason: str
    """Why, for a person; empty while no round has ended."""


def choose(rule: BestConfig, run_dir: Path, start: Path, rounds: int) -> Choice:
    """The best model after `rounds` rounds.

    A round whose evaluation has no results yet counts as better than those before it: a plan of rounds that have not
    run looks as if each improved.
    Raises StageError for a metric that the results of an evaluation do not have.
    """
    best = Choice(start, 0, "")
    at_start = None if rule.start_evaluation is None else values_of(rule, run_dir / rule.start_evaluation)
    score = _score(rule, at_start)
    for number in range(1, rounds + 1):
        folder = run_dir / f"round-{number}"
        model = folder / rule.stage
        values = None if rule.evaluation is None else values_of(rule, folder / rule.evaluation)
        if values is None:
            what = "its evaluation has no results yet" if rule.evaluation else "the newest model"
            best, score = Choice(model, number, f"round {number}: {what}"), None
            continue
        reached = _score(rule, values)
        assert reached is not None
        if low := _below_floors(rule, values, at_start):
            why = f"round {number} is below a floor ({', '.join(low)})"
            best = Choice(best.path, best.round, f"{_name(best.round)} stays: {why}")
        elif score is not None and reached <= score + rule.min_gain:
            gain = f" by more than {rule.min_gain:g}" if rule.min_gain else ""
            why = f"round {number} scores {reached:.3f}, not above {score:.3f}{gain}"
            best = Choice(best.path, best.round, f"{_name(best.round)} stays: {why}")
        else:
            former = "" if score is None else f", above {score:.3f} of {_name(best.round)}"
            best, score = Choice(model, number, f"round {number} scores {reached:.3f}{former}"), reached
    return best


def values_of(rule: BestConfig, folder: Path) -> dict[str, float] | None:
    """Metric -> value of the metrics that the rule reads; None if an evaluation has no results yet.

    A stage that was interrupted may have the results of some of its evaluations.
    """
    found = {record["name"]: record["scores"] for record in evaluations_of(folder)}
    if any(metric.partition(".")[0] not in found for metric in rule.metrics):
        return None
    values: dict[str, float] = {}
    for metric in rule.metrics:
        evaluation, _, name = metric.partition(".")
        scores: Mapping[str, Any] = found[evaluation]
        value = scores[name].get("value") if isinstance(scores.get(name), dict) else None
        if not isinstance(value, int | float):
            known = ", ".join(f"{each}.{score}" for each, its in sorted(found.items()) for score in its)
            raise StageError(folder, f"best: no evaluation has the metric {metric}", f"Name one of: {known}")
        values[metric] = float(value)
    return values


def _below_floors(rule: BestConfig, values: Mapping[str, float], at_start: Mapping[str, float] | None) -> list[str]:
    """What keeps a model from being chosen, for a person: `factuality.right 0.217, 0.386 at the start`."""
    low = [f"{name} {values[name]:.3f}" for name, least in rule.floors.items() if values[name] < least]
    if at_start is not None:
        lost = [name for name, most in rule.max_losses.items() if values[name] < at_start[name] - most]
        low += [f"{name} {values[name]:.3f}, {at_start[name]:.3f} at the start" for name in lost]
    return low


def _score(rule: BestConfig, values: Mapping[str, float] | None) -> float | None:
    return None if values is None else sum(weight * values[metric] for metric, weight in rule.score.items())


def _name(number: int) -> str:
    return f"round {number}" if number else "the start"


def rule_mistakes(rule: BestConfig, where: str, stages: Mapping[str, Stage], run_dir: Path) -> Iterator[ConfigError]:
    """What does not fit between a rule and the stages that it names.

    where: the setting, for messages. stages: by label, those of round 1 among them.
    """
    in_round = [rule.stage, *([rule.evaluation] if rule.evaluation else [])]
    labels = [f"round-{first}/{name}" for name in in_round for first in _rounds_of(name, stages)]
    for label in [*labels, *([rule.start_evaluation] if rule.start_evaluation else [])]:
        stage, folder = stages[label], run_dir / label
        if folder not in stage.outputs.values():
            how = "Set its output to {round_dir} or {run} with the stage's name behind"
            yield ConfigError(where, f"expects the stage {label} to write {folder}, which it does not", how)
        if stage.name == rule.stage:
            continue
        model = run_dir / f"round-{stage.round}/{rule.stage}"
        if stage.round and model not in stage.inputs.values():
            what = f"the stage {label} does not read {model}, which it is to evaluate"
            yield ConfigError(where, what, f"Set its model to {{round_dir}}/{rule.stage}")
        for evaluation in sorted({metric.partition(".")[0] for metric in rule.metrics}):
            if getattr(stage.config, evaluation, None) is None:
                how = f"Add a section {evaluation} to the stage, or choose by another metric"
                yield ConfigError(where, f"the stage {label} runs no evaluation {evaluation}", how)


def _rounds_of(name: str, stages: Mapping[str, Stage]) -> list[int]:
    """The last round in which a stage of this name is planned."""
    return sorted(stage.round for stage in stages.values() if stage.name == name and stage.round)[-1:]
