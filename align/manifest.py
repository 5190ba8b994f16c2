"""Manifests: JSON files that record how a data file or checkpoint was made (config, inputs, counts, versions).

A data file `rows.jsonl` has `rows.jsonl.manifest.json`. A checkpoint folder has `MANIFEST.json` with the size and hash
of each file; it is written last, by rename, so a folder without a valid manifest is an unfinished checkpoint.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from blake3 import blake3

import align
from align import hardware
from align.errors import AlignError, CheckpointError, RowError, UnreadableCheckpointError
from align.files import fingerprint, fingerprint_of, give_usual_mode, matching, sync_file, whole_file
from align.hub_names import similar_path
from align.source_code import code_fingerprint as code_fingerprint

SEAL = "MANIFEST.json"
FORMAT = 2
"""Of MANIFEST.json. Format 1 had no number and no hash of its own text."""

_AGAIN = "Run its stage again"
_OR_DELETE = "or delete the folder to go on without it"
_MAX_BYTES = 64 * 2**20
_ZEROS = "0" * 64
_HEAD = re.compile(r'\{\n "format": ([1-9][0-9]*),\n "blake3": "([0-9a-f]{64})",\n')
_HEAD_OF_FORMAT_1 = '{\n "files": {'
_LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed", "tokenizers", "pydantic")


def write_data_manifest(
    path: Path,
    *,
    config: dict[str, Any],
    inputs: Iterable[Path] | Mapping[str, str] = (),
    counts: dict[str, Any],
    notes: dict[str, Any] | None = None,
) -> Path:
    """Write `<path>.manifest.json` for a data file that has just been written.

    inputs: what it was made from: paths, or name -> what tells its content apart (`align.records.inputs_of`). A path
        that is not on this machine, such as a model's name on the Hub, is recorded by its name.
    counts: rows kept, and rows dropped by reason: `{"rows": 512, "dropped": {"duplicate": 19}}`.
    """
    manifest = {
        "file": path.name,
        "blake3": fingerprint(path),
        "counts": counts,
        "config": config,
        "inputs": dict(inputs)
        if isinstance(inputs, Mapping)
        else {str(each): input_fingerprint(each) for each in inputs},
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
    """The manifest of a data file; empty if there is none (rows that a user brought).

    Raises RowError if there is one that cannot be read.
    """
    target = data_manifest_path(path)
    try:
        manifest = json.loads(target.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        how = f"Build {path.name} again, or delete the manifest if the rows are your own"
        raise RowError(target, f"cannot be read ({error})", how) from None
    if not isinstance(manifest, dict):
        raise RowError(target, "expected a JSON object", f"Build {path.name} again, or delete the manifest")
    return manifest


def input_fingerprint(entry: Path | str) -> str:
    """What identifies an input: BLAKE3 of a file or folder; of a checkpoint's MANIFEST.json, which lists the hashes of
    its files; or for a name on the Hub the commit of the snapshot in the cache.

    Raises CheckpointError if there is nothing of that name.
    """
    path = Path(entry)
    if path.exists():
        return fingerprint(path / SEAL) if (path / SEAL).is_file() else fingerprint(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # Only some of a repository's files may be in the cache (`align/models/checkpoints.py`); these always are.
        found = snapshot_download(  # nosec B615  # nothing is downloaded: it asks which commit is in the cache
            str(entry), allow_patterns=["*config.json"], local_files_only=True
        )
        return f"commit {Path(found).name}"
    except (HFValidationError, LocalEntryNotFoundError):
        what = "is neither a file or folder nor a name in the Hub's cache"
        raise CheckpointError(entry, what, "Name an input that exists") from None


def content_fingerprint(path: Path) -> str:
    """A fingerprint of what is at `path`; empty if it does not exist.

    A checkpoint counts by its MANIFEST.json, which lists the hash of each file, and by the files' presence and sizes:
    reading tens of gigabytes again for every stage would cost minutes. Raises UnreadableCheckpointError for one that
    cannot be read now.
    """
    if not path.exists():
        matched = matching(path)  # a pattern such as rows/*.jsonl counts by the files that it matches
        return fingerprint_of(*map(content_fingerprint, matched)) if matched else ""
    seal = path / SEAL
    if not os.path.lexists(seal):
        return fingerprint(path)
    try:
        listed = read_manifest(path)["files"]
        whole = all((path / name).stat().st_size == entry["bytes"] for name, entry in listed.items())
    except CheckpointError:
        return ""
    except OSError as error:
        found = _fault(Path(error.filename or path), error)
        if isinstance(found, UnreadableCheckpointError):
            raise found from None
        return ""
    return fingerprint_of("checkpoint", fingerprint(seal)) if whole else ""


def write_folder_manifest(folder: Path, files: Iterable[Path], notes: dict[str, Any] | None = None) -> Path:
    """Make `folder` a checkpoint: fsync the files, then write MANIFEST.json with size and BLAKE3 of each.

    files: paths inside the folder. notes: what else to record (step, config, versions).
    Files get the permissions that `open` gives: safetensors writes files that only their owner can read.
    """
    return seal_folder(folder, file_entries(folder, files), notes)


def file_entries(folder: Path, files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Fsync files inside the folder, and return what MANIFEST.json lists of them: name -> size and BLAKE3."""
    listed = {}
    for file in sorted(files):
        give_usual_mode(file)
        sync_file(file)
        listed[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "blake3": fingerprint(file)}
    return listed


