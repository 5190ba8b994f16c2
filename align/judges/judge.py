"""What a judge is: anything that scores completions of a prompt. Higher is better; the units are the judge's own.

`reward_model.py` scores with a trained reward model. Facts have verdicts in the place of scores: by the plain string
rules of `rules.py`, or by a model that reads a reference, `model_judge.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from align.rows import Messages


class ScoreRequest(NamedTuple):
    """Completions of one prompt that are to be scored."""

    prompt: Messages
    completions: Sequence[Messages]
    tools: str = ""


class Judge(Protocol):
    """A scorer. A score depends on prompt, tools and completion, and on what else is asked by rounding only."""

    @property
    def identity(self) -> dict[str, str]:
        """Fingerprints of all that scores depend on besides the request."""
        ...

    def score(self, prompt: Messages, completions: Sequence[Messages], tools: str = "") -> list[float]:
        """One score for each completion, in their order."""
        ...

    def score_many(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """`score` of many prompts at once, batched as the judge likes best."""
        ...
