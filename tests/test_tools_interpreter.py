"""The tool `code_interpreter` over a real sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from align.errors import SandboxError
from align.rows import ToolCall
from align.tools.interpreter import interpreter_tool
from align.tools.registry import Registry
from align.tools.sandbox import Sandbox, SandboxLimits


@pytest.fixture
def tools() -> Iterator[Registry]:
    sandbox = Sandbox(SandboxLimits(seconds=5))
    try:
        sandbox.probe()
    except SandboxError as error:
        pytest.skip(str(error))
    with sandbox.session() as session:
        yield Registry([]).extended(interpreter_tool(session))


def code(text: str) -> ToolCall:
    return ToolCall(name="code_interpreter", arguments=json.dumps({"code": text}))


def test_variables_live_on_and_streams_are_shown_as_llama_does(tools: Registry) -> None:
    assert tools.call(code("x = 20")).text == "completed"
    answered = tools.call(code("print('so'); x + 2"))
    assert answered.ok
    assert answered.text == "completed\n[stdout]so[/stdout]\n[value]22[/value]"


def test_an_error_is_a_result_that_ends_with_its_traceback(tools: Registry) -> None:
    failed = tools.call(code("import sys; print('hm', file=sys.stderr); 1/0"))
    assert failed.error == "code-error"
    assert failed.text.startswith("failed\n[stderr]hm\n")
    assert failed.text.endswith("ZeroDivisionError: division by zero[/stderr]")
