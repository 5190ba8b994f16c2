"""Files that appear whole or not at all, and their fingerprints."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from blake3 import blake3

_READ_BYTES = 8 * 2**20


@contextmanager
def whole_file(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """A file handle whose content takes the name `path` only when the block ends well.

    Written beside `path`, fsynced, renamed, and the folder fsynced: after a power cut either the old file stands there
    or the new one. On an error the old file is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding = None if "b" in mode else "utf-8"
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, mode, encoding=encoding) as handle:
            os.fchmod(handle.fileno(), 0o666 & ~_umask())  # mkstemp keeps a file to its owner
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as handle:
        handle.write(text)


def sync_file(path: Path) -> None:
    """Have the disk hold what was written to `path`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Have the disk hold the folder's list of names."""
    sync_file(folder)


def fingerprint(path: str | Path) -> str:
    """BLAKE3 of a file, or of a folder's relative names and file contents in sorted order (hidden names left out)."""
    path = Path(path)
    if path.is_file():
        digest = blake3(max_threads=blake3.AUTO)
        with path.open("rb", buffering=0) as handle:  # read, not mapped: mapped pages would count as our memory
            while chunk := handle.read(_READ_BYTES):
                digest.update(chunk)
        return digest.hexdigest()
    digest = blake3()
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in relative.parts):
            digest.update(f"{relative.as_posix()}\0{fingerprint(file)}\n".encode())
    return digest.hexdigest()


def fingerprint_of(*parts: object) -> str:
    """BLAKE3 of values, by their text; lengths keep ("ab", "c") apart from ("a", "bc")."""
    digest = blake3()
    for part in parts:
        text = str(part).encode()
        digest.update(f"{len(text)}:".encode() + text)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
