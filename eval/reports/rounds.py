"""The report of a run: scores before and after with intervals, curves, answers side by side, dropped rows, and times.

`read_report` collects everything from the run's ledger and the outputs of its stages. This file formats it as a table
for the terminal and as Markdown; `eval/reports/page.py` formats it as HTML. Text from models and data sets is escaped.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.errors import StageError
from align.publish.model_card import cell
from align.reporting import duration
from align.rounds.ledger import Ledger, RunRecord, StageRecord
from align.rounds.results import counts_of, dropped_of, evaluations_of, metrics_of, words
from eval.best_of_n import BestOfN
from eval.reports.best_of_n import NOTE, best_of_n_by_column, best_of_n_table, lines_by_column, sentences
from eval.reports.knowledge_map import (
    NOTHING_ASKED,
    EvaluationColumn,
    KnowledgeMap,
    ProbeColumn,
    evaluation_column,
    knowledge_map,
    map_table,
    probe_column,
)
from eval.runner import points

BEFORE = "before"
LEDGER = "ledger.sqlite"
TIMING = "timing.json"
HELD_OUT = "held out"
CURVES = ("loss", "margin", "accuracy", "rewards/margins", "rewards/accuracies")

Score = Mapping[str, Any]
SCORES_NOTE = "Measured on held-out data. In parentheses: 95% confidence interval, in percent. n: number of cases."
CHANGES_NOTE = (
    "Each model minus the baseline of its evaluation, on the same questions, in percentage points. In parentheses: 95% "
    "confidence interval. An interval without 0 is a significant difference, if it is the only one that is looked at."
)
MAP_NOTE = (
    "Known, unknown and unsure: the probe before a round, which asks every training question several times. "
    "Right, wrong and abstained: the evaluation after it, which asks every held-out question once."
)
MAP = "map.json"


@dataclass(frozen=True)
class Sample:
    """One held-out question with the answer of the model in each column."""

    evaluation: str
    prompt: str
    expected: str
    answers: Mapping[str, str]
    """Column -> answer."""
    verdicts: Mapping[str, str]


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


@dataclass(frozen=True)
class StageTime:
    """How long a stage took."""

    label: str
    seconds: float
    trained_seconds: float | None
    """The part of the time that was spent in optimizer steps; None for stages that do not train."""
    command: str


@dataclass(frozen=True)
class Report:
    """The content of a report."""

    run_dir: str
    columns: tuple[str, ...]
    """`before`, `round 1`, ..."""
    scores: Mapping[tuple[str, str], Mapping[str, Score]]
    """(evaluation, metric) -> column -> score."""
    changes: Mapping[tuple[str, str], Mapping[str, Score]]
    """(evaluation, metric) -> column -> difference from the baseline of the evaluation."""
    samples: tuple[Sample, ...]
    curves: tuple[Curve, ...]
    dropped: tuple[tuple[str, str, int | None, Mapping[str, int]], ...]
    """(stage, file, rows kept, reason -> rows dropped)."""
    times: tuple[StageTime, ...]
    runs: tuple[RunRecord, ...]
    unfinished: tuple[str, ...] = field(default=())
    knowledge: KnowledgeMap = NOTHING_ASKED
    best_of_n: Mapping[str, BestOfN] = field(default_factory=dict)
    """Column -> the best-of-n curve of the candidates that were sampled in that round."""

    @property
    def seconds(self) -> float:
        return sum(time.seconds for time in self.times)

    @property
    def effective_training_ratio(self) -> float | None:
        """The ratio of the training stages' time that was spent in optimizer steps, not in loading, encoding and
        saving."""
        training = [(time.trained_seconds, time.seconds) for time in self.times if time.trained_seconds is not None]
        whole = sum(seconds for _, seconds in training)
        return sum(trained for trained, _ in training) / whole if whole else None


def read_report(run_dir: Path, samples: int) -> Report:
    """Read the outputs of a run's stages, each as it was finished last.

    samples: the number of questions of each evaluation whose answers are shown side by side.
    Raises StageError if the folder does not contain a run.
    """
    path = run_dir / LEDGER
    if not path.is_file():
        raise StageError(
            run_dir,
            f"contains no {LEDGER}, so it is not the folder of a run",
            "Run recipes/rounds.py first, or set run_dir",
        )
    ledger = Ledger(path)
    latest = {record.label: record for record in ledger.stages()}
    runs = tuple(ledger.runs())
    ledger.close()
    records = [record for record in latest.values() if record.status == "finished"]
    evaluations: dict[str, dict[str, dict[str, Any]]] = {}  # column -> evaluation -> its JSON
    for record in sorted(records, key=lambda record: record.round or 0):
        found = {e["name"]: e for made in _made(record) for e in evaluations_of(made)}
        if found:
            evaluations.setdefault(_column(record), {}).update(found)
    scores, changes = (_by_metric(evaluations, key) for key in ("scores", "differences"))
    best_of_n = best_of_n_by_column((_column(record), made) for record in records for made in _made(record))
    return Report(
        run_dir=str(run_dir),
        columns=tuple(evaluations),
        scores=scores,
        changes=changes,
        samples=_samples(evaluations, samples),
        curves=(*_curves(records), *_risk_coverage(evaluations), *_best_of_n_curves(best_of_n)),
        dropped=tuple(_dropped(records)),
        times=tuple(_time(record) for record in records),
        runs=runs,
        unfinished=tuple(label for label, record in latest.items() if record.status in ("failed", "stopped")),
        knowledge=_knowledge(records, evaluations),
        best_of_n=best_of_n,
    )


def text_table(report: Report) -> str:
    """Format the scores as a table for the terminal. The interval is that of the last column."""
    if not report.columns:
        return "\n".join(["no evaluation has finished yet", *_best_of_n_lines(report), "", summary(report)])
    rows = [["", *report.columns, "(95% interval)"]]
    for (evaluation, metric), by_column in report.scores.items():
        values = [_percent(by_column.get(column)) for column in report.columns]
        rows.append([row_name(evaluation, metric), *values, _interval(by_column.get(report.columns[-1]))])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for name, *values in rows:
        cells = [text.rjust(width) for text, width in zip(values, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]))
    return "\n".join(
        [*lines, *_change_lines(report), *_map_lines(report.knowledge), *_best_of_n_lines(report), "", summary(report)]
    )


def _by_metric(
    evaluations: Mapping[str, Mapping[str, Mapping[str, Any]]], key: str
) -> dict[tuple[str, str], dict[str, Score]]:
    """(evaluation, metric) -> column -> what the evaluations have below `key`, by the name of the evaluation."""
    found: dict[tuple[str, str], dict[str, Score]] = {}
    for column, by_name in evaluations.items():
        for name, evaluation in by_name.items():
            for metric, score in evaluation.get(key, {}).items():
                found.setdefault((name, metric), {})[column] = score
    return dict(sorted(found.items(), key=lambda item: item[0][0]))


def _change_lines(report: Report) -> list[str]:
    """Format the differences from the baseline for the terminal, in percentage points."""
    if not report.changes:
        return []
    head, rows = change_table(report)
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    head[0] = "against the baseline"
    widths[0] = max(widths[0], len(head[0]))
    return ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows))]


def _map_lines(found: KnowledgeMap) -> list[str]:
    """Format the knowledge map for the terminal, in percent."""
    if not found.entries:
        return []
    head, rows = map_table(found)
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    return ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows))]


def _best_of_n_lines(report: Report) -> list[str]:
    """Format what the best-of-n curves say for the terminal."""
    return [
        line
        for column, found in report.best_of_n.items()
        for line in ("", *(f"{column}, best of n: {sentence}" for sentence in sentences(found)))
    ]


def markdown(report: Report) -> str:
    """Format the report as Markdown."""
    parts = [
        f"# Report of {cell(report.run_dir)}",
        summary(report),
        "## Before and after",
        SCORES_NOTE,
        _markdown_table(*score_table(report)),
    ]
    if report.changes:
        parts += ["## Differences from the baseline", CHANGES_NOTE, _markdown_table(*change_table(report))]
    if report.knowledge.entries:
        parts += ["## Knowledge map", f"{MAP_NOTE} In percent.", _markdown_table(*map_table(report.knowledge))]
    for column, found in report.best_of_n.items():
        parts += [f"## Best of n, {cell(column)}", NOTE, _markdown_table(*best_of_n_table(found)), *sentences(found)]
    parts.append("## Answers to the same questions")
    for sample in report.samples:
        lines = [f"- **{cell(words(sample.evaluation))}:** {cell(sample.prompt)}"]
        lines.append(f"  - expected answer: {cell(sample.expected)}")
        for column, answer in sample.answers.items():
            lines.append(f"  - {cell(column)} ({cell(sample.verdicts[column])}): {cell(answer)}")
        parts.append("\n".join(lines))
    parts += ["## Rows kept and dropped", _markdown_table(*dropped_table(report))]
    parts += ["## Time by stage", _markdown_table(*time_table(report))]
    parts += ["## Command and versions", *(f"    {run.command}" for run in report.runs[-1:])]
    parts.append(versions_line(report))
    return "\n\n".join(parts) + "\n"


def row_name(evaluation: str, metric: str) -> str:
    """Return the readable name of a metric, such as `wrong answers` or `tool use: parses`."""
    if evaluation == "factuality":
        return words(metric) + (" answers" if metric in ("right", "wrong") else "")
    if evaluation == metric or evaluation.endswith(f"_{metric}"):
        return words(evaluation)
    return f"{words(evaluation)}: {words(metric)}"


Table = tuple[list[str], list[list[str]]]


def score_table(report: Report) -> Table:
    """Return head and rows of the table of scores."""
    rows = []
    for (evaluation, metric), by_column in report.scores.items():
        values = [f"{_percent(s)} {_interval(s)}".strip() for s in (by_column.get(c) for c in report.columns)]
        sizes = [score["n"] for score in by_column.values() if "n" in score]
        rows.append([row_name(evaluation, metric), *values, str(sizes[-1]) if sizes else "-"])
    return ["", *report.columns, "n"], rows


def change_table(report: Report) -> Table:
    """Return head and rows of the table of differences from the baseline, in percentage points."""
    columns = [column for column in report.columns if any(column in found for found in report.changes.values())]
    rows = []
    for (evaluation, metric), by_column in report.changes.items():
        values = [points(by_column[column]) if column in by_column else "-" for column in columns]
        rows.append([row_name(evaluation, metric), *values, str(list(by_column.values())[-1]["n"])])
    return ["", *columns, "n"], rows


def dropped_table(report: Report) -> Table:
    """Return head and rows of the table of kept and dropped rows."""
    rows = []
    for stage, file, kept, dropped in report.dropped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        rows.append([stage, file, "-" if kept is None else f"{kept:,}", f"{sum(dropped.values()):,}", reasons])
    return ["stage", "file", "rows kept", "rows dropped", "reasons"], rows


def time_table(report: Report) -> Table:
    """Return head and rows of the table of times."""
    rows = []
    for time in report.times:
        trained = "-" if time.trained_seconds is None else duration(time.trained_seconds)
        rows.append([time.label, duration(time.seconds), trained, time.command])
    return ["stage", "total time", "training steps", "command"], rows


def summary(report: Report) -> str:
    """Return a line on times and unfinished stages."""
    ratio = report.effective_training_ratio
    parts = [] if ratio is None else [f"effective training time {ratio:.0%} of the training stages"]
    parts.append(f"{duration(report.seconds)} in all stages")
    if report.unfinished:
        parts.append(f"not finished: {', '.join(report.unfinished)}")
    return " · ".join(parts)


def versions_line(report: Report) -> str:
    """Return the versions of the software that the run used."""
    versions = report.runs[-1].versions if report.runs else {}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)


def _percent(score: Score | None) -> str:
    return "-" if not score or score.get("value") is None else f"{score['value']:.0%}"


def _interval(score: Score | None) -> str:
    if not score or score.get("low") is None or score.get("high") is None:
        return ""
    return f"({100 * score['low']:.0f}-{100 * score['high']:.0f})"


# Reading


def _column(record: StageRecord) -> str:
    return BEFORE if record.round is None else f"round {record.round}"


def _made(record: StageRecord) -> list[Path]:
    return [Path(entry["path"]) for entry in record.outputs.values()]


def _samples(evaluations: Mapping[str, Mapping[str, Mapping[str, Any]]], count: int) -> tuple[Sample, ...]:
    """Choose questions that the first and the last column both answered; half of them with different verdicts."""
    columns = list(evaluations)
    if len(columns) < 2:
        return ()
    first, last = evaluations[columns[0]], evaluations[columns[-1]]
    chosen: list[Sample] = []
    for name in [name for name in first if name in last]:
        rows = {
            column: {row["id"]: row for row in evaluations[column].get(name, {}).get("rows", [])} for column in columns
        }
        shared = [row_id for row_id in rows[columns[0]] if row_id in rows[columns[-1]]]
        random.Random(name).shuffle(shared)
        before, after = rows[columns[0]], rows[columns[-1]]
        changed = [row_id for row_id in shared if before[row_id].get("verdict") != after[row_id].get("verdict")]
        same = [row_id for row_id in shared if row_id not in set(changed)]
        kept = changed[: (count + 1) // 2]
        kept += same[: count - len(kept)]
        for row_id in kept:
            answers = {column: rows[column][row_id] for column in columns if row_id in rows[column]}
            expected = before[row_id].get("expected", "")
            chosen.append(
                Sample(
                    evaluation=name,
                    prompt=str(before[row_id].get("prompt", "")),
                    expected=", ".join(map(str, expected)) if isinstance(expected, list) else str(expected),
                    answers={column: str(row.get("answer", "")) for column, row in answers.items()},
                    verdicts={column: str(row.get("verdict", "")) for column, row in answers.items()},
                )
            )
    return tuple(chosen)


def _curves(records: Sequence[StageRecord]) -> tuple[Curve, ...]:
    found: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        lines = [line for made in _made(record) if made.is_dir() for line in metrics_of(made)]
        for metric in CURVES:
            for name, label in ((metric, _column(record)), (f"eval_{metric}", f"{_column(record)}, {HELD_OUT}")):
                points = _points(lines, name)
                if len(points) > 1:
                    found.setdefault((record.name, metric), {})[label] = points
    return tuple(
        Curve(stage, metric, by_label, dashed=tuple(label for label in by_label if label.endswith(HELD_OUT)))
        for (stage, metric), by_label in found.items()
    )


def _points(lines: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[float, float]]:
    """(step, value) of each line of metrics.jsonl that has a number for the metric; null is not one."""
    return [
        (float(line["step"]), float(line[metric])) for line in lines if "step" in line and line.get(metric) is not None
    ]


def _risk_coverage(evaluations: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[Curve]:
    """Yield the risk-coverage curves of factuality: one plot for each score, with a line for each column."""
    by_score: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for column, by_name in evaluations.items():
        found = by_name.get("factuality", {}).get("counts", {}).get("risk_coverage", {})
        for score, drawn in found.items():
            if isinstance(drawn, dict):
                by_score.setdefault(score, {})[column] = [(point[0], point[1]) for point in drawn["points"]]
    for score, lines in by_score.items():
        yield Curve("factuality", f"wrong among answered, by {words(score)}", lines, axis="answered")


def _best_of_n_curves(found: Mapping[str, BestOfN]) -> Iterator[Curve]:
    """Yield the plots of the best-of-n curves, with a line for each round."""
    for title, lines, dashed in lines_by_column(found):
        yield Curve("best of n", title, lines, axis="n", dashed=tuple(dashed))


def _knowledge(
    records: Sequence[StageRecord], evaluations: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> KnowledgeMap:
    """Make the knowledge map in the order of the run: the first answers, then probe and answers of each round."""
    probed: dict[str, ProbeColumn] = {}
    for record in records:
        for made in _made(record):
            found = _json_of(made / MAP) if made.is_dir() else {}
            if "relations" in found:
                probed[_column(record)] = probe_column(_column(record), found)
    columns: list[ProbeColumn | EvaluationColumn] = []
    for column in sorted({*probed, *evaluations}, key=_place):
        rows = evaluations.get(column, {}).get("factuality", {}).get("rows", [])
        columns += [probed[column]] if column in probed else []
        columns += [evaluation_column(column, rows)] if rows else []
    return knowledge_map(columns)


def _place(column: str) -> int:
    """Return the position of a column: `before` first, then the rounds by number."""
    return 0 if column == BEFORE else int(column.removeprefix("round "))


def _json_of(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _dropped(records: Sequence[StageRecord]) -> Iterator[tuple[str, str, int | None, Mapping[str, int]]]:
    for record in records:
        for made in _made(record):
            for file, counts in counts_of(made).items():
                rows = counts.get("rows")
                yield record.label, file, rows if isinstance(rows, int) else None, dropped_of(counts)


def _time(record: StageRecord) -> StageTime:
    trained = None
    for made in _made(record):
        try:
            trained = float(json.loads((made / TIMING).read_text(encoding="utf-8"))["trained_seconds"])
        except (OSError, ValueError, KeyError):
            continue
    return StageTime(record.label, record.seconds or 0.0, trained, record.command)
