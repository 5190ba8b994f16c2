"""What the stages of a run left on disk, read back for people: metrics, counts, scores.

The driver makes one line of it when a stage ends, `eval/reports/rounds.py` the whole report. Nothing here is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.files import finished_lines
from align.publish.facts import dropped_of as dropped_of

METRICS = "metrics.jsonl"
DROPPED = "dropped.json"
_MANIFEST_ENDING = ".manifest.json"
_SHOWN_PARTS = 4
_SHOWN_METRICS = ("loss", "eval_loss", "accuracy", "margin", "rewards/accuracies", "rewards/margins")


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a trainer's metrics.jsonl; empty where there is none. A half-written last line is left out."""
    try:
        lines = finished_lines(folder / METRICS)
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n")]


def counts_of(path: Path) -> dict[str, dict[str, Any]]:
    """File name -> counts of its manifest, for a data file or for all data files of a folder."""
    if path.is_dir():
        manifests = sorted(path.rglob(f"*{_MANIFEST_ENDING}"))
    else:
        manifests = [path.with_name(path.name + _MANIFEST_ENDING)]
    found = {}
    for manifest in manifests:
        record = _json(manifest)
        if isinstance(record.get("counts"), dict):
            found[manifest.name.removesuffix(_MANIFEST_ENDING)] = record["counts"]
    dropped = _json(path / DROPPED) if path.is_dir() else {}
    if dropped:
        found[path.name] = dropped if isinstance(dropped.get("dropped"), dict) else {"dropped": dropped}
    return found


def evaluation_of(path: Path) -> dict[str, Any]:
    """An evaluation's JSON; empty where the file is not one."""
    record = _json(path) if path.suffix == ".json" else {}
    return record if isinstance(record.get("scores"), dict) and "name" in record else {}


def evaluations_of(path: Path) -> list[dict[str, Any]]:
    """The evaluations at `path`: one file, or those of a folder."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    return [record for record in map(evaluation_of, files) if record]


def share(value: float | None) -> str:
    """A share from 0 to 1 as whole percent; a dash where there is none."""
    return "-" if value is None else f"{value:.0%}"


def words(name: str) -> str:
    """`known_kept` -> `known kept`."""
    return name.replace("_", " ").replace("-", " ")


def key_numbers(outputs: Mapping[str, Path]) -> str:
    """What is worth saying in one line about what a stage made."""
    parts: list[str] = []
    for path in dict.fromkeys(outputs.values()):
        for evaluation in evaluations_of(path):
            shown = list(evaluation["scores"].items())[:2]
            parts += [f"{words(name)} {share(entry.get('value'))}" for name, entry in shown]
        lines = metrics_of(path) if path.is_dir() else []
        if lines:
            steps = [line["step"] for line in lines if _is_number(line.get("step"))]
            parts.append(f"{max(steps, default=len(lines))} steps")
            means = {name: _late_mean(lines, name) for name in _SHOWN_METRICS}
            parts += [f"{words(name)} {value:.3g}" for name, value in means.items() if value is not None]
        for name, counts in counts_of(path).items():
            parts += _counts_line(name, counts)
    return " · ".join(parts[:_SHOWN_PARTS]) + (" ..." if len(parts) > _SHOWN_PARTS else "")


def _late_mean(lines: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The mean of a metric over the later half of a training, each step with the weight of its tokens.

    The last step alone says little: it often has a few rows only, those that are left over. With the losses 2, 1, 3 of
    100, 100 and 20 tokens, the later half is the last two, and the mean (100 * 1 + 20 * 3) / 120. A metric of held-out
    rows is the last one: each is over all of the rows.
    """
    found = [line for line in lines if _is_number(line.get(name)) and math.isfinite(line[name])]
    late = found[-1:] if name.startswith("eval_") else found[len(found) // 2 :]
    weights = [float(line["tokens"]) if _is_number(line.get("tokens")) else 1.0 for line in late]
    total = sum(weights)
    return sum(weight * line[name] for weight, line in zip(weights, late, strict=True)) / total if total else None


def _counts_line(name: str, counts: Mapping[str, Any]) -> list[str]:
    rows, dropped = counts.get("rows"), sum(dropped_of(counts).values())
    if not isinstance(rows, int):
        return [f"{dropped:,} rows dropped"] if dropped else []
    return [f"{name.removesuffix('.jsonl')} {rows:,} rows" + (f" ({dropped:,} dropped)" if dropped else "")]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
