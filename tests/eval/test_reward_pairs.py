"""What scores say, on pairs worked out by hand, and on scorers of which the answer is known."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from eval.reward_pairs import ScoredPair, accuracies, gain, length_correlation, scored_pairs


def row(scores: list[float], characters: list[int], level: str | None = "better", name: str = "q") -> dict[str, Any]:
    return {"id": name, "prompt": name, "level": level, "scores": scores, "characters": characters}


def scored(score_of: Any, count: int = 400, seed: int = 0) -> list[ScoredPair]:
    """Pairs of completions of random lengths; score_of(is_better, length) -> score."""
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        better, worse = draw.randint(1, 60), draw.randint(1, 60)
        pairs += scored_pairs(row([score_of(True, better), score_of(False, worse)], [better, worse], name=str(number)))
    return pairs


def test_three_completions_are_three_pairs_and_the_level_is_that_of_chosen_over_rejected() -> None:
    pairs = scored_pairs(row([3.0, 1.0, 2.0], [9, 5, 5], "significantly better"))
    assert [(pair.kind, pair.margin, pair.longer_by, pair.point) for pair in pairs] == [
        ("edited over chosen", 2.0, 4, 1.0),
        ("edited over rejected", 1.0, 4, 1.0),
        ("significantly better", -1.0, 0, 0.0),
    ]
    assert len({pair.id for pair in pairs}) == 3
    assert scored_pairs(row([1.0, 1.0], [1, 1], None))[0].kind == "ungraded"
    assert [pair.point for pair in scored_pairs(row([math.nan, 1.0], [1, 1]))] == [0.0]


@pytest.mark.slow
def test_accuracy_by_level_is_given_for_several_levels_in_their_order() -> None:
    rows = [
        row([2, 1], [1, 1], "slightly better", "a"),
        row([2, 1], [1, 1], "significantly better", "b"),
        row([1, 2], [1, 1], "significantly better", "c"),
    ]
    found = accuracies([pair for one in rows for pair in scored_pairs(one)])
    values = {metric: score.value for metric, score in found.items() if score is not None}
    assert values == {"accuracy": 2 / 3, "significantly_better": 0.5, "slightly_better": 1.0, "longer_wins": 0.5}
    assert list(found)[:3] == ["accuracy", "significantly_better", "slightly_better"]
    assert "significantly_better" not in accuracies(scored_pairs(rows[1]))


@pytest.mark.slow
def test_a_scorer_that_counts_characters_is_found_out() -> None:
    by_length = scored(lambda better, length: float(length))
    found = accuracies(by_length)
    assert found["accuracy"] == found["longer_wins"]
    assert found["longer_is_better"].value == 1.0  # type: ignore[union-attr]
    assert found["shorter_is_better"].value == 0.0  # type: ignore[union-attr]
    assert length_correlation(by_length) == pytest.approx(1.0)
    assert length_correlation(scored(lambda better, length: -2.0 * length)) == pytest.approx(-1.0)


@pytest.mark.slow
def test_a_scorer_that_knows_is_right_on_both_sides_and_has_no_liking_of_length() -> None:
    knowing = scored(lambda better, length: float(better))
    found = accuracies(knowing)
    assert {found[metric].value for metric in ("accuracy", "longer_is_better", "shorter_is_better")} == {1.0}  # type: ignore[union-attr]
    assert abs(length_correlation(knowing) or 0) < 0.1


def test_the_correlation_does_not_ask_which_completion_is_better() -> None:
    pairs = scored(lambda better, length: length + 10.0 * better)
    turned = [pair._replace(margin=-pair.margin, longer_by=-pair.longer_by) for pair in pairs[::2]] + pairs[1::2]
    assert length_correlation(turned) == pytest.approx(length_correlation(pairs))
    assert length_correlation([pair._replace(longer_by=0) for pair in pairs]) is None


def test_a_gain_is_taken_on_the_same_pairs_and_over_seeds_their_mean() -> None:
    def pair(name: str, point: float) -> ScoredPair:
        return ScoredPair(name, name, "better", {1.0: 1.0, 0.0: -1.0}[point], 0)

    mine = [pair("a", 1.0), pair("a", 0.0), pair("b", 1.0), pair("only mine", 1.0)]
    theirs = [pair("a", 0.0), pair("b", 0.0), pair("only theirs", 1.0)]
    found = gain(mine, theirs)
    assert found is not None
    assert found[0] == (0.5 + 1.0) / 2
    back = gain(theirs, mine)
    assert back is not None
    assert back == pytest.approx((-found[0], -found[2], -found[1]))
    assert gain(mine, [pair("c", 1.0)]) is None
