"""Choosing K for a round: a pilot samples a few prompts with the largest K, and the smallest K that is nearly as good
is then used for all of them.

The pilot's best-of-n curve is exact for its candidates (`best_of_n.py`). The judge that decides is the held-out one if
there is one: the reward model's own curve always rises, also where it only finds the reward model's mistakes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from align.config import Section
from align.errors import RowError
from align.files import fingerprint_of
from align.rows import Candidate, PromptRow
from align.settings import ModelConfig

MAX_KEPT_LOSS = 0.05
"""A smaller k is not chosen if it loses a candidate that may be kept for more than this ratio of the draws."""


class ChooseKConfig(Section):
    """K of this run, chosen by a pilot on some of the prompts. The setting `k` is the largest K."""

    prompts: int = Field(64, ge=2)
    """Prompts of the pilot, which are chosen by the seed."""
    tolerance: float = Field(0.1, ge=0)
    """The expected score of the best of K may be this much below the highest one of the curve, in the units of the
    judge that decides. For a reward model these are log-odds: 0.1 means that the better candidate wins with 52.5%."""
    at_least: int = Field(2, ge=1)
    """The smallest K. A pair requires 2."""
    heldout_judge: ModelConfig | None = None
    """A second reward model, trained on other preferences. Its scores decide then, instead of those of the reward model
    that selects. See docs/choosing_k.md."""


class CurvePoint(NamedTuple):
    """The best of n candidates, averaged over prompts with a candidate that may be chosen."""

    n: int
    kept: float
    """Ratio of the draws of n candidates from which one is kept, over all prompts."""
    score: float
    heldout: float | None


class ChosenK(NamedTuple):
    """The choice, as it is written to choose_k.json."""

    k: int
    decided_by: str
    """`heldout_judge` or `reward_model`."""
    prompts: int
    curve: tuple[CurvePoint, ...]
    """One point for each n up to the largest K."""

    def record(self) -> dict[str, Any]:
        return {**self._asdict(), "curve": [point._asdict() for point in self.curve]}


def pilot_prompts(rows: Sequence[PromptRow], count: int, seed: int) -> list[PromptRow]:
    """`count` of the prompts, in their order. Which ones depends on the seed and their ids only."""
    ranked = sorted(rows, key=lambda row: fingerprint_of("pilot", seed, row.id))
    chosen = {row.id for row in ranked[:count]}
    return [row for row in rows if row.id in chosen]


def choose_k(
    candidates: Iterable[Candidate],
    heldout: Mapping[str, float] | None = None,
    *,
    tolerance: float,
    at_least: int = 2,
    min_score: float | None = None,
) -> ChosenK:
    """The smallest n whose expected score is within `tolerance` of the highest one.

    heldout: candidate id -> score of a held-out judge, whose curve then decides.
    min_score: as for `best_of`: candidates with a lower score count as drawn, and are never chosen.
    Held-out scores of 0, 0.5, 0.7 and 0.4 for the best of 1 to 4, with a tolerance of 0.25: 2. With 0.1: 3. The reward
    model's 0, 0.5, 0.7, 0.8 with 0.1: 3.

    An n that keeps a candidate for MAX_KEPT_LOSS fewer of the draws than the largest K is not chosen. If no n is left
    that is at least `at_least`, the largest K is chosen.
    Raises RowError as `prompt_curves` does, and if there is no candidate that may be chosen.
    """
    import numpy as np

    from align.sampling.best_of_n import prompt_curves

    every = prompt_curves((_with_floor(candidate, min_score) for candidate in candidates), heldout)
    curves = [curve for curve in every if curve.usable]
    if not curves:
        what = f"its candidates contain none that may be chosen, for any of {len(every)} prompts"
        how = "Raise sampling.max_completion_tokens, fix the verifiers, lower min_score, or leave choose_k out"
        raise RowError("choose_k", what, how)
    kept = np.stack([curve.kept for curve in every]).mean(axis=0)
    scores = np.stack([curve.score for curve in curves]).mean(axis=0)
    judged = [curve.heldout for curve in curves if curve.heldout is not None]
    others = np.stack(judged).mean(axis=0) if judged else None
    deciding = scores if others is None else others
    largest = len(kept)
    good = [
        n
        for n in range(1, largest + 1)
        if n >= at_least and deciding[n - 1] >= deciding.max() - tolerance and kept[n - 1] >= kept[-1] - MAX_KEPT_LOSS
    ]
    points = tuple(
        CurvePoint(n, float(kept[n - 1]), float(scores[n - 1]), None if others is None else float(others[n - 1]))
        for n in range(1, largest + 1)
    )
    decided_by = "reward_model" if others is None else "heldout_judge"
    return ChosenK(min(good, default=largest), decided_by, len(every), points)


def _with_floor(candidate: Candidate, min_score: float | None) -> Candidate:
    """The candidate, failed if its score is below the lowest one that is selected."""
    if min_score is None or candidate.failed or candidate.score is None or candidate.score >= min_score:
        return candidate
    return candidate.model_copy(update={"failed": ("min_score: lower score",)})
