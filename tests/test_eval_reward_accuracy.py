"""Reward accuracy on scores that are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from align.jsonl import write_rows
from align.judges.judge import ScoreRequest
from align.rows import Message, PreferenceRow
from eval import reward_accuracy
from eval.intervals import share
from eval.reward_accuracy import RewardAccuracyConfig


class Reading:
    """A scorer that reads its scores off the completions."""

    def scores(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        return [[float(done[0].content) for done in request.completions] for request in requests]


def test_ties_count_half_and_three_completions_are_three_pairs(tmp_path: Path) -> None:
    scored = [("2", "1"), ("1", "2"), ("1", "1"), ("3", "1", "2"), ("nan", "0")]
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
    assert found.scores == {"accuracy": share(1 + 0 + 0.5 + 2 + 0, 7)}
    assert [row["verdict"] for row in found.rows] == ["right", "wrong", "partly right", "partly right", "wrong"]
    assert found.counts == {"rows": 5, "pairs": 7}
    assert found.rows[0]["answer"] == "2"
    assert found.rows[0]["rejected"] == "1"
