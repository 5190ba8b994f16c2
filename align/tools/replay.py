"""Calls recorded as they are made, and replayed without any tool or network.

A record contains what the model saw and which engine answered, and nothing that differs from run to run. `Recorder` and
`Replay` have the same `call` method as the registry, so a builder works with any of the three.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Protocol

from pydantic import field_validator

from align.errors import AlignError
from align.rows import Frozen, ToolCall
from align.tools.registry import Registry
from align.tools.results import ToolResult


class Tools(Protocol):
    """What answers calls: a registry, a recorder over one, or a replay."""

    def call(self, call: ToolCall) -> ToolResult: ...


class CallRecord(Frozen):
    """One call and what came back: a line of JSON."""

    call: ToolCall
    text: str
    ok: bool
    error: str | None = None
    tool: str = ""
    """Which engine, and which version of it, answered; empty if no tool has the name."""

    @field_validator("text")
    @classmethod
    def _text_can_be_written(cls, text: str) -> str:
        text.encode()  # a half character would fail later, in the file
        return text


class ReplayError(AlignError):
    """A call that is not the recorded one, or a result that no longer comes out."""


class Recorder:
    """A registry whose calls are kept. One for each trajectory."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.records: list[CallRecord] = []
        self.seconds: list[float] = []
        """Wall clock of each call, apart from the records."""

    def call(self, call: ToolCall) -> ToolResult:
        result = self.registry.call(call)
        tool = self.registry.identity(call.name)
        self.records.append(CallRecord(call=call, text=result.text, ok=result.ok, error=result.error, tool=tool))
        self.seconds.append(result.seconds)
        return result


class Replay:
    """Recorded calls, answered in their order; a call that differs is named. `name` says whose they are."""

    def __init__(self, records: Iterable[CallRecord], name: str = "replay") -> None:
        self.records = tuple(records)
        self.name = name
        self._next = 0

    def call(self, call: ToolCall) -> ToolResult:
        """The recorded result; it took no time. Raises ReplayError where the call is not the recorded one."""
        place = self._next
        if place >= len(self.records):
            raise ReplayError(
                f"{self.name}, call {place + 1}",
                f"expected no more than the {len(self.records)} recorded calls, found {_shown(call)}",
                "Record the trajectory again",
            )
        record = self.records[place]
        if differs := _difference(record.call, call):
            raise ReplayError(f"{self.name}, call {place + 1}", differs, "Record the trajectory again")
        self._next += 1
        return ToolResult(record.text, record.ok, record.error)

    def end(self) -> None:
        """Raise ReplayError where recorded calls were not made."""
        if self._next < len(self.records):
            missing = self.records[self._next].call
            raise ReplayError(
                f"{self.name}, call {self._next + 1}",
                f"expected {len(self.records)} calls, found {self._next}; the next was {_shown(missing)}",
                "Record the trajectory again",
            )


def differences(records: Iterable[CallRecord], tools: Registry) -> list[str]:
    """Make the recorded calls again, live, and name each whose engine or result differs; empty if all are the same."""
    found = []
    for place, record in enumerate(records, 1):
        result = tools.call(record.call)
        tool = tools.identity(record.call.name)
        pairs = {
            "tool": (record.tool, tool),
            "ok": (record.ok, result.ok),
            "error": (record.error, result.error),
            "text": (record.text, result.text),
        }
        for what, (recorded, now) in pairs.items():
            if recorded != now:
                found.append(f"call {place}, {record.call.name}: {what} was {_short(recorded)}, is {_short(now)}")
    return found


def _difference(recorded: ToolCall, made: ToolCall) -> str | None:
    """What differs, in words; arguments are compared as values, so spacing and the order of keys are no matter."""
    if recorded.name != made.name:
        return f"expected {recorded.name}, found {made.name}"
    expected, found = _values(recorded), _values(made)
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            values = f"expected {expected.get(key, 'none')}, found {found.get(key, 'none')}"
            return f"{recorded.name}: argument {key!r}: {values}"
    return None


def _values(call: ToolCall) -> dict[str, str]:
    """Argument -> its value as canonical JSON text: 1, 1.0 and true are equal in Python, and differ here."""
    return {key: json.dumps(value, sort_keys=True) for key, value in call.parsed().items()}


def _shown(call: ToolCall) -> str:
    return f"{call.name}({_short(call.arguments)})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
