"""What differs between a stage's record and the stage as it is: inputs, settings, code, packaged data, libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from align.harmless import changes_no_result
from align.rounds.ledger import StageRecord
from align.rounds.libraries import PREFIX as LIBRARY
from align.rounds.packaged import PREFIX as PACKAGE
from align.source_code import code_changes

Kind = Literal["input", "setting", "code", "packaged data", "library"]
_SHOWN = 3


@dataclass(frozen=True)
class Change:
    """One thing that a stage was made from, and that is different now."""

    kind: Kind
    name: str
    """Of an input or a setting its dotted key, else a file, package or library."""
    before: str
    """A hash of inputs, code and packaged data; a setting's value as JSON; a library's version. Empty: none."""
    now: str
    path: str = ""
    """Of an input."""


def changes_since(
    record: StageRecord, config: Mapping[str, Any], inputs: Mapping[str, Mapping[str, str]], code: Mapping[str, str]
) -> list[Change]:
    """Everything that makes the stage's key differ from its record's, except its launch file, which is not recorded.

    code: as `align.rounds.stage_inputs.as_recorded` compares it with the record.
    """
    found = []
    for name in sorted(inputs.keys() | record.inputs.keys()):
        before, now = (entries.get(name, {}).get("blake3", "") for entries in (record.inputs, inputs))
        if before != now and not changes_no_result(name):
            path = inputs.get(name, record.inputs.get(name, {}))["path"]
            found.append(Change("input", name, before, now, path))
    paths = {*inputs, *record.inputs, *record.outputs}
    old, new = _flat(record.config), _flat(config)
    for name in sorted(old.keys() | new.keys()):
        before, now = _text(old, name), _text(new, name)  # a new setting that is null differs from none
        if before != now and name not in paths and not changes_no_result(name):
            found.append(Change("setting", name, before, now))
    if record.code:
        for name in code_changes(dict(record.code), dict(code)):
            kind, shown = _kind_of(name)
            found.append(Change(kind, shown, record.code.get(name, ""), code.get(name, "")))
    return found


def summary_of(changes: Sequence[Change], record: StageRecord) -> str:
    """The changes in one line for the log; long lists are shortened."""
    inputs = [change for change in changes if change.kind == "input"]
    parts = [f"input {_verb(change)}: {change.name} ({change.path})" for change in inputs[:_SHOWN]]
    parts += [f"{len(inputs) - _SHOWN} more inputs"] if len(inputs) > _SHOWN else []
    if settings := [change.name for change in changes if change.kind == "setting"]:
        parts.append(f"settings changed: {listed(settings)}")
    if not record.code:
        parts.append("the code that made it was not recorded")
    if code := [change.name for change in changes if change.kind == "code"]:
        parts.append(f"code changed: {listed(code)}")
    if packages := [change.name for change in changes if change.kind == "packaged data"]:
        parts.append(f"packaged data changed: {listed(packages)}")
    if libraries := [library_change(change) for change in changes if change.kind == "library"]:
        parts.append(f"libraries changed: {', '.join(libraries)}")
    return "; ".join(parts) or "its launch file changed, or an older version made it"


def _verb(change: Change) -> str:
    return "added" if not change.before else "changed" if change.now else "removed"


def library_change(change: Change) -> str:
    """`torch 2.12.0 -> 2.13.0`."""
    return f"{change.name} {change.before or 'none'} -> {change.now or 'none'}"


def listed(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _kind_of(name: str) -> tuple[Kind, str]:
    if name.startswith(LIBRARY):
        return "library", name.removeprefix(LIBRARY)
    if name.startswith(PACKAGE):
        return "packaged data", name.removeprefix(PACKAGE)
    return "code", name


def _text(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else ""


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key: {"a": {"b": 1}} as {"a.b": 1}."""
    if isinstance(values, dict | list):
        items = values.items() if isinstance(values, dict) else enumerate(values)
        found: dict[str, Any] = {}
        for key, value in items:
            found |= _flat(value, f"{prefix}{key}.")
        return found or {prefix.rstrip("."): values}
    return {prefix.rstrip("."): values}
