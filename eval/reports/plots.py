"""Small plots as SVG text: line charts and stacked bars. All labels are escaped.

The plots use CSS variables for their colors. `eval/reports/page.py` sets these variables for a whole page, and
`svg_file` adds them to a plot that is written to a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

COLORS = {
    "light": {
        "ink": "#1a1d21", "paper": "#ffffff", "faint": "#6a7280", "rule": "#d9dde3", "tint": "#f3f5f8",
        "line-0": "#0b62c4", "line-1": "#c2500a", "line-2": "#16794c", "line-3": "#8a3fb5", "line-4": "#a1860a",
        "line-5": "#b3254f",
        "part-right": "#4c9f70", "part-wrong": "#d9793f", "part-abstained": "#8fa6bf", "part-unsure": "#d8c98a",
    },
    "dark": {
        "ink": "#e6e8eb", "paper": "#14171a", "faint": "#9aa3af", "rule": "#343a42", "tint": "#1d2126",
        "line-0": "#6cb0ff", "line-1": "#ff9d5c", "line-2": "#5fd39b", "line-3": "#cf9bf0", "line-4": "#e0c655",
        "line-5": "#ff8fae",
        "part-right": "#3f8f63", "part-wrong": "#b9602b", "part-abstained": "#6b8199", "part-unsure": "#8f8043",
    },
}  # fmt: skip
NUMBER_AXES = ("step", "n")
"""Names of axes with whole numbers. On any other axis, x and y are ratios from 0 to 1 and shown in percent."""
LINES = 6
"""Number of different line colors; further lines repeat them."""
STYLE = (
    "svg text { fill: var(--faint); font: 11px system-ui, sans-serif; } svg .rule { stroke: var(--rule); }\n"
    "svg text.head { fill: var(--ink); font-weight: 600; }\n"
    "svg polyline { fill: none; stroke-width: 1.6; } svg .dashed { stroke-dasharray: 5 3; }\n"
    + "".join(
        f"svg .line-{n} {{ stroke: var(--line-{n}); }} .key-{n} {{ color: var(--line-{n}); }}\n" for n in range(LINES)
    )
    + "".join(
        f"svg .part-{name}, svg .key-{name} {{ fill: var(--part-{name}); }}\n"
        for name in ("right", "wrong", "abstained", "unsure")
    )
)
"""The CSS of plots, which uses the variables of `color_style`."""

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 320, 150, 46, 20, 8
_BAR, _BARS_WIDTH, _LABELS = 14, 640, 250


class Bar(NamedTuple):
    """One bar, whose parts add up to 1. A bar without data has no parts."""

    label: str
    note: str
    """The text after the bar, such as the number of cases."""
    parts: Sequence[tuple[str, float]]
    """(`right`, `wrong`, `abstained` or `unsure`, ratio from 0 to 1), from left to right."""


def color_style() -> str:
    """Return the colors as CSS variables, with those of the dark scheme for readers who prefer it."""

    def variables(scheme: str) -> str:
        return " ".join(f"--{name}: {color};" for name, color in COLORS[scheme].items())

    return (
        f":root {{ color-scheme: light dark; {variables('light')} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {variables('dark')} }} }}\n"
    )


def line_chart(
    title: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    axis: str = "step",
    *,
    large: bool = False,
    dashed: Sequence[str] = (),
) -> str:
    """Draw a line chart. Values that are not finite are left out.

    lines: name -> points (x, y).
    axis: the name of the x axis. With one of NUMBER_AXES, x is a whole number and y any number. With any other name, x
        and y are ratios from 0 to 1 and shown in percent.
    large: double the size, and add a legend below and grid lines at 20%, 40%, 60% and 80%.
    dashed: names of the lines that are dashed.
    """
    lines = {name: [p for p in points if math.isfinite(p[1])] for name, points in lines.items()}
    every = [point for points in lines.values() for point in points]
    if not every:
        return ""
    places, values = [place for place, _ in every], [value for _, value in every]
    left, right, low, high = min(places), max(places), min(values), max(values)
    if high == low:
        low, high = low - 0.5, high + 0.5
    if axis not in NUMBER_AXES:
        left, low = 0.0, 0.0
    width, height = (2 * _WIDTH, 2 * _HEIGHT) if large else (_WIDTH, _HEIGHT)
    end, bottom = width - 8, height - _BOTTOM  # the plot area is from (_LEFT, _TOP) to (end, bottom), in pixels

    def at(place: float, value: float) -> tuple[float, float]:
        """Return the pixel of a point. In SVG, y grows downwards."""
        across = _LEFT + (place - left) / ((right - left) or 1) * (end - _LEFT)
        return across, _TOP + (high - value) / (high - low) * (bottom - _TOP)

    def formatted(number: float, form: str) -> str:
        return f"{number:{form}}" if axis in NUMBER_AXES else f"{number:.0%}"

    marks = [
        f"<line class='rule' x1='{_LEFT}' y1='{bottom}' x2='{end}' y2='{bottom}'/>",
        f"<text x='{_LEFT - 4}' y='{_TOP + 8}' text-anchor='end'>{formatted(high, '.3g')}</text>",
        f"<text x='{_LEFT - 4}' y='{bottom}' text-anchor='end'>{formatted(low, '.3g')}</text>",
        f"<text x='{_LEFT}' y='{height - 5}'>{escape(axis)} {formatted(left, '.0f')}</text>",
        f"<text x='{end}' y='{height - 5}' text-anchor='end'>{formatted(right, '.0f')}</text>",
    ]
    for share in (0.2, 0.4, 0.6, 0.8) if large and axis not in NUMBER_AXES else ():
        across, up = at(share, share)
        if share < right:
            marks.append(f"<line class='rule' x1='{across:.1f}' y1='{_TOP}' x2='{across:.1f}' y2='{bottom}'/>")
            marks.append(f"<text x='{across:.1f}' y='{height - 5}' text-anchor='middle'>{share:.0%}</text>")
        if share < high - 0.05:
            marks.append(f"<line class='rule' x1='{_LEFT}' y1='{up:.1f}' x2='{end}' y2='{up:.1f}'/>")
            marks.append(f"<text x='{_LEFT - 4}' y='{up + 4:.1f}' text-anchor='end'>{share:.0%}</text>")
    for number, (name, points) in enumerate(lines.items()):
        drawn = " ".join("{:.1f},{:.1f}".format(*at(place, value)) for place, value in points)
        style = " dashed" if name in dashed else ""
        marks.append(f"<polyline class='line-{number % LINES}{style}' points='{drawn}'/>")
    down = height
    for number, name in enumerate(lines if large else ()):
        down += 16
        line = f"x1='{_LEFT}' y1='{down - 8}' x2='{_LEFT + 18}' y2='{down - 8}'"
        marks.append(f"<line class='line-{number % LINES}' {line}/>")
        marks.append(f"<text x='{_LEFT + 24}' y='{down - 4}'>{escape(name)}</text>")
    return _svg(title, width, down, marks)


def stacked_bars(title: str, groups: Sequence[tuple[str, Sequence[Bar]]], legend: Mapping[str, str]) -> str:
    """Draw groups of horizontal bars, whose parts are as wide as their ratio.

    groups: (name, bars). legend: part -> what it means.
    """
    if not groups:
        return ""
    keys = "".join(f"<tspan class='key-{part}'>■ {escape(name)}  </tspan>" for part, name in legend.items())
    marks = [f"<text x='0' y='12' xml:space='preserve'>{keys}</text>"]
    down = 16
    for name, bars in groups:
        down += 18
        marks.append(f"<text class='head' x='0' y='{down}'>{escape(name)}</text>")
        down += 6
        for bar in bars:
            marks.append(f"<text x='{_LABELS - 6}' y='{down + _BAR - 4}' text-anchor='end'>{escape(bar.label)}</text>")
            start, room = float(_LABELS), _BARS_WIDTH - _LABELS - 60
            for part, share in bar.parts:
                if share > 0:
                    box = f"x='{start:.1f}' y='{down}' width='{share * room:.1f}' height='{_BAR - 2}'"
                    marks.append(f"<rect class='part-{part}' {box}><title>{escape(part)} {share:.0%}</title></rect>")
                start += share * room
            marks.append(f"<text x='{_BARS_WIDTH - 56}' y='{down + _BAR - 4}'>{escape(bar.note)}</text>")
            down += _BAR
    return _svg(title, _BARS_WIDTH, down + 4, marks)


def svg_file(svg: str) -> str:
    """Return the content of an SVG file with this plot; an empty text if there is no plot."""
    if not svg:
        return ""
    head, _, rest = svg.partition(">")
    return f"{head} xmlns='http://www.w3.org/2000/svg'><style>{color_style()}{STYLE}</style>{rest}\n"


def _svg(title: str, width: int, height: int, marks: Sequence[str]) -> str:
    size = f"width='{width}' height='{height}' viewBox='0 0 {width} {height}'"
    return f"<svg role='img' aria-label='{escape(title)}' {size}>{''.join(marks)}</svg>"
