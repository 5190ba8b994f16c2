"""Win rates over another model: points, ties and verdicts by a reward model and by a language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.chat import load_protocol
from align.config import load_config
from align.errors import ConfigError, RowError
from align.generation.engine import GenerationEngine
from align.jsonl import write_rows
from align.rows import Candidate, Message, PromptRow
from align.settings import ModelConfig, SamplingConfig
from eval import win_rate
from eval.intervals import share
from eval.runner import Generator, Scorer
from eval.win_rate import WinRateConfig, rates_of, verdict_of
from recipes.run_eval import RunEvalRecipe
from recipes.run_eval import run as run_eval
from tests.fakes import FakeBackend

GIVEN = {"a": "Berlin", "b": "Athens", "c": "Oslo", "d": "Rome is far longer"}
OTHERS = {"a": "Athens", "b": "Berlin", "c": "Oslo", "d": "Rome"}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = [
        PromptRow(id=name, source="test", prompt=(Message(role="user", content=f"Name a city ({name})."),))
        for name in GIVEN
    ]
    write_rows(tmp_path / "prompts.jsonl", rows)
    return tmp_path / "prompts.jsonl"


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Generator:
    """Generators that answer from GIVEN and, below `opponent`, from OTHERS."""

    def answers(self: Generator, rows: list[PromptRow], folder: Path, label: str) -> list[Candidate]:
        given = OTHERS if folder.name == "opponent" else GIVEN
        said = [(Message(role="assistant", content=given[row.id]),) for row in rows]
        return [
            Candidate(id=row.id, source="test", prompt_id=row.id, prompt=row.prompt, completion=one, index=0, seed=0,
                      finished=True)
            for row, one in zip(rows, said, strict=True)
        ]  # fmt: skip

    monkeypatch.setattr(Generator, "answers", answers)
    return Generator(ModelConfig(path=Path("mine")), SamplingConfig())


def test_a_reward_model_gives_points_by_its_scores_and_half_for_equal_answers(
    prompts: Path, answering: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def scores(self: Scorer, requests: list[Any]) -> list[list[float]]:
        asked.extend(requests)
        return [[float(len(completion[0].content)) for completion in request.completions] for request in requests]

    monkeypatch.setattr(Scorer, "scores", scores)
    model = ModelConfig(path=Path("other"))
    config = WinRateConfig(prompts=prompts, opponent=model, heldout_judge=ModelConfig(path=Path("judge")))
    found = win_rate.evaluate(config, answering, prompts.parent, None)
    assert [request.prompt[0].content for request in asked] == [f"Name a city ({name})." for name in GIVEN]
    assert [row["verdict"] for row in found.rows] == ["tie", "tie", "tie", "win"]
    assert found.rows[3]["scores"] == [18, 4]
    assert found.rows[3]["opponent_answer"] == "Rome"
    assert found.scores["win_rate"] == share(2.5, 4)
    assert found.counts["mean_characters"] == [(6 + 6 + 4 + 18) / 4, (6 + 6 + 4 + 4) / 4]
    assert (found.counts["win"], found.counts["tie"]) == (1, 3)


def test_a_language_model_is_asked_in_both_orders_and_answers_of_an_earlier_evaluation_are_taken(
    prompts: Path, answering: Generator, monkeypatch: pytest.MonkeyPatch, chatml_tokenizer: Any
) -> None:
    def reply(text: str, place: int) -> str:
        if "(d)" in text:
            return "Neither."
        return "first" if text.index("Athens") < text.index("Berlin") else "second"

    backend = FakeBackend(load_protocol(chatml_tokenizer), reply)
    sampled: list[SamplingConfig] = []

    def from_settings(model: ModelConfig, sampling: SamplingConfig) -> GenerationEngine:
        sampled.append(sampling)
        return backend.engine

    monkeypatch.setattr(GenerationEngine, "from_settings", staticmethod(from_settings))
    kept = win_rate.evaluate(WinRateConfig(prompts=prompts), answering, prompts.parent / "opponent", None)
    assert not kept.scores
    earlier = prompts.parent / "win_rate.json"
    earlier.write_text(json.dumps({"rows": kept.rows}), encoding="utf-8")
    config = WinRateConfig(prompts=prompts, opponent_answers=earlier, judge=ModelConfig(path=Path("judge")))
    found = win_rate.evaluate(config, answering, prompts.parent, None)
    assert [row["verdict"] for row in found.rows] == ["loss", "win", "tie", "no verdict"]
    assert sampled[0].temperature == 0
    assert found.scores["win_rate"] == share(1.5, 3)
    assert found.counts["no verdict"] == 1
    assert found.counts["first_preferred"] == 0.5
    earlier.write_text(json.dumps({"rows": kept.rows[:2]}), encoding="utf-8")
    with pytest.raises(RowError, match="has no verdict for 2 of 4 prompts, the first of them c"):
        win_rate.evaluate(config, answering, prompts.parent, None)


def test_orders_that_contradict_each_other_are_a_tie_and_show_a_preference_for_a_place() -> None:
    rows = [{"points": 0.5, "orders": [1.0, 0.0], "characters": [3, 3], "verdict": verdict_of(0.5)}] * 4
    scores, counts = rates_of(rows)
    assert scores["win_rate"] == scores["length_controlled"] == share(2, 4)
    assert counts["first_preferred"] == 1
    assert counts["tie"] == 4
    assert rates_of([{"points": None, "verdict": "no verdict"}]) == (
        {"win_rate": None, "length_controlled": None},
        {"no verdict": 1},
    )


@pytest.mark.parametrize(
    "more, said",
    [
        ({"opponent": "m"}, "there is a model to compare with, and no judge. Set heldout_judge or judge"),
        ({"judge": "m", "heldout_judge": "m"}, "heldout_judge and judge are both given"),
        ({"opponent": "m", "opponent_answers": "f.json", "judge": "m"}, "opponent and opponent_answers both name"),
    ],
)
def test_contradicting_settings_are_refused(tmp_path: Path, more: dict[str, str], said: str) -> None:
    section = {key: value if value.endswith("json") else {"path": value} for key, value in more.items()}
    config = tmp_path / "eval.yaml"
    config.write_text(json.dumps({"model": {"path": "m"}, "win_rate": {"prompts": "p", **section}, "output_dir": "o"}))
    with pytest.raises(ConfigError, match=said):
        load_config(RunEvalRecipe, config)


@pytest.mark.slow
def test_a_model_against_itself_has_ties_only(
    prompts: Path, tmp_path: Path, tiny_checkpoint: Path, tiny_reward_checkpoint: Path
) -> None:
    config = tmp_path / "eval.yaml"
    model = {"path": str(tiny_checkpoint), "dtype": "float32"}
    judge = {"path": str(tiny_reward_checkpoint), "dtype": "float32"}
    section = {"prompts": str(prompts), "opponent": model, "heldout_judge": judge}
    sampling = {"max_completion_tokens": 4, "dtype": "float32"}
    config.write_text(
        json.dumps({"model": model, "sampling": sampling, "win_rate": section, "output_dir": str(tmp_path / "out")})
    )
    found = json.loads((run_eval(load_config(RunEvalRecipe, config)) / "win_rate.json").read_text())
    assert found["counts"]["tie"] == 4
    assert found["scores"]["win_rate"]["value"] == found["scores"]["length_controlled"]["value"] == 0.5
