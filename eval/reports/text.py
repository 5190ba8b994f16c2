"""The report of a run as text: a table for the terminal, and Markdown. Text from models and data sets is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from align.publish.markdown import cell
from align.publish.searches import WeightSearch
from align.rounds.results import words
from eval.reports.best_of_n import NOTE, best_of_n_table, sentences
from eval.reports.knowledge_map import KnowledgeMap, map_table
from eval.reports.preferences import NOTE as PREFERENCES_NOTE
from eval.reports.quality import QualityCard, card_tables, contamination
from eval.reports.rounds import Report
from eval.reports.samples import Sample
from eval.reports.tables import (
    CHANGES_NOTE,
    MAP_NOTE,
    SCORES_NOTE,
    aligned,
    change_table,
    choice_table,
    dropped_table,
    facts_table,
    interval,
    percent,
    row_name,
    score_table,
    summary,
    time_table,
    versions_line,
)

SHOWN_SAMPLES = 12
"""Questions of each evaluation in the Markdown; the page has all samples of the report."""


def text_table(report: Report) -> str:
    """Format the scores as a table for the terminal. The interval is that of the last column."""
    if not report.columns:
        return "\n".join(["no evaluation has finished yet", *_best_of_n_lines(report), "", summary(report)])
    rows = [["", *report.columns, "(95% interval)"]]
    for (evaluation, metric), by_column in report.scores.items():
        values = [percent(by_column.get(column)) for column in report.columns]
        rows.append([row_name(evaluation, metric), *values, interval(by_column.get(report.columns[-1]))])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for name, *values in rows:
        cells = [text.rjust(width) for text, width in zip(values, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]))
    return "\n".join(
        [*lines, *_change_lines(report), *_map_lines(report.knowledge), *_best_of_n_lines(report), "", summary(report)]
    )


def markdown(report: Report) -> str:
    """Format the report as Markdown."""
    parts = [
        f"# Report of {cell(report.run_dir)}",
        summary(report),
        "## Before and after",
        SCORES_NOTE,
        _markdown_table(*score_table(report)),
    ]
    if report.choices:
        parts += ["## The best model after each round", _markdown_table(*choice_table(report))]
    for label, search in report.searches.items():
        parts += [f"## Weights of {cell(label)}", cell(search.sentence), _checkpoints_line(search)]
        parts.append(_markdown_table(search.head, search.rows))
    if report.changes:
        parts += ["## Differences from the baseline", CHANGES_NOTE, _markdown_table(*change_table(report))]
    if report.knowledge.entries:
        parts += ["## Knowledge map", f"{MAP_NOTE} In percent.", _markdown_table(*map_table(report.knowledge))]
    if report.preferences:
        parts += ["## Preferences and agreement", PREFERENCES_NOTE]
        parts.append(_markdown_table(*facts_table(report.preferences)))
    for column, found in report.best_of_n.items():
        parts += [f"## Best of n, {cell(column)}", NOTE, _markdown_table(*best_of_n_table(found)), *sentences(found)]
    parts.append("## Answers to the same questions")
    for _, samples in groupby(report.samples, key=lambda sample: sample.evaluation):
        parts += _sample_parts(list(samples))
    parts += ["## Rows kept and dropped", _markdown_table(*dropped_table(report))]
    parts += [part for card in report.quality for part in _card_parts(card)]
    parts += ["## Time by stage", _markdown_table(*time_table(report))]
    parts += ["## Command and versions", *(f"    {run.command}" for run in report.runs[-1:])]
    parts.append(versions_line(report))
    return "\n\n".join(parts) + "\n"


def _card_parts(card: QualityCard) -> list[str]:
    """A data card without its examples, which the page and `card.md` have."""
    read, kept = card.counts
    parts = [f"## Data card: {cell(card.title)}", f"{kept:,} of {read:,} rows were kept. {cell(contamination(card))}"]
    for heading, (head, rows) in card_tables(card).items():
        parts += [f"### {heading}", _markdown_table(head, rows)]
    return parts


def _checkpoints_line(search: WeightSearch) -> str:
    return f"Weights are in the order {', '.join(map(cell, search.checkpoints))}."


def _sample_parts(samples: Sequence[Sample]) -> list[str]:
    """The first samples of one evaluation as lists, and how many more the page has."""
    parts = []
    for sample in samples[:SHOWN_SAMPLES]:
        lines = [f"- **{cell(words(sample.evaluation))}:** {cell(sample.prompt)}"]
        lines.append(f"  - expected answer: {cell(sample.expected)}")
        for column, answer in sample.answers.items():
            lines.append(f"  - {cell(column)} ({cell(sample.verdicts[column])}): {cell(answer)}")
        parts.append("\n".join(lines))
    more = len(samples) - SHOWN_SAMPLES
    return [*parts, f"{more} more of {cell(words(samples[0].evaluation))} are in the page."] if more > 0 else parts


def _change_lines(report: Report) -> list[str]:
    """Format the differences from the baseline for the terminal, in percentage points."""
    if not report.changes:
        return []
    head, rows = change_table(report)
    return ["", *aligned(["against the baseline", *head[1:]], rows)]


def _map_lines(found: KnowledgeMap) -> list[str]:
    """Format the knowledge map for the terminal, in percent."""
    return ["", *aligned(*map_table(found))] if found.entries else []


def _best_of_n_lines(report: Report) -> list[str]:
    """Format what the best-of-n curves say for the terminal."""
    return [
        line
        for column, found in report.best_of_n.items()
        for line in ("", *(f"{column}, best of n: {sentence}" for sentence in sentences(found)))
    ]


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)
