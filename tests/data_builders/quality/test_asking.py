"""What gates read out of a reply, and which settings have their shards made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.chat import load_protocol
from align.jsonl import write_rows
from align.rows import SFTRow
from align.settings import ModelConfig, SamplingConfig
from data_builders.quality.asking import read_number
from data_builders.quality.difficulty import Difficulty
from data_builders.quality.grades import Grades
from data_builders.quality.pipeline import Job, Pipeline
from data_builders.quality.semantic import SemanticDuplicates
from data_builders.quality.settings import DifficultyConfig, GradesConfig, SemanticConfig, TopicConfig
from data_builders.quality.steps import Step
from data_builders.quality.topic import Topics
from tests.data_builders.quality.made_rows import dialog
from tests.fakes import FakeBackend


@pytest.mark.parametrize(
    "reply, number",
    [
        *(("3", 3), ("Grade: 2.", 2), ("3 of 3", 3), ("2 or 3", None)),
        *(("4", None), ("0", None), ("good", None), ("", None), (None, None)),
    ],
)
def test_a_reply_is_read_if_it_has_one_number_that_is_permitted(reply: str | None, number: int | None) -> None:
    assert read_number(reply, 3) == number


def sampling(url: str = "http://node1:8000/v1", model: str = "judge", **changes: Any) -> SamplingConfig:
    server = {"base_urls": (url,), "model": model, "concurrency": changes.pop("concurrency", 8)}
    return SamplingConfig.model_validate({"backend": "server", "server": server, **changes})


def gates(model: Path, asked: SamplingConfig, batch_size: int = 64) -> dict[str, Step]:
    config, encoder = ModelConfig(path=model), {"encoder": model, "batch_size": batch_size}
    return {
        "grades": Grades(GradesConfig(judge=config, sampling=asked, token_budget=128 * batch_size)),
        "topic": Topics(TopicConfig(enabled=True, tagger=config, sampling=asked, **encoder)),
        "difficulty": Difficulty(DifficultyConfig(model=config, sampling=asked, **encoder)),
        "reward model": Grades(GradesConfig(reward_model=config, sampling=asked)),
        "classifier": Topics(TopicConfig(enabled=True, sampling=asked, **encoder)),
        "semantic": SemanticDuplicates(SemanticConfig(enabled=True, **encoder), []),
    }


def test_shards_depend_on_what_replies_depend_on_and_on_nothing_else(tiny_checkpoint: Path) -> None:
    """Not on where a server is, how many requests it gets, batch sizes, or settings that the gate sets itself."""
    before = {name: gate.settings() for name, gate in gates(tiny_checkpoint, sampling()).items()}
    same = sampling("http://node2:9000/v1", concurrency=64, batch_size=8, temperature=0.7, max_completion_tokens=99)
    assert {name: gate.settings() for name, gate in gates(tiny_checkpoint, same, 16).items()} == before
    other = gates(tiny_checkpoint, sampling(model="other"))
    changed = {name for name, gate in other.items() if gate.settings() != before[name]}
    assert changed == {"grades", "topic", "difficulty"}, "those that ask a model"


def test_a_row_is_asked_about_once_whatever_the_servers_concurrency_is(
    chatml_tokenizer: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "in.jsonl", [dialog("a", "Question", "Answer."), dialog("b", "Other question", "Answer.")])
    asked: list[str] = []

    def reply(text: str, place: int) -> str:
        asked.append(text)
        return "3"

    for number, judge in enumerate((sampling(), sampling(concurrency=64), sampling(model="other")), 1):
        config = GradesConfig(judge=ModelConfig(path=tiny_checkpoint), sampling=judge)
        step = Grades(config, FakeBackend(load_protocol(chatml_tokenizer), reply).engine)
        Pipeline(Job({"rows": tmp_path / "in.jsonl"}, SFTRow, tmp_path / "units", 1), [step]).complete()
        assert len(asked) == (2 if number < 3 else 4)
