"""Answers and abstentions, each accepted or not, and the catalogue of verifiers."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from align.judges.verifiers.answer import AnswerVerifier
from align.judges.verifiers.catalog import VERIFIERS, VerifierName, load_verifier
from align.judges.verifiers.verifier import Verifier
from align.optional import is_installed
from align.rows import Message


@pytest.mark.parametrize(
    "text, entry, expected",
    [
        ("It is N'Djamena.", {"answers": ["N'Djamena"]}, None),
        ("It is Lagos.", {"answers": ["N'Djamena"]}, "wrong answer"),
        ("I don't know.", {"answers": ["N'Djamena"]}, "abstained"),
        ("I don't know.", {"answers": ["N'Djamena"], "accept": ["right", "abstained"]}, None),
        ("I don't know.", {"accept": ["abstained"]}, None),
        ("I'm not sure. The capital of Chad is Lagos.", {"accept": ["abstained"]}, "wrong answer"),
        ("I'm not sure. The capital of Chad is Lagos.", {"answers": ["N'Djamena"]}, "wrong answer"),
        ("I'm not sure. It is N'Djamena.", {"answers": ["N'Djamena"]}, None),
        ("It is Lagos.", {"accept": ["abstained"]}, "wrong answer"),
        ("It is N'Djamena.", {"answers": ["N'Djamena"], "accept": ["abstained"]}, "right answer"),
        ("About 1.2 million.", {"answers": ["1234567"], "tolerance": 0.05}, None),
        ("About 1.2 million.", {"answers": ["1234567"]}, "wrong answer"),
    ],
)
def test_the_verdict_passes_if_it_is_accepted(text: str, entry: dict[str, Any], expected: str | None) -> None:
    verifier = AnswerVerifier()
    failure = verifier.failure((Message(role="assistant", content=text),), verifier.read(entry))
    assert (failure and failure.reason) == expected


def test_right_answers_must_be_known() -> None:
    with pytest.raises(ValidationError, match="answers must name at least one answer"):
        AnswerVerifier().read({})


def test_every_verifier_of_the_catalogue_can_be_loaded() -> None:
    assert set(VERIFIERS) == set(get_args(VerifierName))
    without = set() if is_installed("py3langid") else {"language"}  # the extra `language`
    for name in VERIFIERS.keys() - without:
        assert isinstance(load_verifier(name), Verifier)
