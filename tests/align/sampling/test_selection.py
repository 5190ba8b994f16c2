"""Which candidates are kept, and for which reason the others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.errors import RowError
from align.jsonl import read_rows, write_rows
from align.rows import PreferenceRow, SFTRow
from align.sampling.selection import best_and_worst, best_of, similarity
from tests.fakes import candidates

SAMPLED = {"model": "round-1/average", "round": 2, "temperature": 0.8}


def test_the_best_finished_candidate_is_kept() -> None:
    rows, dropped = best_of(
        candidates(("low", 0.1, True), ("high", 0.9, True), ("cut off", 3.0, False), (" ", 5.0, True))
    )
    assert [(row.id, row.messages[-1].content, row.source) for row in rows] == [
        ("p-1", "high", "rejection-sampling/test")
    ]
    assert rows[0].messages[0].content == "Say."
    assert not dropped


def test_of_equal_scores_the_first_is_kept_whatever_the_order_given() -> None:
    made = candidates(("a", 1.0, True), ("b", 1.0, True), ("c", 1.0, True))
    assert best_of(made).rows == best_of(made[::-1]).rows
    assert best_of(made).rows[0].id == "p-0"


def test_a_prompt_without_a_finished_candidate_is_counted() -> None:
    made = [*candidates(("x", 1.0, False), ("", 2.0, True)), *candidates(("y", 0.0, True), prompt="q")]
    assert [row.id for row in best_of(made).rows] == ["q-0"]
    assert best_of(made).dropped == {"no finished candidate": 1}
    assert best_and_worst(made, 0.0).dropped == {"no finished candidate": 1, "all the same": 1}


def test_a_pair_is_the_best_over_the_worst() -> None:
    made = candidates(("good", 2.0, True), ("fair", 1.0, True), ("bad, on and on", -1.0, False), ("", -9.0, True))
    [pair] = best_and_worst(made, 1.0).rows
    assert (pair.chosen[0].content, pair.rejected[0].content) == ("good", "bad, on and on")
    assert pair.level is None


def test_what_is_kept_says_which_candidates_it_was_and_how_they_scored(tmp_path: Path) -> None:
    made = candidates(("good", 2.0, True), ("fair", 1.0, True), ("bad, on and on", -1.0, False), **SAMPLED)
    write_rows(tmp_path / "pairs.jsonl", best_and_worst(made, 1.0).rows)
    [pair] = read_rows(tmp_path / "pairs.jsonl", PreferenceRow)
    assert (pair.candidates, pair.scores, pair.seeds) == (("p-0", "p-2"), (2.0, -1.0), (0, 2))
    assert (pair.models, pair.round, pair.temperature) == (("round-1/average", "round-1/average"), 2, 0.8)
    write_rows(tmp_path / "best.jsonl", best_of(made).rows)
    [best] = read_rows(tmp_path / "best.jsonl", SFTRow)
    assert (best.candidate, best.score, best.model, best.round) == ("p-0", 2.0, "round-1/average", 2)


@pytest.mark.parametrize("gap", [0.0, 1.0])
def test_equal_scores_make_no_pair_and_are_counted(gap: float) -> None:
    tied = candidates(("one thing", 0.5, True), ("something else", 0.5, True))
    assert best_and_worst(tied, gap) == ([], {"equal scores": 1})
    [best] = best_of(tied).rows
    assert best.candidate == "p-0"


@pytest.mark.parametrize(
    "best, worst, gap, reason",
    [
        (("one two", 1.0, True), ("three four", 0.6, True), 0.5, "scores too close"),
        (("one two", 1.0, True), ("one two ", 0.0, True), 0.5, "all the same"),
        (("a b c d e f g h i j k l", 1.0, True), ("a b c d e f g h i j k L", 0.0, True), 0.5, "too similar"),
        (("one", 1.0, True), ("cut", 2.0, False), 0.0, "unfinished candidates score higher"),
    ],
)
def test_a_pair_that_teaches_nothing_is_dropped_with_its_reason(
    best: tuple[str, float, bool], worst: tuple[str, float, bool], gap: float, reason: str
) -> None:
    assert best_and_worst(candidates(best, worst), gap) == ([], {reason: 1})


def test_candidates_with_the_text_of_the_best_one_are_passed_over() -> None:
    made = candidates(("good", 2.0, True), ("bad", 1.0, True), ("good ", 0.9, True))
    assert [pair.candidates for pair in best_and_worst(made, 0.5).rows] == [("p-0", "p-1")]


def test_several_best_candidates_have_different_texts_and_their_own_ids() -> None:
    made = [
        *candidates(("a", 1.0, True), ("b", 3.0, True), ("b ", 2.5, True), ("c", 9.0, False), ("d", 2.0, True)),
        *candidates(("e", 1.0, True), ("f", 1.0, True), prompt="q"),
        *candidates(("g", -1.0, True), prompt="r"),
    ]

    def ids(**settings: Any) -> list[str]:
        return [row.id for row in best_of(made, **settings).rows]

    assert ids() == ids(per_prompt=1) == ["p-1", "q-0", "r-0"]
    assert ids(per_prompt=2) == ["p-1", "p-4", "q-0", "q-1", "r-0"]
    assert ids(per_prompt=5) == ["p-1", "p-4", "p-0", "q-0", "q-1", "r-0"]
    rows, dropped = best_of(made, per_prompt=5, min_score=1.5)
    assert ([row.id for row in rows], dropped) == (["p-1", "p-4"], {"best score below min_score": 2})


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_a_candidate_without_a_score_is_refused(score: float | None) -> None:
    expected = (
        "has no score. Score the candidates" if score is None else f"has the score {score}, expected a finite number"
    )
    for select in (best_of, lambda made: best_and_worst(made, 0.0)):
        with pytest.raises(RowError, match=f"candidate p-0 of prompt p: {expected}"):
            select(candidates(("a", score, True)))


def test_similarity_counts_words_with_their_repeats() -> None:
    assert similarity("a b c", "C b A") == 1
    assert similarity("a a a a", "a") == pytest.approx(2 / 5)
    assert similarity("a b", "c d") == 0
    assert similarity("", "") == 1
