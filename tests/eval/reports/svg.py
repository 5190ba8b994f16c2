"""Reads rendered plots: the coordinates of lines and bars, by the roles that Vega gives them."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

PATH = "{http://www.w3.org/2000/svg}path"


def lines_of(drawing: Element) -> list[list[tuple[float, float]]]:
    """The points of each line, in pixels."""
    return [_points(path) for path in drawing.iter(PATH) if path.get("aria-roledescription") == "line mark"]


def bars_of(drawing: Element) -> list[tuple[float, float]]:
    """(left, width) of each bar, in pixels."""
    found = []
    for path in drawing.iter(PATH):
        if path.get("aria-roledescription") == "bar":
            across = [x for x, _ in _points(path)]
            found.append((min(across), max(across) - min(across)))
    return found


def _points(path: Element) -> list[tuple[float, float]]:
    """The ends of a path of absolute and relative straight lines: `M0,10L20,30` or `M1,2h10v5h-10Z`."""
    x = y = 0.0
    found = []
    for command, numbers in re.findall(r"([MLhvHVZ])([^MLhvHVZ]*)", path.get("d", "")):
        values = [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", numbers)]
        if command in "ML":
            x, y = values
        elif command in "hH":
            x = values[0] + (x if command == "h" else 0)
        elif command in "vV":
            y = values[0] + (y if command == "v" else 0)
        found.append((x, y))
    return found
