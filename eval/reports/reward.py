"""Combine the reward accuracy of several runs into one table, and compare groups of runs.

A column of the table is a group of runs: models with different seeds that scored the same pairs, or models that each
held out another part of the questions. Their pairs are pooled. Confidence intervals are over questions: the bootstrap
draws a question together with all its scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.errors import StageError
from align.files import whole_file, write_text
from align.rounds.results import words
from eval.intervals import Share, percent_range
from eval.reward_pairs import ScoredPair, accuracies, gain, length_correlation, scored_pairs
from eval.runner import read_result

Gain = tuple[float, float, float]


@dataclass(frozen=True)
class Column:
    """A group of runs, and their pooled results."""

    pairs: tuple[ScoredPair, ...]
    runs: tuple[Share, ...]
    """The accuracy of each run."""
    scores: Mapping[str, Share | None]
    """Metric -> ratio, over all runs."""
    length_correlation: float | None
    gains: Mapping[str, Gain]
    """Other column -> how much higher the accuracy of this one is on the pairs that both have, with its 95%
    interval."""


def read_columns(runs: Mapping[str, Sequence[Path]]) -> dict[str, Column]:
    """Read the results. runs: name of the column -> its files `reward_accuracy.json`.

    Raises StageError if a file is missing, or is the result of another evaluation.
    """
    results = {name: [_result(path) for path in paths] for name, paths in runs.items()}
    pairs = {name: tuple(pair for result in found for pair in result) for name, found in results.items()}
    columns = {}
    for name, found in results.items():
        gains = {other: gain(pairs[name], pairs[other]) for other in pairs if other != name}
        columns[name] = Column(
            pairs=pairs[name],
            runs=tuple(one for one in (accuracies(result)["accuracy"] for result in found) if one is not None),
            scores=accuracies(pairs[name]),
            length_correlation=length_correlation(pairs[name]),
            gains={other: value for other, value in gains.items() if value is not None},
        )
    return columns


def markdown(columns: Mapping[str, Column]) -> str:
    """Return the table as Markdown: a line for each metric, then the accuracy of each run, and the gains over
    others."""
    metrics = list(dict.fromkeys(metric for column in columns.values() for metric in column.scores))
    lines = [["", *columns], ["---", *["---:"] * len(columns)]]
    lines += [
        [words(metric), *(_share_text(column.scores.get(metric)) for column in columns.values())] for metric in metrics
    ]
    lines.append(["correlation of reward and length", *map(_correlation, columns.values())])
    lines.append(
        [
            "accuracy of each run",
            *(", ".join(f"{100 * run.value:.1f}%" for run in column.runs) for column in columns.values()),
        ]
    )
    for other in columns:
        gains = [_gain(column.gains.get(other)) for column in columns.values()]
        if set(gains) != {""}:
            lines.append([f"gain over {other}, percentage points", *gains])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write_report(columns: Mapping[str, Column], folder: Path) -> Path:
    """Write `report.md`, and `report.json` with the same numbers."""
    write_text(folder / "report.md", markdown(columns))
    with whole_file(folder / "report.json") as handle:
        json.dump({name: _record(column) for name, column in columns.items()}, handle, indent=1)
    return folder / "report.md"


def _result(path: Path) -> list[ScoredPair]:
    found = read_result(path)
    rows = found.get("rows", [])
    if found.get("name") != "reward_accuracy" or not all("characters" in row for row in rows):
        how = "Run recipes/run_eval.py with the section reward_accuracy first"
        raise StageError(path, "is not a result of reward_accuracy", how)
    return [pair for row in rows for pair in scored_pairs(row)]


def _share_text(score: Share | None) -> str:
    if score is None:
        return "-"
    return f"{100 * score.value:.1f}% ({percent_range(score.low, score.high, 1)}, n {score.n})"


def _correlation(column: Column) -> str:
    return "-" if column.length_correlation is None else f"{column.length_correlation:+.2f}"


def _gain(found: Gain | None) -> str:
    return "" if found is None else f"{100 * found[0]:+.1f} ({100 * found[1]:+.1f} to {100 * found[2]:+.1f})"


def _record(column: Column) -> dict[str, Any]:
    return {
        "scores": {metric: score._asdict() for metric, score in column.scores.items() if score is not None},
        "runs": [run._asdict() for run in column.runs],
        "length_correlation": column.length_correlation,
        "gains": column.gains,
    }
