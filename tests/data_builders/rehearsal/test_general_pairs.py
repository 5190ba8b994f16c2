"""The general demo pairs become preference rows without a level."""

from __future__ import annotations

from align.rows import Message
from data_builders.packaged import AnswerPair
from data_builders.rehearsal.general_pairs import general_pairs


def test_general_pairs_have_no_level_and_are_dropped_if_they_are_too_long() -> None:
    prompt = (Message(role="user", content="Tell me about it."),)
    found = general_pairs(
        [
            AnswerPair(prompt, "This is it.", "That is it."),
            AnswerPair(prompt, "Same.", "same"),
            AnswerPair(prompt, "long " * 100, "short"),
        ],
        max_characters=200,
    )
    assert [row.level for row in found.rows] == [None]
    assert found.dropped == {"similar answers": 1, "over max_characters": 1}
