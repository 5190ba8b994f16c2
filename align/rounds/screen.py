"""What a person sees of a run: lines on the terminal, and what a stage prints into its log file."""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path
from typing import IO

HEAD = "==> "
"""Begins the line that each start of a stage writes into its log."""


class Screen:
    """Standard output: permanent lines, and on a terminal one progress line that is redrawn in place."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self._drawn = 0.0

    def say(self, *lines: str) -> None:
        for line in lines:
            print(f"\r\033[K{line}" if self.live else line, flush=True)

    def progress(self, line: str) -> None:
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{line[:width]}", end="", flush=True)
            self._drawn = time.monotonic()
        else:
            print(line, flush=True)

    def idle(self) -> bool:
        """Whether a terminal has shown no progress for 12 seconds. Stages print theirs every ten seconds."""
        return self.live and time.monotonic() - self._drawn > 12


class NewLines:
    """Reads a growing log: each call of `new` returns the lines that were completed since the call before.

    `\\r` ends a line too, because progress bars use it. An incomplete last line is kept until the rest arrives:
        the file grows by b"step 1\\rst"    -> ["step 1"]
        the file grows by b"ep 2\\n"          -> ["step 2"]
    """

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._half = b""

    def new(self) -> list[str]:
        *whole, self._half = re.split(rb"[\r\n]+", self._half + self._handle.read())
        return [line.decode("utf-8", "replace") for line in whole if line.strip()]


def last_start(log: Path) -> list[str]:
    """The lines that the stage printed since its last start, without empty ones."""
    if not log.exists():
        return []
    lines = re.split(r"[\r\n]+", log.read_text(encoding="utf-8", errors="replace"))
    heads = [place for place, line in enumerate(lines) if line.startswith(HEAD)]
    return [line for line in lines[heads[-1] + 1 if heads else 0 :] if line.strip()]
