"""Reward accuracy on scores that are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from align.jsonl import write_rows
from align.judges.judge import ScoreRequest
from align.rows import Message, PreferenceRow
from eval import reward_accuracy
from eval.intervals import share
from eval.reward_accuracy import RewardAccuracyConfig, exchanged


class Reading:
    """A scorer that reads its scores off the completions."""

    def scores(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        return [[float(done[0].content) for done in request.completions] for request in requests]


def test_ties_count_half_and_three_completions_are_three_pairs(tmp_path: Path) -> None:
    scored = [("2", "1"), ("1", "2"), ("1", "1.0"), ("3", "1", "2"), ("nan", "0")]
    rows = [
        PreferenceRow(
            id=str(number),
            source="test",
            prompt=(Message(role="user", content="Say."),),
            completions=tuple((Message(role="assistant", content=text),) for text in texts),
        )
        for number, texts in enumerate(scored)
    ]
    write_rows(tmp_path / "pairs.jsonl", rows)
    config = RewardAccuracyConfig(pairs=tmp_path / "pairs.jsonl")
    found = reward_accuracy.evaluate(config, Reading(), tmp_path, None)  # type: ignore[arg-type]
    assert found.scores["accuracy"] == share(1 + 0 + 0.5 + 2 + 0, 7), (
        "one prompt is one cluster, so Wilson's interval is kept"
    )
    assert [row["verdict"] for row in found.rows] == ["right", "wrong", "partly right", "partly right", "wrong"]
    assert {name: found.counts[name] for name in ("rows", "pairs", "prompts")} == {"rows": 5, "pairs": 7, "prompts": 1}
    assert found.rows[0]["answer"] == "2"
    assert found.rows[0]["rejected"] == "1"
    assert [row["level"] for row in found.rows] == [None] * 5
    assert found.rows[4]["characters"] == [3, 1]


class Recording(Reading):
    """Which prompt each completion was scored after."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def scores(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        self.asked += [(ask.prompt[0].content, done[0].content) for ask in requests for done in ask.completions]
        return super().scores(requests)


def test_other_prompts_are_another_rows_and_rows_still_bear_their_own(tmp_path: Path) -> None:
    rows = [
        PreferenceRow(
            id=f"{number}",
            source="test",
            prompt=(Message(role="user", content=f"Question {number // 2}"),),
            completions=((Message(role="assistant", content=f"{number}"),), (Message(role="assistant", content="-1"),)),
        )
        for number in range(70 * 2)
    ]
    write_rows(tmp_path / "pairs.jsonl", rows)
    config, scorer = RewardAccuracyConfig(pairs=tmp_path / "pairs.jsonl", other_prompts=True), Recording()
    found = reward_accuracy.evaluate(config, scorer, tmp_path, None)  # type: ignore[arg-type]
    shown = {answer: prompt for prompt, answer in scorer.asked if answer != "-1"}
    own = {answer: f"Question {int(answer) // 2}" for answer in shown}
    assert len(own) == 140
    assert not [answer for answer, prompt in shown.items() if prompt == own[answer]]
    assert len(set(zip(own.values(), shown.values(), strict=True))) == 70, "rows of a prompt get the same one"
    assert len(scorer.asked) == 70 * 3, "what two rows of a prompt share is scored once"
    assert {row["prompt"] for row in found.rows} == set(own.values())


def test_of_two_prompts_each_gets_the_other_and_of_an_odd_number_none_its_own() -> None:
    one, two, three = ((Message(role="user", content=text),) for text in "abc")
    assert exchanged([one, two, one]) == [two, one, two]
    assert not [
        place for place, prompt in enumerate(exchanged([one, two, three])) if prompt == (one, two, three)[place]
    ]
