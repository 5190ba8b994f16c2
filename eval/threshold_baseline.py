"""Abstaining by a threshold on a score, without any training: what a model that learned to abstain is compared with.

The threshold is chosen with one set of questions (dev entities) and applied to another (held-out ones).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.factuality import cases_of, shares_of
from eval.intervals import Share
from eval.risk_coverage import at_known_kept, curve


def choose_threshold(rows: Sequence[Mapping[str, Any]], score: str, known_kept: float) -> float:
    """The highest score at which answering from it upwards still keeps this share of what the model knew.

    rows: of the untouched model's factuality.json, with scores. What its greedy answer has right, it knows.
    Edge: where the model knew nothing, its highest score: it would answer one question.
    """
    point = at_known_kept(curve(cases_of(rows, score)), known_kept)
    assert point is not None, "answering everything keeps everything"
    return point.threshold


def abstaining_below(rows: Sequence[Mapping[str, Any]], score: str, threshold: float) -> list[dict[str, Any]]:
    """The same model's rows with `verdict` abstained where the score is below the threshold, and `before` as it was."""

    def verdict(row: Mapping[str, Any]) -> str:
        surely = row["scores"][score]
        return row["verdict"] if surely is not None and surely >= threshold else "abstained"

    return [{**row, "before": row["verdict"], "verdict": verdict(row)} for row in rows]


def threshold_baseline(
    dev: Sequence[Mapping[str, Any]], heldout: Sequence[Mapping[str, Any]], score: str, known_kept: float
) -> tuple[float, dict[str, Share | None]]:
    """(threshold chosen on `dev`, the shares of `eval/factuality.py` when it is applied to `heldout`)."""
    threshold = choose_threshold(dev, score, known_kept)
    return threshold, shares_of(abstaining_below(heldout, score, threshold), has_baseline=True)
