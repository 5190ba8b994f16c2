"""A model that compares two answers to the same prompt, asked in both orders.

A model often prefers the answer that it is shown first (arXiv:2306.05685, section 3.3). So each pair is asked twice,
with the answers exchanged: a preference for a place then gives a tie, and not a win. Any generation engine can judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from align.files import fingerprint_of
from align.generation.engine import GenerationEngine
from align.judges.model_judge import MAX_TOKENS as MAX_TOKENS
from align.judges.model_judge import question_text
from align.rows import Messages

COMPARISON = """\
Question:
{question}

First answer:
{first}

Second answer:
{second}

Which answer is better: more helpful, more correct, and clearer? A longer answer is not better for its length. Reply \
with one word: first, second or equal."""

POINTS = {"first": 1.0, "equal": 0.5, "second": 0.0}
"""What each reply counts for the answer that was shown first."""


class PairRequest(NamedTuple):
    """Two answers to one prompt, to be compared."""

    prompt: Messages
    answer: str
    other: str


class Preference(NamedTuple):
    """What `answer` of a request earns in each order: 1 if it is preferred, 0.5 if they are equal, 0 if it is not."""

    shown_first: float
    shown_second: float

    @property
    def points(self) -> float:
        """The mean over both orders: 1 for a win in both, 0.5 if the orders contradict each other."""
        return (self.shown_first + self.shown_second) / 2


class PairJudge:
    """Preferences of a model. A preference depends on the prompt and the two answers only.

    engine: should sample greedily; `MAX_TOKENS` tokens of completion are enough.
    """

    def __init__(self, engine: GenerationEngine) -> None:
        self.engine = engine

    @property
    def identity(self) -> dict[str, str]:
        """Fingerprints of all that preferences depend on other than the request."""
        asked = fingerprint_of(COMPARISON)
        return {"judge asks": asked, **{f"judge {name}": value for name, value in self.engine.identity.items()}}

    def preferences(self, requests: Sequence[PairRequest]) -> list[Preference | None]:
        """One preference for each request, in their order.

        Equal answers are a tie, and the model is not asked. None if a reply is not one of the three words, or if both
        answers together are longer than the model's longest prompt.
        """
        texts = [(_filled(asked.prompt, asked.answer, asked.other), _filled(asked.prompt, asked.other, asked.answer))
                 for asked in requests]  # fmt: skip
        differing = [both for both, asked in zip(texts, requests, strict=True) if asked.answer != asked.other]
        points = self._points(list(dict.fromkeys(text for both in differing for text in both)))
        found: list[Preference | None] = []
        for asked, (straight, exchanged) in zip(requests, texts, strict=True):
            if asked.answer == asked.other:
                found.append(Preference(0.5, 0.5))
                continue
            first, second = points.get(straight), points.get(exchanged)
            found.append(None if first is None or second is None else Preference(first, 1 - second))
        return found

    def _points(self, texts: Sequence[str]) -> dict[str, float]:
        """What each text's first answer earns; texts without a usable reply are left out."""
        replies = zip(texts, self.engine.replies(texts), strict=True)
        said = {text: read_choice(reply) for text, reply in replies if reply is not None}
        return {text: POINTS[word] for text, word in said.items() if word is not None}


def read_choice(text: str) -> str | None:
    """`first`, `second` or `equal`: the reply has to begin with the word and contain none of the other two.

    "First." gives first; "The first one", "first and second" and "" give None.
    """
    words = re.findall(r"[^\W\d_]+", text.casefold())
    named = POINTS.keys() & set(words)
    return words[0] if words and words[0] in POINTS and len(named) == 1 else None


def _filled(prompt: Messages, first: str, second: str) -> str:
    return COMPARISON.format(question=question_text(prompt), first=first, second=second)
