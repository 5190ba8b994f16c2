"""What the report of a run draws as lines: metrics of training, risk over coverage, and the best of n candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.rounds.ledger import StageRecord
from align.rounds.results import metrics_of, words
from eval.best_of_n import BestOfN
from eval.reports.best_of_n import lines_by_column
from eval.reports.columns import column_of, made_by
from eval.reports.samples import Evaluations

HELD_OUT = "held out"
CURVES = ("loss", "margin", "accuracy", "rewards/margins", "rewards/accuracies")


@dataclass(frozen=True)
class Curve:
    """A plot of one metric of one stage, with a line for each round, and one for its held-out rows if it has any."""

    stage: str
    metric: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    """Name of the line -> points: (step, value), (n, value), or two ratios if the axis is another one."""
    axis: str = "step"
    dashed: tuple[str, ...] = ()
    """Names of the lines of held-out rows."""

    @property
    def title(self) -> str:
        return f"{self.stage}: {words(self.metric)}"


def curves_of(
    records: Sequence[StageRecord], evaluations: Evaluations, best_of_n: Mapping[str, BestOfN]
) -> tuple[Curve, ...]:
    """All curves of a run: of training stages, also of one that runs, then of evaluations, then of candidates."""
    return (*_metrics(records), *_risk_coverage(evaluations), *_best_of_n(best_of_n))


def _metrics(records: Sequence[StageRecord]) -> Iterator[Curve]:
    found: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        lines = [line for made in made_by(record) if made.is_dir() for line in metrics_of(made)]
        for metric in CURVES:
            column = column_of(record)
            for name, label in ((metric, column), (f"eval_{metric}", f"{column}, {HELD_OUT}")):
                points = _points(lines, name)
                if len(points) > 1:
                    found.setdefault((record.name, metric), {})[label] = points
    for (stage, metric), by_label in found.items():
        yield Curve(stage, metric, by_label, dashed=tuple(label for label in by_label if label.endswith(HELD_OUT)))


def _points(lines: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[float, float]]:
    """(step, value) of each line of metrics.jsonl that has a number for the metric; null is not one."""
    return [
        (float(line["step"]), float(line[metric])) for line in lines if "step" in line and line.get(metric) is not None
    ]


def _risk_coverage(evaluations: Evaluations) -> Iterator[Curve]:
    """Yield the risk-coverage curves of factuality: one plot for each score, with a line for each column."""
    by_score: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for column, by_name in evaluations.items():
        found = by_name.get("factuality", {}).get("counts", {}).get("risk_coverage", {})
        for score, drawn in found.items():
            if isinstance(drawn, dict):
                by_score.setdefault(score, {})[column] = [(point[0], point[1]) for point in drawn["points"]]
    for score, lines in by_score.items():
        yield Curve("factuality", f"wrong among answered, by {words(score)}", lines, axis="answered")


def _best_of_n(found: Mapping[str, BestOfN]) -> Iterator[Curve]:
    """Yield the plots of the best-of-n curves, with a line for each round."""
    for title, lines, dashed in lines_by_column(found):
        yield Curve("best of n", title, lines, axis="n", dashed=tuple(dashed))
