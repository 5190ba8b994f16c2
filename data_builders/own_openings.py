"""Refusals that begin as the model's own answers do: "The capital of Chad is not something I know."

"I don't know ..." is decided at the first word, before a model has looked for the answer. A refusal that goes on from
the words that its answers share is decided where the answer itself would stand, against what the model would make up
there. In English only: elsewhere an article or a case would have to fit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from align.judges.rules import normalize
from align.rows import QuestionRow
from data_builders.refusals import fault_of

ENDINGS = {
    **dict.fromkeys(("is", "are", "was", "were"), "not something I know."),
    **dict.fromkeys(("of", "in", "for", "by", "as"), "something that I don't know."),
}
"""Last word of an opening -> how it becomes a refusal."""
_ALLOWED = {"a", "an", "the", "is", "are", "was", "were", "of", "in", "for", "by", "as", "city", "town", "country",
            "located", "situated", "known", "called", "stands"}  # fmt: skip
"""Words that an opening may have besides the question's: any other might be part of an invention."""


def own_refusal(question: QuestionRow, answers: Sequence[str]) -> str | None:
    """A refusal out of the opening that most of the answers share, the longest of those; None where none of them begins
    in a way that names what is asked about and adds nothing to it, and for other languages.
    """
    if question.language != "en" or not question.subject:
        return None
    asked = _plain(question.prompt[-1].content) | _plain(question.subject) | _ALLOWED
    name, head = _name_and_head(question.subject)
    openings: dict[str, int] = {}
    for text in answers:
        words = text.split()
        for length in range(2, len(words)):
            if words[length - 1] in ENDINGS:
                openings.setdefault(" ".join(words[:length]), 0)
    for opening in openings:
        openings[opening] = sum(f"{text} ".startswith(f"{opening} ") for text in answers)
    for opening in sorted(openings, key=lambda one: (-openings[one], -len(one))):
        plain = _plain(opening)
        says_where = opening.split()[-1] == "in" and "in" in question.subject.split()
        says_what = bool(plain - name - _ALLOWED) or says_where  # "Chad is" and "Chad is a country in" say nothing
        asks_back = bool(head) and f" {opening.lower()}".endswith(f" {head.lower()}")  # "Chad is the capital of"
        if name <= plain <= asked and says_what and not asks_back:
            text = f"{opening} {ENDINGS[opening.split()[-1]]}"
            if fault_of(text, question, allow_apology=True) is None:
                return text
    return None


def _name_and_head(subject: str) -> tuple[set[str], str]:
    """The words of a subject's name, and what stands before it: ({chad}, "the capital of")."""
    words = subject.split()
    named = [place for place, word in enumerate(words) if re.match(r"\W*[A-Z0-9]", word)] or [len(words) - 1]
    return _plain(" ".join(words[place] for place in named)), " ".join(words[: named[0]])


def _plain(text: str) -> set[str]:
    return set(normalize(text).split())
