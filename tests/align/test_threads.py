"""OpenMP's waiting threads: the setting is in force when torch's library loads, and a user's own choice stays."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def loaded_with(**environment: str) -> dict[str, str]:
    """What libgomp reports of itself in a process that imports align and then torch."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    code = "import align, torch; torch.ones(2) + 1"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "VERBOSE", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(re.findall(r"(\w+) = '(.*?)'", done.stderr))


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="torch computes with libgomp on Linux")
@pytest.mark.parametrize(
    "given, spin_count", [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")]
)
def test_threads_that_wait_sleep_soon_unless_the_user_says_otherwise(given: dict[str, str], spin_count: str) -> None:
    assert loaded_with(**given)["GOMP_SPINCOUNT"] == spin_count
