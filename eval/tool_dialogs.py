"""Tool dialogs, run live: does the model make the right calls, and say what came out of them.

Each row's dialog runs to its end with real functions, so an early mistake and what the model makes of an error count as
they would in use. How single calls are judged against a written dialog is `eval/tool_use.py`.
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
from align.settings import InputSources, Reading
from align.tools.catalog import ToolsConfig, make_registry
from align.tools.registry import Registry
from align.tools.replay import Recorder
from eval.intervals import share
from eval.runner import Generator, Result, completion_text, limited, prompt_text
from eval.tool_use import same_value


class ToolDialogsEvalConfig(Reading):
    """Questions that want tools, and the tools. A row may call the functions that its `tools` text names, no other."""

    rows: InputSources
    """Tool questions: calls that lead to the answer, and what it must hold."""
    tools: ToolsConfig
    """What answers the calls; every function that a row offers must be among them."""
    max_calls: int = Field(6, ge=1)
    """The model is called at most so often in one dialog; one that still wants a call then is not finished."""


def evaluate(config: ToolDialogsEvalConfig, generator: Generator, units: Path, limit: int | None) -> Result:
    """right_calls: of the rows that say which calls are wanted, those in which all were made, in their order and with
    equal values. Other calls may stand between them (a look at something else, a call that failed and was mended);
    where none is wanted, none may be made.

    executed: of the rows that tried a call, those in which every one ran without an error.
    right_answer: of the rows with answers, those that ended in a message that holds one of them.
    finished: the dialog ended by itself in a message without calls.
    """
    drops = Drops()
    questions = limited(read_rows(config.rows, ToolQuestionRow, config, drops=drops), limit)
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
    judged = {name: [row[name] for row in rows if row[name] is not None] for name in metrics}
    scores = {name: share(sum(verdicts), len(verdicts)) for name, verdicts in judged.items()}
    counts = {"rows": len(rows), **Counter(row["verdict"] for row in rows)}
    errors = Counter(record.error for recorder in recorders for record in recorder.records if record.error)
    details = {"errors": dict(errors), "by_source": by_source(rows, metrics)}
    return Result(scores, counts | details | drops.dropped, rows)


def by_source(rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> dict[str, dict[str, str]]:
    """Source -> metric -> "7 of 30", over the rows that it is judged on."""
    found: dict[str, dict[str, str]] = {}
    for source in sorted({row["source"] for row in rows}):
        own = [row for row in rows if row["source"] == source]
        judged = {name: [row[name] for row in own if row[name] is not None] for name in metrics}
        found[source] = {name: f"{sum(values)} of {len(values)}" for name, values in judged.items() if values}
    return found


def made_in_order(wanted: Sequence[ToolCall], made: Sequence[ToolCall], registry: Registry) -> bool:
    """Whether the wanted calls stand among those made, in order. A default that is spelled out is the same call."""
    if not wanted:
        return not made
    remaining = iter(made)  # `any` leaves it behind the call that it found
    return all(any(_same_call(call, other, registry) for other in remaining) for call in wanted)


def _same_call(wanted: ToolCall, made: ToolCall, registry: Registry) -> bool:
    if wanted.name != made.name:
        return False
    schema = registry.tools[made.name].spec.parameters if made.name in registry.tools else {}
    defaults = {key: value["default"] for key, value in schema.get("properties", {}).items() if "default" in value}
    return same_value(defaults | wanted.parsed(), defaults | made.parsed())
