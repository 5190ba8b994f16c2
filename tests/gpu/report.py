"""The results as JSON and as a page of Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.files import whole_file

_SHOWN = (
    ("seconds", "seconds", "{:.4g}"),
    ("mfu", "share of the peak", "{:.0%}"),
    ("tokens_per_second", "tokens/s", "{:,.0f}"),
    ("completions_per_second", "completions/s", "{:,.1f}"),
    ("peak_gib", "peak memory, GiB", "{:.2f}"),
)
"""Key of an arm, head of its column, format."""


def write(folder: Path, machine: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> None:
    """results.json and results.md in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "results.json") as handle:
        json.dump({"machine": machine, "results": results}, handle, indent=1)
    with whole_file(folder / "results.md") as handle:
        handle.write(page(machine, results))


def page(machine: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["# GPU check", "", *(f"- {name}: {value}" for name, value in machine.items()), ""]
    for name, found in results.items():
        lines += [f"## {name}", "", *_section(found), ""]
    return "\n".join(lines)


def failures(found: Any, place: str = "") -> list[str]:
    """Every `failed` in the results, with its place."""
    if not isinstance(found, Mapping):
        return []
    own = [f"{place}: {found['failed']}"] if "failed" in found else []
    return own + [
        line for key, value in found.items() for line in failures(value, f"{place} > {key}" if place else key)
    ]


def _section(found: Mapping[str, Any]) -> list[str]:
    for word in ("skipped", "failed"):
        if word in found:
            return [f"{word}: {found[word]}"]
    lines = [f"- {key}: {_text(value)}" for key, value in found.items() if key != "arms"]
    arms: Mapping[str, Mapping[str, Any]] = found.get("arms", {})
    if not arms:
        return lines
    columns = [column for column in _SHOWN if any(arm.get(column[0]) is not None for arm in arms.values())]
    lines += ["", f"| | {' | '.join(head for _, head, _ in columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for name, arm in arms.items():
        note = next((f"{word}: {arm[word]}" for word in ("skipped", "failed") if word in arm), "")
        cells = [form.format(arm[key]) if arm.get(key) is not None else "" for key, _, form in columns]
        lines.append(f"| {name}{f' ({note})' if note else ''} | {' | '.join(cells)} |")
    return lines


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items())
    return str(value)
