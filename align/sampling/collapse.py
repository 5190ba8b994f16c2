"""Alarms of samples: completions that repeat each other, are nearly empty, break off, or get shorter with the rounds.

A policy that has been optimized too far gives the same completion again and again, or stops at once; rejection sampling
then selects among nothing, and the next round trains on it. An evaluation of such a model looks like a low score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from align.config import Section
from align.errors import CheckError
from align.manifest import read_data_manifest
from align.reporting import logger
from align.rows import Messages
from align.sampling.selection import completion_text
from align.settings import InputPath

log = logger(__name__)

SAMPLES = "samples"
"""In the counts of the candidates' manifest: what `SampleFigures` gives."""

_NEARLY_EMPTY = 3
"""A completion with fewer characters, spaces aside, is nearly empty."""


class SampleAlarmsConfig(Section):
    """Thresholds for all candidates of a run. null switches an alarm off."""

    action: Literal["warn", "stop"] = "warn"
    """warn: a warning in the log, and the alarm in the manifest of the candidates. stop: the run ends with an error
    before rows are written; what was sampled is kept."""
    repeated: float | None = Field(0.5, ge=0, le=1)
    """Alarm if a larger ratio of the candidates has the text of an earlier candidate of its prompt. At temperature 0
    all have."""
    nearly_empty: float | None = Field(0.2, ge=0, le=1)
    """Alarm if a larger ratio has fewer than 3 characters and no call."""
    unfinished: float | None = Field(0.5, ge=0, le=1)
    """Alarm if a larger ratio ran into the length limit."""
    shorter: float | None = Field(0.5, ge=0, le=1)
    """Alarm if the mean length has fallen by a larger ratio since `former`."""
    former: tuple[InputPath, ...] = ()
    """The candidates.jsonl of the round before; the last one counts. Empty: lengths are not compared."""


class Sample(Protocol):
    """What is looked at: a candidate, or an answer of an evaluation."""

    @property
    def prompt_id(self) -> str: ...
    @property
    def completion(self) -> Messages: ...
    @property
    def finished(self) -> bool: ...


class SampleFigures:
    """Ratios of `SampleAlarmsConfig`, and `mean_characters`, the mean length of a completion, counted unit by unit.

    Example: two prompts with the completions "abc", "abc", "c" and "d e f", "". One of five repeats another one of its
    prompt, so `repeated` is 0.2; "c" and "" are nearly empty: 0.4; the mean length is (3 + 3 + 1 + 5 + 0) / 5 = 2.4.
    """

    def __init__(self) -> None:
        self._samples = self._repeated = self._nearly_empty = self._unfinished = self._characters = 0

    def add(self, samples: Iterable[Sample], *, across_prompts: bool = False) -> None:
        """Count samples, among which are all those of their prompts.

        across_prompts: also the text of a sample of another prompt is a repeat, for one sample of each prompt.
        """
        seen: set[tuple[str, str]] = set()
        for sample in samples:
            text = completion_text(sample.completion)
            key = ("" if across_prompts else sample.prompt_id, text)
            has_calls = any(message.tool_calls for message in sample.completion)
            self._samples += 1
            self._repeated += key in seen
            self._nearly_empty += not has_calls and len("".join(text.split())) < _NEARLY_EMPTY
            self._unfinished += not sample.finished
            self._characters += len(text)
            seen.add(key)

    def figures(self) -> dict[str, float]:
        count = max(self._samples, 1)
        return {
            "repeated": round(self._repeated / count, 4),
            "nearly_empty": round(self._nearly_empty / count, 4),
            "unfinished": round(self._unfinished / count, 4),
            "mean_characters": round(self._characters / count, 2),
        }


def sample_figures(samples: Iterable[Sample], *, across_prompts: bool = False) -> dict[str, float]:
    """`SampleFigures` of samples that are in memory."""
    found = SampleFigures()
    found.add(samples, across_prompts=across_prompts)
    return found.figures()


def check_samples(figures: Mapping[str, float], config: SampleAlarmsConfig) -> dict[str, Any]:
    """The figures of candidates, with `alarms`, the names of those that are out of range; each is a warning.

    Raises CheckError for the first one if `action` is stop.
    """
    before = _former_length(config.former)
    return check_figures(figures, config, before, "samples", "candidates", "candidates.jsonl")


def check_figures(
    figures: Mapping[str, float], config: SampleAlarmsConfig, before: float, where: str, things: str, file: str
) -> dict[str, Any]:
    """The figures, with `shorter` if a mean length `before` is known (0: it is not), and `alarms` as `check_samples`.

    where, things, file: for messages: what they are the samples of, what they are called, and where they can be read.
    """
    checked: dict[str, Any] = dict(figures)
    if before:
        checked["shorter"] = round(1 - checked["mean_characters"] / before, 4)
    found = []
    for name, what in _WHAT.items():
        threshold = getattr(config, name)
        if threshold is not None and name in checked and checked[name] > threshold:
            found.append(name)
            said = f"{checked[name]:.0%} {what.format(things)}, and alarms.{name} is {threshold:g}"
            how = f"Look at {file}; train with a lower learning rate or fewer steps, or sample differently"
            if config.action == "stop":
                raise CheckError(where, said, f"{how}; or set alarms.action: warn")
            log.warning("alarm: %s: %s. %s", where, said, how)
    return {**checked, **({"alarms": found} if found else {})}


_WHAT = {
    "repeated": "of the {} repeat another one",
    "nearly_empty": "of the {} are nearly empty",
    "unfinished": "of the {} ran into the length limit",
    "shorter": "is what the {} have lost in length since the round before",
}
"""Alarm -> what the ratio is of."""


def _former_length(former: Sequence[Path]) -> float:
    """The mean length in the manifest of the last file; 0 if it has none, as one of an earlier version."""
    if not former:
        return 0.0
    counts = read_data_manifest(Path(former[-1])).get("counts", {})
    figures = counts.get(SAMPLES, {}) if isinstance(counts, dict) else {}
    length = figures.get("mean_characters") if isinstance(figures, dict) else None
    return float(length) if isinstance(length, int | float) else 0.0
