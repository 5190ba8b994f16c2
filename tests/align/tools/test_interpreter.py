"""The tool `code_interpreter` over a real sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from align.errors import SandboxError
from align.rows import ToolCall
from align.tools.interpreter import DialogSession, interpreter_tool
from align.tools.registry import Registry
from align.tools.sandbox.session import Sandbox, SandboxLimits, Session


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


@pytest.mark.slow
def test_a_dialogs_session_starts_with_its_first_code_and_again_after_a_call_that_was_ended() -> None:
    started: list[Session] = []

    class Counting(Sandbox):
        def session(self) -> Session:
            started.append(super().session())
            return started[-1]

    try:
        sandbox = Counting(SandboxLimits(seconds=1))
    except SandboxError as error:
        pytest.skip(str(error))
    with DialogSession(sandbox) as session:
        tools = Registry([interpreter_tool(session)])
        assert not started
        assert [tools.call(code(text)).text for text in ("x = 1", "x + 1")] == [
            "completed",
            "completed\n[value]2[/value]",
        ]
        assert tools.call(code("while True: pass")).error == "code-timeout"
        assert tools.call(code("x")).text.endswith("NameError: name 'x' is not defined[/stderr]")
        assert len(started) == 2
    assert not any(each.alive for each in started)
