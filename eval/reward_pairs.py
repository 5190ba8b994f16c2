"""Accuracy of the scores of ranked completions: over all pairs, by level of preference, and by length.

The pairs of one prompt share a question and often an answer, so that all intervals are over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from eval.intervals import Share, bootstrap_mean, clustered_share

EDITED_OVER_CHOSEN = "edited over chosen"
EDITED_OVER_REJECTED = "edited over rejected"
UNGRADED = "ungraded"


class ScoredPair(NamedTuple):
    """Two completions of a prompt, of which people preferred one."""

    id: str
    prompt: str
    kind: str
    """The level of the preference; pairs with the edited completion have kinds of their own."""
    margin: float
    """Score of the better one minus score of the worse one."""
    longer_by: int
    """Characters of the better one minus characters of the worse one."""

    @property
    def point(self) -> float:
        """1 for the right order, one half for a tie, 0 for the wrong order or NaN."""
        return 0.5 if self.margin == 0 else float(self.margin > 0)


def scored_pairs(row: Mapping[str, Any]) -> list[ScoredPair]:
    """The pairs of a row of `reward_accuracy.json`: one for two completions, three for three."""
    level = row["level"] or UNGRADED
    kinds = [level] if len(row["scores"]) == 2 else [EDITED_OVER_CHOSEN, EDITED_OVER_REJECTED, level]
    places = combinations(range(len(row["scores"])), 2)
    return [
        ScoredPair(
            id=f"{row['id']}/{better}-{worse}",
            prompt=row["prompt"],
            kind=kind,
            margin=row["scores"][better] - row["scores"][worse],
            longer_by=row["characters"][better] - row["characters"][worse],
        )
        for kind, (better, worse) in zip(kinds, places, strict=True)
    ]


def accuracies(pairs: Sequence[ScoredPair]) -> dict[str, Share | None]:
    """Metric -> share of the pairs that are ranked as people did; ties count half.

    accuracy: of all pairs, and of each kind if there are several. longer_is_better, shorter_is_better: of the pairs
    whose better completion is the longer or the shorter one; a model that prefers long answers is good at the first and
    bad at the second. longer_wins: the accuracy of choosing the longer completion.
    """
    found = {"accuracy": _share(pairs)}
    kinds = sorted({pair.kind for pair in pairs}, key=_KIND_ORDER.index)
    if len(kinds) > 1:
        found |= {kind.replace(" ", "_"): _share([pair for pair in pairs if pair.kind == kind]) for kind in kinds}
    found["longer_is_better"] = _share([pair for pair in pairs if pair.longer_by > 0])
    found["shorter_is_better"] = _share([pair for pair in pairs if pair.longer_by < 0])
    found["longer_wins"] = _share([pair._replace(margin=pair.longer_by) for pair in pairs])
    return found


def length_correlation(pairs: Sequence[ScoredPair]) -> float | None:
    """Correlation of differences in score and in length, from -1 to 1; None if one of them is always 0.

    Each pair counts in both orders, so that it does not matter which completion is better: the correlation shows
    whether the model gives longer completions a higher score.
    """
    both = [(pair.margin, pair.longer_by) for pair in pairs if not math.isnan(pair.margin)]
    scale = math.sqrt(sum(margin**2 for margin, _ in both) * sum(length**2 for _, length in both))
    return sum(margin * length for margin, length in both) / scale if scale else None


def gain(pairs: Iterable[ScoredPair], over: Iterable[ScoredPair]) -> tuple[float, float, float] | None:
    """(mean, low, high) of the gain in accuracy over `over`, on the pairs that both have; None if there are none.

    A pair that was scored by models of several seeds counts with its mean.
    """
    mine, theirs = _points_by_pair(pairs), _points_by_pair(over)
    shared = sorted(mine.keys() & theirs.keys())
    if not shared:
        return None
    return bootstrap_mean([mine[key] - theirs[key] for key in shared], [prompt for prompt, _ in shared])


_KIND_ORDER = (
    "significantly better",
    "better",
    "slightly better",
    "marginally better",
    UNGRADED,
    EDITED_OVER_CHOSEN,
    EDITED_OVER_REJECTED,
)


def _share(pairs: Sequence[ScoredPair]) -> Share | None:
    return clustered_share([pair.point for pair in pairs], [pair.prompt for pair in pairs])


def _points_by_pair(pairs: Iterable[ScoredPair]) -> dict[tuple[str, str], float]:
    points: dict[tuple[str, str], list[float]] = {}
    for pair in pairs:
        points.setdefault((pair.prompt, pair.id), []).append(pair.point)
    return {key: sum(found) / len(found) for key, found in points.items()}
