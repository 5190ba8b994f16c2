"""The interface of a verifier: it decides whether a completion passes a check that its prompt states.

A judge ranks completions by a score; a verifier accepts or rejects one, for a reason that can be counted. What a prompt
requires is an entry of its row: `{"maths": {"answer": "42"}}` has an entry for the verifier `maths`. Entries are
pydantic models, so that a wrong one is refused before anything is sampled.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from align.rows import Frozen, Messages

E = TypeVar("E", bound=Frozen)


class Failure(NamedTuple):
    """Why a completion does not pass."""

    reason: str
    """One of a few fixed texts, by which failures are counted: "wrong answer"."""
    detail: str = ""
    """What was found, for a person who looks into one failure. It is not counted."""


class Verifier(Generic[E]):
    """Base class of verifiers: a class of entries and a function of a completion and an entry."""

    entry: ClassVar[type[Frozen]]
    """What a prompt's entry contains."""
    before_scoring: ClassVar[bool] = False
    """Whether a candidate that fails is not scored: it is bad whatever the reward model says of it."""
    slow: ClassVar[bool] = False
    """Whether one check takes a tenth of a second or more. Such checks are units of work, like sampling: several
    processes divide them, and none is made twice."""

    def default_entry(self, tools: str, prompt: Messages = ()) -> E | None:
        """The entry of a prompt that has none. None: such a prompt is not verified.

        tools: the functions that the prompt offers, as `Row.tools` has them.
        prompt: its messages.
        """
        return None

    def read(self, given: Any) -> E:
        """A prompt's entry. Raises pydantic's ValidationError."""
        return self.entry.model_validate(given)  # type: ignore[return-value]

    def failure(self, completion: Messages, entry: E, tools: str = "") -> Failure | None:
        """Why the completion does not pass; None if it passes. It depends on these arguments only."""
        raise NotImplementedError


def final_text(completion: Messages) -> str:
    """The content of a completion's last message, which gives the answer: earlier ones call tools."""
    return completion[-1].content
