"""Alarms: metrics of training that get out of range, with thresholds in `training.guards.alarms`.

They are judged by the mean of the last log lines, which transformers keeps in `TrainerState.log_history` and so in
every checkpoint: a resumed run has the same alarms at the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from align.errors import CheckError
from align.reporting import logger
from align.settings import AlarmsConfig

log = logger(__name__)

PREFIX = "alarms/"
EMPTY_MASKS = "empty_masks"


class Rule(NamedTuple):
    """One alarm."""

    name: str
    """Of its threshold in `AlarmsConfig`."""
    metric: str
    what: str
    """What the metric being out of range means."""
    how: str


_LOWER_RATE = "lower training.learning_rate or raise dpo.beta"
RULES = {
    "sft": (),
    "dpo": (
        Rule("chosen_reward", "rewards/chosen", "the chosen completions become less likely", _LOWER_RATE),
        Rule("margin", "rewards/margins", "the margins between chosen and rejected explode", _LOWER_RATE),
    ),
    "reward": (
        Rule("margin", "margin", "the margins between chosen and rejected explode", "lower training.learning_rate"),
        Rule("mean_reward", "mean_reward", "the scores drift away from 0", "set reward.centering"),
    ),
}
"""Stage -> its alarms, beyond that of empty masks."""

_EMPTY = Rule(
    EMPTY_MASKS, EMPTY_MASKS, "rows have no token that is trained on", "look at their loss masks (align/tree/encode.py)"
)


class Alarms:
    """Judge the log lines of one run.

    labels: [trees], the trained tokens of each tree.
    """

    def __init__(self, config: AlarmsConfig, stage: str, labels: np.ndarray) -> None:
        self.config, self.labels = config, labels
        self.rules = RULES.get(stage, ())
        self._counts_masks = stage != "reward"  # which reads a score, whatever the mask is
        self._rows = self._empty = 0

    def count(self, rows: Sequence[int]) -> None:
        """Count the rows of a step, over all processes."""
        self._rows += len(rows)
        self._empty += int((self.labels[list(rows)] == 0).sum()) if self._counts_masks else 0

    def judge(self, logs: Mapping[str, float], history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """`alarms/NAME` -> the mean that is out of range, for each alarm of a log line. Says when one begins.

        logs: the metrics of this line. history: earlier lines.
        """
        lines = [each for each in history if "loss" in each]
        found = {}
        for rule in self.rules:
            mean = _mean([*lines, logs], rule.metric, self.config.window)
            threshold = getattr(self.config, rule.name)
            if mean is not None and threshold is not None and _is_beyond(rule.name, mean, threshold):
                found[rule] = mean
        ratio = self._empty / max(self._rows, 1)
        self._rows = self._empty = 0
        if self.config.empty_masks is not None and ratio > self.config.empty_masks:
            found[_EMPTY] = ratio
        before = lines[-1] if lines else {}
        for rule, mean in found.items():
            if PREFIX + rule.name not in before:
                log.warning("alarm: %s. To change it, %s", self._said(rule, mean), rule.how)
        return {PREFIX + rule.name: mean for rule, mean in found.items()}

    def stop_if_asked(self, step: int, found: Mapping[str, float]) -> None:
        """Raise CheckError for an alarm if `action` is stop."""
        if self.config.action != "stop":
            return
        for rule in (*self.rules, _EMPTY):
            if (mean := found.get(PREFIX + rule.name)) is not None:
                how = f"{rule.how[0].upper()}{rule.how[1:]}, or set training.guards.alarms.action: warn"
                raise CheckError(f"step {step}", self._said(rule, mean), how)

    def _said(self, rule: Rule, mean: float) -> str:
        threshold = f"training.guards.alarms.{rule.name} is {getattr(self.config, rule.name):g}"
        return f"{rule.what}: {rule.metric} {mean:.4g}, and {threshold}"


def alarms_so_far(history: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Name -> log lines with that alarm, and the step of the first."""
    found: dict[str, tuple[int, int]] = {}
    for line in history:
        for key in line:
            if key.startswith(PREFIX):
                name = key.removeprefix(PREFIX)
                count, first = found.get(name, (0, int(line["step"])))
                found[name] = (count + 1, first)
    return found


def _mean(lines: Sequence[Mapping[str, Any]], metric: str, window: int) -> float | None:
    """The mean of a metric over the last `window` lines that have it; None if there are fewer."""
    values = [line[metric] for line in lines[-2 * window :] if metric in line][-window:]
    return sum(values) / window if len(values) == window else None


def _is_beyond(name: str, mean: float, threshold: float) -> bool:
    if not math.isfinite(mean):
        return True
    if name == "chosen_reward":
        return mean < threshold
    return abs(mean) > threshold if name == "mean_reward" else mean > threshold