def seal_folder(folder: Path, entries: Mapping[str, dict[str, Any]], notes: dict[str, Any] | None = None) -> Path:
    """Write MANIFEST.json with entries from `file_entries`. The files are not read again."""
    return write_manifest(folder, {"files": dict(sorted(entries.items())), "made_by": versions(), **(notes or {})})


def delete_listed_files(folder: Path, names: Iterable[str], notes: dict[str, Any]) -> None:
    """Delete listed files of a sealed folder and seal what is left, quoting its hashes: nothing is read again.

    names: as MANIFEST.json lists them. notes: laid over what the manifest recorded.
    The manifest is written first, with the names under "deleted". So after a crash in between the folder is whole, and
    `delete_what_is_left` deletes the rest.
    """
    manifest, deleted = read_manifest(folder), sorted(names)
    for name in deleted:
        del manifest["files"][name]
    manifest |= {**notes, "deleted": deleted}
    write_manifest(folder, manifest)
    delete_what_is_left(folder, manifest)


def delete_what_is_left(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Delete the files that a manifest lists as deleted: a process may have been killed in the middle of that."""
    for name in manifest.get("deleted", ()):
        if not _is_outside(name):
            (folder / name).unlink(missing_ok=True)


def remove_manifest(folder: Path) -> None:
    """Delete the manifest before the folder's files change, so that a half-changed folder is no checkpoint."""
    (folder / SEAL).unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """MANIFEST.json of a checkpoint folder, with "files" checked for its form; the files themselves are not read.

    Raises CheckpointError if it is missing or if a single bit of it has changed, and UnreadableCheckpointError if the
    system does not let it be read, or if a newer version wrote it. Manifests of format 1, from before they held a hash
    of their own text, are read too: they begin with "files", and nothing protects their text.
    """
    seal = folder / SEAL
    try:
        if seal.stat().st_size > _MAX_BYTES:
            raise CheckpointError(seal, f"is larger than {_MAX_BYTES} bytes, so it is no manifest", _AGAIN)
        text = seal.read_bytes().decode("utf-8")
        manifest = _parsed(seal, text)
        if not isinstance(manifest["files"], dict):
            raise TypeError("its files are not a mapping")
        for name, entry in manifest["files"].items():
            _check_entry(name, entry)
    except (FileNotFoundError, NotADirectoryError) as error:
        if folder.is_dir() and seal.is_symlink():
            raise _fault(seal, error) from None
        if not folder.is_dir():
            similar = similar_path(folder)
            how = f"Did you mean {similar}?" if similar else "Name the folder of a finished checkpoint on this disk"
            raise CheckpointError(folder, "there is no such folder", how) from None
        raise CheckpointError(folder, f"has no {SEAL}, so it was never finished", _AGAIN) from None
    except OSError as error:
        raise _fault(seal, error) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, AlignError):
            raise
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(seal, f"cannot be read ({reason[:200]})", _AGAIN) from None
    return manifest


