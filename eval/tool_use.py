"""Tool use: does the model call the right function with the right arguments, and make no call when none is needed?

A row is a dialog whose last message is the expected one. Calls are compared as values, not as text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from align.jsonl import Drops, read_rows
from align.rows import Message, PromptRow, SFTRow, ToolCall
from align.settings import InputSources, Reading
from eval.intervals import share
from eval.runner import Generator, Result, completion_text, limited, prompt_text

CallVerdict = Literal["right", "wrong arguments", "wrong function", "malformed call", "no call"]
SilenceVerdict = Literal["right silence", "needless call"]


class ToolUseEvalConfig(Reading):
    """Dialogs with functions on offer."""

    rows: InputSources
    """SFT rows; the last message is the expected one. Their functions must not be in the training data."""


def evaluate(config: ToolUseEvalConfig, generator: Generator, units: Path, limit: int | None) -> Result:
    """Of the rows that expect a call: parses, right_function, right_arguments. Each requires the one before it.

    Of the rows that expect no call: right_silence, the answer has no call.
    """
    drops = Drops()
    dialogs = limited(read_rows(config.rows, SFTRow, config, drops=drops), limit)
    prompts = [PromptRow(id=row.id, source=row.source, tools=row.tools, prompt=row.messages[:-1]) for row in dialogs]
    rows: list[dict[str, Any]] = []
    for dialog, answer in zip(dialogs, generator.answers(prompts, units, "tool use"), strict=True):
        expected = dialog.messages[-1]
        rows.append(
            {
                "id": dialog.id,
                "prompt": prompt_text(dialog.messages[:-1]),
                "answer": completion_text(answer.completion),
                "verdict": judge_call(answer.completion[0], expected),
                "expected": completion_text((expected,)),
                "finished": answer.finished,
            }
        )
    counts = Counter(row["verdict"] for row in rows)
    silent = counts["right silence"] + counts["needless call"]
    calling = len(rows) - silent
    right_function = counts["right"] + counts["wrong arguments"]
    scores = {
        "parses": share(right_function + counts["wrong function"], calling),
        "right_function": share(right_function, calling),
        "right_arguments": share(counts["right"], calling),
        "right_silence": share(counts["right silence"], silent),
    }
    return Result(scores, {"rows": len(rows), **counts, **drops.dropped}, rows)


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
