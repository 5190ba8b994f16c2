"""A watchdog for each process of a run: without progress for long, it writes every stack and ends the process.

One process that hangs (a dead disk, a lost GPU, a deadlock) makes the others wait in the next collective operation, so
the watchdogs of all processes notice at about the same time. Each writes the stacks of its own threads to
`<output_dir>/stacks/rank-N.txt`, waits until the others have written theirs, and ends its process with `HANG_CODE`. The
process whose main thread is not in a collective operation is the one that hangs.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from align.leaving import HANG_CODE
from align.reporting import duration, logger

log = logger(__name__)

STACKS = "stacks"
"""Folder in the output folder, with a file for each process."""

GATHER_SECONDS = 15.0
"""A process waits this long for the stacks of the others."""
_WRITE_SECONDS = 5.0
"""The longest wait for the log, for the file of the stacks and for the last word: their disk may be gone."""
_BACKUP_SECONDS = 60.0
"""If code outside of Python keeps the interpreter's lock, no thread of Python can run. Then faulthandler, which needs
no lock, writes the stacks and ends the process this much later."""


class Watchdog:
    """Watches the progress of one process.

    watchdog = Watchdog(output, rank=0, ranks=2, seconds=3600)
    with watchdog.watching():
        ...
        watchdog.note_progress("step 12")

    Args:
        output: the folder of the run.
        rank, ranks: number of this process, and of all processes.
        seconds: without progress for this long the process is ended. None: it is not watched.
        last_word: called before the end.
    """

    def __init__(
        self,
        output: Path,
        *,
        rank: int,
        ranks: int,
        seconds: float | None,
        last_word: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = output / STACKS
        self.rank, self.ranks, self.seconds = rank, ranks, seconds
        self.last_word = last_word
        self._doing = ""
        self._progress = time.monotonic()
        self._stop = threading.Event()

    def note_progress(self, doing: str) -> None:
        """doing: what the process does now, for the message. A call costs well under a microsecond."""
        self._doing = doing
        self._progress = time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the process while the block runs."""
        if self.seconds is None:
            yield
            return
        self.note_progress("the start")
        self._stop.clear()
        thread = threading.Thread(target=self._watch, args=(self.seconds,), name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _watch(self, seconds: float) -> None:
        armed = -1.0
        while not self._stop.wait(min(seconds / 10, 5.0)):
            progress = self._progress
            if time.monotonic() - progress > seconds:
                self._end(seconds)
            elif progress != armed:
                armed = progress
                _arm(seconds + _BACKUP_SECONDS)

    def _end(self, seconds: float) -> None:
        """Write the stacks of this process, wait for those of the others, and end the process.

        A disk that is gone may be what the process hangs in, and then each write to it hangs too. So the writes are
        made in threads of their own, and this one waits for each only so long.
        """
        _arm(GATHER_SECONDS + _BACKUP_SECONDS)
        for task, limit in (
            (lambda: self._report(seconds), _WRITE_SECONDS),
            (lambda: self._gather_stacks(seconds), GATHER_SECONDS + _WRITE_SECONDS),
            (self.last_word, _WRITE_SECONDS),
        ):
            thread = threading.Thread(target=task, daemon=True)
            thread.start()
            thread.join(limit)
        os._exit(HANG_CODE)

    def _report(self, seconds: float) -> None:
        log.error(
            "rank %d on %s: no progress for %s (training.watchdog_minutes) in %s. The stacks of all processes are in "
            "%s: the one that is in no collective operation hangs, and the others wait for it. The run ends with exit "
            "code %d; the same command resumes from the last checkpoint",
            self.rank,
            socket.gethostname(),
            duration(seconds),
            self._doing,
            self.folder,
            HANG_CODE,
        )
        with suppress(OSError, AttributeError):
            faulthandler.dump_traceback(all_threads=True)

    def _gather_stacks(self, seconds: float) -> None:
        began = time.time()
        with suppress(OSError):  # a full disk
            self._write_stacks()
            self._wait_for_the_others(began - 2 * seconds)

    def _write_stacks(self) -> None:
        self.folder.mkdir(exist_ok=True)
        with self._file(self.rank).open("a", encoding="utf-8") as handle:
            handle.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} rank {self.rank} in {self._doing}\n")
            handle.flush()
            faulthandler.dump_traceback(handle, all_threads=True)

    def _wait_for_the_others(self, since: float) -> None:
        """since: older files are of an earlier start."""
        deadline = time.monotonic() + GATHER_SECONDS
        files = [self._file(rank) for rank in range(self.ranks)]
        while time.monotonic() < deadline:
            if all(file.exists() and file.stat().st_mtime > since for file in files):
                return
            time.sleep(0.1)

    def _file(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.txt"


def _arm(seconds: float) -> None:
    """Have faulthandler write the stacks and end the process after this time, instead of when it was to do so."""
    with suppress(OSError, AttributeError):  # in a notebook standard error is no file
        faulthandler.dump_traceback_later(seconds, exit=True)
