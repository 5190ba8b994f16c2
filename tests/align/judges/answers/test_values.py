"""Whether a text says a value."""

from __future__ import annotations

import pytest

from align.judges.answers.values import holds


@pytest.mark.parametrize(
    "text, answer",
    [
        ("It is 1,234.50 euros.", "1234.5"),
        ("1234.5", "1,234.50"),
        ("So 26.", "26"),
        ("26km", "26"),
        ("$26, or 30%", "30"),
        ("It is -3.0 degrees", "-3"),
        ("It is \u22123", "-3"),
        ("from 10-26", "26"),
        ("[1,2,3]", "2"),
        ("It is .5", "0.5"),
        ("The  Red\nHouse!", "red house"),
        ("No, never", "no"),
        ("ends on 2024-05-01.", "2024-05-01"),
        ("Größe XL", "GRÖSSE xl"),
    ],
)
def test_texts_that_hold_an_answer(text: str, answer: str) -> None:
    assert holds(text, ("nothing of the kind", answer))


@pytest.mark.parametrize(
    "text, answer",
    [
        ("126", "26"),
        ("26.9", "26"),
        ("0.26", "26"),
        ("-26", "26"),
        ("26", "-26"),
        ("1,026", "26"),
        ("1,234", "1"),
        ("version 1.26.3", "26"),
        ("v26", "26"),
        ("redder houses", "red"),
        ("", "26"),
        ("anything", ""),
    ],
)
def test_texts_that_do_not(text: str, answer: str) -> None:
    assert not holds(text, (answer,))
