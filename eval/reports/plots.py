"""Plots as Vega-Lite specifications: plain JSON, which `page.py` embeds and `svg_file` renders.

A specification has no colors of its own except for verdicts: those of lines come from `theme`, so that the page can
draw the same plot in a light and in a dark scheme. Texts of a specification are data for Vega, and never markup.
Source: https://vega.github.io/vega-lite/docs/.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Spec = dict[str, Any]
"""A Vega-Lite specification; empty if there is nothing to draw."""

VEGA_LITE = "6.4"
"""The version that specifications are written for; vl-convert carries several."""

COLORS: dict[str, dict[str, Any]] = {
    "light": {
        "ink": "#1a1d21", "paper": "#ffffff", "faint": "#5f6875", "rule": "#d9dde3", "tint": "#f3f5f8",
        "good": "#16794c", "bad": "#b3254f",
        "lines": ["#0b62c4", "#c2500a", "#16794c", "#8a3fb5", "#a1860a", "#b3254f", "#00838f", "#7a5c3e"],
    },
    "dark": {
        "ink": "#e6e8eb", "paper": "#14171a", "faint": "#9aa3af", "rule": "#343a42", "tint": "#1d2126",
        "good": "#5fd39b", "bad": "#ff8fae",
        "lines": ["#6cb0ff", "#ff9d5c", "#5fd39b", "#cf9bf0", "#e0c655", "#ff8fae", "#4dd0e1", "#c9a98a"],
    },
}  # fmt: skip
PARTS = {"right": "#4c9f70", "wrong": "#d9793f", "abstained": "#8fa6bf", "unsure": "#d8c98a"}
"""Colors of the parts of bars, which can be read on light and on dark paper."""
NUMBER_AXES = ("step", "n")
"""Names of axes with whole numbers. On any other axis, x and y are ratios from 0 to 1 and shown in percent."""
MOST_POINTS = 800
"""A line with more points is thinned: see `thinned`."""

_WIDTH, _HEIGHT = 640, 240
_BAR_STEP = 15
_SEPARATOR = "\u2063"
"""An invisible character, which XML allows and names hardly ever contain."""
_NOT_XML = re.compile("[^\t\n\r -\U0000d7ff\U0000e000-\U0000fffd\U00010000-\U0010ffff]")

Point = tuple[float, float]


class Bar(NamedTuple):
    """One bar, whose parts add up to 1. A bar without data has no parts."""

    label: str
    note: str
    """The text after the bar, such as the number of cases."""
    parts: Sequence[tuple[str, float]]
    """(`right`, `wrong`, `abstained` or `unsure`, ratio from 0 to 1), from left to right."""


class Estimated(NamedTuple):
    """A value with the ends of its interval, all from -1 to 1."""

    label: str
    """Where it is on the x axis, such as `round 1`."""
    value: float
    low: float
    high: float


class Span(NamedTuple):
    """Something that took time. Seconds since the first one began."""

    label: str
    group: str
    start: float
    end: float


def theme(scheme: Literal["light", "dark"]) -> dict[str, Any]:
    """Return the configuration of Vega-Lite for a color scheme."""
    colors = COLORS[scheme]
    axis = {"labelColor": colors["faint"], "titleColor": colors["faint"], "gridColor": colors["rule"],
            "domainColor": colors["rule"], "tickColor": colors["rule"], "titleFontWeight": "normal"}  # fmt: skip
    return {
        "background": "transparent",
        "font": "system-ui, sans-serif",
        "axis": axis,
        "legend": {"labelColor": colors["ink"], "titleColor": colors["faint"], "labelLimit": 280},
        "title": {"color": colors["ink"], "anchor": "start", "fontSize": 13},
        "text": {"color": colors["faint"]},
        "view": {"stroke": None},
        "range": {"category": colors["lines"]},
    }


class Dropped(NamedTuple):
    """Rows that were dropped for one reason."""

    label: str
    rows: int


def line_chart(
    title: str, lines: Mapping[str, Sequence[Point]], axis: str = "step", *, dashed: Sequence[str] = ()
) -> Spec:
    """Draw a line chart. Values that are not finite are left out.

    lines: name -> points (x, y).
    axis: the name of the x axis. With one of NUMBER_AXES, x is a whole number and y any number. With any other name, x
        and y are ratios from 0 to 1 and shown in percent, and both axes begin at 0.
    dashed: names of the lines that are dashed. A dashed line `round 1, held out` has the color of `round 1`.
    """
    finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in lines.items()}
    values: list[dict[str, Any]] = []
    for name, points in finite.items():
        color, _, kind = name.rpartition(", ") if name in dashed else (name, "", "")
        for x, y in thinned(points, MOST_POINTS):
            values.append({"x": x, "y": y, "line": name, "color": color or name, "kind": kind})
    if not values:
        return {}
    is_number = axis in NUMBER_AXES
    colors, kinds = (list(dict.fromkeys(value[name] for value in values)) for name in ("color", "kind"))
    dashes = [[5, 3] if kind else [1, 0] for kind in kinds]
    labelled = [kind for kind in kinds if kind]
    across = {
        "field": "x", "type": "quantitative", "title": axis, "scale": {"zero": not is_number, "nice": not is_number},
        "axis": _axis(is_number, "~s") | ({"tickMinStep": 1} if is_number else {}),
    }  # fmt: skip
    encoding: dict[str, Any] = {
        "x": across,
        "y": {"field": "y", "type": "quantitative", "title": None, "scale": {"zero": not is_number},
              "axis": _axis(is_number, "~g")},
        "color": _colors("color", colors),
        "strokeDash": {"field": "kind", "type": "nominal", "scale": {"domain": kinds, "range": dashes},
                       "legend": _legend("stroke") | {"values": labelled} if labelled else None},
        "detail": {"field": "line", "type": "nominal"},
    }  # fmt: skip
    return _spec(title, values, mark={"type": "line", "strokeWidth": 1.8, "clip": True}, encoding=encoding)


def stacked_bars(title: str, groups: Sequence[tuple[str, Sequence[Bar]]], legend: Mapping[str, str]) -> Spec:
    """Draw groups of horizontal bars, whose parts are as wide as their ratio.

    groups: (name, bars). legend: part -> what it means.
    """
    # A row of the plot is one value of the y axis. It begins with the number of its group, so that two groups may have
    # bars of the same name; the name of a group is a row without a bar, and ends with the number. With | for the
    # separator, the bars "before" and "after" of the first group "capital" are |capital|0, 0|before and 0|after.
    rows: list[str] = []
    values: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for number, (name, bars) in enumerate(groups):
        rows.append(f"{_SEPARATOR}{name}{_SEPARATOR}{number}")
        for bar in bars:
            row = f"{number}{_SEPARATOR}{bar.label}"
            rows.append(row)
            notes.append({"row": row, "note": bar.note})
            start = 0.0
            for part, share in bar.parts:
                if share > 0:
                    end = start + share
                    values.append({"row": row, "bar": bar.label, "of": name, "part": legend[part], "share": share,
                                   "start": start, "end": end})  # fmt: skip
                    start = end
    if not groups:
        return {}
    is_head = f"split(datum.value, '{_SEPARATOR}')[0] == ''"
    texts = f"split(datum.value, '{_SEPARATOR}')[1]"
    y = {
        "field": "row", "type": "nominal", "title": None, "sort": None,
        "scale": {"domain": rows, "paddingInner": 0.15},
        "axis": {"domain": False, "ticks": False, "labelExpr": texts, "labelLimit": 230,
                 "labelFontWeight": {"condition": {"test": is_head, "value": "bold"}, "value": "normal"}},
    }  # fmt: skip
    x = {"field": "start", "type": "quantitative", "title": None, "scale": {"domain": [0, 1]},
         "axis": {"format": ".0%", "grid": False, "values": [0, 0.5, 1]}}  # fmt: skip
    color = {"field": "part", "type": "nominal", "legend": {**_legend("square"), "orient": "top"},
             "scale": {"domain": list(legend.values()), "range": [PARTS[part] for part in legend]}}  # fmt: skip
    parts = {
        "mark": {"type": "bar"},
        "encoding": {
            "y": y, "x": x, "x2": {"field": "end"}, "color": color,
            "tooltip": [{"field": "of", "title": "kind"}, {"field": "bar", "title": "column"},
                        {"field": "part", "title": "part"}, {"field": "share", "title": "ratio", "format": ".0%"}],
        },
    }  # fmt: skip
    numbers = {
        "data": {"values": notes},
        "mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 10},
        "encoding": {
            "y": {"field": "row", "type": "nominal", "sort": None},
            "x": {"datum": 1},
            "text": {"field": "note"},
        },
    }
    return _spec(title, values, height={"step": _BAR_STEP}, layer=[parts, numbers])


def interval_chart(title: str, lines: Mapping[str, Sequence[Estimated]]) -> Spec:
    """Draw values with their intervals, in percent: one line for each name, over the labels in their order."""
    values = [{"line": name, **each._asdict()} for name, points in lines.items() for each in points]
    if not values:
        return {}
    labels = list(dict.fromkeys(value["label"] for value in values))
    names = list(lines)
    x = {"field": "label", "type": "ordinal", "title": None, "sort": None, "scale": {"domain": labels},
         "axis": {"labelAngle": 0}}  # fmt: skip
    # Lines of the same label are moved apart, so that their intervals do not cover each other.
    offset = {"field": "line", "type": "nominal", "scale": {"domain": names, "paddingOuter": 2}}
    y = {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": False}, "axis": _axis(False, "")}
    tooltip = [{"field": "line", "title": "score"}, {"field": "label", "title": "model"},
               *({"field": name, "title": name, "format": ".1%"} for name in ("value", "low", "high"))]  # fmt: skip
    shared = {"x": x, "xOffset": offset, "color": _colors("line", names, "circle"), "tooltip": tooltip}
    bars = {"mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.55},
            "encoding": {**shared, "y": {**y, "field": "low"}, "y2": {"field": "high"}}}  # fmt: skip
    points = {"mark": {"type": "point", "filled": True, "size": 55, "opacity": 1}, "encoding": {**shared, "y": y}}
    return _spec(title, values, layer=[bars, points])


def span_chart(title: str, spans: Sequence[Span]) -> Spec:
    """Draw spans of time as horizontal bars over the minutes since the first one began."""
    if not spans:
        return {}
    values: list[dict[str, Any]] = [
        {"label": one.label, "group": one.group, "start": one.start / 60, "end": one.end / 60,
         "minutes": (one.end - one.start) / 60}
        for one in spans
    ]  # fmt: skip
    labels, groups = (list(dict.fromkeys(value[name] for value in values)) for name in ("label", "group"))
    encoding = {
        "y": {"field": "label", "type": "nominal", "title": None, "sort": None, "scale": {"domain": labels},
              "axis": {"labelLimit": 160}},
        "x": {"field": "start", "type": "quantitative", "title": "minutes"},
        "x2": {"field": "end"},
        "color": _colors("group", groups, "square"),
        "tooltip": [{"field": "label", "title": "stage"}, {"field": "minutes", "format": ".1f"}],
    }  # fmt: skip
    return _spec(title, values, height={"step": _BAR_STEP}, mark={"type": "bar", "minBandSize": 2}, encoding=encoding)


def funnel_chart(title: str, total: int, drops: Sequence[Dropped]) -> Spec:
    """Draw how many of `total` rows are left after each drop, as horizontal bars: what is left, and what was dropped.

    Of 10 rows, the drops ("rules", 3) and ("copies", 2) give the bars: rows in 0-10; rules 0-7 and 7-10; copies 0-5
    and 5-7; rows kept 0-5.
    """
    if not total:
        return {}
    left, bars = total, [("rows in", 0, total)]
    for label, count in drops:
        left -= count
        bars.append((label, count, left))
    bars.append(("rows kept", 0, left))
    values: list[dict[str, Any]] = []
    for place, (label, dropped, after) in enumerate(bars):
        # A row of the plot is one value of the y axis, with its place: two gates may have the same label.
        shared = {"row": f"{place}{_SEPARATOR}{label}", "bar": label, "rows": dropped or after,
                  "note": f"-{dropped:,}" if dropped else f"{after:,}"}  # fmt: skip
        values.append({**shared, "part": "left", "start": 0, "end": after})
        values.append({**shared, "part": "dropped", "start": after, "end": after + dropped})
    y = {"field": "row", "type": "nominal", "title": None, "sort": None,
         "scale": {"domain": list(dict.fromkeys(value["row"] for value in values))},
         "axis": {"labelExpr": f"split(datum.value, '{_SEPARATOR}')[1]", "labelLimit": 330, "domain": False,
                  "ticks": False}}  # fmt: skip
    x = {"field": "start", "type": "quantitative", "title": "rows", "axis": {"format": "~s", "tickCount": 5}}
    color = {"field": "part", "type": "nominal", "legend": {**_legend("square"), "orient": "top"},
             "scale": {"domain": ["left", "dropped"], "range": [PARTS["right"], PARTS["wrong"]]}}  # fmt: skip
    tooltip = [{"field": "bar", "title": "reason"}, {"field": "rows", "title": "rows", "format": ","}]
    parts = {"mark": {"type": "bar"},
             "encoding": {"y": y, "x": x, "x2": {"field": "end"}, "color": color, "tooltip": tooltip}}  # fmt: skip
    notes = {
        "transform": [{"filter": "datum.part === 'dropped'"}],
        "mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 10},
        "encoding": {"y": {"field": "row", "type": "nominal", "sort": None},
                     "x": {"field": "end", "type": "quantitative"}, "text": {"field": "note"}},
    }  # fmt: skip
    return _spec(title, values, height={"step": _BAR_STEP}, layer=[parts, notes])


def with_hover(spec: Spec) -> Spec:
    """Return a line chart that shows the value next to the pointer. Other plots are returned unchanged."""
    if "mark" not in spec or spec["mark"]["type"] != "line":
        return spec
    encoding = spec["encoding"]
    formats = {axis: encoding[axis]["axis"]["format"] for axis in ("x", "y")}
    is_ratio = formats["y"] == ".0%"
    tooltip = [
        {"field": "line", "title": "line"},
        {"field": "x", "title": encoding["x"]["title"], "format": ".1%" if is_ratio else ","},
        {"field": "y", "title": "value", "format": ".1%" if is_ratio else ".4~g"},
    ]
    # Points react although they are invisible. `nearest` would find them from afar, but its tooltips lack texts.
    pointed = {"name": "pointed", "select": {"type": "point", "on": "pointerover", "clear": "pointerout"}}
    shown = {"condition": {"param": "pointed", "empty": False, "value": 1}, "value": 0}
    color = {name: part for name, part in encoding["color"].items() if name != "legend"}
    points = {
        "params": [pointed],
        "mark": {"type": "point", "filled": True, "size": 70, "clip": True},
        "encoding": {"x": encoding["x"], "y": encoding["y"], "color": color, "opacity": shown, "tooltip": tooltip},
    }
    rest = {name: part for name, part in spec.items() if name not in ("mark", "encoding")}
    return {**rest, "layer": [{"mark": spec["mark"], "encoding": encoding}, points]}


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Return at most `most` of the points of a line, with its first and last one and with its peaks.

    The points are cut into equal parts, and the lowest and the highest of each part are kept. For example, 9 points
    with `most` 6 are cut into 2 parts of 4 between the first and the last: the values 0 | 1 5 2 1 | 3 0 4 4 | 9 become
    0, 1, 5, 0, 4, 9.
    """
    if len(points) <= most:
        return list(points)
    inner = list(points[1:-1])
    parts = max(1, (most - 2) // 2)
    kept = [points[0]]
    for number in range(parts):
        part = inner[number * len(inner) // parts : (number + 1) * len(inner) // parts]
        places = sorted({part.index(min(part, key=lambda point: point[1])),
                         part.index(max(part, key=lambda point: point[1]))})  # fmt: skip
        kept += [part[place] for place in places]
    return [*kept, points[-1]]


def svg_file(spec: Spec) -> str:
    """Render a plot as an SVG file on white paper; an empty text if there is nothing to draw."""
    if not spec:
        return ""
    import vl_convert  # carries Vega; no browser and no network is used

    whole = {**spec, "width": _WIDTH, "title": spec["description"], "config": {**theme("light"), "background": "white"}}
    rendered: str = vl_convert.vegalite_to_svg(whole, vl_version=VEGA_LITE)
    return rendered + "\n"


def _spec(title: str, values: Sequence[Mapping[str, Any]], **parts: Any) -> Spec:
    spec: Spec = _drawable(
        {
            "description": title,
            "width": "container",
            "height": _HEIGHT,
            "autosize": {"type": "fit-x", "contains": "padding"},
            "data": {"values": list(values)},
            **parts,
        }
    )
    return spec


def _drawable(value: Any) -> Any:
    """`value` with a replacement character for each character that XML has none for: on one, vl-convert aborts."""
    if isinstance(value, str):
        return _NOT_XML.sub("\ufffd", value)
    if isinstance(value, dict):
        return {key: _drawable(inner) for key, inner in value.items()}
    return [_drawable(inner) for inner in value] if isinstance(value, list | tuple) else value


def _axis(is_number: bool, form: str) -> dict[str, Any]:
    return {"format": form if is_number else ".0%", "tickCount": 5, "labelOverlap": True}


def _colors(field: str, names: Sequence[str], symbol: str = "stroke") -> dict[str, Any]:
    """Colors of the theme for a field with these values, with a legend if there are several."""
    legend = _legend(symbol) if len(names) > 1 else None
    return {"field": field, "type": "nominal", "scale": {"domain": list(names)}, "legend": legend}


def _legend(symbol: str) -> dict[str, Any]:
    return {"title": None, "orient": "bottom", "columns": 2, "symbolType": symbol, "symbolOpacity": 1}
