"""The columns of a report: `before` for stages outside the rounds, then one for each round; and what a stage made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from align.rounds.ledger import StageRecord

BEFORE = "before"
_OUTPUT_SETTINGS = ("training.output_dir", "output_dir", "output")


def column_of(record: StageRecord) -> str:
    return BEFORE if record.round is None else f"round {record.round}"


def place_of(column: str) -> int:
    """Return the position of a column: `before` first, then the rounds by number."""
    return 0 if column == BEFORE else int(column.removeprefix("round "))


def label_of(stage: str, column: str) -> str:
    """Return a stage's label in the ledger: `sft` in the column `round 2` is `round-2/sft`."""
    return stage if column == BEFORE else f"{column.replace(' ', '-')}/{stage}"


def made_by(record: StageRecord) -> list[Path]:
    """The outputs of a finished stage. Of another one, the folder that its config names, with what is there so far."""
    if record.status == "finished":
        return [Path(entry["path"]) for entry in record.outputs.values()]
    for setting in _OUTPUT_SETTINGS:
        found: Any = record.config
        for part in setting.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if isinstance(found, str):
            return [Path(found)]
    return []


def json_of(path: Path) -> dict[str, Any]:
    """The JSON object of a file; empty if there is none, or if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
