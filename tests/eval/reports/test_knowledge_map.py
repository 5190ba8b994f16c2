"""The knowledge map of hand-made results, and charts as SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from eval.reports.knowledge_map import (
    EvaluationColumn,
    ProbeColumn,
    evaluation_column,
    knowledge_map,
    map_plot,
    map_table,
    probe_column,
)
from eval.reports.plots import Bar, line_chart, stacked_bars, svg_file

EVIL = "<script>&\"' | x"
SVG = "{http://www.w3.org/2000/svg}"


def rows(topic: str, relation: str, verdicts: str) -> list[dict]:
    names = {"r": "right", "w": "wrong", "a": "abstained"}
    return [{"topic": topic, "relation": relation, "verdict": names[letter]} for letter in verdicts]


@pytest.fixture
def found() -> list[ProbeColumn | EvaluationColumn]:
    probed = {"relations": {"capital": {"known": 1, "unknown": 2, "unsure": 0, "uninformative": 1}}}
    before = rows("countries", "capital", "rw") + rows("countries", "area", "w") + rows("elements", "symbol", "rrw")
    after = rows("countries", "capital", "ra") + rows("countries", "area", "a") + rows("elements", "symbol", "rra")
    return [evaluation_column("before", before), probe_column("round 1", probed), evaluation_column("round 1", after)]


def test_each_topic_is_the_sum_of_its_kinds_of_fact(found: list) -> None:
    head, result = map_table(knowledge_map(found))
    assert head == [
        "topic",
        "kind of fact",
        "before: right / wrong / abstained",
        "round 1, before: known / unknown / unsure",
        "round 1: right / wrong / abstained",
    ]
    assert result == [
        ["countries", "all", "33 / 67 / 0 (n 3)", "25 / 50 / 25 (n 4)", "33 / 0 / 67 (n 3)"],
        ["countries", "area", "0 / 100 / 0 (n 1)", "-", "0 / 0 / 100 (n 1)"],
        ["countries", "capital", "50 / 50 / 0 (n 2)", "25 / 50 / 25 (n 4)", "50 / 0 / 50 (n 2)"],
        ["elements", "all", "67 / 33 / 0 (n 3)", "-", "67 / 0 / 33 (n 3)"],
        ["elements", "symbol", "67 / 33 / 0 (n 3)", "-", "67 / 0 / 33 (n 3)"],
    ]


def test_a_relation_that_was_only_probed_has_no_topic() -> None:
    result = map_table(knowledge_map([ProbeColumn("round 1", {"seat": {"known": 1, "unknown": 0, "unsure": 0}})]))[1]
    assert result == [["-", "all", "100 / 0 / 0 (n 1)"], ["-", "seat", "100 / 0 / 0 (n 1)"]]


def test_rows_that_are_about_no_fact_are_left_out() -> None:
    assert knowledge_map([evaluation_column("before", [{"verdict": "right"}])]).entries == ()


def test_bars_are_as_wide_as_their_shares_and_stand_one_behind_the_other(found: list) -> None:
    drawing = ElementTree.fromstring(svg_file(map_plot(knowledge_map(found))))
    boxes = [box.attrib for box in drawing.iter(f"{SVG}rect")]
    widths: dict[str, float] = {}
    for box in boxes:
        widths[box["y"]] = widths.get(box["y"], 0) + float(box["width"])
    assert len(widths) == 3 + 2 + 3 + 2 + 2, "a bar for each cell that holds something"
    assert list(widths.values()) == [pytest.approx(330, abs=0.3)] * len(widths)
    probed = [box for box in boxes if box["class"] == "part-unsure"]
    assert len(probed) == 2
    assert float(probed[0]["width"]) == pytest.approx(330 / 4, abs=0.1)


def test_plots_escape_their_texts_and_are_well_formed() -> None:
    lines = {EVIL: [(0.0, 0.1), (1.0, 0.6)], "none": [(0.5, float("nan"))]}
    for drawn in (
        line_chart(EVIL, lines, EVIL),
        stacked_bars(EVIL, [(EVIL, [Bar(EVIL, EVIL, [("right", 0.5), ("wrong", 0.5)])])], {"right": EVIL}),
    ):
        texts = [element.text for element in ElementTree.fromstring(svg_file(drawn)).iter()]
        assert any(EVIL in (text or "") for text in texts)
    assert line_chart("x", {"none": [(0.5, float("nan"))]}) == svg_file("") == stacked_bars("x", [], {}) == ""


def test_a_share_axis_begins_at_nothing() -> None:
    drawn = line_chart("risk", {"one": [(0.5, 0.2), (1.0, 0.4)]}, "answered")
    assert "answered 0%" in drawn
    assert ">40%<" in drawn
    points = next(ElementTree.fromstring(svg_file(drawn)).iter(f"{SVG}polyline")).attrib["points"].split()
    assert points == ["179.0,69.0", "312.0,8.0"], "halfway along, and halfway up; then the top right"


def test_a_large_plot_has_grid_lines_and_a_legend() -> None:
    drawn = line_chart("risk", {"one": [(0.5, 0.2), (1.0, 0.7)]}, "answered", large=True)
    result = [element.text for element in ElementTree.fromstring(svg_file(drawn)).iter(f"{SVG}text")]
    assert result.count("40%") == 2, "along both axes"
    assert result.count("80%") == 1, "no value is as high"
    assert "one" in result
