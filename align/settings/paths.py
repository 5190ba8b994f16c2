"""The marks of paths in a config: what a stage reads, and what it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from align.config import Section

INPUT = "input"
OUTPUT = "output"

InputPath = Annotated[Path, INPUT]
"""A path that a stage reads: rounds take its content into the stage's key."""

OutputPath = Annotated[Path, OUTPUT]
"""A path that a stage makes: rounds leave it out of the stage's key."""


def paths_of(config: Section, kind: str) -> dict[str, Path]:
    """Dotted key -> path of every setting marked as INPUT or OUTPUT, through sections, tuples and dicts.

    An address such as hf://datasets/owner/name is left out: it is no path, and counts as the setting that it is.
    """
    found: dict[str, Path] = {}
    for name, field in type(config).model_fields.items():
        marked = kind in field.metadata or f"'{kind}'" in str(field.annotation)
        _collect_paths(getattr(config, name), name, kind, marked, found)
    return found


def _collect_paths(value: Any, key: str, kind: str, marked: bool, found: dict[str, Path]) -> None:
    if isinstance(value, Section):
        found.update({f"{key}.{inner}": path for inner, path in paths_of(value, kind).items()})
    elif isinstance(value, Path) and marked:
        found[key] = value
    elif isinstance(value, str) and marked and "://" not in value:
        found[key] = Path(value)
    elif isinstance(value, tuple | list):
        for place, item in enumerate(value):
            _collect_paths(item, f"{key}.{place}", kind, marked, found)
    elif isinstance(value, dict):
        for inner, item in value.items():
            _collect_paths(item, f"{key}.{inner}", kind, marked, found)
