"""How surely a model answers: the probability of the answer, and how little of its probability goes to refusing.

For each question three numbers, higher for a surer answer:

    answer_mean      log-probability of the answer, mean over its tokens: what the untouched model can be cut off at
    answer_sum       the same, summed: a long answer is less likely than a short one
    propensity       log of the probability that the answer does not begin as a refusal does

An answer counts up to the end of its first sentence: what a model goes on with says little of how sure it is. The last
score is read off a fixed set of openings in the question's language. A model that refuses in other words than these has
more probability of refusing than they show.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field, field_validator

from align.config import Section
from align.rows import Message, Messages, QuestionRow
from eval.runner import Generator

SCORES = ("propensity", "answer_mean", "answer_sum")

OPENINGS: dict[str, tuple[str, ...]] = {
    "en": (
        "I don't", "I do not", "I'm not sure", "I am not sure", "I'm sorry", "I can't", "I cannot", "That is not",
        "{Subject} is not something",
    ),
    "de": (
        "Ich kenne", "Ich weiß", "Ich bin mir nicht", "Darüber habe ich", "Das weiß ich nicht", "Die Antwort auf diese",
        "{Subject} kenne ich nicht", "Über {subject} habe ich keine",
    ),
    "fr": ("Je ne", "Je n'", "Désolé"),
    "es": ("No conozco", "No sé", "No lo sé", "No estoy seguro", "No tengo", "Lo siento"),
    "it": ("Non conosco", "Non so", "Non lo so", "Non ne sono", "Non ho", "Mi dispiace"),
    "pt": ("Não conheço", "Não sei", "Não tenho", "Desculpe"),
}  # fmt: skip
"""Language -> how refusals begin; `{subject}` is what the question asks for. None begins as another does, so that their
probabilities add up."""


class AnswerScoresConfig(Section):
    """Score each answer, and draw risk-coverage curves. One more pass over the questions, without generation."""

    openings: dict[str, tuple[str, ...]] = Field(default_factory=lambda: dict(OPENINGS))
    """Language -> how refusals begin, with {subject} or {Subject} for what is asked for. A question in a language that
    is not named takes the English ones."""

    @field_validator("openings")
    @classmethod
    def _begin_differently(cls, openings: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if not openings.get("en"):
            raise ValueError("wanted openings for en, found none")
        for language, texts in openings.items():
            for one in texts:
                for other in texts:
                    if one != other and other.startswith(one):
                        raise ValueError(f"{language}: {other!r} begins with {one!r}, and would be counted twice")
        return openings


def answer_scores(
    questions: Sequence[QuestionRow], answers: Sequence[str], generator: Generator, config: AnswerScoresConfig
) -> list[Mapping[str, float | None]]:
    """The three scores of each question, by name.

    answers: the text that would be given; for an empty one the two scores of the answer are None.
    """
    from align.judges.judge import ScoreRequest

    requests = [
        ScoreRequest(
            question.prompt,
            (_said(first_sentence(answer)), *map(_said, openings_for(question, config))),
            question.tools,
        )
        for question, answer in zip(questions, answers, strict=True)
    ]
    logps, token_counts = generator.logps(requests)
    found: list[Mapping[str, float | None]] = []
    for answer, sums, tokens in zip(answers, logps, token_counts, strict=True):
        told = bool(answer.strip()) and tokens[0] > 0
        found.append(
            {
                "propensity": propensity(sums[1:]),
                "answer_mean": sums[0] / tokens[0] if told else None,
                "answer_sum": sums[0] if told else None,
            }
        )
    return found


def first_sentence(text: str) -> str:
    """Up to the first end of a sentence or line that is not in its first word: "St. George's" goes on."""
    found = re.match(r"\s*\S+.*?(?:[.!?](?=\s|$)|$)", text, re.MULTILINE)
    return found.group() if found else text


def propensity(opening_logps: Iterable[float]) -> float:
    """log(1 - sum of the openings' probabilities), in nats: 0 for a model that never refuses.

    Edge: the sum is held below 1, which rounding may pass; minus infinity is no number in JSON.
    """
    refused = math.fsum(map(math.exp, opening_logps))
    return math.log1p(-min(refused, 1 - 1e-12))


def openings_for(question: QuestionRow, config: AnswerScoresConfig) -> tuple[str, ...]:
    """How a refusal to answer the question begins; without a subject, those that name one are left out."""
    subject = question.subject
    texts = config.openings.get(question.language) or config.openings["en"]
    slots = {"{subject}": subject, "{Subject}": subject[:1].upper() + subject[1:]}
    found = []
    for text in texts:
        for slot, value in slots.items():
            text = text.replace(slot, value) if value else text
        if "{" not in text:
            found.append(text)
    return tuple(found)


def _said(text: str) -> Messages:
    return (Message(role="assistant", content=text),)
