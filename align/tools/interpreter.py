"""The tool `code_interpreter`: the sandbox's session as a function that a model may call."""

from __future__ import annotations

from align.tools.registry import Tool, tool_of
from align.tools.results import ToolFailure
from align.tools.sandbox.session import Execution, Sandbox, Session

INTERPRETER = "code_interpreter"
"""The tool's name."""


class DialogSession:
    """A dialog's session, which starts when code runs for the first time, and again after a call that ended it.

    A dialog that runs no code starts no process. Variables and files are lost after a call that was ended, for example
    by a time-out; the call's result says so to the model. Close the session, or use it in a `with`.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._session: Session | None = None

    def run(self, code: str) -> Execution:
        """See `Session.run`."""
        if self._session is not None and not self._session.alive:
            self.close()
        if self._session is None:
            self._session = self._sandbox.session()
        return self._session.run(code)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> DialogSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def interpreter_tool(session: Session | DialogSession, identity: str = "code_interpreter@sandbox") -> Tool:
    """The tool `code_interpreter` over one session; each dialog has its own: `registry.extended(...)`."""

    def code_interpreter(code: str) -> str:
        """Run Python code and return what it prints and the value of its last expression.

        Args:
            code: Python. Variables live on between calls of one conversation.
        """
        execution = session.run(code)
        text = execution_text(execution)
        if execution.outcome != "ok":
            raise ToolFailure(f"code-{execution.outcome}", text, prefix="")
        return text

    return tool_of(code_interpreter, identity=identity)


def execution_text(execution: Execution) -> str:
    """A run as Llama 3.1's agent shows it: `completed` or `failed`, then each non-empty stream, in brackets.

    The traceback, or the reason why the run was ended, is at the end of stderr, where Python writes it.

    Source: the published tool outputs of Llama 3.1's documentation and agent.
    """
    parts = ["completed" if execution.outcome == "ok" else "failed"]
    for name, text in (
        ("stdout", execution.stdout),
        ("value", execution.value or ""),
        ("stderr", execution.stderr + execution.message),
    ):
        if text.strip():
            parts.append(f"[{name}]{text.rstrip()}[/{name}]")
    return "\n".join(parts)
