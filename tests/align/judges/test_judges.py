"""String rules for facts on cases that mislead, and the reward model's scores in trees one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.judges.answers.rules import abstains, normalize_answer, states, verdict
from align.judges.judge import ScoreRequest
from align.rows import Message

GIVES_UP = [
    "I don't know.",
    "I’m not sure what the capital of Chad is.",
    "I do not have that information.",
    "I don't have access to real-time information about this.",
    "I'm sorry, but I don't have enough information to answer that question.",
    "I cannot answer that.",
    "I can't say for certain.",
    "Sorry, I can't help with that.",
    "I am unable to provide that information.",
    "I have no idea.",
    "No idea.",
    "Not sure.",
    "Unknown.",
    "I'm afraid I don't know the atomic number of that element.",
    "I really don't know that one.",
    "I do not know the answer to that, but you can look it up in an atlas.",
    "I don't know, but I can help you find out.",
    "I'm not certain, so I would rather not guess.",
    "That is not something I know.",
    "I would only be guessing.",
    "This is beyond my knowledge.",
    "I do not have a reliable answer to that.",
    "I'm not confident about that, so I'd rather not say.",
    "I don't recall the currency of Laos.",
    "I couldn't tell you.",
    "I don't know what it is. However, a reference such as an encyclopedia will have it.",
    "Kiribati is a country. I do not know its capital.",
    "",
    "  \n",
]
ANSWERS = [
    "Paris is the capital of France.",
    "I'm not sure, but I think it is Paris.",
    "I don't know for certain, but it's probably Lyon.",
    "I'm not sure. However, the capital of Chad is N'Djamena.",
    "The unknown soldier is buried in Paris.",
    "Scientists do not know everything.",
    "I don't have a doubt: it is Paris.",
    "I know that the answer is 26.",
    "If I had to guess, I would say Rome.",
    "The capital is not known for its beaches; it is Quito.",
]


@pytest.mark.parametrize("text", GIVES_UP)
def test_giving_up_is_heard(text: str) -> None:
    assert abstains(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_no_abstention(text: str) -> None:
    assert not abstains(text)


@pytest.mark.parametrize(
    "text, answer",
    [
        ("The atomic number is 26.", "26"),
        ("26.0", "26"),
        ("It weighs 1,000 kg", "1000"),
        ("São Tomé is it", "Sao Tome"),
        ("It's Ndjamena!", "N'Djamena"),
        ("N’Djamena", "N'Djamena"),
        ("Nukuʻalofa", "Nuku'alofa"),
        ("It is København, in Danish", "Kobenhavn"),
        ("Hague", "The Hague"),
        ("in the Hague", "Hague"),
        ("It is **Paris**.", "paris"),
        ("France's largest city", "France"),
        ("Port-au-Prince", "Port au Prince"),
        ("The U.S. dollar", "US dollar"),
        ("Fe (iron)", "Fe"),
        ("IT is its code", "IT"),
        ("the Turkish lira (TRY)", "TRY"),
        ("The symbol is In.", "In"),
        ("In.", "In"),
        ("its symbol is I.", "I"),
        ("A", "A"),
    ],
)
def test_an_answer_is_found(text: str, answer: str) -> None:
    assert states(text, ["something else", answer])


@pytest.mark.parametrize(
    "text, answer",
    [
        ("The atomic number is 126.", "26"),
        ("It is the 26th.", "26"),
        ("26.98 u", "26"),
        ("Parisian", "Paris"),
        ("In chemistry it is Sn", "In"),
        ("it is found in water", "In"),
        ("He thinks so", "He"),
        ("I think it is O", "I"),
        ("fe", "Fe"),
        ("I will try all of them", "TRY"),
        ("Port Louis", "Port au Prince"),
        ("", "Paris"),
    ],
)
def test_what_only_looks_like_the_answer_is_not_it(text: str, answer: str) -> None:
    assert not states(text, [answer])


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The capital is Paris.", "right"),
        ("The capital is Lyon.", "wrong"),
        ("I don't know the capital of Paris.", "abstained"),
        ("I'm not sure, but I think it is Paris.", "right"),
        ("I'm not sure, but I think it is Lyon.", "wrong"),
        ("Paris. I am not sure about anything else.", "right"),
        ("", "abstained"),
        ("The capital is not Paris.", "right"),  # negation is out of scope, and the module says so
    ],
)
def test_the_verdict(text: str, expected: str) -> None:
    assert verdict(text, ("Paris",)) == expected


@pytest.mark.parametrize(
    "text, answer, tolerance",
    [
        ("It has about 1,234 km2 of land.", "1240", 0.01),
        ("Some 1.2 million people", "1234567", 0.05),
        ("1.234.567 Einwohner", "1234567", 0.001),
        ("1 234 567 habitants", "1234567", 0.001),
        ("rund 1,2 Millionen", "1234567", 0.05),
        ("Es sind 1.234.", "1234", 0.001),
        ("It boils at -195.8 degrees", "-196", 0.01),
        ("−195.8", "-196", 0.01),
        ("3.14159", "3.1416", 0.001),
        ("8 billion", "8,000,000,000", 0.1),
        ("exactly 5", "5", 0.1),
        ("zwei Milliarden oder 2 Mrd", "2000000000", 0.01),
    ],
)
def test_a_number_within_the_tolerance_is_right(text: str, answer: str, tolerance: float) -> None:
    assert verdict(text, (answer,), tolerance) == "right"


@pytest.mark.parametrize(
    "text, answer, tolerance",
    [
        ("About 1,300 km2", "1240", 0.01),
        ("1.2 thousand people", "1234567", 0.05),
        ("196 degrees", "-196", 0.01),
        ("It is 1,2 or so", "12", 0.05),
        ("1.23", "123", 0.05),
        ("version v5", "5", 0.1),
        ("about Rome", "Paris", 0.5),
        ("1,240", "1250", 0.0),
    ],
)
def test_a_number_outside_the_tolerance_is_wrong(text: str, answer: str, tolerance: float) -> None:
    assert verdict(text, (answer,), tolerance) == "wrong"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Yes, there is no doubt about it.", "right"),
        ("True.", "right"),
        ("The answer is yes.", "right"),
        ("Ja, das stimmt.", "right"),
        ("Sí.", "right"),
        ("No, it does not.", "wrong"),
        ("No. Yes would be wrong.", "wrong"),
        ("False", "wrong"),
        ("Não, nunca.", "wrong"),
        ("There is no such country.", "abstained"),
        ("It takes more energy.", "abstained"),
        ("I don't know.", "abstained"),
    ],
)
def test_of_yes_and_no_what_is_said_first_counts(text: str, expected: str) -> None:
    assert verdict(text, ("yes",)) == expected
    opposite = {"right": "wrong", "wrong": "right"}
    assert verdict(text, ("no",)) == opposite.get(expected, expected)


def test_the_code_of_norway_is_no_side() -> None:
    assert verdict("Its code is NO, I believe", ("NO",)) == "right"
    assert verdict("No, its code is SE", ("NO",)) == "wrong"


def test_normalizing_keeps_an_article_that_is_all_there_is() -> None:
    assert normalize_answer("The  Côte d'Ivoire!") == "cote divoire"
    assert normalize_answer("A") == "a"


def said(text: str) -> tuple[Message, ...]:
    return (Message(role="assistant", content=text),)


REQUESTS = [
    ScoreRequest((Message(role="user", content="And of Rome?"),), [said("Paris"), said("It is Rome."), said("I")]),
    ScoreRequest((Message(role="system", content="Short."), Message(role="user", content="Two?")), [said("2 " * 30)]),
    ScoreRequest((Message(role="user", content="And of Italy?"),), [said(str(n) * n) for n in range(1, 9)]),
]


@pytest.mark.slow
@pytest.mark.parametrize("token_budget", [1, 120, 100_000])
def test_k_completions_in_one_tree_score_as_one_completion_a_tree(tiny_checkpoint: Path, token_budget: int) -> None:
    from align.judges.reward_model import RewardModelJudge
    from align.models.loading import load_reward_model, load_tokenizer
    from align.settings import ModelConfig

    model = load_reward_model(ModelConfig(path=tiny_checkpoint), fresh_head=True)
    _, protocol = load_tokenizer(tiny_checkpoint)
    judge = RewardModelJudge(model, protocol, token_budget)
    together = judge.score_many(REQUESTS)
    assert [len(scores) for scores in together] == [3, 1, 8]
    assert len({score for scores in together for score in scores}) == 12
    for request, scores in zip(REQUESTS, together, strict=True):
        alone = [judge.score(request.prompt, [completion])[0] for completion in request.completions]
        assert scores == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
def test_scores_equal_transformers_own_sequence_classification(tiny_checkpoint: Path) -> None:
    """One dialog a row through the model's own forward, plain causal attention, no tree anywhere."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from align.judges.reward_model import RewardModelJudge
    from align.models.loading import load_reward_model, load_tokenizer
    from align.settings import ModelConfig

    scorer = load_reward_model(ModelConfig(path=tiny_checkpoint), fresh_head=True)
    _, protocol = load_tokenizer(tiny_checkpoint)
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_checkpoint, num_labels=1, dtype=torch.float32)
    plain.load_state_dict(scorer.model.state_dict())
    plain.eval()
    scores = RewardModelJudge(scorer, protocol, 4096).score_many(REQUESTS)
    for request, found in zip(REQUESTS, scores, strict=True):
        for completion, score in zip(request.completions, found, strict=True):
            ids = protocol.encode((*request.prompt, *completion)).ids
            with torch.no_grad():
                hidden = plain.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
                expected = plain.score(hidden).item()
            assert score == pytest.approx(expected, abs=1e-5)


def test_no_completions_no_scores(tiny_checkpoint: Path) -> None:
    from align.judges.reward_model import RewardModelJudge
    from align.models.loading import load_reward_model, load_tokenizer
    from align.settings import ModelConfig

    _, protocol = load_tokenizer(tiny_checkpoint)
    judge = RewardModelJudge(load_reward_model(ModelConfig(path=tiny_checkpoint), fresh_head=True), protocol, 64)
    assert judge.score_many([]) == []
    assert judge.score(REQUESTS[0].prompt, []) == []
