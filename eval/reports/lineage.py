"""What each stage of a run was made from: other stages, and files from outside the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from align.rounds.ledger import StageRecord

_SHOWN_HASH = 12


class Made(NamedTuple):
    """A file or folder that a stage made."""

    path: str
    fingerprint: str
    """The beginning of its BLAKE3 hash; empty if the ledger has none."""


class StageLineage(NamedTuple):
    """One finished stage with what it read and made."""

    label: str
    recipe: str
    stages: tuple[str, ...]
    """Labels of the stages whose outputs it read."""
    files: tuple[str, ...]
    """What it read from outside the run, such as the starting checkpoint."""
    made: tuple[Made, ...]
    command: str


def lineage_of(records: Sequence[StageRecord]) -> tuple[StageLineage, ...]:
    """The stages in the order in which they ran."""
    makers = [(Path(entry["path"]), record.label) for record in records for entry in record.outputs.values()]
    found = []
    for record in records:
        stages: dict[str, None] = {}
        files: dict[str, None] = {}
        for entry in record.inputs.values():
            path = Path(entry["path"])
            # An input is an output of another stage, a file inside one, or a folder that contains outputs.
            owners = [label for made, label in makers if path.is_relative_to(made) or made.is_relative_to(path)]
            stages |= dict.fromkeys(label for label in owners if label != record.label)
            if not owners:
                files[str(path)] = None
        made = tuple(Made(entry["path"], entry["blake3"][:_SHOWN_HASH]) for entry in record.outputs.values())
        found.append(StageLineage(record.label, record.recipe, tuple(stages), tuple(files), made, record.command))
    return tuple(found)
