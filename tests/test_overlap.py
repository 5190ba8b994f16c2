"""What makes two texts the same."""

from __future__ import annotations

import pytest

from align.overlap import exact_key, normalize


@pytest.mark.parametrize(
    "one, other",
    [
        ("What is the capital of Chad?", "what is  the capital of chad"),
        ("A well-known fact.", "a well known fact"),
        ("ｆｕｌｌ width", "full width"),
        ("STRASSE", "straße"),
    ],
)
def test_case_punctuation_and_spacing_do_not_tell_texts_apart(one: str, other: str) -> None:
    assert exact_key(one) == exact_key(other)


@pytest.mark.parametrize(
    "one, other",
    [("5 * 3", "5 / 3"), ("5-3", "5+3"), ("1.5", "15"), ("1.5", "1 5"), ("50%", "50"), ("$5", "5"), ("más", "mas")],
)
def test_signs_of_arithmetic_and_accents_tell_texts_apart(one: str, other: str) -> None:
    assert exact_key(one) != exact_key(other)


def test_normalizing_twice_changes_nothing() -> None:
    for text in ("What's 5 * 3 - 2.5? -- A well-known $5, 50% off", "東京は、日本の首都です。", "हिन्दी में"):
        assert normalize(normalize(text)) == normalize(text)


def test_texts_do_not_run_together() -> None:
    assert exact_key("ab", "c") != exact_key("a", "bc")
