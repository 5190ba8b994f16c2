"""What makes two texts the same."""

from __future__ import annotations

import random
import re
import unicodedata

import pytest

from align import text as text_module
from align.text import exact_key, normalize


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


def normalized_by_character(text: str) -> str:
    """The definition, character by character: letters, marks, digits and symbols, and arithmetic next to a digit."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    arithmetic = re.compile(r"(?<=\d)[.,](?=\d)|(?<=\d)\s?[-*/%]|[-*/%](?=\s?\d)")
    places = {place for match in arithmetic.finditer(folded) for place in range(*match.span())}
    kept = (
        character if place in places or unicodedata.category(character)[0] in "LMNS" else " "
        for place, character in enumerate(folded)
    )
    return " ".join("".join(kept).split())


def test_normalize_is_its_definition_on_random_text() -> None:
    draw = random.Random(0)
    alphabet = "aB1 2.5-*/%,\n\t!?$€+=<>éßªﬁ日हि\u0301\u00a0\u200b😀"
    dense = "12٣ .,-*/%a"
    for number in range(10000):
        text = "".join(draw.choices(dense if number % 2 else alphabet, k=draw.randint(0, 30)))
        assert normalize(text) == normalized_by_character(text)


def test_texts_that_were_normalized_before_do_not_fill_the_memory() -> None:
    recent = text_module._Recent(100)
    for number in range(1000):
        assert recent[f"Text {number}!", True] == f"text {number}"
        assert recent[f"Text {number}!", False] == f"Text {number}"
        assert sum(len(text) for text, _ in recent) <= 110, "one text more than the limit"
