"""Whether the outputs of a finished stage are as they were when it ended.

Also the record of a stage in its own folder, from which a lost ledger is filled again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from align.errors import CheckpointError
from align.files import fingerprints_in, folder_fingerprint, whole_file, without_units
from align.manifest import SEAL, content_fingerprint, verify_folder
from align.rounds.changes import listed
from align.rounds.ledger import StageRecord, record_of
from align.source_code import code_changes

STAGE_RECORD = ".stage"
"""JSON, without the ending: an average or a merged model copies its first member's *.json files."""


def described(outputs: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """What a ledger keeps of a stage's outputs: path, fingerprint, and the files of a folder that has no manifest."""
    found: dict[str, dict[str, Any]] = {}
    for name, path in outputs.items():
        if path.is_dir() and not (path / SEAL).is_file():
            files = fingerprints_in(path)
            found[name] = {"path": str(path), "blake3": folder_fingerprint(files), "files": files}
        else:
            found[name] = {"path": str(path), "blake3": content_fingerprint(path)}
    return found


def damage_in(record: StageRecord, outputs: Mapping[str, Path]) -> str:
    """What is wrong with the outputs of a finished stage, with the name of the file; empty when they are whole.

    Every file is read: checkpoints against the hashes in their MANIFEST.json, other files against the ledger.
    """
    if record.outputs.keys() != outputs.keys():
        return f"it has other outputs: {listed(sorted(record.outputs.keys() ^ outputs.keys()))}"
    for name, path in outputs.items():
        entry = record.outputs[name]
        if not path.exists():
            return f"{path} is missing"
        if fault := seal_damage(path):
            return fault
        now = described({name: path})[name]
        if now["blake3"] != entry["blake3"]:
            before = entry.get("files", {})
            counted = {file: before[file] for file in without_units(before)}  # older records list units of work too
            changed = code_changes(counted, now.get("files", {}))
            if before and not changed:
                continue
            return f"{listed([str(path / file) for file in changed] or [str(path)])} changed since the stage ended"
    return ""


def seal_damage(path: Path) -> str:
    """What differs between a checkpoint and its MANIFEST.json, read whole; empty for what has none."""
    if not (path / SEAL).is_file():
        return ""
    try:
        verify_folder(path)
    except CheckpointError as error:
        return f"{error.where} {error.what}"
    return ""


def stage_record_path(outputs: Mapping[str, Path]) -> Path | None:
    """Where a stage's own record is: inside its first output, or next to it when that is a file.

    The name is hidden, so it is no part of the output's fingerprint and is never published.
    """
    first = next(iter(outputs.values()), None)
    if first is None:
        return None
    return first / STAGE_RECORD if first.is_dir() else first.with_name(f".{first.name}{STAGE_RECORD}")


def write_stage_record(record: StageRecord, outputs: Mapping[str, Path]) -> None:
    """Keep a finished stage's record with what it made."""
    path = stage_record_path(outputs)
    if path is not None:
        with whole_file(path) as handle:
            json.dump(asdict(record), handle, indent=1)


def read_stage_record(label: str, outputs: Mapping[str, Path]) -> StageRecord | None:
    """The record that a stage left with its outputs; None where there is none, or it is damaged or of another stage."""
    path = stage_record_path(outputs)
    try:
        record = record_of(json.loads(path.read_bytes())) if path else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return record if record is not None and record.label == label and record.status == "finished" else None
