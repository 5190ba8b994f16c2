"""Tool calls judged as values: what counts as the same call, and no call where none is expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.jsonl import write_rows
from align.rows import Candidate, Message, PromptRow, SFTRow, ToolCall
from eval import tool_use
from eval.intervals import share
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
