"""The processes that work on one output folder together: who may join, and who writes the files that all have made.

The units of work are shared by `work_units.py`. What is left is what must happen once in the folder: to decide what
`dtype: auto` means, and to write the joined files at the end.

    with joined(folder, "output_dir", settings, last_file="candidates.jsonl.manifest.json") as workers:
        ...                                     # units, shared with the other processes
        with turn_to_write(workers) as is_first:    # one process at a time
            if is_first:                            # no other process has written them yet
                ...                             # write the files, the last one last

Example with two processes that finish their units at the same time:

    A takes its turn, finds no new manifest, and writes     B waits for its turn
    A ends                                                  B finds the manifest that A wrote, and ends with exit code 0
    A is killed before it has written the manifest          B finds no new manifest, and writes

A process that starts when all others have ended writes the files again, with the same content, as a repeated run does.
Two locks (flock) do this: `.lock`, which the processes share and which keeps out other recipes and other settings, and
`.turn`, which one process has at a time. The last process deletes both.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from align.errors import ConfigError
from align.files import LOCK, PID_WIDTH, fingerprint_of, holder_in

TURN = ".turn"


class Workers:
    """The processes that work on a folder, seen from one of them. Made by `joined`."""

    def __init__(self, folder: Path, last_file: Path) -> None:
        self._folder, self._last_file = folder, last_file
        self._at_start = _identity(last_file)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A block that one process runs at a time; the others wait. If it is killed in it, the next one goes on."""
        with _turn(self._folder):
            yield

    def is_written(self) -> bool:
        """Whether another process has written the last file since this one joined."""
        now = _identity(self._last_file)
        return now is not None and now != self._at_start


@contextmanager
def joined(folder: Path, key: str, settings: Mapping[str, Any], *, last_file: str) -> Iterator[Workers]:
    """Work on `folder` in the block, together with other processes that have the same settings.

    key: the setting that names the folder, for messages.
    last_file: the name of the file that is written last.
    Raises ConfigError if another recipe, or a process with other settings, is writing to the folder, or if the folder
    cannot be created or written to.
    """
    where = f"{key}: {folder}"
    created = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        workers = Workers(folder, folder / last_file)
        with _turn(folder):
            membership = _join(folder / LOCK, where, fingerprint_of(json.dumps(settings, sort_keys=True)))
    except OSError as error:
        how = "Name a folder that can be created and written to"
        if isinstance(error, FileExistsError):
            raise ConfigError(where, "is a file, and a folder is expected", how) from None
        raise ConfigError(where, f"cannot be written to ({error.strerror or error})", how) from None
    try:
        yield workers
    finally:
        with suppress(OSError):  # the folder was deleted
            _leave(folder, membership)
            if created:
                folder.rmdir()  # fails unless nothing was written


@contextmanager
def turn_to_write(workers: Workers | None) -> Iterator[bool]:
    """A block in which no other process writes, and whether the joined files are still to be written in it.

    workers: None for a process that works alone, which always writes.
    """
    if workers is None:
        yield True
        return
    with workers.turn():
        yield not workers.is_written()


def require_one_process(script: str, what: str = "") -> None:
    """Raise ConfigError if a launcher has started several processes of a recipe that works in one.

    what: the part of the recipe that is meant, where other parts share their work.
    """
    count = int(os.environ.get("WORLD_SIZE") or 1)
    if count > 1:
        named = f"{what} of recipes/{script}.py" if what else f"recipes/{script}.py"
        found = f"{count} processes were started, and {named} works in one"
        raise ConfigError("launch", found, f"Start it without a launcher: python recipes/{script}.py CONFIG.yaml")


def _join(path: Path, where: str, settings: str) -> IO[str]:
    """The shared lock. Its file has the number of the process that joined first, and a fingerprint of its settings."""
    try:
        handle = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        handle.seek(0)
        handle.truncate()
        handle.write(f"{os.getpid():<{PID_WIDTH}}{socket.gethostname()}\n{settings}")
        handle.flush()
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # another recipe was faster between the two locks
            handle.close()
            raise
        except OSError:  # no locks on this file system
            pass
        return handle
    except BlockingIOError:
        pass
    try:
        handle = _locked(path, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        what, how = "another run is writing to it", "Wait until it ends, or name another folder"
        holder = holder_in(path.read_text(encoding="utf-8", errors="replace"))
        raise ConfigError(where, f"{what} ({holder})", how) from None
    handle.seek(0)
    text = handle.read()
    if text.partition("\n")[2] != settings:
        handle.close()
        what = f"another run with other settings is writing to it ({holder_in(text)})"
        raise ConfigError(where, what, "Give all processes the same command, or name another folder")
    return handle


def _leave(folder: Path, membership: IO[str]) -> None:
    with _turn(folder):
        try:
            fcntl.flock(membership, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / LOCK).unlink(missing_ok=True)
            (folder / TURN).unlink(missing_ok=True)
        except BlockingIOError:  # others go on
            pass
        finally:
            membership.close()


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    handle = _locked(folder / TURN, fcntl.LOCK_EX)
    try:
        yield
    finally:
        handle.close()


def _locked(path: Path, operation: int) -> IO[str]:
    """The file `path`, open and locked. Raises BlockingIOError if it cannot be locked without waiting.

    A file that was deleted between open and lock protects nothing (see `FolderLock`), so it is opened again. On a file
    system without locks the file is only open: the processes then write the same content, each of them.
    """
    while True:
        handle = path.open("a+", encoding="utf-8", errors="replace")
        try:
            fcntl.flock(handle, operation)
        except BlockingIOError:
            handle.close()
            raise
        except OSError:
            return handle
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(handle.fileno()).st_ino:
                return handle
        handle.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """What differs between two files that were written under one name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
