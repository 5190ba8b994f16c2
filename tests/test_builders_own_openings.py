"""Refusals that go on from a model's own words: what they keep of them, and what they must not."""

from __future__ import annotations

import pytest

from align.judges.rules import verdict
from align.rows import Message, QuestionRow
from data_builders.own_openings import own_refusal


def question(text: str, subject: str, *answers: str, language: str = "en") -> QuestionRow:
    prompt = (Message(role="user", content=text),)
    return QuestionRow(
        id="q", source="t", prompt=prompt, entity="e", relation="r", answers=answers, subject=subject, language=language
    )


CHAD = question("What is the capital of Chad?", "the capital of Chad", "N'Djamena")
OUAGADOUGOU = question(
    "Ouagadougou is the capital of which country or territory?", "the country whose capital is Ouagadougou", "Mali"
)
FES = question("In which country is Fes?", "the country that Fes is in", "Morocco")
SAMARIUM = question("What is the chemical symbol of samarium?", "the chemical symbol of samarium", "Sm")


@pytest.mark.parametrize(
    "asked, answers, wanted",
    [
        (CHAD, ["The capital of Chad is Faya.", "The capital of Chad is Mongo."], "The capital of Chad is not"),
        (OUAGADOUGOU, ["Ouagadougou is the capital of Mali.", "Ouagadougou is the capital of Togo, in Africa."],
         "Ouagadougou is the capital of something"),
        (SAMARIUM, ["The symbol for samarium is Sa.", "The symbol for samarium is Su.", "Samarium!", "Hm."],
         "The symbol for samarium is not"),
        (CHAD, ["The capital of Chad is Faya.", "It has Mongo.", "It is Faya.", "Faya."], "The capital of Chad is not"),
        (FES, ["Fes is a city located in Spain.", "Fes is a town."], "Fes is a city located in something"),
    ],
)  # fmt: skip
def test_it_begins_as_most_of_the_answers_do_and_is_heard_as_a_refusal(
    asked: QuestionRow, answers: list[str], wanted: str
) -> None:
    found = own_refusal(asked, answers)
    assert found is not None
    assert found.startswith(wanted)
    assert verdict(found, asked.answers) == "abstained"


@pytest.mark.parametrize(
    "asked, answers",
    [
        (CHAD, ["Chad is a country in Niger.", "Chad is located in Mali."]),  # says something else of it
        (CHAD, ["The capital of Faya.", "The capital of Mongo."]),  # names nothing
        (CHAD, ["Chad is the capital of Niger.", "Chad is the capital of Mali."]),  # says what is not so
        (CHAD, ["The old port of Chad is Faya.", "The old port of Chad is Mongo."]),  # adds what nobody asked
        (CHAD.model_copy(update={"language": "de"}), ["The capital of Chad is A.", "The capital of Chad is B."]),
        (CHAD.model_copy(update={"subject": ""}), ["The capital of Chad is A.", "The capital of Chad is B."]),
    ],
)
def test_no_opening_is_taken_that_says_more_than_the_question_or_something_else(
    asked: QuestionRow, answers: list[str]
) -> None:
    assert own_refusal(asked, answers) is None
