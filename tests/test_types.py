"""mypy finds nothing. A test, so that it runs along with the others: `make check` would leave a core idle meanwhile."""

from __future__ import annotations

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
