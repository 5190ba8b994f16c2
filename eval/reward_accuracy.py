"""Reward accuracy: the share of held-out pairs that a reward model ranks as people did."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

from align.config import Section
from align.jsonl import read_rows
from align.judges.judge import ScoreRequest
from align.reporting import Progress
from align.rows import PreferenceRow
from align.settings import InputPath
from eval.intervals import share
from eval.runner import UNIT_SIZE, Result, Scorer, completion_text, limited, prompt_text


class RewardAccuracyConfig(Section):
    """Held-out preferences."""

    pairs: InputPath
    """JSONL of preference rows that no stage trained on."""


def evaluate(config: RewardAccuracyConfig, scorer: Scorer, units: Path, limit: int | None) -> Result:
    """accuracy: of all pairs (three in a row of three completions) those whose better one scores higher; ties half."""
    preferences = limited(read_rows(config.pairs, PreferenceRow), limit)
    progress = Progress("rewards", total=len(preferences))
    rows: list[dict[str, Any]] = []
    hits, pairs = 0.0, 0
    for first in range(0, len(preferences), UNIT_SIZE):
        unit = preferences[first : first + UNIT_SIZE]
        requests = [ScoreRequest(row.prompt, row.completions, row.tools) for row in unit]
        for row, scores in zip(unit, scorer.scores(requests), strict=True):
            points = [_point(better, worse) for better, worse in combinations(scores, 2)]
            hits += sum(points)
            pairs += len(points)
            rows.append(
                {
                    "id": row.id,
                    "prompt": prompt_text(row.prompt),
                    "answer": completion_text(row.chosen),
                    "rejected": completion_text(row.rejected),
                    "verdict": {1.0: "right", 0.0: "wrong"}.get(sum(points) / len(points), "partly right"),
                    "scores": scores,
                    "source": row.source,
                }
            )
        progress.advance(len(unit))
    return Result({"accuracy": share(hits, pairs)}, {"rows": len(rows), "pairs": pairs}, rows)


def _point(better: float, worse: float) -> float:
    """1 for the right order, one half for a tie; NaN earns nothing."""
    if math.isnan(better) or math.isnan(worse):
        return 0.0
    return 0.5 if better == worse else float(better > worse)
