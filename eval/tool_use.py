"""Tool use: does the model call the right function with the right arguments, and make no call when none is needed?

A row is a dialog whose last message is the expected one. Calls are compared as values, not as text.

Rows that offer the same functions are not independent: a model that has understood a function calls it right in each of
its dialogs. The question is how it does on functions that it was not trained on, so all intervals are over sets of
functions, which are wider than those over dialogs or rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from align.jsonl import Drops, read_rows
from align.rows import Message, PromptRow, SFTRow, ToolCall, tools_of
from align.settings import InputPath, InputSources, Reading
from eval.baseline import rows_of_baseline
from eval.intervals import Share, paired_difference, share_of
from eval.runner import Generator, Result, completion_text, limited, prompt_text

CallVerdict = Literal["right", "wrong arguments", "wrong function", "malformed call", "no call"]
SilenceVerdict = Literal["right silence", "needless call"]


class ToolUseEvalConfig(Reading):
    """Dialogs with functions on offer."""

    rows: InputSources
    """SFT rows; the last message is the expected one. Their functions must not be in the training data."""
    baseline: InputPath | None = None
    """tool_use.json of the starting model on the same rows. The differences from it are computed row by row."""


def evaluate(config: ToolUseEvalConfig, generator: Generator, units: Path, limit: int | None) -> Result:
    """Of the rows that expect a call: parses, right_function, right_arguments. Each requires the one before it.

    Of the rows that expect no call: right_silence, the answer has no call.

    With a baseline also their differences from it, row by row.
    """
    drops = Drops()
    dialogs = limited(read_rows(config.rows, SFTRow, config, drops=drops), limit)
    prompts = [PromptRow(id=row.id, source=row.source, tools=row.tools, prompt=row.messages[:-1]) for row in dialogs]
    asked = {
        row.id: {"prompt": prompt_text(row.messages[:-1]), "expected": completion_text(row.messages[-1:])}
        for row in dialogs
    }
    before = rows_of_baseline(config.baseline, asked, "rows") if config.baseline is not None else {}
    rows: list[dict[str, Any]] = []
    for dialog, answer in zip(dialogs, generator.answers(prompts, units, "tool use"), strict=True):
        expected = dialog.messages[-1]
        rows.append(
            {
                "id": dialog.id,
                "prompt": prompt_text(dialog.messages[:-1]),
                "answer": completion_text(answer.completion),
                "verdict": judge_call(answer.completion[0], expected),
                "before": before[dialog.id]["verdict"] if before else None,
                "expected": completion_text((expected,)),
                "functions": sorted({tool.name for tool in tools_of(dialog.tools)}),
                "finished": answer.finished,
            }
        )
    counts: dict[str, Any] = {"rows": len(rows), **Counter(row["verdict"] for row in rows)}
    counts["clusters"] = {"by": "function set", "count": len(set(map(function_cluster, rows)))}
    differences = _differences_of(rows) if before else {}
    return Result(_shares_of(rows), counts | drops.dropped, rows, differences)


_PASSES: dict[str, tuple[str, ...]] = {
    "parses": ("right", "wrong arguments", "wrong function"),
    "right_function": ("right", "wrong arguments"),
    "right_arguments": ("right",),
    "right_silence": ("right silence",),
}
"""Metric -> the verdicts that count for it."""


def _shares_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Share | None]:
    found = {}
    for metric, passing in _PASSES.items():
        own = _rows_of(rows, metric)
        found[metric] = share_of(
            [float(row["verdict"] in passing) for row in own], [function_cluster(row) for row in own]
        )
    return found


def _differences_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Share | None]:
    """Metric -> `verdict` minus `before`, the baseline's verdict, row by row."""
    found = {}
    for metric, passing in _PASSES.items():
        own = _rows_of(rows, metric)
        before, after = ([float(row[when] in passing) for row in own] for when in ("before", "verdict"))
        found[metric] = paired_difference(before, after, [function_cluster(row) for row in own])
    return found


def _rows_of(rows: Sequence[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """The rows that expect no call for right_silence, those that expect one for the other metrics."""
    return [
        row for row in rows if (row["verdict"] in ("right silence", "needless call")) == (metric == "right_silence")
    ]


def judge_call(found: Message, expected: Message) -> CallVerdict | SilenceVerdict:
    """Compare the message found with the expected one. Several calls may come in any order."""
    from align.chat.calls import parse_calls  # imports tokenizers, which the config above does not need

    malformed = any(parse_calls(found.content, syntax).malformed for syntax in ("hermes", "json"))
    if not expected.tool_calls:
        return "needless call" if found.tool_calls or malformed else "right silence"
    if not found.tool_calls:
        return "malformed call" if malformed else "no call"
    if Counter(call.name for call in found.tool_calls) != Counter(call.name for call in expected.tool_calls):
        return "wrong function"
    return "right" if _as_values(found.tool_calls) == _as_values(expected.tool_calls) else "wrong arguments"


def same_value(left: Any, right: Any) -> bool:
    """JSON equality: 5 is 5.0 and not true or "5"; strings are stripped; lists keep their order."""
    return _canonical(left) == _canonical(right)


def function_cluster(row: Mapping[str, Any]) -> str:
    """What a row's interval is computed over: the functions on offer, or the row if there are none."""
    return f"functions {', '.join(row['functions'])}" if row["functions"] else f"row {row['id']}"


def _as_values(calls: Sequence[ToolCall]) -> Counter[str]:
    return Counter(f"{call.name} {_canonical(call.parsed())}" for call in calls)


def _canonical(value: Any) -> str:
    """The same text for all JSON values that count as equal: {"a": 5.0} and {"a": 5} give {"a":5}."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value.strip())
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)
