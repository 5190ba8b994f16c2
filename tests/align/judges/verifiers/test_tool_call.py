"""Calls that parse and fit their schema pass; each kind of fault has its reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from align.judges.verifiers.tool_call import ToolCallVerifier
from align.rows import Message, ToolCall, ToolSpec, tools_text

VERIFIER = ToolCallVerifier()
TOOLS = tools_text(
    [
        ToolSpec(
            name="weather",
            parameters={
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        )
    ]
)


def reason(*messages: Message, tools: str = TOOLS, **entry: Any) -> str | None:
    failure = VERIFIER.failure(messages, VERIFIER.read(entry), tools)
    return None if failure is None else failure.reason


def call(name: str = "weather", **arguments: Any) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name=name, arguments=json.dumps(arguments)),))


def said(text: str) -> Message:
    return Message(role="assistant", content=text)


def test_a_call_that_fits_passes() -> None:
    assert reason(call(city="Oslo")) is None
    assert reason(call(city="Oslo", days=3), required=True) is None
    assert reason(call(city="Oslo"), Message(role="tool", content='{"name": "x"'), said("It is cold.")) is None


@pytest.mark.parametrize(
    "message, expected",
    [
        (call("climate", city="Oslo"), "function not offered"),
        (call(), "arguments do not match the schema"),
        (call(city=3), "arguments do not match the schema"),
        (call(city="Oslo", days="3"), "arguments do not match the schema"),
        (call(city="Oslo", hours=3), "arguments do not match the schema"),
        (said('<tool_call>\n{"name": "weather"}\n</tool_call>'), "call cannot be parsed"),
        (said('{"name": "weather", "parameters": {"city": "Os'), "call cannot be parsed"),
        (said('<function=weather>{"city": "Oslo"}</function>'), "call cannot be parsed"),
        (said("Wait.\n  <tool_call>weather"), "call cannot be parsed"),
        (said('Sure. <tool_call>{"name": "weather"}</tool_call>'), "call cannot be parsed"),
        (said('Sure. <function=weather>{"city": "Os'), "call cannot be parsed"),
        (said('Sure: {"name": "weather", "parameters": {"city": "Os'), "call cannot be parsed"),
        (said("weather(Oslo)</tool_call>"), "call cannot be parsed"),
    ],
)
def test_a_fault_has_its_reason(message: Message, expected: str) -> None:
    assert reason(message) == expected
    assert reason(call(city="Oslo"), Message(role="tool", content="{}"), message) == expected


def test_a_text_is_no_failure_unless_a_call_is_required() -> None:
    assert reason(said("I do not need a function: [1, 2] and f(x).")) is None
    assert reason(said("It is cold."), required=True) == "no call"
    assert reason(said('<tool_call>{"name": "weather"}</tool_call>'), tools="") is None, "nothing was offered"


@pytest.mark.parametrize(
    "text",
    [
        "The tag <tool_call> is used by Hermes.",
        "Hermes closes a call with </tool_call>, Llama with </function>.",
        "Llama 3.1 writes <function=NAME> before the arguments.",
        'A call has the keys "name": and "parameters":, in this order.',
    ],
)
def test_a_text_that_mentions_a_marker_is_no_call(text: str) -> None:
    assert reason(said(text)) is None
    assert reason(said(text), required=True) == "no call"


def test_prompts_that_offer_functions_are_verified_without_an_entry() -> None:
    assert VERIFIER.default_entry(TOOLS) is not None
    assert VERIFIER.default_entry("") is None
