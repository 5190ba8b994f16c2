"""The output folder of a run: claimed for one run, writable, and one clear error if writing fails."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from align.errors import AlignError, CheckpointError, ConfigError, first_line, system_errno
from align.files import FolderLock
from align.manifest import SEAL, read_manifest
from align.models.output import refuse_overlap

CHECKPOINT = "checkpoint-"
METRICS = "metrics.jsonl"
REFERENCE_FOLDER = "reference"

_KEY = "training.output_dir"
_MODEL_FILES = ("config.json", "adapter_config.json")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "adapter_model.bin", "*.gguf", "*.pth")
_SAVING = ("I/O error", "inline_container", "PytorchStreamWriter", "No space left")
_IO_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


def claim_output(output: Path, start: Path | str) -> None:
    """Make `output` this run's own, before anything is loaded or written: check it, create it, lock it. Rank zero only.

    start: `model.path`, a folder or a name on the Hub.
    Raises ConfigError if writing to `output` could change another model, or if another run holds it.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        return
    try:
        refuse_overlap(output, list(_models_of(start)), _KEY)
        _refuse_foreign_models(output)
    except (OSError, RuntimeError) as error:  # a name that is too long, or for pathlib's RuntimeError a loop of links
        what = f"{output} cannot be used ({getattr(error, 'strerror', None) or error})"
        raise ConfigError(_KEY, what, "Name a folder that can be created and written to") from None
    FolderLock.acquire(output, _KEY)
    _delete_unfinished(output)


def release_output(output: Path) -> None:
    """Release the folder for the next run, of this process or another."""
    FolderLock.release_folder(output)


@contextmanager
def write_errors(folder: Path, how: str) -> Iterator[None]:
    """In the block, an error of the file system (no space, no permission) becomes a CheckpointError.

    how: what to do about it.
    """
    try:
        yield
    except AlignError:
        raise
    except Exception as error:  # a full disk is a bare Exception in tokenizers
        where, reason = folder, first_line(error)
        if isinstance(error, OSError):
            where, reason = error.filename or folder, error.strerror or reason
        of_the_disk = system_errno(error) in _IO_ERRORS or (
            isinstance(error, SafetensorError | RuntimeError) and any(sign in str(error) for sign in _SAVING)
        )
        if not of_the_disk:
            raise
        raise CheckpointError(where, f"cannot be written ({reason[:200]})", how) from None


def _delete_unfinished(output: Path) -> None:
    """Delete the temporary files of `whole_file` that a killed run has left. The caller holds the folder's lock.

    Only in places where no other run writes: below a folder such as runs/, others may be alive.
    """
    for pattern in (".*.part", f"{REFERENCE_FOLDER}/*/.*.part"):
        for left in output.glob(pattern):
            left.unlink(missing_ok=True)


def _models_of(start: Path | str) -> Iterator[Path]:
    """The folder that the run starts from, and for an adapter its base's."""
    folder = Path(start)
    if not folder.is_dir():
        return
    yield folder
    try:
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        if Path(base).is_dir():
            yield Path(base)
    except (OSError, ValueError, KeyError, TypeError):
        return  # no adapter, or one that loading will refuse by name


def _refuse_foreign_models(output: Path) -> None:
    folder = output.resolve()
    if not _is_ours(folder) and (found := _model_file(folder)):
        what = f"{output} holds a model that no run of align wrote ({found}, and no {SEAL})"
        raise ConfigError(_KEY, what, "Name a new folder")
    for above in folder.parents:
        # A project's folder may have a config.json for other purposes; a model's has weights, too, or is sealed.
        if (above / SEAL).is_file() or ((above / _MODEL_FILES[0]).exists() and _weights(above)):
            raise ConfigError(_KEY, f"{output} is inside the folder of another model ({above})", "Name a new folder")


def _is_ours(folder: Path) -> bool:
    """Whether a run wrote here: its model is sealed, or it was ended while it trained or saved."""
    if (folder / METRICS).is_file() or any(folder.glob(f"{CHECKPOINT}*/{SEAL}")):
        return True
    try:
        read_manifest(folder)
    except CheckpointError:
        return False
    return True


def _model_file(folder: Path) -> str | None:
    if not folder.is_dir():
        return None
    return next((name for name in _MODEL_FILES if (folder / name).exists()), None) or _weights(folder)


def _weights(folder: Path) -> str | None:
    return next((file.name for pattern in _WEIGHTS for file in folder.glob(pattern)), None)
