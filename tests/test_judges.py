"""String rules for facts on cases that mislead, and the reward model's scores in trees one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.judges.judge import ScoreRequest
from align.judges.rules import abstains, normalize, states, verdict
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
def test_an_answer_is_no_surrender(text: str) -> None:
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


def test_normalizing_keeps_an_article_that_is_all_there_is() -> None:
    assert normalize("The  Côte d'Ivoire!") == "cote divoire"
    assert normalize("A") == "a"


def said(text: str) -> tuple[Message, ...]:
    return (Message(role="assistant", content=text),)


REQUESTS = [
    ScoreRequest((Message(role="user", content="And of Rome?"),), [said("Paris"), said("It is Rome."), said("I")]),
    ScoreRequest((Message(role="system", content="Short."), Message(role="user", content="Two?")), [said("2 " * 30)]),
    ScoreRequest((Message(role="user", content="And of Italy?"),), [said(str(n) * n) for n in range(1, 9)]),
]


@pytest.mark.parametrize("token_budget", [1, 120, 100_000])
def test_k_completions_in_one_tree_score_as_one_completion_a_tree(tiny_checkpoint: Path, token_budget: int) -> None:
    from align.judges.reward_model import RewardModelJudge
    from align.models.loading import load_reward_model, load_tokenizer
    from align.settings import ModelConfig

    model = load_reward_model(ModelConfig(path=tiny_checkpoint))
    _, protocol = load_tokenizer(tiny_checkpoint)
    judge = RewardModelJudge(model, protocol, token_budget)
    together = judge.score_many(REQUESTS)
    assert [len(scores) for scores in together] == [3, 1, 8]
    assert len({score for scores in together for score in scores}) == 12
    for request, scores in zip(REQUESTS, together, strict=True):
        alone = [judge.score(request.prompt, [completion])[0] for completion in request.completions]
        assert scores == pytest.approx(alone, abs=1e-5)


def test_scores_equal_transformers_own_sequence_classification(tiny_checkpoint: Path) -> None:
    """One dialog a row through the model's own forward, plain causal attention, no tree anywhere."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from align.judges.reward_model import RewardModelJudge
    from align.models.loading import load_reward_model, load_tokenizer
    from align.settings import ModelConfig

    scorer = load_reward_model(ModelConfig(path=tiny_checkpoint))
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
    judge = RewardModelJudge(load_reward_model(ModelConfig(path=tiny_checkpoint)), protocol, 64)
    assert judge.score_many([]) == []
    assert judge.score(REQUESTS[0].prompt, []) == []
