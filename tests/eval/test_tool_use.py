"""Tool calls judged as values: what counts as the same call, and no call where none is expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.errors import RowError
from align.jsonl import write_rows
from align.rows import Candidate, Message, PromptRow, SFTRow, ToolCall
from eval import tool_use
from eval.intervals import share
from eval.runner import Result
from eval.tool_use import ToolUseEvalConfig, judge_call, same_value


def calling(*calls: tuple[str, dict[str, Any]], content: str = "") -> Message:
    made = tuple(ToolCall(name=name, arguments=arguments) for name, arguments in calls)  # type: ignore[arg-type]
    return Message(role="assistant", content=content, tool_calls=made)


WEATHER = calling(("weather", {"city": "Oslo", "days": 5}))
SILENT = Message(role="assistant", content="Hello.")


@pytest.mark.parametrize(
    "found, expected, verdict",
    [
        (calling(("weather", {"days": 5.0, "city": " Oslo "})), WEATHER, "right"),
        (calling(("weather", {"city": "Oslo", "days": 5}), content="Let me look."), WEATHER, "right"),
        (calling(("weather", {"city": "Oslo", "days": "5"})), WEATHER, "wrong arguments"),
        (calling(("weather", {"city": "Oslo"})), WEATHER, "wrong arguments"),
        (calling(("weather", {"city": "oslo", "days": 5})), WEATHER, "wrong arguments"),
        (calling(("forecast", {"city": "Oslo", "days": 5})), WEATHER, "wrong function"),
        (calling(("weather", {"city": "Oslo", "days": 5}), ("weather", {})), WEATHER, "wrong function"),
        (calling(("a", {"n": 1}), ("b", {})), calling(("b", {}), ("a", {"n": 1})), "right"),
        (calling(("a", {"n": 1}), ("a", {"n": 1})), calling(("a", {"n": 1}), ("a", {"n": 2})), "wrong arguments"),
        (SILENT, WEATHER, "no call"),
        (Message(role="assistant", content='<tool_call>\n{"name": "weather", "arg'), WEATHER, "malformed call"),
        (SILENT, SILENT, "right silence"),
        (WEATHER, SILENT, "needless call"),
        (Message(role="assistant", content='<tool_call>\n{"name": "weather", "arg'), SILENT, "needless call"),
    ],
)
def test_a_call_is_judged_by_its_values(found: Message, expected: Message, verdict: str) -> None:
    assert judge_call(found, expected) == verdict


@pytest.mark.parametrize(
    "left, right", [(5, 5.0), ("a", " a\n"), ({"a": 1, "b": [2.0]}, {"b": [2], "a": 1.0}), (0, -0.0), (1e20, 10**20)]
)
def test_values_that_are_the_same(left: Any, right: Any) -> None:
    assert same_value(left, right)


@pytest.mark.parametrize(
    "left, right",
    [
        (1, True),
        (0, False),
        (None, False),
        (5, "5"),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": 1, "b": None}),
        (5, 5.1),
        ("A", "a"),
    ],
)
def test_values_that_are_not(left: Any, right: Any) -> None:
    assert not same_value(left, right)


def test_shares_are_of_the_rows_that_expect_a_call_or_of_those_that_do_not(tmp_path: Path) -> None:
    asked = Message(role="user", content="Weather in Oslo for five days?")
    answers = [
        (WEATHER, WEATHER),
        (WEATHER, calling(("weather", {}))),
        (WEATHER, calling(("other", {}))),
        (WEATHER, SILENT),
        (SILENT, SILENT),
        (SILENT, WEATHER),
    ]
    rows = [SFTRow(id=str(n), source="test", messages=(asked, expected)) for n, (expected, _) in enumerate(answers)]
    write_rows(tmp_path / "rows.jsonl", rows)

    class Answering:
        def answers(self, prompts: list[PromptRow], folder: Path, label: str) -> list[Candidate]:
            assert [prompt.prompt for prompt in prompts] == [(asked,)] * 6, "the expected message must not be shown"
            shared: dict[str, Any] = {"source": "test", "prompt": (asked,), "index": 0, "seed": 0, "finished": True}
            return [
                Candidate(id=prompt.id, prompt_id=prompt.id, completion=(answers[int(prompt.id)][1],), **shared)
                for prompt in prompts
            ]

    found = tool_use.evaluate(ToolUseEvalConfig(rows=tmp_path / "rows.jsonl"), Answering(), tmp_path, None)  # type: ignore[arg-type]
    assert found.scores == {
        "parses": share(3, 4),
        "right_function": share(2, 4),
        "right_arguments": share(1, 4),
        "right_silence": share(1, 2),
    }
    assert found.rows[1]["answer"] == "weather({})"
    assert found.counts["rows"] == 6


def test_intervals_are_over_function_sets_and_differences_are_row_by_row(tmp_path: Path) -> None:
    asked = Message(role="user", content="Weather in Oslo for five days?")
    offers = [
        json.dumps([{"name": name, "description": "", "parameters": {"type": "object"}}])
        for name in ("weather", "tides", "trains", "news")
    ]
    # Five dialogs with each function; the model is right in all dialogs of the first two functions.
    rows = [
        SFTRow(id=f"{place} {n}", source="test", tools=offer, messages=(asked, WEATHER))
        for place, offer in enumerate(offers)
        for n in range(5)
    ]
    write_rows(tmp_path / "rows.jsonl", rows)

    class Answering:
        def __init__(self, right: str) -> None:
            self.right = right

        def answers(self, prompts: list[PromptRow], folder: Path, label: str) -> list[Candidate]:
            shared: dict[str, Any] = {"source": "test", "prompt": (asked,), "index": 0, "seed": 0, "finished": True}
            return [
                Candidate(
                    id=prompt.id,
                    prompt_id=prompt.id,
                    completion=(WEATHER if prompt.id[0] in self.right else SILENT,),
                    **shared,
                )
                for prompt in prompts
            ]

    def evaluate(right: str, **settings: Any) -> Result:
        config = ToolUseEvalConfig(rows=tmp_path / "rows.jsonl", **settings)
        return tool_use.evaluate(config, Answering(right), tmp_path, None)  # type: ignore[arg-type]

    before = evaluate("0")
    baseline = tmp_path / "before.json"
    baseline.write_text(json.dumps({"rows": before.rows}))
    found = evaluate("01", baseline=baseline)
    assert found.counts["clusters"] == {"by": "function set", "count": 4}
    right, plain = found.scores["right_arguments"], share(10, 20)
    assert right is not None
    assert plain is not None
    assert (right.value, right.n) == (0.5, 20)
    assert right.low < plain.low - 0.2
    assert right.high > plain.high + 0.2
    assert found.rows[0]["functions"] == ["weather"]
    assert (found.rows[0]["before"], found.rows[5]["before"], found.rows[5]["verdict"]) == ("right", "no call", "right")
    change = found.differences["right_arguments"]
    assert change is not None
    assert (change.value, change.n) == (0.25, 20)
    assert change.low <= 0 < change.value < change.high, "one of four functions is no evidence"
    assert found.differences["right_silence"] is None
    assert not before.differences
    baseline.write_text(json.dumps({"rows": before.rows[1:]}))
    with pytest.raises(
        RowError, match=r"before\.json: has no verdict for 1 of 20 rows, .* the same rows and the same limit"
    ):
        evaluate("01", baseline=baseline)
