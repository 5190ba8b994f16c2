"""Intentions and difficulty: replies are read, tags are normalized over all rows, and the ratings order duplicates."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align.assets import MODEL, starting_checkpoint
from align.chat import load_protocol
from align.generation.engine import GenerationEngine
from align.jsonl import write_rows
from align.rows import Message, SFTRow
from align.settings import ModelConfig, SamplingConfig
from data_builders.quality.builder import QualityConfig, build
from data_builders.quality.difficulty import Difficulty, merged_tags, read_tags
from data_builders.quality.grades import Grades
from data_builders.quality.pipeline import Decision, Job, Pipeline
from data_builders.quality.rank import mean_of_known, rank_ratios
from data_builders.quality.semantic import SemanticDuplicates
from data_builders.quality.settings import DifficultyConfig, GradesConfig, SemanticConfig
from data_builders.quality.steps import Step
from tests.data_builders.quality.made_rows import dialog
from tests.fakes import FakeBackend


@pytest.mark.parametrize(
    "reply, tags",
    [
        ("Creative Writing\nPoem", ["creative writing", "poem"]),
        ("- Creative writing.\n- poem\n* POEM\n", ["creative writing", "poem"]),
        ("1. creative-writing\n2) poem", ["creative writing", "poem"]),
        ("creative_writing, poem", ["creative writing", "poem"]),
        ('["Creative Writing", "poem"]', ["creative writing", "poem"]),
        ('Tags: [{"tag": "Creative Writing", "explanation": "x, y"}, {"tag": "poem"}]', ["creative writing", "poem"]),
        ('["creative writing", 3, null, {"name": "x"}]', ["creative writing"]),
        ("[not json", ["not json"]),
        ("I think that the user asks for a poem about the sea.", []),
        ("...\n\n--", []),
        ("", []),
        ("\n".join(f"tag {n}" for n in range(40)), [f"tag {n}" for n in range(16)]),
        ("Übersetzung", ["übersetzung"]),
    ],
)
def test_tags_of_a_reply(reply: str, tags: list[str]) -> None:
    assert read_tags(reply) == tags


def test_tags_with_nearly_the_same_embedding_are_one_also_through_others() -> None:
    """Angles of 0, 20, 40 and 90 degrees, and cosines of at least that of 25: the first three are connected."""
    angles = np.radians([0, 20, 40, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    counts = {"poem": 3, "poetry": 9, "verse": 9, "code": 5}
    found = merged_tags(counts, vectors, float(np.cos(np.radians(25))))
    assert found == {"poem": "poetry", "poetry": "poetry", "verse": "poetry", "code": "code"}
    assert merged_tags(counts, vectors, 0.999) == {tag: tag for tag in counts}


def test_ranks_are_those_of_the_example() -> None:
    nan = np.nan
    found = rank_ratios(np.array([3, 1, nan, 1, 8]))
    np.testing.assert_allclose(found, [3 / 4, 1.5 / 4, nan, 1.5 / 4, 1])
    groups = np.array([0, 0, 1, 1, 1], np.uint64)
    np.testing.assert_allclose(rank_ratios(np.array([3, 1, nan, 5, 8]), groups), [1, 0.5, nan, 0.5, 1])
    np.testing.assert_allclose(mean_of_known([np.array([1, nan, nan]), np.array([0.5, 0.2, nan])]), [0.75, 0.2, 0.5])


def scripted(tokenizer: Any) -> GenerationEngine:
    """A model that repeats what the row's question says it should reply: `<tags|difficulty|quality>`."""
    grades = {"one": "1", "two": "2", "three": "3"}

    def reply(text: str, place: int) -> str:
        found = re.search(r"<(.*?)\|(.*?)\|(.*?)>", text)
        assert found is not None
        if "Name each separate intention" in text:
            return found[1].replace("/", "\n")
        return grades.get(found[2 if "How difficult" in text else 3], "hm")

    return FakeBackend(load_protocol(tokenizer), reply).engine


def decided(rows: list[SFTRow], folder: Path, steps: list[Step]) -> tuple[list[Decision], dict[str, Any]]:
    write_rows(folder / "in.jsonl", rows)
    pipeline = Pipeline(Job({"rows": folder / "in.jsonl"}, SFTRow, folder / "units", 2), steps)
    pipeline.complete()
    return list(pipeline.decisions()), pipeline.notes()


