"""A model as judge of facts: what it is asked, how its word is read, and that each thing is asked once."""

from __future__ import annotations

import re
from typing import Any

import pytest

from align.chat import load_protocol
from align.judges.model_judge import AnswerRequest, ModelJudge, read_word, reference_of
from align.rows import Message, QuestionRow
from tests.fakes import FakeBackend

PASSAGE = "N'Djamena is the capital and largest city of Chad. It lies on the river Chari."


def question(text: str = "What is the capital of Chad?", **more: Any) -> QuestionRow:
    values = {"answers": ("N'Djamena",), "reference": PASSAGE} | more
    return QuestionRow(
        id="q", source="s", prompt=(Message(role="user", content=text),), entity="Chad", relation="capital", **values
    )


def knowing_judge(text: str, place: int) -> str:
    """Reads the prompt as a careful person would: words of giving up, and whether the reference has the answer."""
    answer = re.search(r"^Answer: (.*)$", text, re.MULTILINE)[1]
    if "informative or uninformative" in text:
        return "Uninformative." if "know" in answer else "informative"
    reference = re.search(r"Reference: (.*?)\n\nQuestion", text, re.DOTALL)[1]
    return "correct" if answer.strip(".") in reference else "Incorrect."


@pytest.fixture
def judge(chatml_tokenizer: Any) -> ModelJudge:
    protocol = load_protocol(chatml_tokenizer)
    return ModelJudge(FakeBackend(protocol, knowing_judge).engine)


def test_an_answer_is_held_against_the_reference_and_one_that_says_nothing_abstains(judge: ModelJudge) -> None:
    said = ["N'Djamena.", "Moundou.", "I don't know.", "the river Chari"]
    assert judge.verdicts([AnswerRequest(question(), text) for text in said]) == [
        "right",
        "wrong",
        "abstained",
        "right",  # this judge looks no further than the passage
    ]


def test_correctness_is_asked_only_of_what_is_informative_and_no_text_twice(judge: ModelJudge) -> None:
    said = ["I don't know.", "N'Djamena.", "I don't know.", "N'Djamena.", "N'Djamena."]
    found = judge.verdicts([AnswerRequest(question(), text) for text in said])
    assert found == ["abstained", "right", "abstained", "right", "right"]
    asked = judge.engine.backend.asked
    assert len(asked) == 3
    assert sum("Reference:" in text for text in asked) == 1


def test_a_verdict_does_not_depend_on_what_else_is_asked(judge: ModelJudge) -> None:
    requests = [AnswerRequest(question(), text) for text in ("N'Djamena.", "Moundou.", "I don't know.")]
    alone = [judge.verdicts([request])[0] for request in requests]
    assert judge.verdicts(requests[::-1]) == alone[::-1]


def test_without_a_word_or_without_room_there_is_no_verdict(chatml_tokenizer: Any) -> None:
    protocol = load_protocol(chatml_tokenizer)
    vague = ModelJudge(FakeBackend(protocol, lambda text, place: "It depends.").engine)
    assert vague.verdicts([AnswerRequest(question(), "N'Djamena.")]) == [None]
    unsure = ModelJudge(
        FakeBackend(protocol, lambda text, place: "informative" if "uninformative" in text else "Hm.").engine
    )
    assert unsure.verdicts([AnswerRequest(question(), "N'Djamena.")]) == [None]
    short = ModelJudge(FakeBackend(protocol, knowing_judge, max_prompt_tokens=100).engine)
    assert short.verdicts([AnswerRequest(question(reference="word " * 300), "N'Djamena.")]) == [None]
    assert short.verdicts([]) == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ("correct", True),
        ("Correct.", True),
        ("**Correct**", True),
        ("incorrect", False),
        ("Incorrect, since", False),
        ("Correct or incorrect?", None),
        ("not correct", None),
        ("Correctness", None),
        ("", None),
        ("42", None),
    ],
)
def test_the_word_is_read_strictly(text: str, expected: bool | None) -> None:
    assert read_word(text, "correct", "incorrect") is expected


def test_the_reference_has_the_passage_the_answers_and_how_near_a_number_must_be() -> None:
    assert reference_of(question()) == f"{PASSAGE}\n\nAccepted answers: N'Djamena."
    near = question(reference="", answers=("1284000", "1.284 million"), tolerance=0.05)
    assert reference_of(near) == ("Accepted answers: 1284000; 1.284 million. A number that is within 5% is correct.")


def test_the_identity_tells_judges_apart(chatml_tokenizer: Any) -> None:
    protocol = load_protocol(chatml_tokenizer)
    one, same, other = (ModelJudge(FakeBackend(protocol, knowing_judge, name=name).engine) for name in ("a", "a", "b"))
    assert one.identity == same.identity != other.identity
    assert "judge model" in one.identity
