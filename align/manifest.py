"""How a file or folder was made, beside it on disk: config, input fingerprints, counts, versions.

A data file `rows.jsonl` has `rows.jsonl.manifest.json`. A checkpoint folder has `MANIFEST.json` with the size and hash
of each file; it is written last, by rename, so a folder without a valid one is no checkpoint.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import align
from align.errors import CheckpointError
from align.files import fingerprint, sync_file, whole_file
from align.source_code import code_fingerprint as code_fingerprint

SEAL = "MANIFEST.json"
_LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed", "tokenizers", "pydantic")


def write_data_manifest(
    path: Path,
    *,
    config: dict[str, Any],
    inputs: Iterable[Path] = (),
    counts: dict[str, Any],
    notes: dict[str, Any] | None = None,
) -> Path:
    """Write `<path>.manifest.json` for a data file that has just been written.

    counts: rows kept, and rows dropped by reason: `{"rows": 512, "dropped": {"duplicate": 19}}`.
    """
    manifest = {
        "file": path.name,
        "blake3": fingerprint(path),
        "counts": counts,
        "config": config,
        "inputs": {str(entry): fingerprint(entry) for entry in inputs},
        "made_by": versions(),
        **(notes or {}),
    }
    target = data_manifest_path(path)
    with whole_file(target) as handle:
        json.dump(manifest, handle, indent=1, ensure_ascii=False)
    return target


def data_manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".manifest.json")


def read_data_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a data file; empty where there is none (rows that a user brought)."""
    target = data_manifest_path(path)
    return json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}


def seal_folder(folder: Path, files: Iterable[Path], notes: dict[str, Any] | None = None) -> Path:
    """Make `folder` a checkpoint: fsync the files, then write MANIFEST.json with size and BLAKE3 of each.

    files: paths inside the folder. notes: what else to remember (step, config, versions).
    """
    listed = {}
    for file in sorted(files):
        sync_file(file)
        listed[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "blake3": fingerprint(file)}
    with whole_file(folder / SEAL) as handle:
        json.dump({"files": listed, "made_by": versions(), **(notes or {})}, handle, indent=1, ensure_ascii=False)
    return folder / SEAL


def unseal_folder(folder: Path) -> None:
    """Take the manifest away before the folder's files change, so that a half-changed folder is no checkpoint."""
    (folder / SEAL).unlink(missing_ok=True)


def verify_folder(folder: Path) -> dict[str, Any]:
    """The manifest of a whole checkpoint. Raises CheckpointError naming the first file that is missing or differs."""
    seal = folder / SEAL
    if not seal.exists():
        raise CheckpointError(folder, f"has no {SEAL}, so it was never finished", "Run its stage again")
    try:
        manifest = json.loads(seal.read_text(encoding="utf-8"))
        files = manifest["files"]
    except (json.JSONDecodeError, KeyError) as error:
        raise CheckpointError(seal, f"cannot be read ({error})", "Run its stage again") from None
    for name, wanted in files.items():
        file = folder / name
        if not file.exists():
            raise CheckpointError(file, f"is listed in {SEAL} and not there", "Run its stage again")
        if file.stat().st_size != wanted["bytes"]:
            what = f"has {file.stat().st_size} bytes where {SEAL} says {wanted['bytes']}"
            raise CheckpointError(file, what, "Run its stage again")
        if fingerprint(file) != wanted["blake3"]:
            raise CheckpointError(file, f"does not have the content that {SEAL} says", "Run its stage again")
    return manifest


def is_whole(folder: Path) -> bool:
    """Whether `verify_folder` would pass."""
    try:
        verify_folder(folder)
    except CheckpointError:
        return False
    return True


def versions() -> dict[str, str]:
    """What made a file: this project, Python and the libraries that move numbers."""
    found = {"align": align.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
