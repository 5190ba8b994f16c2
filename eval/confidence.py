"""How confident a model is in its answers: how likely the answer is, and how unlikely a refusal is.

Each question gets three numbers, which are higher for a more confident answer:

    answer_mean      log-probability of the answer, mean over its tokens
    answer_sum       the same, summed: a long answer is less likely than a short one
    propensity       log of the probability that the answer does not begin as a refusal does

Only the first sentence of an answer is scored, because what follows it says little about confidence. `propensity` adds
up the probabilities of a fixed set of openings in the question's language, so a model that refuses in other words has a
higher probability of refusing than it shows.
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
"""Language -> how refusals begin; `{subject}` is what the question asks for. No opening is the beginning of another, so
that their probabilities can be added."""


class ConfidenceConfig(Section):
    """Score how confident each answer is, for risk-coverage curves. One more forward pass over the questions."""

    openings: dict[str, tuple[str, ...]] = Field(default_factory=lambda: dict(OPENINGS))
    """Language -> how refusals begin, with {subject} or {Subject} for what is asked for. Languages without openings
    use the English ones."""

    @field_validator("openings")
    @classmethod
    def _begin_differently(cls, openings: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if not openings.get("en"):
            raise ValueError("expected openings for en, found none")
        for language, texts in openings.items():
            for one in texts:
                for other in texts:
                    if one != other and other.startswith(one):
                        raise ValueError(
                            f"{language}: {other!r} begins with {one!r}, and would be counted twice; remove one of them"
                        )
        return openings


def confidences(
    questions: Sequence[QuestionRow],
    answers: Sequence[str],
    generator: Generator,
    openings: Mapping[str, Sequence[str]],
) -> list[Mapping[str, float | None]]:
    """The three scores of each question, by name.

    answers: one for each question. An empty answer has a propensity only; its other two scores are None.
    openings: as in `ConfidenceConfig`.
    """
    from align.judges.judge import ScoreRequest

    requests = [
        ScoreRequest(
            question.prompt,
            (_said(first_sentence(answer)), *map(_said, openings_for(question, openings))),
            question.tools,
        )
        for question, answer in zip(questions, answers, strict=True)
    ]
    logps, token_counts = generator.logps(requests)
    found: list[Mapping[str, float | None]] = []
    for answer, sums, tokens in zip(answers, logps, token_counts, strict=True):
        has_answer = bool(answer.strip()) and tokens[0] > 0
        found.append(
            {
                "propensity": propensity(sums[1:]),
                "answer_mean": sums[0] / tokens[0] if has_answer else None,
                "answer_sum": sums[0] if has_answer else None,
            }
        )
    return found


def first_sentence(text: str) -> str:
    """The text up to the first end of a sentence or line after its first word.

    "St. George's is the capital. It is small." gives "St. George's is the capital.": the dot of "St." is in the first
    word, so it ends no sentence.
    """
    found = re.match(r"\s*\S+.*?(?:[.!?](?=\s|$)|$)", text, re.MULTILINE)
    return found.group() if found else text


def propensity(opening_logps: Iterable[float]) -> float:
    """log(1 - sum of the openings' probabilities), in nats: 0 for a model that never refuses.

    Edge: the sum is capped just below 1, since rounding may exceed 1 and JSON has no minus infinity.
    """
    refused = math.fsum(map(math.exp, opening_logps))
    return math.log1p(-min(refused, 1 - 1e-12))


def openings_for(question: QuestionRow, openings: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """How a refusal to answer this question begins. Openings that name the subject require a question with one."""
    subject = question.subject
    texts = openings.get(question.language) or openings["en"]
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
