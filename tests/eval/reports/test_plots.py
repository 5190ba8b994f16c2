"""Plots as specifications, and rendered: where lines and bars are, what is escaped, what thinning keeps."""

from __future__ import annotations

import json
import math
from xml.etree import ElementTree

import pytest

from eval.reports.plots import (
    Bar,
    Dropped,
    Estimated,
    Span,
    funnel_chart,
    interval_chart,
    line_chart,
    span_chart,
    stacked_bars,
    svg_file,
    thinned,
    with_hover,
)
from tests.eval.reports.svg import bars_of, lines_of

EVIL = "<script>&\"' | x\x01"
LEGEND = {"right": "right", "wrong": EVIL}
NAN = float("nan")


def test_a_line_goes_from_the_first_step_to_the_last_and_is_as_high_as_its_values() -> None:
    values = [3 / step for step in range(1, 9)]
    spec = line_chart("loss", {"one": list(enumerate(values, start=1))})
    (points,) = lines_of(ElementTree.fromstring(svg_file(spec)))
    assert points[0] == (0, 0), "the highest loss is at the top left"
    width, height = points[-1]
    assert 0.9 * spec["height"] < height <= spec["height"], "and the lowest at the bottom right"
    assert [x / width for x, _ in points] == pytest.approx([step / 7 for step in range(8)], abs=1e-3)
    drops = [(values[0] - value) / (values[0] - values[-1]) for value in values]
    assert [y / height for _, y in points] == pytest.approx(drops, abs=1e-3)


def test_an_axis_of_ratios_begins_at_zero() -> None:
    spec = line_chart("risk", {"one": [(0.5, 0.2), (1.0, 0.4)]}, "answered")
    drawing = ElementTree.fromstring(svg_file(spec))
    (points,) = lines_of(drawing)
    assert points[0][0] == pytest.approx(points[1][0] / 2), "halfway along"
    assert points[0][1] == pytest.approx(spec["height"] / 2), "and halfway up"
    assert points[1][1] == 0
    texts = list(drawing.itertext())
    assert {"0%", "40%", "100%", "answered", "risk"} <= set(texts)


def test_a_held_out_line_is_dashed_and_has_the_color_of_its_round() -> None:
    lines = {
        "round 1": [(1, 3.0), (2, 2.0)],
        "round 2": [(1, 3.0), (2, 1.0)],
        "round 2, held out": [(1, 3.0), (2, 2.5)],
    }
    drawing = ElementTree.fromstring(svg_file(line_chart("loss", lines, dashed=["round 2, held out"])))
    paths = [path for path in drawing.iter() if path.get("aria-roledescription") == "line mark"]
    styles = {(path.get("stroke"), path.get("stroke-dasharray")) for path in paths}
    solid = {color for color, dash in styles if dash != "5,3"}
    dashed = {color for color, dash in styles if dash == "5,3"}
    assert len(solid) == 2
    assert len(dashed) == 1
    assert dashed < solid
    assert "held out" in list(drawing.itertext()), "in the legend"


def test_parts_of_bars_follow_each_other_and_are_as_wide_as_their_ratios() -> None:
    groups = [
        ("capital", [Bar("before", "n 4", [("right", 0.25), ("wrong", 0.75)]), Bar("after", "n 2", [("right", 1.0)])])
    ]
    drawing = ElementTree.fromstring(svg_file(stacked_bars("map", groups, LEGEND)))
    (right, wrong, alone) = bars_of(drawing)
    assert right[0] == 0
    assert wrong[0] == pytest.approx(right[1])
    assert right[1] / wrong[1] == pytest.approx(1 / 3)
    assert alone[1] == pytest.approx(right[1] + wrong[1])
    assert {"capital", "before", "after", "n 4"} <= set(drawing.itertext())


def test_bars_of_two_groups_may_have_the_same_name() -> None:
    bars = [Bar("before", "n 1", [("right", 1.0)])]
    drawing = ElementTree.fromstring(svg_file(stacked_bars("map", [("capital", bars), ("capital", bars)], LEGEND)))
    assert len(bars_of(drawing)) == 2


def test_a_funnel_shows_what_is_left_and_what_was_dropped_next_to_it() -> None:
    spec = funnel_chart("rows", 10, [Dropped("rules", 3), Dropped("copies", 2)])
    drawing = ElementTree.fromstring(svg_file(spec))
    whole, *bars = [bar for bar in bars_of(drawing) if bar[1]]
    ends = [(left / whole[1] * 10, (left + width) / whole[1] * 10) for left, width in (whole, *bars)]
    expected = [(0, 10), (0, 7), (7, 10), (0, 5), (5, 7), (0, 5)]
    assert [end for pair in ends for end in pair] == pytest.approx([end for pair in expected for end in pair], abs=0.02)
    assert {"rows in", "rules", "copies", "rows kept", "10", "-3", "-2", "5"} <= set(drawing.itertext())


def test_texts_are_data_and_never_markup() -> None:
    estimates = {EVIL: [Estimated(EVIL, 0.5, 0.4, 0.6)], "other": [Estimated("x", 0.5, 0.4, 0.6)]}
    for spec in (
        line_chart(EVIL, {EVIL: [(0.0, 0.1), (1.0, 0.6)], "none": [(0.5, NAN)]}, EVIL),
        stacked_bars(EVIL, [(EVIL, [Bar(EVIL, EVIL, [("right", 0.5), ("wrong", 0.5)])])], LEGEND),
        interval_chart(EVIL, estimates),
        span_chart(EVIL, [Span(EVIL, EVIL, 0, 60)]),
        funnel_chart(EVIL, 2, [Dropped(EVIL, 1)]),
    ):
        drawing = ElementTree.fromstring(svg_file(spec))
        assert any(EVIL.replace("\x01", "\ufffd") in text for text in drawing.itertext())
        assert not [element for element in drawing.iter() if element.tag.endswith("script")]


def test_nothing_to_draw_gives_an_empty_specification_and_no_file() -> None:
    assert line_chart("x", {"none": [(0.5, NAN), (1.0, math.inf)]}) == stacked_bars("x", [], {}) == {}
    assert interval_chart("x", {"none": []}) == span_chart("x", []) == funnel_chart("x", 0, []) == {}
    assert svg_file({}) == ""


def test_a_page_adds_the_values_under_the_pointer_to_lines_only() -> None:
    spec = line_chart("loss", {"one": [(1, 3.0), (2, 2.0)]})
    line, points = with_hover(spec)["layer"]
    assert line["mark"] == spec["mark"]
    assert [field["field"] for field in points["encoding"]["tooltip"]] == ["line", "x", "y"]
    bars = span_chart("times", [Span("sft", "round 1", 0, 60)])
    assert with_hover(bars) == bars
    assert with_hover({}) == {}
    json.dumps(with_hover(spec), allow_nan=False)


def test_a_thinned_line_keeps_its_ends_and_its_peaks() -> None:
    values = [0, 1, 5, 2, 1, 3, 0, 4, 4, 9]
    assert [y for _, y in thinned(list(enumerate(values)), 6)] == [0, 1, 5, 0, 4, 9]
    long = [(float(step), math.sin(step)) for step in range(10_000)]
    long[4321] = (4321.0, 50.0)
    kept = thinned(long, 800)
    assert len(kept) <= 800
    assert kept == sorted(kept)
    assert (4321.0, 50.0) in kept
    assert (kept[0], kept[-1]) == (long[0], long[-1])
    assert thinned(long[:5], 5) == long[:5]