def verify_folder(folder: Path, checked: Collection[str] = ()) -> dict[str, Any]:
    """The manifest of a whole checkpoint. Raises CheckpointError naming the first file that is missing or differs, and
    UnreadableCheckpointError naming one that cannot be read.

    checked: names of files that another process has found to be whole (`align/trainers/verifying.py`).
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        if name not in checked:
            verify_file(folder / name, expected)
    return manifest


def verify_file(file: Path, expected: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless a file has the size and the content of its entry in MANIFEST.json."""
    try:
        size = file.stat().st_size
        if size != expected["bytes"]:
            what = f"has {size} bytes where {SEAL} says {expected['bytes']}"
            raise CheckpointError(file, what, _AGAIN)
        if fingerprint(file) != expected["blake3"]:
            raise CheckpointError(file, f"does not have the content that {SEAL} says", _AGAIN)
    except OSError as error:
        raise _fault(file, error) from None


def _fault(file: Path, error: OSError) -> AlignError:
    """What an error of the system says of a file: it is gone, or it cannot be read now and may be whole."""
    if isinstance(error, FileNotFoundError) and file.is_symlink():
        what = f"is a link to {file.readlink()}, which does not exist"
        return UnreadableCheckpointError(file, what, f"Mount the storage that it is on, {_OR_DELETE}")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return CheckpointError(file, f"is listed in {SEAL}, but missing", _AGAIN)
    what = f"cannot be read ({error.strerror or error})"
    if isinstance(error, IsADirectoryError):
        return CheckpointError(file, what, _AGAIN)
    return UnreadableCheckpointError(file, what, f"Make it readable (permissions, disk), {_OR_DELETE}")


def is_whole(folder: Path) -> bool:
    """Whether `verify_folder` would pass."""
    try:
        verify_folder(folder)
    except (CheckpointError, UnreadableCheckpointError):
        return False
    return True


def write_manifest(folder: Path, content: dict[str, Any]) -> Path:
    """Write MANIFEST.json with a BLAKE3 of its own text.

    The hash is of the text as it reads with zeros in the hash's place, so the reader can put the zeros back:
        {"format": 2, "blake3": "0000...", "files": ...}   is hashed, to 5f3a...
        {"format": 2, "blake3": "5f3a...", "files": ...}   is written
    """
    rest = {name: value for name, value in content.items() if name not in ("format", "blake3", "files")}
    ordered = {"format": FORMAT, "blake3": _ZEROS, "files": content["files"], **rest}
    text = json.dumps(ordered, indent=1, ensure_ascii=False)
    digest = blake3(text.encode()).hexdigest()
    with whole_file(folder / SEAL) as handle:
        handle.write(text.replace(_ZEROS, digest, 1))
    return folder / SEAL


def _parsed(seal: Path, text: str) -> dict[str, Any]:
    """The manifest in `text`, if it is the text that was written. Later formats are known by a hash that fits."""
    found = _HEAD.match(text)
    if found:
        start, end = found.span(2)
        if blake3((text[:start] + _ZEROS + text[end:]).encode()).hexdigest() != found[2]:
            raise ValueError("its text is not what was written: the hash that it holds of itself does not fit")
        if int(found[1]) > FORMAT:
            what = f"is of format {found[1]}, and this version of align reads formats up to {FORMAT}"
            raise UnreadableCheckpointError(seal, what, f"Use the version that wrote it, or a newer one, {_OR_DELETE}")
    elif not text.startswith(_HEAD_OF_FORMAT_1):
        raise ValueError(f"it does not begin as a manifest of format {FORMAT} or 1 does")
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def _is_outside(name: str) -> bool:
    path = PurePosixPath(name)
    return not name or path.is_absolute() or ".." in path.parts or "\0" in name


def _check_entry(name: str, entry: Any) -> None:
    if _is_outside(name):
        raise ValueError(f"it lists {name!r}, which is outside the folder")
    if not isinstance(entry["bytes"], int) or not isinstance(entry["blake3"], str):
        raise TypeError(f"its entry for {name} has no size and hash")


def versions() -> dict[str, str]:
    """What made a file: this project, Python, the libraries that move numbers, and the hardware."""
    found = {"align": align.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["hardware"] = hardware.describe()
    return found
