"""Render the report of a run (`eval/reports/rounds.py`) as a single HTML page without other files.

The page shows text that models wrote. So all text is escaped, and the page has no scripts, links or external fonts, and
a content security policy that forbids them.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from align.rounds.results import words
from eval.reports.best_of_n import NOTE, best_of_n_table, sentences
from eval.reports.knowledge_map import map_plot, map_table
from eval.reports.plots import LINES, STYLE, color_style, line_chart
from eval.reports.rounds import (
    CHANGES_NOTE,
    MAP_NOTE,
    SCORES_NOTE,
    Curve,
    Report,
    Sample,
    Table,
    change_table,
    dropped_table,
    score_table,
    summary,
    time_table,
    versions_line,
)

_STYLE = (
    color_style()
    + """
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
.faint { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
td.text { min-width: 14rem; max-width: 30rem; white-space: pre-wrap; overflow-wrap: anywhere; }
code, pre { font: .85rem/1.4 ui-monospace, monospace; }
pre { padding: .8rem; background: var(--tint); overflow-x: auto; }
.curves { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .9rem; }
"""
    + STYLE
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(report: Report) -> str:
    """Return the whole page as HTML."""
    parts = [
        f"<h1>Report of {escape(report.run_dir)}</h1>",
        f"<p>{escape(summary(report))}</p>",
        f"<h2>Before and after</h2><p class='faint'>{escape(SCORES_NOTE)}</p>",
        _table(score_table(report)),
        *_changes(report),
        *_knowledge(report),
        *_best_of_n(report),
        "<h2>Training and evaluation curves</h2>",
        *_curves(report.curves),
        "<h2>Answers to the same questions</h2>",
        *_samples(report),
        "<h2>Rows kept and dropped</h2><p class='faint'>Every data file of the run, and why rows were left out.</p>",
        _table(dropped_table(report)),
        "<h2>Time by stage</h2><p class='faint'>Training steps: the part of the time spent in optimizer steps.</p>",
        _table(time_table(report)),
        "<h2>Command and versions</h2>",
        *(f"<pre>{escape(run.command)}</pre>" for run in report.runs[-1:]),
        f"<p class='faint'>{escape(versions_line(report))}</p>",
    ]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Report of {escape(report.run_dir)}</title><style>{_STYLE}</style></head><body>\n"
    )
    return head + "\n".join(parts) + "\n</body></html>\n"


def _table(table: Table, text_from: int | None = None) -> str:
    """Render a table, which scrolls horizontally on a narrow screen. text_from: the first column with long text."""
    head, rows = table
    lines = [
        "<div class='wide'><table><thead><tr>",
        *(f"<th>{escape(text)}</th>" for text in head),
        "</tr></thead><tbody>",
    ]
    for row in rows:
        cells = [
            f"<td{' class=text' if text_from is not None and place >= text_from else ''}>{escape(text)}</td>"
            for place, text in enumerate(row)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _samples(report: Report) -> list[str]:
    if not report.samples:
        return ["<p class='faint'>No answers to compare: this requires two evaluations of the same questions.</p>"]
    by_evaluation: dict[str, list[Sample]] = {}
    for sample in report.samples:
        by_evaluation.setdefault(sample.evaluation, []).append(sample)
    parts = []
    for name, samples in by_evaluation.items():
        rows = []
        for sample in samples:
            answers = [_answer(sample, column) for column in report.columns]
            rows.append([sample.prompt, sample.expected, *answers])
        parts.append(f"<h3>{escape(words(name))}</h3>")
        parts.append(_table((["question", "expected answer", *report.columns], rows), text_from=0))
    return parts


def _answer(sample: Sample, column: str) -> str:
    return f"[{sample.verdicts[column]}] {sample.answers[column]}" if column in sample.answers else "-"


def _curves(curves: Sequence[Curve]) -> list[str]:
    if not curves:
        return ["<p class='faint'>No stage has written metrics.</p>"]
    return ["<div class='curves'>", *(_figure(curve) for curve in curves), "</div>"]


def _figure(curve: Curve) -> str:
    title = f"{curve.stage}: {words(curve.metric)}"
    drawn = line_chart(title, curve.lines, curve.axis, dashed=curve.dashed)
    if not drawn:
        return f"<figure><figcaption>{escape(title)}: no finite values</figcaption></figure>"
    keys = " ".join(f"<span class='key-{n % LINES}'>{escape(name)}</span>" for n, name in enumerate(curve.lines))
    return f"<figure><figcaption>{escape(title)} {keys}</figcaption>{drawn}</figure>"


def _changes(report: Report) -> list[str]:
    """Render the differences from the baseline as a table. Without an evaluation that has a baseline, there is none."""
    if not report.changes:
        return []
    title = f"<h2>Differences from the baseline</h2><p class='faint'>{escape(CHANGES_NOTE)}</p>"
    return [title, _table(change_table(report))]


def _knowledge(report: Report) -> list[str]:
    """Render the knowledge map as a plot and a table. Without questions about facts, there is none."""
    if not report.knowledge.entries:
        return []
    return [
        "<h2>Knowledge map</h2>",
        f"<p class='faint'>{escape(MAP_NOTE)} In percent; n is the number of questions.</p>",
        f"<figure class='wide'>{map_plot(report.knowledge)}</figure>",
        _table(map_table(report.knowledge)),
    ]


def _best_of_n(report: Report) -> list[str]:
    """Render the best-of-n curve of each round as a table. Its plots are among the curves."""
    parts = []
    for column, found in report.best_of_n.items():
        parts.append(f"<h2>Best of n, {escape(column)}</h2><p class='faint'>{escape(NOTE)}</p>")
        parts.append(_table(best_of_n_table(found)))
        parts += [f"<p>{escape(sentence)}</p>" for sentence in sentences(found)]
    return parts
