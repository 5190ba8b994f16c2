"""Near duplicates: recall as its formula says, and no row is dropped that is not similar to a kept one."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import rensa

from align.jsonl import write_rows
from align.rows import SFTRow
from align.text import word_ngrams
from data_builders.quality.builder import QualityConfig, build
from data_builders.quality.duplicates import BANDS, ROWS_OF_BAND, pairs_of_groups, recall
from data_builders.quality.pipeline import Decision
from tests.data_builders.quality.made_rows import dialog, near_duplicate, random_rows, shuffled


def decisions(rows: list[SFTRow], folder: Path, **duplicates: object) -> dict[str, Decision]:
    """Id -> decision, with the balance of phrases off."""
    from data_builders.quality.builder import pipeline_of

    write_rows(folder / "in.jsonl", rows)
    settings = {"duplicates": duplicates, "balance": {"enabled": False}, "shard_rows": 100}
    config = QualityConfig(path=folder / "in.jsonl", **settings)
    build(config, folder / "out")
    pipeline = pipeline_of(config, folder / "out")
    pipeline.complete()
    return {decision.id: decision for decision in pipeline.decisions()}


def similarity(one: SFTRow, other: SFTRow) -> float:
    """Jaccard of the sets of 3-grams, from the words themselves."""
    first, second = (
        set(word_ngrams("\n".join(message.content for message in row.messages), 3)) for row in (one, other)
    )
    return len(first & second) / len(first | second)


def test_recall_is_the_share_of_pairs_that_agree_in_a_band() -> None:
    """Sets with a known Jaccard, hashed by the library; the share that agrees in a band is that of the formula."""
    draw = random.Random(0)
    for expected_similarity, size in ((0.5, 90), (0.7, 170)):
        shared = round(2 * size * expected_similarity / (1 + expected_similarity))
        common = np.array([[draw.getrandbits(64) for _ in range(shared)] for _ in range(400)], np.uint64)
        sets = [
            np.concatenate([part, np.array([draw.getrandbits(64) for _ in range(size - shared)], np.uint64)])
            for part in common
            for _ in range(2)
        ]
        digests = np.array(rensa.RMinHash.digest_matrix_from_token_hash_sets(sets, 128, 42).to_rows())
        bands = digests[:, : BANDS * ROWS_OF_BAND].reshape(400, 2, BANDS, ROWS_OF_BAND)
        found = (bands[:, 0] == bands[:, 1]).all(-1).any(-1).mean()
        expected = recall(shared / (2 * size - shared))
        assert abs(found - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5 + 0.003
    assert recall(0.7) > 0.989
    assert recall(1.0) == 1.0


@pytest.mark.slow
def test_planted_near_duplicates_are_found_and_nothing_else(tmp_path: Path) -> None:
    """Jaccard of at least 0.7: at least 95% are dropped. Below it, and rows of the same words in other order: none."""
    rows, draw = random_rows(150, seed=5, words=(30, 120)), random.Random(6)
    near = [near_duplicate(row, f"near-{row.id}", draw, every=21) for row in rows[:80]]
    far = [near_duplicate(row, f"far-{row.id}", draw, every=9) for row in rows[80:120]]
    mixed = [
        dialog(
            f"mixed-{row.id}",
            *(" ".join(draw.sample(words := message.content.split(), len(words))) for message in row.messages),
        )
        for row in rows[120:]
    ]
    by_id = {row.id: row for row in [*rows, *near, *far, *mixed]}
    planted = {row.id for row in near if similarity(row, by_id[row.id.removeprefix("near-")]) >= 0.7}
    assert len(planted) > 50
    assert all(similarity(row, by_id[row.id.removeprefix("far-")]) < 0.7 for row in far)
    found = decisions(shuffled([*rows, *near, *far, *mixed], seed=1), tmp_path)
    dropped = {name: each for name, each in found.items() if each.gate}
    pairs = {frozenset((name, each.cause)) for name, each in dropped.items()}
    expected = {frozenset((name, name.removeprefix("near-"))) for name in planted}
    assert len(expected & pairs) >= 0.95 * len(expected)
    assert pairs <= expected
    for name, each in dropped.items():
        assert found[each.cause].gate == "", "the named row is kept"
        assert abs(float(each.detail.removeprefix("similarity ")) - similarity(by_id[name], by_id[each.cause])) < 0.006


@pytest.mark.slow
def test_of_a_chain_only_rows_that_are_similar_to_a_kept_one_go(tmp_path: Path) -> None:
    """b is similar to a, and c to b but not to a: a and c are kept."""
    draw = random.Random(3)
    (first,) = random_rows(1, seed=8, words=(60, 200))
    second = near_duplicate(first, "b", draw, every=22)
    third = near_duplicate(second, "c", draw, every=22)
    assert similarity(first, second) >= 0.7
    assert similarity(second, third) >= 0.7
    assert similarity(first, third) < 0.7
    found = decisions([first, second, third], tmp_path)
    assert [name for name, each in found.items() if each.gate] == ["b"]


@pytest.mark.slow
def test_questions_about_one_passage_and_other_calls_are_no_duplicates(tmp_path: Path) -> None:
    passage = random_rows(1, seed=9, words=(200, 5))[0].messages[0].content
    rows = [dialog(f"q{n}", f"{passage} Is the {word} of it red?", f"It is {word}.") for n, word in enumerate("abc")]
    same = dialog("same", f"{passage} Is a part of it red?", "It is a.")
    found = decisions([*rows, same, rows[0].model_copy(update={"id": "tools", "tools": '[{"name": "f"}]'})], tmp_path)
    assert {name: each.cause for name, each in found.items() if each.gate} == {"same": "q0"}


def test_pairs_of_small_groups_are_all_pairs_and_large_groups_are_cut() -> None:
    draw = np.random.default_rng(0)
    hashes = np.sort(draw.integers(0, 40, 300).astype(np.uint64))
    numbers = np.concatenate([np.sort(draw.permutation(300)[: (hashes == value).sum()]) for value in np.unique(hashes)])
    later, earlier, cut = pairs_of_groups(hashes, numbers, 64)
    places = [(b, a) for b in range(300) for a in range(b) if hashes[a] == hashes[b]]
    assert sorted(zip(later, earlier, strict=True)) == sorted((numbers[b], numbers[a]) for b, a in places)
    assert cut == 0
    same = np.zeros(300, np.uint64)
    later, earlier, cut = pairs_of_groups(same, np.arange(300), 10)
    expected = {(b, a) for b in range(300) for a in range(b) if a < 10 or b - a <= 10}
    assert set(zip(later.tolist(), earlier.tolist(), strict=True)) == expected
    assert len(later) == len(expected)
    assert cut == 1
