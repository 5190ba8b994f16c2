"""A model that compares two answers: both orders, its three words, and what gives no verdict."""

from __future__ import annotations

import re
from typing import Any

import pytest

from align.chat import load_protocol
from align.judges.pair_judge import PairJudge, PairRequest, Preference, read_choice
from align.rows import Message
from tests.fakes import FakeBackend

PROMPT = (Message(role="user", content="Name a city."),)


def shown(text: str) -> tuple[str, str]:
    found = re.search(r"First answer:\n(.*?)\n\nSecond answer:\n(.*?)\n\nWhich", text, re.DOTALL)
    assert found is not None
    return found[1], found[2]


def alphabetical(text: str, place: int) -> str:
    """A judge that prefers the answer that comes first in the alphabet, wherever it is shown."""
    first, second = shown(text)
    return "First." if first < second else "second"


@pytest.fixture
def protocol(chatml_tokenizer: Any) -> Any:
    return load_protocol(chatml_tokenizer)


def test_each_pair_is_asked_in_both_orders_and_equal_answers_not_at_all(protocol: Any) -> None:
    judge = PairJudge(FakeBackend(protocol, alphabetical).engine)
    pairs = [("Athens", "Berlin"), ("Berlin", "Athens"), ("Oslo", "Oslo")]
    found = judge.preferences([PairRequest(PROMPT, *pair) for pair in pairs])
    assert found == [Preference(1, 1), Preference(0, 0), Preference(0.5, 0.5)]
    asked = [shown(text) for text in judge.engine.backend.asked]
    assert sorted(asked) == [("Athens", "Berlin"), ("Berlin", "Athens")], "the second pair has the same two texts"


def test_a_preference_for_a_place_is_a_tie(protocol: Any) -> None:
    judge = PairJudge(FakeBackend(protocol, lambda text, place: "first").engine)
    (found,) = judge.preferences([PairRequest(PROMPT, "Athens", "Berlin")])
    assert found == Preference(1, 0)
    assert found is not None
    assert found.points == 0.5
    undecided = PairJudge(FakeBackend(protocol, lambda text, place: "Equal").engine)
    assert undecided.preferences([PairRequest(PROMPT, "Athens", "Berlin")]) == [Preference(0.5, 0.5)]


def test_without_a_word_in_both_orders_or_without_room_there_is_no_preference(protocol: Any) -> None:
    once = PairJudge(FakeBackend(protocol, lambda text, place: "first" if "Athens" in shown(text)[0] else "Hm").engine)
    assert once.preferences([PairRequest(PROMPT, "Athens", "Berlin")]) == [None]
    short = PairJudge(FakeBackend(protocol, alphabetical, max_prompt_tokens=150).engine)
    assert short.preferences([PairRequest(PROMPT, "word " * 300, "Berlin")]) == [None]
    assert short.preferences([]) == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ("First.", "first"),
        ("second, since it is right", "second"),
        ("EQUAL", "equal"),
        ("The first one", None),
        ("first and second", None),
        ("", None),
    ],
)
def test_a_reply_begins_with_one_of_the_words(text: str, expected: str | None) -> None:
    assert read_choice(text) == expected
