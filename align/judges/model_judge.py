"""A model that judges answers to questions of fact: is the answer informative, and does it agree with a reference?

Llama 3 (section 4.3.6) asks itself both questions, with the text that the question came from as the reference. Here any
generation engine can judge. It is asked for one word; any other reply gives no verdict. An answer that is not
informative counts as abstaining, and the judge is asked only about the others whether they are correct.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from align.files import fingerprint_of
from align.generation.engine import GenerationEngine
from align.judges.answers.rules import Verdict
from align.rows import Messages, QuestionRow

MAX_TOKENS = 8
"""Enough for the one word, in any tokenizer."""

INFORMATIVENESS = """\
Question: {question}
Answer: {answer}

An answer is informative if it commits to something that could be checked, be it right or wrong. An answer that says \
that it does not know, or says nothing to the question, is not. Is this answer informative? Reply with one word: \
informative or uninformative."""

CORRECTNESS = """\
Reference: {reference}

Question: {question}
Answer: {answer}

Does the answer say about the question what the reference says? Reply with one word: correct or incorrect."""


class AnswerRequest(NamedTuple):
    """An answer, to be judged."""

    question: QuestionRow
    answer: str


class ModelJudge:
    """Verdicts of a model. A verdict depends on question and answer only.

    engine: should sample greedily; `MAX_TOKENS` tokens of completion are enough.
    """

    def __init__(self, engine: GenerationEngine) -> None:
        self.engine = engine

    @property
    def identity(self) -> dict[str, str]:
        """Fingerprints of all that verdicts depend on other than the request."""
        asked = fingerprint_of(INFORMATIVENESS, CORRECTNESS)
        return {"judge asks": asked, **{f"judge {name}": value for name, value in self.engine.identity.items()}}

    def verdicts(self, requests: Sequence[AnswerRequest]) -> list[Verdict | None]:
        """One verdict for each request, in their order.

        None if the model replied with neither word, or if the reference is longer than its longest prompt.
        """
        informative = self._replies(
            [_filled(INFORMATIVENESS, request) for request in requests], "informative", "uninformative"
        )
        open_ = [number for number, said in enumerate(informative) if said]
        correct = self._replies([_filled(CORRECTNESS, requests[number]) for number in open_], "correct", "incorrect")
        found: list[Verdict | None] = [None if said is None else "abstained" for said in informative]
        for number, said in zip(open_, correct, strict=True):
            found[number] = None if said is None else "right" if said else "wrong"
        return found

    def _replies(self, texts: Sequence[str], yes: str, no: str) -> list[bool | None]:
        replies = self.engine.replies(texts)
        return [None if reply is None else read_word(reply, yes, no) for reply in replies]


def read_word(text: str, yes: str, no: str) -> bool | None:
    """True for `yes`, False for `no`: the reply has to begin with one of the words and not contain the other.

    With "correct" and "incorrect": "Correct." is True, "incorrect, since ..." is False, "It is correct" and "correct or
    incorrect" are None.
    """
    words = re.findall(r"[^\W\d_]+", text.casefold())
    if not words or words[0] not in (yes, no) or {yes, no} <= set(words):
        return None
    return bool(words[0] == yes)


def reference_of(question: QuestionRow) -> str:
    """What an answer is compared with: the text that the question came from, and the accepted answers."""
    accepted = "Accepted answers: " + "; ".join(question.answers) + "."
    if question.tolerance:
        accepted += f" A number that is within {question.tolerance:.0%} is correct."
    return f"{question.reference}\n\n{accepted}" if question.reference else accepted


def question_text(prompt: Messages) -> str:
    """A prompt as one text: its only message, or the whole dialog with its roles."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in prompt)


def _filled(template: str, request: AnswerRequest) -> str:
    return template.format(
        question=question_text(request.question.prompt),
        answer=request.answer,
        reference=reference_of(request.question),
    )
