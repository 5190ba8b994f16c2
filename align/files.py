"""Files that appear whole or not at all, their fingerprints, and folders that one run at a time writes to."""

from __future__ import annotations

import atexit
import errno
import fcntl
import glob
import os
import socket
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from blake3 import blake3

from align.errors import ConfigError

LOCK = ".lock"
"""Name of the lock in a folder that a run writes to. Hidden, so that no fingerprint counts it."""

UNITS = "units.json"
"""A folder with a file of this name holds units of work, from which a result is made and which are no part of it."""

PID_WIDTH = 20
"""A lock's text begins with the process id in this many characters; the rest of the line is the name of the machine."""
_READ_BYTES = 8 * 2**20
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def whole_file(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file handle whose content takes the name `path` only when the block ends well.

    The content is written to a temporary file in the same folder, fsynced, and renamed to `path`; then the folder is
    fsynced. So after a power cut `path` is either the old file or the new one. On an error the old file is kept.
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
    """Wait until what was written to `path` is on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the folder's list of names is on the disk (fsync)."""
    sync_file(folder)


def give_usual_mode(path: Path) -> None:
    """Give a file the permissions that `open` would have given it; some libraries write files that only their owner
    can read.
    """
    path.chmod(0o666 & ~_umask())


class FolderLock:
    """An exclusive lock on a folder, held until `release` or until this process ends, however it ends.

    The lock is the kernel's (flock on `<folder>/.lock`), so that a killed run leaves none behind. The file's text is
    the holder's process id and machine, for the error message only.
    """

    _held: dict[Path, FolderLock] = {}  # noqa: RUF012 - one table for the process, by resolved folder

    def __init__(self, folder: Path, handle: IO[str]) -> None:
        self.folder, self._handle = folder, handle
        self.created = False
        """Whether the folder was created for the lock."""

    @classmethod
    def acquire(cls, folder: Path, key: str = "") -> FolderLock:
        """The lock on `folder`, which is created if it is missing. A process that holds it already gets the same one.

        key: the setting that names the folder, for the error message.
        Raises ConfigError if another process holds the lock, or if the folder cannot be created or written to.
        """
        where = f"{key}: {folder}" if key else str(folder)
        try:
            created = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            resolved = folder.resolve()
            if resolved in cls._held:
                return cls._held[resolved]
            lock = cls._locked(resolved, where)
            lock.created = created
        except OSError as error:
            how = "Name a folder that can be created and written to"
            if isinstance(error, FileExistsError):
                raise ConfigError(where, "is a file, and a folder is expected", how) from None
            raise ConfigError(where, f"cannot be written to ({error.strerror or error})", how) from None
        cls._held[resolved] = lock
        atexit.register(lock.release)  # a run that ends in an error leaves no file, either
        return lock

    @classmethod
    def _locked(cls, folder: Path, where: str) -> FolderLock:
        path = folder / LOCK
        while True:
            handle = path.open("a+", encoding="utf-8", errors="replace")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _UNSUPPORTED:
                    return cls(folder, handle)  # a file system without locks: better unprotected than unusable
                if not isinstance(error, BlockingIOError):
                    handle.close()
                    raise
                handle.seek(0)
                holder = holder_in(handle.read())
                handle.close()
                what = f"another run is writing to it ({holder})"
                raise ConfigError(where, what, "Wait until it ends, or name another folder") from None
            # `release` deletes the file. A lock on a file that was deleted between open and flock protects nothing:
            #   A holds inode 1 | B opens inode 1 | A deletes it | B locks inode 1 | C creates and locks inode 2
            # so B compares what it has locked with the file that now has the name, and tries again.
            try:
                current = path.stat().st_ino == os.fstat(handle.fileno()).st_ino
            except FileNotFoundError:
                current = False
            if current:
                handle.seek(0)
                handle.truncate()
                handle.write(f"{os.getpid():<{PID_WIDTH}}{socket.gethostname()}\n")
                handle.flush()
                return cls(folder, handle)
            handle.close()

    @classmethod
    def release_folder(cls, folder: Path) -> None:
        """Release this process's lock on `folder`, if it has one."""
        lock = cls._held.get(folder.resolve())
        if lock is not None:
            lock.release()

    def release(self) -> None:
        """Unlock the folder; delete it if it was created for the lock and nothing was written to it but hidden records,
        such as the choice of a precision for a run that has then not begun. Releasing twice does nothing.
        """
        if self._held.get(self.folder) is not self:
            return
        del self._held[self.folder]
        (self.folder / LOCK).unlink(missing_ok=True)
        self._handle.close()
        if self.created:
            with suppress(OSError):  # it is gone, or others write to it
                left = list(self.folder.iterdir())
                if all(file.name.startswith(".") and file.is_file() for file in left):
                    for file in left:
                        file.unlink()
                    self.folder.rmdir()


def holder_in(text: str) -> str:
    """Who holds a lock, by the text of its file: `process 4711 on node-3`."""
    line = text.partition("\n")[0]
    process, machine = line[:PID_WIDTH].strip(), line[PID_WIDTH:].strip()
    return f"process {process or 'unknown'}{f' on {machine}' if machine else ''}"


@contextmanager
def sole_writer(folder: Path, key: str = "") -> Iterator[None]:
    """Hold the lock on `folder` for a block. Raises ConfigError as `FolderLock.acquire` does."""
    lock = FolderLock.acquire(folder, key)
    try:
        yield
    finally:
        lock.release()


def matching(path: str | Path) -> list[Path]:
    """The files and folders that a path names: itself if it exists, else what its wildcards match, in sorted order.

    `rows[1].jsonl` is that file where it exists, and only otherwise a pattern that matches `rows1.jsonl`.
    """
    try:
        if os.path.lexists(path):
            return [Path(path)]
        return sorted(map(Path, glob.glob(str(path), recursive=True))) if glob.has_magic(str(path)) else []
    except ValueError:  # a NUL character in the path
        return []


def finished_lines(path: str | Path) -> list[str]:
    r"""The lines of a log of JSON lines, each with its end. A last line without one is left out: its writer was killed.

    Only "\n" ends a line: `str.splitlines` would also cut at U+2028, U+0085 and a form feed inside a JSON string.
    """
    lines = Path(path).read_bytes().split(b"\n")[:-1]
    return [line.decode("utf-8", errors="replace") + "\n" for line in lines]


def fingerprint(path: str | Path) -> str:
    """BLAKE3 of a file, or of a folder's relative names and file contents in sorted order (hidden names left out).

    Raises FileNotFoundError if there is nothing at `path`: the hash of nothing identifies nothing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if path.is_file():
        digest = blake3(max_threads=blake3.AUTO)
        with path.open("rb", buffering=0) as handle:  # read, not mapped: mapped pages would count as our memory
            while chunk := handle.read(_READ_BYTES):
                digest.update(chunk)
        return digest.hexdigest()
    return folder_fingerprint(fingerprints_in(path))


def fingerprints_in(folder: Path) -> dict[str, str]:
    """Relative name -> BLAKE3 of each file of a folder and the folders below it, without hidden names and without units
    of work."""
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    visible = [name for name in files if not any(part.startswith(".") for part in name.split("/"))]
    return {name: fingerprint(files[name]) for name in without_units(visible)}


def without_units(names: Collection[str]) -> list[str]:
    """Relative names of files, without those in a folder below that holds units of work.

    ["sft.jsonl", "units/units.json", "units/unit-00000.jsonl"] gives ["sft.jsonl"].
    """
    folders = tuple(name.removesuffix(UNITS) for name in names if name.endswith(f"/{UNITS}"))
    return [name for name in names if not name.startswith(folders)] if folders else list(names)


def folder_fingerprint(files: Mapping[str, str]) -> str:
    """`fingerprint` of a folder, from what `fingerprints_in` found in it."""
    digest = blake3()
    for name, value in files.items():
        digest.update(f"{name}\0{value}\n".encode())
    return digest.hexdigest()


def fingerprint_of(*parts: object) -> str:
    """BLAKE3 of values, by their text; lengths keep ("ab", "c") apart from ("a", "bc")."""
    return fingerprint_of_each(parts)


def fingerprint_of_each(parts: Iterable[object]) -> str:
    """`fingerprint_of` all values of a stream, which are hashed one at a time and not kept."""
    digest = blake3()
    for part in parts:
        text = str(part).encode()
        digest.update(f"{len(text)}:".encode() + text)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
