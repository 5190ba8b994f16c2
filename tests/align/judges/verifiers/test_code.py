"""Code in answers, run with tests in the sandbox: right, wrong, endless, too large, and code that tries to deceive."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
from pydantic import ValidationError

from align.judges.verifiers.code import CodeEntry, CodeVerifier, code_of_answer
from align.rows import Message
from align.tools.sandbox import namespaces

TESTS = "assert add(2, 3) == 5\nassert add(-1, 1) == 0"
RIGHT = "def add(a, b):\n    return a + b\n"
SETTINGS = {"seconds": 1.0, "memory_mib": 128}


def block(code: str, mark: str = "python") -> str:
    return f"```{mark}\n{code}\n```"


@pytest.mark.parametrize(
    "text, expected",
    [
        (f"Here it is:\n{block('x = 1')}\nRun it.", "x = 1\n"),
        (f"{block('x = 1')}\nand\n{block('y = 2', 'py')}", "x = 1\n\ny = 2\n"),
        (f"{block('pip install x', 'bash')}\n{block('x = 1')}\nprints\n{block('1', '')}", "x = 1\n"),
        (block("x = 1", ""), "x = 1\n"),
        ("```python\nx = 1\n", "x = 1\n"),
        ("```python\r\nx = 1\r\n```\r\nDone.", "x = 1\r\n"),
        ("1. First:\n   ```python\n   def f():\n       return 1\n   ```\n2. Done.", "def f():\n    return 1\n"),
        (block("let x = 1;", "javascript"), None),
        ("x = add(1, 2)", "x = add(1, 2)"),
        ("I do not know how (sorry).", None),
        ("42", None),
        ("", None),
    ],
)
def test_the_code_of_an_answer(text: str, expected: str | None) -> None:
    assert code_of_answer(text) == expected


@pytest.mark.parametrize("given", [{"tests": ""}, {"tests": "assert ("}, {"tests": "pass", "seconds": 0}, {}])
def test_an_entry_that_cannot_be_run_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        CodeEntry.model_validate(given)


needs_sandbox = pytest.mark.skipif(
    not all(map(shutil.which, namespaces.TOOLS))
    or subprocess.run(["unshare", "--user", "--mount", "true"], capture_output=True).returncode != 0,
    reason="the sandbox requires bubblewrap and user namespaces",
)


@needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize(
    "answer, expected",
    [
        (f"Sure!\n{block(RIGHT)}", None),
        (block(f"import math, json\n{RIGHT}"), None),
        (block("def add(a, b):\n    return a - b"), "tests fail"),
        (block("def plus(a, b):\n    return a + b"), "tests fail"),
        (block(f"{RIGHT}\nassert add(1, 1) == 3"), "code raises"),
        (block("def add(a, b)\n    return a + b"), "code raises"),
        (block(f"import numpy\n{RIGHT}"), "code raises"),
        (block("def add(a, b):\n    while True: pass"), "time limit"),
        (block(f"{RIGHT}\nx = bytearray(1 << 30)"), "memory limit"),
        (block("import os\ndef add(a, b):\n    os._exit(0)"), "process ended"),
        (block("def add(a, b):\n    raise SystemExit(0)"), "tests fail"),
        ("You add both numbers with the operator plus.", "no code"),
    ],
)
def test_only_code_that_passes_all_tests_within_its_limits_passes(answer: str, expected: str | None) -> None:
    verifier = CodeVerifier()
    entry = verifier.read({"tests": TESTS, **SETTINGS})
    found = verifier.failure((Message(role="assistant", content=answer),), entry)
    assert (found.reason if found else None) == expected, found


@needs_sandbox
def test_nothing_of_one_answer_is_left_for_the_next() -> None:
    verifier = CodeVerifier()
    entry = verifier.read({"tests": "assert kept == 1", **SETTINGS})
    first = verifier.failure((Message(role="assistant", content=block("kept = 1\nopen('f', 'w').write('x')")),), entry)
    second = verifier.failure((Message(role="assistant", content=block("print(open('f').read())")),), entry)
    assert first is None
    assert second is not None
    assert second.reason == "code raises"
