"""How a process leaves when it is asked to: SIGTERM cleans up as Ctrl-C does, and leaving takes a bounded time.

By default SIGTERM ends a Python process on the spot: temporary files stay, and so do the processes that it has started.
In a recipe (`align.config.main`) it raises SystemExit, so that everything on the way out is cleaned up. What has begun
and cannot be saved is left unfinished, and the next start repeats it. During the optimizer steps of a training a signal
asks for a checkpoint instead: see `align/trainers/steering.py`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LEAVE_SECONDS = 20.0
"""Cleaning up may take this long after SIGTERM. Threads that do not end by themselves end with the process then."""

HANG_CODE = 124
"""Exit code of a run that its watchdog has ended (`align/trainers/watchdog.py`), as that of `timeout`. The same command
resumes it."""


def exit_code(number: int) -> int:
    """The exit code of a process that a signal has ended, as shells give it: 143 for SIGTERM."""
    return 128 + number


@contextmanager
def clean_up_on_sigterm() -> Iterator[None]:
    """In the block, SIGTERM raises SystemExit in the main thread, and ends the process `LEAVE_SECONDS` later if it has
    not ended by then. After the block it does what it did before.

    A second SIGTERM ends the process at once. In other threads, which cannot set handlers, and where SIGTERM is handled
    or ignored already, the block changes nothing.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)
    # A handler runs between two steps of the interpreter, so it may interrupt a destructor, where an exception would be
    # ignored, and a pool of threads may have work for hours: the timer ends the process in any case.
    timer = threading.Timer(LEAVE_SECONDS, os._exit, (exit_code(number),))
    timer.daemon = True
    timer.start()
    raise SystemExit(exit_code(number))
