"""The interface of a judge: it scores completions of a prompt. Higher is better; each judge has its own units.

`reward_model.py` scores with a trained reward model, `likelihood.py` by log-probability. Answers to questions of fact
get a verdict in place of a score: by the string rules of `answers/rules.py`, or by a model (`model_judge.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from align.rows import Messages


class ScoreRequest(NamedTuple):
    """Completions of one prompt, to be scored."""

    prompt: Messages
    completions: Sequence[Messages]
    tools: str = ""


class Judge(Protocol):
    """Scores completions. Except for rounding, a score depends on prompt, tools and completion only."""

    @property
    def identity(self) -> dict[str, str]:
        """Fingerprints of all that scores depend on other than the request."""
        ...

    def score(self, prompt: Messages, completions: Sequence[Messages], tools: str = "") -> list[float]:
        """One score for each completion, in their order."""
        ...

    def score_many(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """`score` of many prompts at once; the judge chooses its batches."""
        ...
