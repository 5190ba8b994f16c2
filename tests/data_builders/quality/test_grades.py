"""Rows stay if a reward model or a judge marks them, and the agreement of the two is counted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from align.chat import load_protocol
from align.generation.engine import GenerationEngine
from align.jsonl import write_rows
from align.judges.reward_model import RewardModelJudge
from align.rows import SFTRow
from align.settings import ModelConfig
from data_builders.quality.builder import QualityConfig, build
from data_builders.quality.grades import Grades, agreement, in_top
from data_builders.quality.pipeline import Decision, Job, Pipeline
from data_builders.quality.settings import GradesConfig
from tests.data_builders.quality.made_rows import dialog
from tests.fakes import FakeBackend


@pytest.fixture
def rows() -> list[SFTRow]:
    """Eight rows of one source and four of another. The judge of these tests reads the grade from the question."""
    grades = "333222119332"
    return [
        dialog(f"r{n}", f"Question {n} of grade={grade}", f"Answer {n * 37}.", "a" if n < 8 else "b")
        for n, grade in enumerate(grades)
    ]


def engine_of(tokenizer: Any) -> GenerationEngine:
    def reply(text: str, place: int) -> str:
        found = re.search(r"grade=(\d)", text)
        assert found is not None
        return f"{found[1]}."

    return FakeBackend(load_protocol(tokenizer), reply).engine


def decisions(
    rows: Sequence[SFTRow], folder: Path, config: GradesConfig, engine: GenerationEngine | None = None
) -> tuple[dict[str, Decision], dict[str, Any]]:
    write_rows(folder / "in.jsonl", rows)
    pipeline = Pipeline(
        Job({"rows": folder / "in.jsonl"}, SFTRow, folder / "units", shard_rows=5), [Grades(config, engine)]
    )
    pipeline.complete()
    return {each.id: each for each in pipeline.decisions()}, pipeline.notes()["quality"]


def test_either_signal_keeps_a_row(
    rows: list[SFTRow], tiny_reward_checkpoint: Path, chatml_tokenizer: Any, tmp_path: Path
) -> None:
    """The rewards are computed one row at a time, and sorted by source in plain Python."""
    model = ModelConfig(path=tiny_reward_checkpoint)
    judge = RewardModelJudge.from_settings(model, 8192)
    rewards = {row.id: judge.score(row.messages[:-1], [row.messages[-1:]])[0] for row in rows}
    best = {
        row.id
        for source in "ab"
        for row in sorted((row for row in rows if row.source == source), key=lambda row: -rewards[row.id])[
            : 2 if source == "a" else 1
        ]
    }
    graded = {row.id for row in rows if "grade=3" in row.messages[0].content}
    config = GradesConfig(reward_model=model, judge=ModelConfig(path=tiny_reward_checkpoint))
    found, notes = decisions(rows, tmp_path, config, engine_of(chatml_tokenizer))
    assert {name for name, each in found.items() if not each.gate} == best | graded
    assert notes["rows_without_a_grade"] == 1, "9 is no grade"
    counts = notes["agreement"]
    assert counts["both"] == len(best & graded)
    assert counts["reward_model_only"] == len(best - graded)
    assert counts["judge_only"] == len(graded - best)
    assert counts["neither"] == 12 - len(best | graded)
    dropped = next(each for name, each in found.items() if each.gate and name != "r8")
    assert dropped.reason == "not marked as high quality"
    assert dropped.detail.startswith(f"reward {rewards[dropped.id]:.3f}, grade ")


def test_one_signal_alone_decides(rows: list[SFTRow], chatml_tokenizer: Any, tmp_path: Path) -> None:
    config = GradesConfig(judge=ModelConfig(path=tmp_path))
    found, notes = decisions(rows, tmp_path, config, engine_of(chatml_tokenizer))
    assert {name for name, each in found.items() if not each.gate} == {"r0", "r1", "r2", "r9", "r10"}
    assert found["r8"].detail == "no grade"
    assert notes == {"rows_without_a_grade": 1}


def test_code_is_graded_on_two_points(chatml_tokenizer: Any, tmp_path: Path) -> None:
    code = "```python\nprint(1)\n```"
    rows = [
        dialog("good", "Code of grade=2", code),
        dialog("bad", "Code of grade=1", code),
        dialog("x", "Code of grade=3", code),
    ]
    engine = engine_of(chatml_tokenizer)
    found, _ = decisions(rows, tmp_path, GradesConfig(judge=ModelConfig(path=tmp_path)), engine)
    assert {name for name, each in found.items() if not each.gate} == {"good"}
    assert all("with 1 or 2" in text for text in engine.backend.asked)
    assert found["x"].detail == "no grade"


def test_the_builder_runs_the_gate(rows: list[SFTRow], tiny_reward_checkpoint: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", rows)
    config = QualityConfig.model_validate(
        {
            "path": tmp_path / "in.jsonl",
            "duplicates": {"near": False},
            "decontamination": {"enabled": False},
            "grades": {"reward_model": {"path": tiny_reward_checkpoint}},
        }
    )
    build(config, tmp_path / "out")
    assert len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 3, "2 of 8 and 1 of 4"
    with pytest.raises(ValidationError, match="prompts have no answer to grade"):
        QualityConfig.model_validate({**config.model_dump(), "kind": "prompts"})


def test_the_top_of_each_group_has_its_best_and_equal_scores() -> None:
    scores, groups = np.array([1.0, 2, 3, 4, 5, 7, 7, 7, 1]), np.array([0] * 5 + [1] * 4, np.uint64)
    assert in_top(scores, groups, 0.25).tolist() == [False, False, False, True, True, True, True, True, False]


def test_kappa_is_that_of_the_textbook() -> None:
    """20 both, 5 and 10 one alone, 15 neither: 0.7 agree, 0.5 by chance, so kappa is 0.4."""
    one = np.array([True] * 25 + [False] * 25)
    other = np.array([True] * 20 + [False] * 5 + [True] * 10 + [False] * 15)
    found = agreement(one, other)
    assert (found["both"], found["reward_model_only"], found["judge_only"], found["neither"]) == (20, 5, 10, 15)
    assert found["kappa"] == pytest.approx(0.4)
    assert "kappa" not in agreement(one | True, one | True)
