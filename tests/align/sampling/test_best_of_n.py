"""Best-of-n curves, against all subsets, closed formulas and a distribution whose maximum is known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import mean

import numpy as np
import pytest

from align.errors import RowError
from align.rows import Candidate
from align.sampling.best_of_n import choice_probabilities, prompt_curves
from align.sampling.selection import best_of
from tests.fakes import candidates


def over_all_subsets(group: Sequence[Candidate], n: int, values: dict[str, float]) -> tuple[float, float | None]:
    """(ratio of subsets from which something is kept, mean value of what is kept; of equal scores, their mean)."""
    subsets = list(combinations(group, n))
    found = []
    for subset in subsets:
        kept = best_of(subset).rows
        if kept:
            usable = [c for c in subset if c.finished and not c.failed and c.completion[0].content.strip()]
            tied = [c for c in usable if c.score == kept[0].score]
            found.append(mean(values[c.id] for c in tied))
    return len(found) / len(subsets), mean(found) if found else None


MIXED = (
    ("aa", 0.3, True),
    ("b" * 9, 2.5, True),
    ("cut off", 9.0, False),
    ("dddd", -1.0, True),
    ("eee", 2.5, True),
    ("  ", 7.0, True),
    ("f" * 20, 0.3, True),
)


@pytest.mark.parametrize(
    "made",
    [MIXED, MIXED[:4], [("x" * (n + 1), (n * 7 % 5) / 3, n % 4 != 0) for n in range(8)], [("only", 1.0, True)]],
    ids=["mixed", "no ties", "many ties", "one"],
)
def test_every_point_is_the_mean_over_all_subsets(made: Sequence[tuple[str, float, bool]]) -> None:
    group = candidates(*made)
    heldout = {candidate.id: (candidate.index * 5 % 7) - 2.0 for candidate in group}
    (curve,) = prompt_curves(group, heldout)
    assert curve.k == len(group)
    assert curve.heldout is not None
    for n in range(1, len(group) + 1):
        for got, values in (
            (curve.score, {c.id: c.score or 0.0 for c in group}),
            (curve.length, {c.id: float(len(c.completion[0].content)) for c in group}),
            (curve.heldout, heldout),
        ):
            kept, expected = over_all_subsets(group, n, values)
            assert curve.kept[n - 1] == pytest.approx(kept, abs=1e-12)
            assert got[n - 1] == pytest.approx(expected, abs=1e-12) if kept else np.isnan(got[n - 1])


def test_the_scores_1_to_k_have_the_known_expected_maximum() -> None:
    """The maximum of n of the numbers 1 to k, drawn without replacement, is n (k + 1) / (n + 1) on average."""
    k = 30
    scores = [float(1 + 7 * place % k) for place in range(k)]
    assert sorted(scores) == list(range(1, k + 1))
    expected = [n * (k + 1) / (n + 1) for n in range(1, k + 1)]
    assert choice_probabilities(scores, k) @ scores == pytest.approx(expected, rel=1e-12)


def test_uniform_scores_have_the_expected_maximum_of_a_uniform_distribution() -> None:
    """The maximum of n independent uniform numbers is n / (n + 1) on average."""
    drawn = np.random.default_rng(5).random((2000, 10))
    curves = np.array([choice_probabilities(list(scores), 10) @ scores for scores in drawn])
    standard_error = curves.std(axis=0) / np.sqrt(len(curves))
    distance = curves.mean(axis=0) - [n / (n + 1) for n in range(1, 11)]
    assert (np.abs(distance) < 4 * standard_error).all()
    assert (standard_error < 0.003).all(), "close enough to tell n / (n + 1) from its neighbors"


def test_the_example_of_the_docs() -> None:
    (curve,) = prompt_curves(candidates(("a", 1.0, True), ("b", 2.0, True), ("c", 4.0, True), ("d", 7.0, True)))
    assert curve.score == pytest.approx([3.5, 31 / 6, 6.25, 7.0])


def test_all_k_candidates_give_what_rejection_sampling_keeps() -> None:
    group = candidates(*MIXED)
    (curve,) = prompt_curves(group)
    assert curve.score[-1] == best_of(group).rows[0].score
    assert curve.heldout is None


def test_a_prompt_without_a_usable_candidate_keeps_nothing() -> None:
    none, some = prompt_curves(
        [*candidates(("x", 1.0, False), ("", 2.0, True)), *candidates(("y", 0.0, True), ("z", 1.0, False), prompt="q")]
    )
    assert none.kept.tolist() == [0.0, 0.0]
    assert none.usable == 0
    assert np.isnan(none.score).all()
    assert some.kept == pytest.approx([0.5, 1.0])
    assert some.score == pytest.approx([0.0, 0.0]), "the unfinished candidate has the higher score and is never chosen"


def test_candidates_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(RowError, match=r"prompt q: has 1 candidates, but prompt p has 2\. Use the candidates of"):
        prompt_curves([*candidates(("x", 1.0, True), ("y", 2.0, True)), *candidates(("z", 1.0, True), prompt="q")])
    with pytest.raises(RowError, match="candidate p-0 of prompt p: has no score"):
        prompt_curves(candidates(("x", None, True)))
    with pytest.raises(RowError, match="candidate p-1: has no score from the held-out judge"):
        prompt_curves(candidates(("x", 1.0, True), ("y", 2.0, True)), {"p-0": 1.0})
    with pytest.raises(RowError, match="candidate p-0: has the score nan from the held-out judge"):
        prompt_curves(candidates(("x", 1.0, True)), {"p-0": float("nan")})


def test_candidates_that_a_verifier_failed_are_never_chosen() -> None:
    group = [
        candidate.model_copy(update={"failed": ("maths: another answer",)}) if candidate.index in (1, 3) else candidate
        for candidate in candidates(*MIXED)
    ]
    (curve,) = prompt_curves(group)
    for n in range(1, len(group) + 1):
        kept, expected = over_all_subsets(group, n, {c.id: c.score or 0.0 for c in group if not c.failed})
        assert (curve.kept[n - 1], curve.score[n - 1]) == pytest.approx((kept, expected))
