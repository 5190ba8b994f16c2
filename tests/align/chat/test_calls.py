"""Tool calls as text: what is rendered is parsed back, and what is malformed is said to be."""

from __future__ import annotations

import json
import random

import pytest

from align.chat.calls import parse_calls, render_calls
from align.rows import ToolCall

STRINGS = [
    "",
    "Paris",
    "</tool_call>",
    "<tool_call>",
    '{"name": "x"}',
    'say "hi"',
    "\n",
    "Ünï 東京",
    "\\",
    "<|im_end|>",
]


def random_call(rng: random.Random) -> ToolCall:
    def value(depth: int):
        plain = [rng.choice(STRINGS), rng.randint(-9, 9), 0.5, None, True]
        deep = [] if depth > 2 else [[value(depth + 1)], {rng.choice(STRINGS): value(depth + 1)}]
        return rng.choice(plain + deep)

    arguments = {rng.choice(STRINGS): value(0) for _ in range(rng.randint(0, 4))}
    return ToolCall(name=rng.choice(STRINGS[1:]), arguments=json.dumps(arguments))


@pytest.mark.slow
@pytest.mark.parametrize("syntax", ["hermes", "json"])
@pytest.mark.parametrize("before", ["", "Let me look that up.\n"])
def test_rendered_calls_are_parsed_back(syntax: str, before: str) -> None:
    rng = random.Random(0)
    for _ in range(500):
        calls = [random_call(rng) for _ in range(rng.randint(1, 3) if syntax == "hermes" else 1)]
        found = parse_calls(before + render_calls(calls, syntax), syntax)
        assert found.malformed is None
        assert [(c.name, c.parsed()) for c in found.calls] == [(c.name, c.parsed()) for c in calls]
        assert found.text == before.removesuffix("\n")


def test_text_around_hermes_calls_is_kept() -> None:
    call = '<tool_call>{"name":"f","arguments":{}}</tool_call>'
    found = parse_calls(f"First.\n{call}\n{call} Then this.", "hermes")
    assert (found.text, len(found.calls)) == ("First.\nThen this.", 2)


def test_argument_objects_given_as_text_or_by_the_other_name_are_understood() -> None:
    assert parse_calls('{"name": "f", "arguments": {"a": 1}}', "json").calls[0].parsed() == {"a": 1}
    text = '<tool_call>{"name": "f", "parameters": "{\\"a\\": 1}"}</tool_call>'
    assert parse_calls(text, "hermes").calls[0].parsed() == {"a": 1}


@pytest.mark.parametrize(
    "text", ["", "Paris.", "x < y > z", '{"answer": 42}', '{"name": "Ada", "age": 36}', "{see}", "[1, 2]"]
)
@pytest.mark.parametrize("syntax", ["hermes", "json"])
def test_plain_text_is_no_call_and_not_malformed(syntax: str, text: str) -> None:
    found = parse_calls(text, syntax)
    assert (found.calls, found.text, found.malformed) == ((), text, None)


@pytest.mark.parametrize(
    "syntax, text, reason",
    [
        ("hermes", "<tool_call>", "holds no call: Expecting value"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}}', "is not closed by </tool_call>"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}} {}</tool_call>', "is not closed by </tool_call>"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}</tool_call>', "holds no call: Expecting"),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>', "function's name as text under 'name', found None"),
        ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>', "found 5"),
        ("hermes", '<tool_call>{"name": "f"}</tool_call>', "expected an object of arguments for f, found 'None'"),
        ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "arguments for f, found '[1]'"),
        ("hermes", '<tool_call>["f"]</tool_call>', "expected a JSON object"),
        ("hermes", "<tool_call>" + "[" * 100_000, "holds no call"),
        ("json", '{"name": "f", "parameters": {"a": 1}', "not one JSON object up to the end"),
        (
            "json",
            '{"name": "f", "parameters": {}}\n{"name": "g", "parameters": {}}',
            "not one JSON object up to the end",
        ),
        ("json", '{"name": "f"}', "expected an object of arguments for f"),
        ("json", '{"type": "function", "name": "f"}', "expected an object of arguments for f"),
        ("json", '{"parameters": {}}', "expected the function's name"),
        ("json", '{"name": "f", "parameters": "none"}', "Expecting value"),
    ],
)
def test_a_malformed_call_stays_text_with_the_reason(syntax: str, text: str, reason: str) -> None:
    found = parse_calls(text, syntax)
    assert found.calls == ()
    assert found.text == text
    assert reason in found.malformed


def test_one_malformed_call_spoils_its_message() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>{"name"</tool_call>'
    assert parse_calls(text, "hermes").calls == ()
    assert parse_calls(text, "hermes").text == text
