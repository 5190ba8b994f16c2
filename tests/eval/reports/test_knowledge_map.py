"""The knowledge map of hand-made results."""

from __future__ import annotations

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


def test_the_plot_has_a_bar_for_each_cell_with_parts_that_are_its_shares(found: list) -> None:
    drawn = map_plot(knowledge_map(found))
    bars: dict[str, list[dict]] = {}
    for value in drawn["data"]["values"]:
        bars.setdefault(value["row"], []).append(value)
    assert len(bars) == 3 + 2 + 3 + 2 + 2, "a bar for each cell that holds something"
    for parts in bars.values():
        assert parts[0]["start"] == 0
        assert [part["end"] for part in parts[:-1]] == [part["start"] for part in parts[1:]]
        assert parts[-1]["end"] == pytest.approx(1)
    unsure = [value for value in drawn["data"]["values"] if value["part"] == "unsure"]
    assert [value["share"] for value in unsure] == [0.25, 0.25]
