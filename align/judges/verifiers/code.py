"""Verifies code by running it with the prompt's tests in the sandbox (`align/tools/sandbox/session.py`).

The code of an answer and the tests run in one fresh process, first the code and then the tests, with limits of time and
memory. Tests are Python that raises if something is wrong:

    {"code": {"tests": "assert add(2, 3) == 5"}}

Code that a model wrote can deceive tests that run in the same process, for example by a result that equals everything.
It cannot pass by ending the process, because the tests must be seen to reach their end.
"""

from __future__ import annotations

import math
import re
import secrets
from functools import lru_cache
from textwrap import dedent

from pydantic import Field, field_validator

from align.judges.verifiers.verifier import Failure, Verifier, final_text
from align.rows import Frozen, Messages
from align.tools.sandbox.session import Execution, Sandbox, SandboxLimits

_BLOCK = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t\r]*$|\Z)", re.MULTILINE | re.DOTALL)
_PYTHON = {"python", "python3", "py"}
_ENDINGS = {"timeout": "time limit", "memory": "memory limit", "output": "output limit", "killed": "process ended"}


class CodeEntry(Frozen):
    """What a prompt requires of the code in an answer."""

    tests: str = Field(min_length=1)
    """Python that runs after the code and raises if the code is wrong, such as `assert add(2, 3) == 5`."""
    seconds: float = Field(10.0, gt=0, le=600)
    """Wall clock of the code, and of the tests."""
    memory_mib: int = Field(512, ge=64, le=1 << 20)
    """Memory of the process."""

    @field_validator("tests")
    @classmethod
    def _tests_are_python(cls, value: str) -> str:
        try:
            compile(value, "tests", "exec")
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"expected Python, found: {error}") from None
        return value


class CodeVerifier(Verifier[CodeEntry]):
    """Runs the code of the last message and the tests. The standard library can be imported, and nothing else.

    Raises SandboxError if the machine does not permit isolation: code never runs without it.
    """

    entry = CodeEntry
    slow = True

    def __init__(self) -> None:
        Sandbox.probe()  # a machine without isolation is reported before anything is sampled

    def failure(self, completion: Messages, entry: CodeEntry, tools: str = "") -> Failure | None:
        """See `Verifier.failure`. Reasons: "no code", "code raises", "tests fail", "time limit", "memory limit",
        "output limit", "process ended"."""
        code = code_of_answer(final_text(completion))
        if code is None:
            return Failure("no code")
        with _sandbox(entry.seconds, entry.memory_mib).session() as session:
            ran = session.run(code)
            if ran.outcome != "ok" or ran.ended:
                return _failure(ran, "code raises")
            # The value of the last expression shows that the tests ran to their end. The code cannot know it: it is
            # made after the code has run.
            mark = secrets.token_hex(16)
            tested = session.run(f"{entry.tests}\n'{mark}'")
        if tested.outcome != "ok":
            return _failure(tested, "tests fail")
        return None if tested.value == repr(mark) else Failure("process ended", "the tests did not reach their end")


def code_of_answer(text: str) -> str | None:
    """The Python of an answer, or None: its blocks that are marked as Python, in their order; else those without a
    mark; else the whole text, if it is Python with more than a name or a number in it.

        ```python        ```bash          ```
        def f(): ...     pip install      42
        ```              ```              ```          gives the first block only
    """
    blocks = [(found[1].lower(), dedent(found[2])) for found in _BLOCK.finditer(text)]  # a list indents its blocks
    marked = [code for mark, code in blocks if mark in _PYTHON]
    chosen = marked or [code for mark, code in blocks if not mark]
    if chosen:
        return "\n".join(chosen)
    if blocks or not any(character in text for character in "=(:"):
        return None
    try:
        compile(text, "answer", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return text


def _failure(ran: Execution, raised: str) -> Failure:
    return Failure(_ENDINGS.get(ran.outcome, raised), ran.message[-400:])


@lru_cache(maxsize=16)
def _sandbox(seconds: float, memory_mib: int) -> Sandbox:
    processor = max(120, math.ceil(2 * seconds) + 1)  # for the code and the tests; the wall clock is the limit
    return Sandbox(SandboxLimits(seconds=seconds, cpu_seconds=processor, memory_bytes=memory_mib << 20))
