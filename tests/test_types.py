"""mypy and bandit find nothing. Tests, so that they run along with the others: `make check` leaves a core idle."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.types
@pytest.mark.timeout(1800)  # on a core of its own it takes a minute or two
def test_types_are_right() -> None:
    pytest.importorskip("mypy")
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.types
def test_bandit_finds_no_unsafe_code() -> None:
    """Exceptions are in pyproject.toml, or next to the code with their reason."""
    pytest.importorskip("bandit")
    command = [sys.executable, "-m", "bandit", "-q", "-c", "pyproject.toml", "-r"]
    folders = ["align", "data_builders", "eval", "recipes"]
    done = subprocess.run([*command, *folders], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_each_exception_from_bandit_has_a_reason() -> None:
    marks = [
        f"{file.relative_to(ROOT)}:{number}"
        for folder in ("align", "data_builders", "eval", "recipes")
        for file in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if "nosec" in line and not re.search(r"# nosec B\d+(, B\d+)*  # \w+", line)
    ]
    assert marks == []
