"""The metrics of a training run, as tests compare them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without `speed`: what equal runs have in common. NaN and infinity fail the test."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    for line in found:
        line.pop("speed", None)
    return found
