"""Best-of-n curves: what rejection sampling would choose from n candidates of a prompt, worked out from K >= n of them.

Nothing is sampled here: for each n, the average over all subsets of n candidates is computed exactly, by order
statistics. `eval/best_of_n.py` averages the curves over prompts and adds intervals.

Dimension letters: K candidates of a prompt, M of them usable. In an array of shape [K], place n - 1 belongs to n.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import comb, isfinite
from typing import NamedTuple

import numpy as np

from align.errors import RowError
from align.rows import Candidate
from align.sampling.selection import completion_text, is_usable, score_of


class PromptCurve(NamedTuple):
    """The curve of one prompt. Except for `kept`, means are over those subsets from which something is chosen."""

    prompt_id: str
    kept: np.ndarray  # [K], ratio of the subsets of n that contain a usable candidate
    score: np.ndarray  # [K], mean score of the chosen candidate, in the judge's units
    length: np.ndarray  # [K], its mean length in characters
    heldout: np.ndarray | None  # [K], its mean score from the held-out judge; None without such a judge
    values: np.ndarray  # [2 or 3, M], score, length and held-out score of each usable candidate

    @property
    def k(self) -> int:
        return len(self.kept)

    @property
    def usable(self) -> int:
        return int(self.values.shape[1])


def choice_probabilities(scores: Sequence[float], k: int) -> np.ndarray:
    """The probability of each usable candidate to be chosen from n of k candidates, drawn without replacement.

    Shapes: scores has M values in any order; the result is [K, M], with row n - 1 for n.
    Edge: the k - M other candidates rank below all usable ones and are never chosen, so row n - 1 adds up to
        1 - C(k - M, n) / C(k, n). Candidates with equal scores share their probability equally.

    Let a candidates rank below a score, and b candidates have this score or a lower one. The best of n has this score
    if all n are among the lowest b, but not all among the lowest a:

        P = (C(b, n) - C(a, n)) / C(k, n),  shared by the b - a candidates with this score.

    Without ties, b = i and a = i - 1 for the i-th lowest, and P = C(i - 1, n - 1) / C(k, n).
    Scores 1, 2, 2 with n = 2 of k = 3: the pairs are (1, 2), (1, 2'), (2, 2'), so 1 is never chosen, and 2 and 2' have
    (C(3, 2) - C(1, 2)) / C(3, 2) / 2 = 1/2 each.
    """
    ordered = sorted(scores)
    others = k - len(ordered)
    below = np.array([others + bisect_left(ordered, score) for score in scores], dtype=np.int64)
    up_to = np.array([others + bisect_right(ordered, score) for score in scores], dtype=np.int64)
    lowest = _all_among_lowest(k)
    chosen: np.ndarray = (lowest[:, up_to] - lowest[:, below]) / (up_to - below)
    return chosen


def prompt_curves(candidates: Iterable[Candidate], heldout: Mapping[str, float] | None = None) -> list[PromptCurve]:
    """The curve of each prompt. If no candidate of a prompt is usable, `kept` is 0 and the means are NaN.

    Usable candidates are those that rejection sampling may choose (`selection.best_of`): finished, not empty, and
    not failed by a verifier. The others count as drawn and are never chosen.

    candidates: read once, in any order; of each only its numbers are kept.
    heldout: candidate id -> score of a judge that took no part in the selection.
    Raises RowError if prompts have different numbers of candidates, or if a usable candidate has no finite score.
    """
    drawn: dict[str, _Drawn] = {}
    for candidate in candidates:
        drawn.setdefault(candidate.prompt_id, _Drawn()).add(candidate, heldout)
    sizes = {prompt_id: one.k for prompt_id, one in drawn.items()}
    first = next(iter(sizes), "")
    for prompt_id, k in sizes.items():
        if k != sizes[first]:
            what = f"has {k} candidates, but prompt {first} has {sizes[first]}"
            how = "Use the candidates of one run of rejection sampling, which have the same k for every prompt"
            raise RowError(f"prompt {prompt_id}", what, how)
    rows = 2 if heldout is None else 3
    return [_curve(prompt_id, one, rows) for prompt_id, one in drawn.items()]


class _Drawn:
    """The candidates of one prompt, as numbers."""

    def __init__(self) -> None:
        self.k = 0
        """All of them, those that are unfinished, empty or failed included."""
        self.numbers = array("d")
        """Score, length and held-out score of each usable one."""

    def add(self, candidate: Candidate, heldout: Mapping[str, float] | None) -> None:
        self.k += 1
        if is_usable(candidate):
            self.numbers.extend((score_of(candidate), len(completion_text(candidate.completion))))
            if heldout is not None:
                self.numbers.append(_heldout_score(heldout, candidate.id))


def _curve(prompt_id: str, drawn: _Drawn, rows: int) -> PromptCurve:
    values = np.array(np.array(drawn.numbers).reshape(-1, rows).T, order="C")
    chosen = choice_probabilities(values[0].tolist(), drawn.k)
    kept = chosen.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 for a prompt without a usable candidate
        means = chosen @ values.T / kept[:, None]
    return PromptCurve(prompt_id, kept, means[:, 0], means[:, 1], means[:, 2] if rows == 3 else None, values)


def _heldout_score(heldout: Mapping[str, float], candidate_id: str) -> float:
    score = heldout.get(candidate_id)
    if score is None or not isfinite(score):
        found = "no score" if score is None else f"the score {score}"
        what = f"has {found} from the held-out judge, expected a finite number"
        raise RowError(f"candidate {candidate_id}", what, "Score the same candidates with both judges")
    return score


@lru_cache(maxsize=64)
def _all_among_lowest(k: int) -> np.ndarray:
    """[K, K + 1]: row n - 1, column i has the probability C(i, n) / C(k, n) that all n drawn are among the lowest i."""
    return np.array([[comb(i, n) / comb(k, n) for i in range(k + 1)] for n in range(1, k + 1)])
