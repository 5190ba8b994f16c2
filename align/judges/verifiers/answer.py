"""Verifies the answer to a question of fact by the rules of the knowledge probe: right, or an abstention, as asked."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from align.judges.answers.rules import Verdict, abstains, verdict
from align.judges.verifiers.verifier import Failure, Verifier, final_text
from align.rows import Frozen, Messages


class AnswerEntry(Frozen):
    """What a prompt requires of the answer."""

    accept: tuple[Literal["right", "abstained"], ...] = Field(("right",), min_length=1)
    """The verdicts that pass. For a question that the model cannot answer: ["abstained"], or both."""
    answers: tuple[str, ...] = ()
    """Every right answer, as in a question row."""
    tolerance: float = Field(0.0, ge=0, lt=1)
    """As in a question row: 0.01 accepts 99 to 101 for 100."""

    @model_validator(mode="after")
    def _right_answers_are_known(self) -> Self:
        if "right" in self.accept and not self.answers:
            raise ValueError("accept names 'right', so answers must name at least one answer, found none")
        return self


class AnswerVerifier(Verifier[AnswerEntry]):
    """Checks the last message of a completion by `align/judges/answers/rules.py`."""

    entry = AnswerEntry

    def failure(self, completion: Messages, entry: AnswerEntry, tools: str = "") -> Failure | None:
        """See `Verifier.failure`. Reasons: "wrong answer", "right answer" (not accepted), "abstained"."""
        text = final_text(completion)
        found: Verdict
        if entry.answers:
            found = verdict(text, entry.answers, entry.tolerance)
        else:
            found = "abstained" if abstains(text) else "wrong"
        if found in entry.accept:
            return None
        return Failure("abstained" if found == "abstained" else f"{found} answer", text[:200])
