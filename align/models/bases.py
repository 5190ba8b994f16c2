"""The base model of an adapter: how an adapter names it, and the check that it is put over the same weights.

An adapter is useless without its base, and over another base of the same shapes it computes something else without any
error. So three things are written:

    adapter_config.json    base_model_name_or_path, revision    what peft, transformers and vLLM read
    MANIFEST.json          base.path       the base's folder, from the adapter's: found after both are moved together
                           base.weights    fingerprint of the base's weights, compared whenever the adapter is loaded

A base that was opened by its name on the Hub, or from the Hub's cache, is named owner/name at its commit, and loads
anywhere. A base in any other folder is named by its absolute path: peft passes the name to transformers, which looks
for a relative path from the working folder only. That path is right on this machine alone, so it is never published
(`align/publish/hub.py`).
"""

from __future__ import annotations

import json
import mmap
import os
import re
from pathlib import Path
from typing import Any

from blake3 import blake3

from align.errors import CheckpointError
from align.files import fingerprint_of
from align.models.checkpoints import Adapter, Checkpoint, recorded_base

_SNAPSHOT = re.compile(r"models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)/snapshots/(?P<commit>[0-9a-f]{7,64})")
"""A model's folder in the cache of huggingface_hub: `models--meta-llama--Llama-3.1-8B/snapshots/0e9e39f2`."""

_KNOWN: dict[Path, tuple[list[object], str]] = {}
"""Folder -> size, time and inode of its weight files, and the fingerprint that they had then."""


def base_name(base: Checkpoint, revision: str | None = None) -> tuple[str, str | None]:
    """(name, revision) by which an adapter names its base, as the docstring of this file says.

    revision: the one that the base was opened at.
    """
    cached = _SNAPSHOT.search(f"{base.folder.absolute()}")
    if cached is not None:
        return f"{cached['owner']}/{cached['name']}", cached["commit"]
    if Path(base.name).is_dir():
        return str(Path(base.name).absolute()), None
    return base.name, revision


def base_note(model: Any, folder: Path) -> dict[str, Any]:
    """What the manifest of a folder with an adapter records of its base; empty for a model without an adapter.

    model: the model that the adapter was attached to (`align.models.adapters.attach`).
    folder: where the adapter is saved.
    """
    base = getattr(model, "adapter_base", None)
    return {} if base is None else note_of(base, folder)


def note_of(base: Checkpoint, folder: Path) -> dict[str, Any]:
    """The same for a base that is known."""
    name, revision = base_name(base)
    note: dict[str, Any] = {"weights": weights_fingerprint(base)}
    if not Path(name).is_absolute():
        note |= {"name": name, "revision": revision}
    if Path(base.name).is_dir():
        # Of the real folders: where `runs` is a link to /scratch/runs, runs/a/.. is /scratch/runs
        note["path"] = os.path.relpath(base.folder.resolve(), folder.resolve())
    return {"base": note}


def require_same_base(adapter: Adapter, base: Checkpoint) -> None:
    """Raise CheckpointError if the base has other weights than those that the adapter was trained over.

    Nothing is compared for adapters that do not record it: those of other programs, and of earlier versions. Of several
    processes on a machine the first one compares; if that fails, the launcher ends the others.
    """
    recorded = recorded_base(adapter.folder)
    expected = recorded.get("weights")
    if not isinstance(expected, str) or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    commit = _SNAPSHOT.search(str(base.folder.absolute()))
    if commit is not None and commit["commit"] == recorded.get("revision"):
        return  # a commit names its content
    found = weights_fingerprint(base)
    if found != expected:
        what = (
            f"was trained over other weights than those of {base.name}, which has its shapes and would give other "
            f"outputs (weights {expected[:12]}, found {found[:12]})"
        )
        how = (
            "Restore the base that it was trained over, or train the adapter again over this one; "
            "to try it over this base nevertheless, load it with peft: PeftModel.from_pretrained(base, adapter)"
        )
        raise CheckpointError(adapter.name, what, how)


def weights_fingerprint(checkpoint: Checkpoint) -> str:
    """BLAKE3 of a whole model's weights by name, type, shape and content, however they are split into files.

    Computed once for each state of the files in a process; about 2 GB a second.
    """
    files = sorted({tensor.file for tensor in checkpoint.tensors.values()})
    stats = [file.stat() for file in files]
    state: list[object] = [
        (file.name, s.st_size, s.st_mtime_ns, s.st_ino) for file, s in zip(files, stats, strict=True)
    ]
    place = checkpoint.folder.resolve()
    if place in _KNOWN and _KNOWN[place][0] == state:
        return _KNOWN[place][1]
    digests: dict[str, tuple[object, ...]] = {}
    for file in files:
        digests |= _tensor_digests(file)
    found = fingerprint_of(*((name, *digests[name]) for name in sorted(checkpoint.tensors)))
    _KNOWN[place] = (state, found)
    return found


def _tensor_digests(file: Path) -> dict[str, tuple[object, ...]]:
    """Name -> (type, shape, BLAKE3 of the values) for the tensors of a safetensors file.

    The file is 8 bytes with the length of the header, the header, and the values. The header is JSON, and gives for
    each tensor where its values begin and end, counted from the header's end:

        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, ...}
    """
    found: dict[str, tuple[object, ...]] = {}
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        with memoryview(content) as view:
            for name, tensor in header.items():
                if name != "__metadata__":
                    begin, end = (8 + length + offset for offset in tensor["data_offsets"])
                    with view[begin:end] as values:
                        digest = blake3(values, max_threads=blake3.AUTO).hexdigest()
                    found[name] = (tensor["dtype"], tensor["shape"], digest)
    return found
