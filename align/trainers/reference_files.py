"""Files of reference log-probabilities: written whole, read with a checksum, merged. What is in them: `reference.py`.

A pass writes a small file for each process and some steps, so that a killed one loses little. That is 50,000 files for
a million rows on 64 processes. They are merged while the pass goes on, and once more at its end:

    a process has written 64 files         one file with their rows; the 64 are deleted
    the pass is over, more than 64 files   one file with the rows of all files of this maker; these are deleted

A merged file is whole before the first of its parts is deleted. If the process is killed between the two, some rows are
in two files with the same values. Runs that share a cache may merge the same files: each writes all that it has read
before it deletes any of it, under a name that depends on the content, so no row is ever lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from align.errors import CheckpointError
from align.files import fingerprint_of, whole_file
from align.reporting import logger

log = logger(__name__)

SUFFIX = ".safetensors"
MANY = 64
"""This many files are merged into one."""

_DELETE = "Delete the file; its rows are computed again"


def merge(files: Iterable[Path], maker: str) -> Path | None:
    """Merge files of one maker: write their rows into one file, and delete them. None if fewer than two can be read.

    A damaged file stays where it is.
    """
    read: dict[Path, tuple[np.ndarray, np.ndarray]] = {}
    for file in sorted(files):
        try:
            read[file] = read_shard(file)
        except CheckpointError as error:
            log.warning("not merged with the others: %s", error)
    if len(read) < 2:
        return None
    rows, first = np.unique(np.concatenate([rows for rows, _ in read.values()]), return_index=True)
    tensors = {"rows": rows, "logps": np.concatenate([logps for _, logps in read.values()])[first]}
    merged = next(iter(read)).with_name(f"{maker}-merged-{_checksum(tensors)[:8]}{SUFFIX}")
    write_shard(merged, **tensors)
    for file in read.keys() - {merged}:
        file.unlink(missing_ok=True)  # another run may have merged it, too
    return merged


def add_to_shard(path: Path, rows: np.ndarray, logps: np.ndarray) -> None:
    """Write the values of some rows, and keep those of other rows that the file has from a run of fewer steps."""
    if path.exists():
        try:
            others, values = read_shard(path)
        except CheckpointError:
            pass  # its rows are among those that were computed again
        else:
            kept = ~np.isin(others, rows)
            rows, logps = np.concatenate([others[kept], rows]), np.concatenate([values[kept], logps])
    write_shard(path, rows, logps)


def write_shard(path: Path, rows: np.ndarray, logps: np.ndarray) -> None:
    tensors = {"rows": rows.astype(np.int64), "logps": logps}
    with whole_file(path, "wb") as handle:
        handle.write(save(tensors, metadata={"blake3": _checksum(tensors)}))


def read_shard(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers [n] and values [n, branches]. Raises CheckpointError if the file is not as it was written."""
    try:
        with safe_open(path, "np") as handle:
            expected = (handle.metadata() or {}).get("blake3")
            tensors = {name: handle.get_tensor(name) for name in ("rows", "logps")}
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"cannot be read ({error})", _DELETE) from None
    if _checksum(tensors) != expected:
        raise CheckpointError(path, "does not match its checksum", _DELETE)
    return tensors["rows"], tensors["logps"]


def _checksum(tensors: dict[str, np.ndarray]) -> str:
    return fingerprint_of(*((name, array.dtype, array.shape, array.tobytes().hex()) for name, array in tensors.items()))
