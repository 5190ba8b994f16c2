"""The report as one HTML page that needs nothing beside it; what it tells is `eval/report.py`.

No script, no link, no font from elsewhere, and a policy in the page that forbids them: it shows text that models wrote.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from align.rounds.results import words
from eval.report import Curve, Report, Sample, Table, dropped_table, score_table, summary, time_table, versions_line

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1d21; --paper: #ffffff; --faint: #6a7280; --rule: #d9dde3; --tint: #f3f5f8;
  --line-0: #0b62c4; --line-1: #c2500a; --line-2: #16794c; --line-3: #8a3fb5; --line-4: #a1860a; --line-5: #b3254f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --paper: #14171a; --faint: #9aa3af; --rule: #343a42; --tint: #1d2126;
    --line-0: #6cb0ff; --line-1: #ff9d5c; --line-2: #5fd39b; --line-3: #cf9bf0; --line-4: #e0c655;
    --line-5: #ff8fae; } }
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
svg text { fill: var(--faint); font-size: 11px; } svg .rule { stroke: var(--rule); }
svg polyline { fill: none; stroke-width: 1.6; }
""" + "".join(
    f"svg .line-{n} {{ stroke: var(--line-{n}); }} .key-{n} {{ color: var(--line-{n}); }}\n" for n in range(6)
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 320, 150, 46, 20, 8


def page(report: Report) -> str:
    """The whole page."""
    parts = [
        f"<h1>Report of {escape(report.run_dir)}</h1>",
        f"<p>{escape(summary(report))}</p>",
        "<h2>Before and after</h2><p class='faint'>Held-out data. In brackets: 95% interval, in percent.</p>",
        _table(score_table(report)),
        "<h2>Curves</h2>",
        *_curves(report.curves),
        "<h2>Answers to the same questions</h2>",
        *_samples(report),
        "<h2>Rows kept and dropped</h2>",
        _table(dropped_table(report)),
        "<h2>Time by stage</h2>",
        _table(time_table(report)),
        "<h2>How it was made</h2>",
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
    """A table that scrolls by itself on a narrow screen. text_from: the first column that holds long text."""
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
        return ["<p class='faint'>None: two evaluations of the same questions are wanted.</p>"]
    by_evaluation: dict[str, list[Sample]] = {}
    for sample in report.samples:
        by_evaluation.setdefault(sample.evaluation, []).append(sample)
    parts = []
    for name, samples in by_evaluation.items():
        rows = []
        for sample in samples:
            told = [_answer(sample, column) for column in report.columns]
            rows.append([sample.prompt, sample.expected, *told])
        parts.append(f"<h3>{escape(words(name))}</h3>")
        parts.append(_table((["question", "expected", *report.columns], rows), text_from=0))
    return parts


def _answer(sample: Sample, column: str) -> str:
    return f"[{sample.verdicts[column]}] {sample.answers[column]}" if column in sample.answers else "-"


def _curves(curves: Sequence[Curve]) -> list[str]:
    if not curves:
        return ["<p class='faint'>No stage wrote metrics.</p>"]
    return ["<div class='curves'>", *(_figure(curve) for curve in curves), "</div>"]


def _figure(curve: Curve) -> str:
    """One chart: steps to the right, the metric upwards, a line a round. Values that are not finite are left out."""
    lines = {name: [p for p in points if math.isfinite(p[1])] for name, points in curve.lines.items()}
    every = [point for points in lines.values() for point in points]
    title = f"{curve.stage}: {words(curve.metric)}"
    if not every:
        return f"<figure><figcaption>{escape(title)}: no finite value</figcaption></figure>"
    steps, values = [step for step, _ in every], [value for _, value in every]
    right, low, high = max(steps), min(values), max(values)
    left = min(steps)
    if high == low:
        low, high = low - 0.5, high + 0.5

    def place(step: float, value: float) -> str:
        across = _LEFT + (step - left) / ((right - left) or 1) * (_WIDTH - _LEFT - 8)
        up = _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{up:.1f}"

    floor = _HEIGHT - _BOTTOM
    marks = [
        f"<line class='rule' x1='{_LEFT}' y1='{floor}' x2='{_WIDTH - 8}' y2='{floor}'/>",
        f"<text x='{_LEFT - 4}' y='{_TOP + 8}' text-anchor='end'>{high:.3g}</text>",
        f"<text x='{_LEFT - 4}' y='{floor}' text-anchor='end'>{low:.3g}</text>",
        f"<text x='{_LEFT}' y='{_HEIGHT - 5}'>step {left:.0f}</text>",
        f"<text x='{_WIDTH - 8}' y='{_HEIGHT - 5}' text-anchor='end'>{right:.0f}</text>",
    ]
    for number, points in enumerate(lines.values()):
        drawn = " ".join(place(step, value) for step, value in points)
        marks.append(f"<polyline class='line-{number % 6}' points='{drawn}'/>")
    keys = " ".join(f"<span class='key-{number % 6}'>{escape(name)}</span>" for number, name in enumerate(lines))
    size = f"width='{_WIDTH}' height='{_HEIGHT}' viewBox='0 0 {_WIDTH} {_HEIGHT}'"
    box = f"<svg role='img' aria-label='{escape(title)}' {size}>"
    return f"<figure><figcaption>{escape(title)} {keys}</figcaption>{box}{''.join(marks)}</svg></figure>"
