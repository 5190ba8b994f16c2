"""A policy's log-probabilities of completions, against a plain forward pass of transformers over the whole dialog."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from align.chat.protocol import TokenKind
from align.judges.judge import ScoreRequest
from align.judges.likelihood import LikelihoodJudge
from align.models.loading import load_policy, load_tokenizer
from align.rows import Message
from align.settings import ModelConfig, SamplingConfig
from eval.runner import Generator

REQUESTS = [
    ScoreRequest(
        (Message(role="user", content="What is the capital of France?"),),
        tuple((Message(role="assistant", content=text),) for text in ("Paris.", "It is Rome, I think.", "I do not")),
    ),
    ScoreRequest((Message(role="user", content="And of Italy?"),), ((Message(role="assistant", content="Rome"),),)),
]


def by_plain_forward(checkpoint: Path, request: ScoreRequest, completion: tuple[Message, ...]) -> tuple[float, int]:
    """Sum over the answer's content tokens, read off the logits of the whole dialog."""
    _, protocol = load_tokenizer(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    encoded = protocol.encode((*request.prompt, *completion))
    ids = torch.tensor([encoded.ids])
    with torch.no_grad():
        logps = model(ids).logits[0].log_softmax(-1)
    last = max(encoded.turns)
    places = [
        place
        for place, (kind, turn) in enumerate(zip(encoded.kinds, encoded.turns, strict=True))
        if kind == TokenKind.CONTENT and turn == last
    ]
    return sum(float(logps[place - 1, encoded.ids[place]]) for place in places), len(places)


@pytest.mark.slow
@pytest.mark.parametrize("token_budget", [40, 4096])
def test_scores_are_the_summed_content_log_probabilities(tiny_checkpoint: Path, token_budget: int) -> None:
    _, protocol = load_tokenizer(tiny_checkpoint)
    judge = LikelihoodJudge(load_policy(ModelConfig(path=tiny_checkpoint)), protocol, token_budget)
    found, counts = judge.score_many(REQUESTS), judge.token_counts(REQUESTS)
    expected = [
        [by_plain_forward(tiny_checkpoint, request, completion) for completion in request.completions]
        for request in REQUESTS
    ]
    for own, own_counts, values in zip(found, counts, expected, strict=True):
        assert own == pytest.approx([value for value, _ in values], abs=1e-3)
        assert own_counts == [count for _, count in values]


@pytest.mark.slow
def test_an_opening_is_at_least_as_likely_as_what_goes_on_from_it(tiny_checkpoint: Path) -> None:
    _, protocol = load_tokenizer(tiny_checkpoint)
    judge = LikelihoodJudge(load_policy(ModelConfig(path=tiny_checkpoint)), protocol, 512)
    opening, whole = judge.score(
        REQUESTS[0].prompt,
        [(Message(role="assistant", content=text),) for text in ("I do not", "I do not know that.")],
    )
    assert whole < opening < 0


@pytest.mark.slow
def test_an_evaluated_model_gives_the_same_after_it_has_generated(tiny_checkpoint: Path) -> None:
    generator = Generator(ModelConfig(path=tiny_checkpoint), SamplingConfig(temperature=0, dtype="float32"))
    logps, counts = generator.logps(REQUESTS)
    generator._loaded()
    assert generator.logps(REQUESTS) == (logps, counts)
    assert [len(own) for own in logps] == [3, 1]


@pytest.mark.slow
def test_the_identity_names_weights_and_protocol(tiny_checkpoint: Path) -> None:
    _, protocol = load_tokenizer(tiny_checkpoint)
    judge = LikelihoodJudge(load_policy(ModelConfig(path=tiny_checkpoint)), protocol, 512)
    assert judge.identity.keys() == {"policy", "protocol"}
