"""The tables of the report of a run: head and rows as text, for the terminal, for Markdown and for the page."""

from __future__ import annotations

from collections.abc import Sequence

from align.effective_time import EffectiveTime
from align.reporting import duration
from align.rounds.results import words
from eval.intervals import percent_range
from eval.reports.columns import label_of
from eval.reports.flows import Flow, RowCounts
from eval.reports.rounds import Report, Score
from eval.runner import points

_SHOWN_CAUSES = 3

Table = tuple[list[str], list[list[str]]]

SCORES_NOTE = "Measured on held-out data. In parentheses: 95% confidence interval, in percent. n: number of cases."
CHANGES_NOTE = (
    "Each model minus the baseline of its evaluation, on the same questions, in percentage points. In parentheses: 95% "
    "confidence interval. An interval without 0 is a significant difference, if it is the only one that is looked at."
)
MAP_NOTE = (
    "Known, unknown and unsure: the probe before a round, which asks every training question several times. "
    "Right, wrong and abstained: the evaluation after it, which asks every held-out question once."
)
FLOWS_NOTE = (
    "Every data file of the run: rows in, rows dropped with the reason, rows kept. A repeated row is a copy of another "
    "one whose source has a weight above 1."
)


def row_name(evaluation: str, metric: str) -> str:
    """Return the readable name of a metric, such as `wrong answers` or `tool use: parses`."""
    if evaluation == "factuality":
        return words(metric) + (" answers" if metric in ("right", "wrong") else "")
    if evaluation == metric or evaluation.endswith(f"_{metric}"):
        return words(evaluation)
    return f"{words(evaluation)}: {words(metric)}"


def score_table(report: Report) -> Table:
    """Return head and rows of the table of scores."""
    rows = []
    for (evaluation, metric), by_column in report.scores.items():
        values = [f"{percent(s)} {interval(s)}".strip() for s in (by_column.get(c) for c in report.columns)]
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
    """Return head and rows of the table of kept and dropped rows, with a line for each file of each round."""
    rows = []
    for flow in report.flows:
        for column, counts in flow.counts.items():
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.dropped.items())
            dropped = f"{sum(counts.dropped.values()):,}"
            rows.append([label_of(flow.stage, column), flow.file, _count(counts.kept), dropped, reasons])
    return ["stage", "file", "rows kept", "rows dropped", "reasons"], rows


def flow_table(flow: Flow) -> Table:
    """Return head and rows of one data file, with a column for each round: rows in, minus dropped, rows kept."""
    columns = list(flow.counts)
    found = [flow.counts[column] for column in columns]
    reasons = dict.fromkeys(reason for counts in found for reason in counts.dropped)
    rows = [["rows in", *(_count(counts.read) for counts in found)]] if any(map(_has_read, found)) else []
    rows += [[reason, *(_dropped(counts, reason) for counts in found)] for reason in reasons]
    if any(counts.copies for counts in found):
        rows.append(["repeated", *(f"+{counts.copies:,}" if counts.copies else "" for counts in found)])
    rows.append(["rows kept", *(_count(counts.kept) for counts in found)])
    return ["", *columns], rows


def facts_table(facts: dict[str, dict[str, str]]) -> Table:
    """Return head and rows of facts by column: name of the column -> name of the fact -> value."""
    names = dict.fromkeys(name for own in facts.values() for name in own)
    return ["", *facts], [[name, *(own.get(name, "-") for own in facts.values())] for name in names]


def choice_table(report: Report) -> Table:
    """Return head and rows of the best model after each round, and of the experts."""
    rows = [[str(one.after_round), one.name, one.path, one.reason] for one in report.choices]
    return ["after round", "name", "model", "why"], rows


def time_table(report: Report) -> Table:
    """Return head and rows of the table of times."""
    rows = []
    for time in report.times:
        rows.append([time.label, duration(time.seconds), *_effective(time.effective), time.command])
    return ["stage", "total time", "training steps", "effective", "other time", "command"], rows


def _effective(time: EffectiveTime | None) -> tuple[str, str, str]:
    """Time in optimizer steps that count, its ratio since the first start, and the largest causes of the rest."""
    if time is None:
        return "-", "-", "-"
    causes = sorted(time.causes.items(), key=lambda each: -each[1])[:_SHOWN_CAUSES]
    rest = [f"{cause} {duration(seconds)}" for cause, seconds in causes if seconds >= 0.5]
    starts = f" ({time.starts} starts)" if time.starts > 1 else ""
    return duration(time.useful), f"{time.ratio:.0%}{starts}", ", ".join(rest) or "-"


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


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Format a table for the terminal, with columns of equal width."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]


def percent(score: Score | None) -> str:
    return "-" if not score or score.get("value") is None else f"{score['value']:.0%}"


def interval(score: Score | None) -> str:
    if not score or score.get("low") is None or score.get("high") is None:
        return ""
    return f"({percent_range(score['low'], score['high'])})"


def _count(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _has_read(counts: RowCounts) -> bool:
    return counts.read is not None


def _dropped(counts: RowCounts, reason: str) -> str:
    return f"-{counts.dropped[reason]:,}" if reason in counts.dropped else ""
