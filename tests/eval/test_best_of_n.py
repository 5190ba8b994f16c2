"""Best-of-n curves over prompts, on planted data: intervals, the suggested k, the bias for length, and the alarm."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from align.errors import RowError
from align.rows import Candidate, Message
from eval.best_of_n import (
    FALLS,
    FLAT,
    NO_GAIN,
    RISES,
    UNCLEAR,
    Alarm,
    BestOfN,
    Estimate,
    Gain,
    best_of_n,
    enough_candidates,
    powers_of_two,
    verdict_of,
)
from eval.intervals import bootstrap_mean, few_clusters_factor, resampled_means

PROMPTS, K = 200, 16
PROMPT = (Message(role="user", content="Say."),)


@cache
def completion(length: int) -> tuple[Message, ...]:
    return (Message(role="assistant", content="x" * length),)


def candidates(scores: np.ndarray, lengths: np.ndarray | None = None, unfinished: int = 0) -> list[Candidate]:
    """Candidates with these scores [prompts, k]. unfinished: this many prompts have no finished candidate."""
    lengths = np.full(scores.shape, 5) if lengths is None else lengths
    return [
        Candidate.model_construct(
            id=f"{prompt}-{index}",
            source="test",
            tools="",
            prompt_id=str(prompt),
            prompt=PROMPT,
            completion=completion(int(lengths[prompt, index])),
            index=index,
            seed=index,
            finished=prompt >= unfinished,
            score=float(score),
        )
        for prompt, row in enumerate(scores)
        for index, score in enumerate(row)
    ]


def by_id(values: np.ndarray) -> dict[str, float]:
    return {f"{prompt}-{index}": float(value) for (prompt, index), value in np.ndenumerate(values)}


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    """Of independent normal scores, so that the expected maximum of n is known."""
    return np.random.default_rng(0).standard_normal((PROMPTS, K))


def measured(scores: np.ndarray, heldout: np.ndarray) -> BestOfN:
    return best_of_n(candidates(scores), by_id(heldout))


@pytest.mark.slow
def test_each_interval_contains_the_expected_maximum(scores: np.ndarray) -> None:
    """Expected maxima of n standard normal numbers (Harter 1961): 0, 0.5642, 1.0294, 1.4236, 1.7660."""
    found = best_of_n(candidates(scores))
    for n, expected in zip((1, 2, 4, 8, 16), (0, 0.5642, 1.0294, 1.4236, 1.7660), strict=True):
        score = found.points[n - 1].score
        assert score.low < expected < score.high
        assert score.high - score.low < 0.3
    gain = found.doublings[0]
    assert (gain.lower, gain.upper) == (1, 2)
    assert gain.score.low < 0.5642 < gain.score.high
    assert gain.score.high - gain.score.low < 0.5 * (found.points[0].score.high - found.points[0].score.low) + 0.05


def test_a_resample_draws_the_same_rows_for_all_columns() -> None:
    values = np.random.default_rng(1).random((40, 2))
    drawn = resampled_means(np.column_stack([values, values[:, 0] - values[:, 1]]))
    np.testing.assert_allclose(drawn[:, 0] - drawn[:, 1], drawn[:, 2], atol=1e-12)
    mean, low, high = bootstrap_mean(values[:, 0].tolist(), [str(n) for n in range(40)])
    ends, factor = np.quantile(drawn[:, 0], [0.025, 0.975]), few_clusters_factor(40)
    assert mean + factor * (ends - mean) == pytest.approx([low, high])


@pytest.mark.slow
def test_a_judge_that_agrees_raises_no_alarm(scores: np.ndarray) -> None:
    found = measured(scores, 3 * scores + np.random.default_rng(2).standard_normal(scores.shape))
    assert {gain.verdict for gain in found.to_k} == {RISES}
    assert found.alarm is None


@pytest.mark.slow
def test_the_alarm_is_where_the_held_out_score_begins_to_fall(scores: np.ndarray) -> None:
    """-(score - 1)^2 is best at a score of 1, which the best of 4 has on average; from there on it falls."""
    found = measured(scores, -((scores - 1) ** 2))
    heldout = [point.heldout.value for point in found.points if point.heldout is not None]
    assert heldout[0] < heldout[3] > heldout[15]
    verdicts = {gain.lower: gain.verdict for gain in found.to_k}
    assert verdicts[1] == RISES, "16 candidates are still better than one"
    assert verdicts[4] == verdicts[8] == FALLS
    assert found.alarm == Alarm(4, FALLS)
    assert found.suggested_k == 4


@pytest.mark.slow
def test_a_judge_that_is_unrelated_raises_the_alarm_if_there_are_enough_prompts(scores: np.ndarray) -> None:
    unrelated = np.random.default_rng(3).standard_normal(scores.shape)
    assert measured(scores, unrelated).alarm == Alarm(1, FLAT)
    few = measured(scores[:6], unrelated[:6])
    assert few.to_k[0].verdict == UNCLEAR
    assert few.alarm is None


def test_a_judge_that_gives_every_candidate_the_same_score_confirms_nothing(scores: np.ndarray) -> None:
    assert measured(scores[:50], np.full((50, K), 0.1)).alarm == Alarm(1, FLAT)


def test_equal_scores_of_the_reward_model_are_no_gain(scores: np.ndarray) -> None:
    found = measured(np.full((20, 6), 0.1), scores[:20, :6])
    assert {gain.verdict for gain in found.to_k} == {NO_GAIN}
    assert found.alarm is None
    assert found.length_correlation is None
    assert found.enough == found.suggested_k == 1


@pytest.mark.parametrize(
    "low, high, expected",
    [(0.1, 0.9, RISES), (-0.2, 0.1, FLAT), (-0.2, 0.5, UNCLEAR), (-0.5, -0.1, FALLS)],
)
def test_verdicts_of_the_docstring_in_the_units_of_each_judge(low: float, high: float, expected: str) -> None:
    """The held-out judge's scores have a standard deviation of 10, so its units are ten times as small."""
    heldout = Estimate(5 * (low + high), 10 * low, 10 * high)
    assert verdict_of(Estimate(1.2, 1.0, 1.4), 1.0, heldout, 10.0) == expected
    assert verdict_of(Estimate(1.2, -0.1, 2.5), 1.0, heldout, 10.0) == NO_GAIN


