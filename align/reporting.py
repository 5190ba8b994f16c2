"""What a run says while it goes: a rank-zero logger, progress with time left, metrics as JSON lines."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

_FORMAT = "%(asctime)s %(message)s"


def logger(name: str) -> logging.Logger:
    """A logger that speaks on rank zero only (other ranks say warnings and worse)."""
    log = logging.getLogger(name)
    root = logging.getLogger("align")
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(_FORMAT, datefmt="%H:%M:%S"))
        root.addHandler(handler)
        root.propagate = False
        root.setLevel(logging.INFO if int(os.environ.get("RANK", "0")) == 0 else logging.WARNING)
    return log if name.startswith("align") else root.getChild(name)


def duration(seconds: float) -> str:
    """Seconds for a person: `48 s`, `3 min 10 s`, `2 h 5 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


class Progress:
    """A bar with time left: redrawn in place on a terminal, a line each ten seconds elsewhere.

    progress = Progress("candidates", total=40)
    progress.advance(1, note="212 tokens/s")
    """

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self._began = time.monotonic()
        self._first = done
        self._spoke = self._began
        self._quiet = int(os.environ.get("RANK", "0")) != 0
        self._live = sys.stderr.isatty()

    def advance(self, by: int = 1, note: str = "") -> None:
        self.done += by
        now = time.monotonic()
        last = self.done >= self.total
        if self._quiet or not (last or now - self._spoke >= (0.2 if self._live else 10)):
            return
        self._spoke = now
        line = self.line(now - self._began, note)
        if self._live:
            print(f"\r\033[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def line(self, elapsed: float, note: str = "") -> str:
        share = self.done / self.total if self.total else 1.0
        bar = "#" * int(20 * share) + "-" * (20 - int(20 * share))
        made = self.done - self._first
        if self.done >= self.total:
            left = duration(elapsed)
        else:
            left = f"{duration(elapsed / made * (self.total - self.done))} left" if made else "..."
        return f"{self.label:<14}[{bar}] {share:4.0%}  {self.done}/{self.total}  {note + '  ' if note else ''}{left}"


class MetricsFile:
    """Metrics of a run, one JSON object a line. A resumed run deletes what came after its checkpoint."""

    def __init__(self, path: str | Path, *, keep_to_step: int) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(f"{line}\n" for line in self._lines(keep_to_step)), encoding="utf-8")

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append a line. JSON has no NaN and no infinity: such a value becomes null."""
        finite = {name: None if _is_not_finite(value) else value for name, value in values.items()}
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")

    def _lines(self, last_step: int) -> list[str]:
        """The file's lines up to a step. Half a line, which a killed run may leave, and damaged ones are left out."""
        if not self.path.exists():
            return []
        kept, damaged = [], 0
        for line in self.path.read_bytes().split(b"\n"):
            try:
                text = line.decode("utf-8")
                if text and json.loads(text)["step"] <= last_step:
                    kept.append(text)
            except (ValueError, KeyError, TypeError, RecursionError):
                damaged += 1
        if damaged:
            logger(__name__).warning("%s: %d lines are not metrics and were deleted", self.path, damaged)
        return kept


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
