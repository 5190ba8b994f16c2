"""The report of a run (`eval/reports/rounds.py`) as a single HTML page without other files.

The page shows text that models wrote. Three things keep it from acting: the templates escape all text, plots are JSON
that Vega draws without evaluating code, and a content security policy allows only the page's own two scripts, by their
hashes, and no request at all. So the page opens offline, and needs no server.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from align.reporting import duration
from align.rounds.results import words
from eval.reports.best_of_n import NOTE, best_of_n_table, sentences
from eval.reports.columns import BEFORE
from eval.reports.curves import Curve
from eval.reports.knowledge_map import map_plot, map_table
from eval.reports.plots import (
    COLORS,
    VEGA_LITE,
    Estimated,
    Span,
    Spec,
    interval_chart,
    line_chart,
    span_chart,
    theme,
    with_hover,
)
from eval.reports.preferences import NOTE as PREFERENCES_NOTE
from eval.reports.quality import NOTE as QUALITY_NOTE
from eval.reports.quality import card_tables, contamination, funnel
from eval.reports.rounds import Report
from eval.reports.samples import tone_of
from eval.reports.tables import (
    CHANGES_NOTE,
    FLOWS_NOTE,
    MAP_NOTE,
    SCORES_NOTE,
    change_table,
    choice_table,
    facts_table,
    flow_table,
    score_table,
    summary,
    time_table,
    versions_line,
)

TEMPLATES = Path(__file__).parent / "templates"
MOST_SCORES = 6
"""Scores of one evaluation in its plot; the table has all of them."""


class Figure(NamedTuple):
    """A plot of the page. An empty specification has nothing to draw."""

    title: str
    spec: Spec


class Live(NamedTuple):
    """What a page needs that a server renders again while the run goes on."""

    state: str
    """A fingerprint of what the page was made from; the server's current one is at the path `state`."""
    seconds: float
    """How often the page asks for it."""


def page(report: Report, live: Live | None = None) -> str:
    """Return the whole page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"words": words, "duration": duration, "tone": tone_of}
    scripts = {"library": _library(), "own": (TEMPLATES / "report.js").read_text(encoding="utf-8")}
    figures = _figures(report)
    plots = {name: [with_hover(figure.spec) for figure in group] for name, group in figures.items()}
    return environment.get_template("report.html").render(
        report=report,
        live=live,
        policy=_policy(scripts.values(), live),
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        scripts=scripts,
        colors=COLORS,
        data={"plots": plots, "themes": {scheme: theme(scheme) for scheme in ("light", "dark")}},
        figures=figures,
        summary=summary(report),
        versions=versions_line(report),
        notes={
            "scores": SCORES_NOTE,
            "changes": CHANGES_NOTE,
            "map": MAP_NOTE,
            "flows": FLOWS_NOTE,
            "best_of_n": NOTE,
            "preferences": PREFERENCES_NOTE,
            "quality": QUALITY_NOTE,
        },
        tables=_tables(report),
        flows=[(name, [(flow.file, flow_table(flow)) for flow in group]) for name, group in _by_stage(report)],
        best_of_n=[(column, best_of_n_table(found), sentences(found)) for column, found in report.best_of_n.items()],
        quality=[(card, card_tables(card), contamination(card)) for card in report.quality],
        current=_current(report),
    )


def _tables(report: Report) -> dict[str, Any]:
    head, times = time_table(report)
    return {
        "scores": score_table(report),
        "changes": change_table(report) if report.changes else None,
        "choices": choice_table(report) if report.choices else None,
        "map": map_table(report.knowledge) if report.knowledge.entries else None,
        "preferences": facts_table(report.preferences) if report.preferences else None,
        "times": (head[:-1], [row[:-1] for row in times]),  # without the command, which the lineage has
    }


def _by_stage(report: Report) -> list[tuple[str, list[Any]]]:
    """The flows of each stage, which follow each other in the report."""
    return [(name, list(group)) for name, group in groupby(report.flows, key=lambda flow: flow.stage)]


def _current(report: Report) -> list[str]:
    """What runs at the moment, such as `round-2/sft, for 3 min`."""
    running = [state for state in report.states if state.state == "running"]
    return [f"{state.label}, for {duration(state.seconds or 0)}" for state in running] if report.is_running else []


def _figures(report: Report) -> dict[str, list[Figure]]:
    """The plots of each section."""
    knowledge = map_plot(report.knowledge)
    return {
        "scores": list(_score_figures(report)),
        "training": [_line_figure(curve) for curve in report.curves if curve.axis == "step"],
        "curves": [_line_figure(curve) for curve in report.curves if curve.axis != "step"],
        "knowledge": [Figure(knowledge["description"], knowledge)] if knowledge else [],
        "quality": [Figure(card.title, funnel(card)) for card in report.quality],
        "times": _time_figures(report),
    }


def _line_figure(curve: Curve) -> Figure:
    return Figure(curve.title, line_chart(curve.title, curve.lines, curve.axis, dashed=curve.dashed))


def _score_figures(report: Report) -> Iterable[Figure]:
    """One plot for each evaluation, if there are scores of two models or more."""
    for evaluation, metrics in groupby(report.scores, key=lambda key: key[0]):
        names = [metric for _, metric in metrics]
        lines = {}
        for metric in names[:MOST_SCORES]:
            by_column = report.scores[evaluation, metric]
            lines[words(metric)] = [
                Estimated(column, score["value"], score["low"], score["high"])
                for column in report.columns
                if (score := by_column.get(column))
                and all(score.get(end) is not None for end in ("value", "low", "high"))
            ]
        if any(len(points) > 1 for points in lines.values()):
            title = words(evaluation)
            title += f": the first {MOST_SCORES} of {len(names)} scores" if len(names) > MOST_SCORES else ""
            yield Figure(title, interval_chart(title, lines))


def _time_figures(report: Report) -> list[Figure]:
    """When each stage ran. Stages are in the order of their start; pauses between two starts are left as they were."""
    if not report.times:
        return []
    times = sorted(report.times, key=lambda time: time.started)
    first = times[0].started
    spans = [Span(time.label, time.column, time.started - first, time.started - first + time.seconds) for time in times]
    title = "when each stage ran"
    return [Figure(title, span_chart(title, spans))]


def _group(column: str) -> str:
    return "outside the rounds" if column == BEFORE else column


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script (BSD-3-Clause), as the installed vl-convert carries them."""
    import vl_convert

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    # Inside <script> the browser reads until "</script"; a carriage return would change the text, and so its hash.
    assert not any(mark in script.lower() for mark in ("</script", "<!--", "\r"))
    return script


def _policy(scripts: Iterable[str], live: Live | None) -> str:
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    connect = "connect-src 'self'; " if live else ""
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; {connect}"
        "base-uri 'none'; form-action 'none'"
    )
