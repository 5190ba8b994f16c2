"""Reads manifests for a card, and takes what cannot be read as unknown: what is not known is not stated."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_LEVELS_UP = 4
_LONGEST_PATH = 1024
_ROUND = re.compile(r"round-(\d+)")
_NOT_MADE_FROM = frozenset({"evaluation", "eval_path", "baseline", "output", "output_dir", "reference_cache"})
"""Settings that name other things than what a checkpoint or rows were made from."""


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; empty if there is none, or if it cannot be read: what is unknown is not stated."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def members_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The members of an average: `checkpoint`, `weight`, and what the manifest says of how each was trained."""
    averaged = manifest.get("averaged")
    if isinstance(averaged, Mapping):  # as written by versions before 0.2
        return [{"checkpoint": str(name), "weight": weight} for name, weight in averaged.items()]
    if isinstance(averaged, list):
        return [dict(member) for member in averaged if isinstance(member, Mapping)]
    return []


def round_in(path: str) -> int | None:
    """The number of the round in a path: 2 for runs/a/round-2/sft; the innermost one if there are several."""
    found = [_ROUND.fullmatch(part) for part in Path(path).parts]
    rounds = [int(each[1]) for each in found if each]
    return rounds[-1] if rounds else None


def paths_in(value: Any) -> Iterator[str]:
    """The texts under every `path` of a data section, in lists and mappings too."""
    for keys, text in texts_with_keys(value):
        if "path" in keys:
            yield text


def texts_with_keys(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The texts in nested settings, each with the keys that lead to it, without those in `_NOT_MADE_FROM`."""
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, list):
        for inner in value:
            yield from texts_with_keys(inner, keys)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in _NOT_MADE_FROM:
                yield from texts_with_keys(inner, (*keys, str(key)))


def local(name: str, folder: Path) -> Path | None:
    """The file or folder that a manifest names, if it is on this disk.

    A manifest may hold a shortened path: `round-1/sft` of `/data/runs/a/round-1/sft`. It is looked for from the working
    folder, and from the folders above the checkpoint: `/data/runs/a/round-1/average` finds it two folders up.
    """
    if not name or "\0" in name or "\n" in name or len(name) > _LONGEST_PATH:
        return None
    for above in (Path(), *folder.resolve().parents[:_LEVELS_UP]):
        place = above / Path(name).expanduser()
        if os.path.exists(place):
            return place
        if Path(name).is_absolute():
            break
    return None
