"""Claims: which process makes a unit of work, agreed between processes and nodes through files alone.

A claim on unit 3 is the file `.unit-00003.claim` in the folder of the units. The process that holds it has an exclusive
lock on it (flock), has written its machine and process number into it, and changes its modification time every
10 seconds (the heartbeat). A process may take a claim that another one left in two cases:

    same machine      the kernel has released the lock, because the holder ended, however it ended: at once
    another machine   the heartbeat has not changed for 120 seconds, by the clock of the process that looks on

Example, with processes A and B on one node, and C on another one:

    A locks .unit-00000.claim and makes unit 0; B finds it locked and makes unit 1; C makes unit 2
    A is killed           B locks .unit-00000.claim, reads A's machine, which is its own, and makes unit 0
    the node of A and B loses power       C sees two claims whose times do not change, and makes the units after 120 s

What is guaranteed. A claim saves work; the result does not depend on it. Two processes make the same unit at the same
time only if a machine was paused for longer than a lease, or if the file system has no locks, or no locks between
machines with the same host name or while a claim is being written. Both then make the same rows, since rows depend on
seeds and not on processes, and the first one's file is kept (`work_units.py` links it to its name and replaces no
whole unit). So no unit is lost, none has its rows twice, and none changes after it was read.

What is not guaranteed. A process that hangs without ending keeps its claim: end it, and another one takes over.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from align.reporting import logger

log = logger(__name__)

HEARTBEAT_SECONDS = 10.0
LEASE_SECONDS = 120.0
"""After this time without a heartbeat, the claim of a process on another machine counts as abandoned."""


class Claim:
    """The right to make one unit. Use it in a `with` block; its end gives the claim back."""

    def __init__(self, path: Path, descriptor: int, owner: str) -> None:
        self._path, self._descriptor, self._owner = path, descriptor, owner
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True, name=f"heartbeat of {path.name}")

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._heart.join()
        try:
            if self._path.read_text(encoding="utf-8", errors="replace") == self._owner:  # else another one took it
                self._path.unlink()
        except OSError:  # deleted by a process that found all units finished
            pass
        os.close(self._descriptor)  # after the deletion, or another process could lock the file in between

    def _beat(self) -> None:
        with suppress(OSError):  # the file was deleted on another node
            while not self._ended.wait(HEARTBEAT_SECONDS):
                os.utime(self._descriptor)


class Claims:
    """The claims of one process on the units in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._host, self._boot = socket.gethostname(), _boot_id()
        self._watched: dict[Path, tuple[int, float]] = {}
        """Claim of another machine -> its modification time, and since when (monotonic clock) it has been seen."""
        self._warned = False

    def take(self, number: int) -> Claim | None:
        """The claim on a unit; None if another process holds it, or may hold it."""
        path = claim_path(self._folder, number)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            owner = self._taken(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if owner is None:
            os.close(descriptor)
            return None
        return Claim(path, descriptor, owner)

    def _taken(self, path: Path, descriptor: int) -> str | None:
        """What was written into the claim as its owner; None if it could not be taken."""
        is_locked = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError as error:
            is_locked = False
            self._warn(error)
        # The holder deletes the file before it unlocks it. A lock on a deleted file protects nothing:
        #   A has locked inode 1 | B opens inode 1 | A deletes and unlocks it | B locks inode 1 | C creates inode 2
        # so B compares what it has locked with the file that now has the name.
        try:
            if path.stat().st_ino != os.fstat(descriptor).st_ino:
                return None
        except FileNotFoundError:
            return None
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace")
        is_free = not holder or (is_locked and self._is_of_this_machine(holder))
        if not is_free and not self._is_abandoned(path, os.fstat(descriptor).st_mtime_ns):
            return None
        owner = f"{self._host} {self._boot} {os.getpid()} {threading.get_ident()}"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode(), 0)
        os.fsync(descriptor)  # so that other nodes see it
        return owner

    def _is_of_this_machine(self, holder: str) -> bool:
        """Whether a holder ran here: the lock that it had on its file is then known to this kernel.

        The host name is the same after the machine was started again; the boot id is the same in all of a machine's
        containers. In both cases a holder whose lock is gone has ended.
        """
        host, boot, *_ = [*holder.split(" "), "", ""]
        return host == self._host or bool(boot and boot == self._boot)

    def _is_abandoned(self, path: Path, changed: int) -> bool:
        """Whether a claim has been without a heartbeat for a lease. Clocks of two machines are never compared.

        Example: at 50 s on this process's clock it sees time 1000 in the file; at 100 s it sees 1010, a heartbeat, and
        begins again; at 220 s still 1010: abandoned.
        """
        now = time.monotonic()
        seen, since = self._watched.get(path, (None, now))
        if seen != changed:
            self._watched[path] = (changed, now)
            return False
        return now - since >= LEASE_SECONDS

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            what = "%s: the file system has no locks (%s); the unit of a process that was killed waits %.0f s"
            log.warning(what, self._folder, error.strerror, LEASE_SECONDS)


def claim_path(folder: Path, number: int) -> Path:
    """The file of the claim on a unit. Hidden, so that no fingerprint of the folder counts it."""
    return folder / f".unit-{number:05}.claim"


def _boot_id() -> str:
    """What tells one start of this machine's kernel from another; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return ""
