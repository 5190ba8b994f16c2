"""A baseline without training: abstain where a confidence score is below a threshold.

A model that was trained to abstain is compared with it. The threshold is chosen on one set of questions (dev entities)
and applied to another (held-out entities).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.factuality import cases_of, shares_of
from eval.intervals import Share
from eval.risk_coverage import at_known_kept, curve


def choose_threshold(rows: Sequence[Mapping[str, Any]], score: str, known_kept: float) -> float:
    """The highest threshold at which the model still answers this share of what it knows.

    rows: of the untrained model's factuality.json, with scores. A question is known if its greedy answer is right.
    Edge: if the model knows nothing, the threshold is its highest score, so that it answers one question.
    """
    point = at_known_kept(curve(cases_of(rows, score)), known_kept)
    assert point is not None, "answering everything keeps everything"
    return point.threshold


def abstaining_below(rows: Sequence[Mapping[str, Any]], score: str, threshold: float) -> list[dict[str, Any]]:
    """The model's rows with the verdict `abstained` where the score is below the threshold; `before` is the old one."""

    def verdict(row: Mapping[str, Any]) -> str:
        value = row["scores"][score]
        return row["verdict"] if value is not None and value >= threshold else "abstained"

    return [{**row, "before": row["verdict"], "verdict": verdict(row)} for row in rows]


def threshold_baseline(
    dev: Sequence[Mapping[str, Any]], heldout: Sequence[Mapping[str, Any]], score: str, known_kept: float
) -> tuple[float, dict[str, Share | None]]:
    """(threshold chosen on `dev`, the shares of `eval/factuality.py` when it is applied to `heldout`)."""
    threshold = choose_threshold(dev, score, known_kept)
    return threshold, shares_of(abstaining_below(heldout, score, threshold), has_baseline=True)