@pytest.mark.parametrize(
    "gains, expected",
    [((0.9, 0.3, 0.05, 0.04), 3), ((0.9, 0.05, 0.3, 0.04), 4), ((0.9, 0.5), None), ((0.01,), 1), ((), None)],
)
def test_enough_is_where_all_later_doublings_gain_too_little(gains: tuple[float, ...], expected: int | None) -> None:
    doublings = [Gain(n, 2 * n, 0.0, Estimate(gain, gain, gain), None, None) for n, gain in enumerate(gains, start=1)]
    assert enough_candidates(doublings, 0.1) == expected


def test_a_doubling_that_keeps_many_more_prompts_is_not_small() -> None:
    small = Estimate(0.01, 0.0, 0.02)
    doublings = [Gain(1, 2, 0.2, small, None, None), Gain(2, 4, 0.04, small, None, None)]
    assert enough_candidates(doublings, 0.1) == 2
    assert enough_candidates([doublings[0]], 0.1) is None


@pytest.mark.slow
def test_the_suggested_k_is_the_smallest_beyond_which_a_doubling_gains_less(scores: np.ndarray) -> None:
    """The doublings of a normal score gain 0.56, 0.47, 0.39 and 0.34 from n = 1, 2, 4 and 8."""
    found = best_of_n(candidates(scores), min_gain=0.43)
    assert found.suggested_k in (3, 4)
    assert enough_candidates(found.doublings, 0.2) is None
    assert enough_candidates(found.doublings, 0.7) == 1


@pytest.mark.slow
def test_a_score_that_prefers_length_is_seen_within_prompts(scores: np.ndarray) -> None:
    """Prompts differ in length too, against the direction of the bias: that must not hide it."""
    lengths = np.round(100 + 20 * scores + 10 * np.random.default_rng(4).standard_normal(scores.shape))
    shifted = scores - 5 * np.arange(PROMPTS)[:, None] / PROMPTS
    found = best_of_n(candidates(shifted, lengths + np.arange(PROMPTS)[:, None]))
    centered = [values - values.mean(axis=1, keepdims=True) for values in (shifted, lengths)]
    expected = np.corrcoef(centered[0].ravel(), centered[1].ravel())[0, 1]
    assert found.length_correlation is not None
    assert found.length_correlation.value == pytest.approx(expected)
    assert found.length_correlation.low < 0.894 < found.length_correlation.high, "20 / sqrt(20^2 + 10^2)"
    first, last = found.points[0].length, found.points[-1].length
    assert last.value - first.value == pytest.approx(20 * 1.766, abs=3)


def test_prompts_without_a_finished_candidate_are_in_kept_only(scores: np.ndarray) -> None:
    found = best_of_n(candidates(scores[:40, :4], unfinished=10))
    assert (found.prompts, found.prompts_without_choice) == (40, 10)
    assert [point.kept for point in found.points] == pytest.approx([0.75] * 4)
    alone = best_of_n(candidates(scores[10:40, :4]))
    assert [point.score.value for point in found.points] == pytest.approx([p.score.value for p in alone.points])
    with pytest.raises(RowError, match="contain no candidate that may be chosen for any of 10 prompts"):
        best_of_n(candidates(scores[:10, :4], unfinished=10))


def test_one_candidate_has_no_doubling(scores: np.ndarray) -> None:
    found = best_of_n(candidates(scores[:5, :1]))
    assert found.doublings == found.to_k == ()
    assert found.suggested_k is None
    assert (powers_of_two(1), powers_of_two(6), powers_of_two(8)) == ([1], [1, 2, 4, 6], [1, 2, 4, 8])