def test_tags_are_normalized_over_all_rows_and_rows_are_rated(
    chatml_tokenizer: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    replies = [
        "Poem!/Sea|one",
        "poem|three",
        "sea, poem, rare|two",
        "This is no tag because it is long|no",
        "poem|three",
    ]
    rows = [dialog(f"r{n}", f"Question {n} <{reply}|>", f"Answer {n}.") for n, reply in enumerate(replies)]
    model = ModelConfig(path=tmp_path)
    config = DifficultyConfig(model=model, min_tag_rows=2, encoder=tiny_checkpoint, tag_similarity=1.0)
    step = Difficulty(config, scripted(chatml_tokenizer))
    found, notes = decided(rows, tmp_path, [step])
    assert [dict(each.tags) for each in found] == [
        {"intentions": "poem; sea", "difficulty": "1"},
        {"intentions": "poem", "difficulty": "3"},
        {"intentions": "sea; poem", "difficulty": "2"},
        {},
        {"intentions": "poem", "difficulty": "3"},
    ]
    noted = notes["difficulty"]
    assert noted["tags"] == {"poem": 4, "sea": 2}
    assert noted["grades"] == {"1": 1, "2": 1, "3": 2}
    assert (noted["rows_without_a_grade"], noted["rows_without_tags"], noted["tags_left_out"]) == (1, 1, 1)
    # numbers of intentions 2, 1, 2, unknown, 1: ranks 3.5, 1.5, 3.5 and 1.5 of 4
    expected = [(3.5 / 4 + 1 / 3) / 2, (1.5 / 4 + 1) / 2, (3.5 / 4 + 2 / 3) / 2, 0.5, (1.5 / 4 + 1) / 2]
    np.testing.assert_allclose(step.ratings, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "gates, best", [("difficulty", "hard"), ("quality", "good"), ("quality difficulty", "both"), ("", "easy")]
)
def test_duplicates_are_walked_through_by_quality_times_difficulty(
    gates: str, best: str, chatml_tokenizer: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Rows that only their first messages tell apart. Products: easy 1/9, hard 3/9, good 3/9, both 4/9."""
    pytest.importorskip("faiss")
    marks = {"easy": "one|one", "hard": "three|one", "good": "one|three", "both": "two|two"}
    rows = [
        SFTRow(
            id=name,
            source="made",
            messages=(
                Message(role="user", content=f"<walk|{each}>"),
                Message(role="assistant", content="Go on."),
                Message(role="user", content="Tell me about the old harbor of this town, and of the ships."),
                Message(role="assistant", content="It is old, and the ships are new."),
            ),
        )
        for name, each in marks.items()
    ]
    model, engine = ModelConfig(path=tmp_path), scripted(chatml_tokenizer)
    rated: list[Any] = []
    if "quality" in gates:
        rated.append(Grades(GradesConfig(judge=model), engine))
        rated[0].choose = keeping_all(rated[0])
    if "difficulty" in gates:
        rated.append(Difficulty(DifficultyConfig(model=model, intentions=False), engine))
    semantic = SemanticConfig(enabled=True, encoder=tiny_checkpoint, similarity=0.3)
    found, notes = decided(rows, tmp_path, [*rated, SemanticDuplicates(semantic, rated)])
    assert {each.id: each.cause for each in found} == {name: "" if name == best else best for name in marks}
    assert notes["semantic duplicates"]["best_first_by"] == (" x ".join(gates.split()) or "score")


def keeping_all(step: Grades) -> Any:
    """The step's `choose` without its drops: rows of a low grade stay, so that their order can be seen."""
    choose = step.choose

    def chosen(data: Any) -> list[Any]:
        choose(data)
        return []

    return chosen


@pytest.mark.slow
def test_the_builder_tags_prompts_and_writes_what_it_found(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chatml_tokenizer: Any
) -> None:
    engine = scripted(chatml_tokenizer)
    monkeypatch.setattr(GenerationEngine, "from_settings", lambda model, sampling: engine)
    records = [
        {"id": f"p{n}", "source": "s", "prompt": [{"role": "user", "content": f"Item {n} <{reply}|>"}]}
        for n, reply in enumerate(["poem|one", "poem|two", "Poem|two"])
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = QualityConfig.model_validate(
        {
            "path": tmp_path / "in.jsonl",
            "kind": "prompts",
            "duplicates": {"near": False},
            "decontamination": {"enabled": False},
            "difficulty": {"model": {"path": tiny_checkpoint}, "min_tag_rows": 1, "encoder": tiny_checkpoint},
        }
    )
    build(config, tmp_path / "out")
    card = json.loads((tmp_path / "out/card.json").read_text())["tags"]["difficulty"]
    assert card["grades_of_kept_rows"] == {"1": 1, "2": 2}
    assert card["intentions_of_kept_rows"] == {"poem": 3}
    text = (tmp_path / "out/card.md").read_text()
    assert "Intentions, the most frequent first: poem 3." in text


@pytest.mark.slow
@pytest.mark.asset(MODEL)
def test_a_real_model_is_asked_and_its_replies_are_read(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The 135M model, with one row: what it says is poor, but it is a reply, and no fault stops the run."""
    model = ModelConfig(path=starting_checkpoint())
    config = DifficultyConfig(model=model, min_tag_rows=1, encoder=tiny_checkpoint, sampling=SamplingConfig())
    rows = [dialog("a", "Write a short poem about the sea.", "The waves roll in.")]
    step = Difficulty(config)
    [found], notes = decided(rows, tmp_path, [step])
    noted = notes["difficulty"]
    assert not found.gate
    assert noted["rows_without_tags"] == ("intentions" not in found.tags)
    assert noted["rows_without_a_grade"] == ("difficulty" not in found.tags)
    assert 0 < step.ratings[0] <= 1
