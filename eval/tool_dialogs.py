"""Whole dialogs with tools: does the model make the right calls, and does its answer state their results?

Each row's dialog runs to its end with real functions, so that an early mistake and the reaction to an error count as
they would in use. `eval/tool_use.py` compares single calls with a written dialog. As there, intervals are over sets of
offered functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from align.jsonl import Drops, read_rows
from align.judges.answers.values import holds
from align.rows import ToolCall, ToolQuestionRow, tools_of
from align.settings import InputPath, InputSources, Reading
from align.tools.catalog import ToolsConfig, make_registry
from align.tools.registry import Registry
from align.tools.replay import Recorder
from eval.baseline import rows_of_baseline
from eval.intervals import paired_difference, share_of
from eval.runner import Generator, Result, completion_text, limited, prompt_text
from eval.tool_use import function_cluster, same_value


class ToolDialogsEvalConfig(Reading):
    """Questions that require tools, and the tools. A row may call only the functions that its `tools` text names."""

    rows: InputSources
    """Tool questions: the calls that lead to the answer, and what the answer must contain."""
    tools: ToolsConfig
    """The functions that are called; every function that a row offers must be among them."""
    baseline: InputPath | None = None
    """tool_dialogs.json of the starting model on the same rows. The differences from it are computed row by row."""
    max_calls: int = Field(6, ge=1)
    """How often the model is called in one dialog; a dialog that still calls a function then is not finished."""


def evaluate(config: ToolDialogsEvalConfig, generator: Generator, units: Path, limit: int | None) -> Result:
    """right_calls: of the rows with expected calls, those in which all of them were made, in their order and with equal
    values. Other calls may come between them (such as a call that failed and was corrected). If no call is expected,
    none may be made.

    executed: of the rows that tried a call, those in which every call ran without an error.
    right_answer: of the rows with answers, those whose last message contains one of them.
    finished: the dialog ended in a message without calls.

    With a baseline also the differences of right_calls, right_answer and finished from it, row by row. Which rows try a
    call depends on the model, so `executed` has no difference.
    """
    drops = Drops()
    questions = limited(read_rows(config.rows, ToolQuestionRow, config, drops=drops), limit)
    asked = {
        row.id: {
            "prompt": prompt_text(row.prompt),
            "expected": list(row.answers),
            "expected_calls": [f"{call.name}({call.arguments})" for call in row.calls or ()],
        }
        for row in questions
    }
    before = rows_of_baseline(config.baseline, asked, "rows") if config.baseline is not None else {}
    registry = make_registry(config.tools)
    recorders = [Recorder(registry.only(tool.name for tool in tools_of(row.tools))) for row in questions]
    dialogs = generator.dialogs(
        questions,
        recorders,
        max_calls=config.max_calls,
        max_result_characters=config.tools.max_result_characters,
    )
    rows: list[dict[str, Any]] = []
    for question, dialog, recorder in zip(questions, dialogs, recorders, strict=True):
        finished = dialog.ended == "answered"
        ran = [record.ok for record in recorder.records] + [False] * (dialog.ended == "malformed call")
        executed = all(ran) if ran else None
        made = [record.call for record in recorder.records]
        final = completion_text(dialog.messages[-1:]) if finished else ""
        right_calls = None if question.calls is None else made_in_order(question.calls, made, registry)
        right_answer = finished and holds(final, question.answers) if question.answers else None
        wrong = [name for name, right in (("calls", right_calls), ("answer", right_answer)) if right is False]
        rows.append(
            {
                "id": question.id,
                "source": question.source,
                "prompt": prompt_text(question.prompt),
                "answer": final,
                "verdict": (f"wrong {' and '.join(wrong)}" if wrong else "right") if finished else dialog.ended,
                "expected": list(question.answers),
                "functions": sorted({tool.name for tool in tools_of(question.tools)}),
                "expected_calls": [f"{call.name}({call.arguments})" for call in question.calls or ()],
                "dialog": prompt_text((*question.prompt, *dialog.messages)),
                "reason": dialog.reason,
                "right_calls": right_calls,
                "executed": executed,
                "right_answer": right_answer,
                "finished": finished,
            }
        )
    metrics = ("right_calls", "executed", "right_answer", "finished")
    scores, differences = {}, {}
    for name in metrics:
        judged = [row for row in rows if row[name] is not None]
        clusters = [function_cluster(row) for row in judged]
        after = [float(row[name]) for row in judged]
        scores[name] = share_of(after, clusters)
        if before and name != "executed":
            differences[name] = paired_difference([float(before[row["id"]][name]) for row in judged], after, clusters)
    counts: dict[str, Any] = {"rows": len(rows), **Counter(row["verdict"] for row in rows)}
    counts["clusters"] = {"by": "function set", "count": len(set(map(function_cluster, rows)))}
    errors = Counter(record.error for recorder in recorders for record in recorder.records if record.error)
    details = {"errors": dict(errors), "by_source": by_source(rows, metrics)}
    return Result(scores, counts | details | drops.dropped, rows, differences)


def by_source(rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> dict[str, dict[str, str]]:
    """Source -> metric -> "7 of 30", over the rows that have the metric."""
    found: dict[str, dict[str, str]] = {}
    for source in sorted({row["source"] for row in rows}):
        own = [row for row in rows if row["source"] == source]
        judged = {name: [row[name] for row in own if row[name] is not None] for name in metrics}
        found[source] = {name: f"{sum(values)} of {len(values)}" for name, values in judged.items() if values}
    return found


def made_in_order(expected: Sequence[ToolCall], made: Sequence[ToolCall], registry: Registry) -> bool:
    """Whether the expected calls are among those made, in order. An argument equal to its default may be left out.

    Expected a, b: "a x b" and "x a b" are in order, "b a" is not.
    """
    if not expected:
        return not made
    remaining = iter(
        made
    )  # shared by all searches: `any` stops behind the call that it found, and the next one goes on
    return all(any(_same_call(call, other, registry) for other in remaining) for call in expected)


def _same_call(expected: ToolCall, made: ToolCall, registry: Registry) -> bool:
    if expected.name != made.name:
        return False
    schema = registry.tools[made.name].spec.parameters if made.name in registry.tools else {}
    defaults = {key: value["default"] for key, value in schema.get("properties", {}).items() if "default" in value}
    return same_value(defaults | expected.parsed(), defaults | made.parsed())
