"""What a run says while it goes: a rank-zero logger, progress with time left, metrics as JSON lines.

All of it goes to standard error. On a terminal rich draws it, in color unless NO_COLOR is set; elsewhere (a file, a
pipe, the log of a stage) it is plain text. rich is imported only when something is
drawn.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress as Bars

_FORMAT = "%(asctime)s %(message)s"
_DRAWN = "drawn"
"""Attribute of a log record: what a terminal shows in place of the message, see `drawn`."""


def logger(name: str) -> logging.Logger:
    """A logger that speaks on rank zero only (other ranks say warnings and worse)."""
    log = logging.getLogger(name)
    root = logging.getLogger("align")
    if not root.handlers:
        handler = _Handler(sys.stderr)
        handler.setFormatter(logging.Formatter(_FORMAT, datefmt="%H:%M:%S"))
        root.addHandler(handler)
        root.propagate = False
        root.setLevel(logging.INFO if int(os.environ.get("RANK", "0")) == 0 else logging.WARNING)
    return log if name.startswith("align") else root.getChild(name)


def drawn(draw: Callable[[], RenderableType]) -> dict[str, Any]:
    """The `extra` of a log call whose message a terminal shows in another form.

        log.info("a   1\\nb   2", extra=drawn(lambda: table))     # the text in a file, rich's table on a terminal

    draw: makes what rich prints. It is called on a terminal only, so it may import rich.
    """
    return {_DRAWN: draw}


def fields(title: str, lines: Sequence[tuple[str, str]]) -> tuple[str, dict[str, Any]]:
    """Message and `extra` of a log call that shows names with their values, one a line.

    message, extra = fields("sft", [("model", "my-model"), ("result", "runs/my/sft")])

    sft
      model   my-model
      result  runs/my/sft
    """
    width = max(len(name) for name, _ in lines)

    def draw() -> RenderableType:
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in lines:
            table.add_row(name, Text(value))
        return Panel(table, title=Text(title, "bold"), title_align="left", border_style="cyan", expand=False)

    return "\n".join([title, *(f"  {name:{width}}  {value}" for name, value in lines)]), drawn(draw)


def commands(title: str, lines: Sequence[tuple[str, str]]) -> tuple[str, dict[str, Any]]:
    """Message and `extra` of a log call that shows commands, each on one line, so that it can be copied from there.

    next:
      # publish
      python recipes/publish.py recipes/configs/publish/default.yaml checkpoint=runs/my/sft
    """
    message = "\n".join([title, *(f"  # {name}\n  {command}" for name, command in lines)])

    def draw() -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        text = Text(message, no_wrap=True, overflow="ignore")  # a line break inside a command would end it
        text.stylize("bold", 0, len(title))
        text.highlight_regex("(?m)^  # .*$", style="dim")
        return Group(text)  # printed alone, a text would be joined with others and lose `no_wrap`

    return message, drawn(draw)


def on_terminal() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr.isatty()


def console() -> Console:
    """rich's console on standard error. It reads NO_COLOR, TERM and the width of the terminal itself."""
    global _console
    if _console is None:
        from rich.console import Console

        _console = Console(stderr=True, highlight=False, soft_wrap=False)
    return _console


_console: Console | None = None


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Plain lines; on a terminal with a dim time, and warnings in yellow."""

    def emit(self, record: logging.LogRecord) -> None:
        if not on_terminal():
            super().emit(record)
            return
        try:
            self._draw(record)
        except Exception:
            self.handleError(record)

    def _draw(self, record: logging.LogRecord) -> None:
        from rich.text import Text

        draw = getattr(record, _DRAWN, None)
        if draw is not None:
            console().print(draw(), crop=False)
            return
        style = "bold red" if record.levelno >= logging.ERROR else "yellow" if record.levelno > logging.INFO else ""
        message = self.format(record)
        clock = message.partition(" ")[0]
        console().print(Text.assemble((clock, "dim"), (message[len(clock) :], style)), soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds for a person: `48 s`, `3 min 10 s`, `2 h 5 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def size_text(size: float) -> str:
    """Bytes for a person: `4.1 GB`, `812 MB`."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{max(size, 0) / 1e6:.3g} MB"


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
        self._live = on_terminal()
        self._bar: int | None = None

    def advance(self, by: int = 1, note: str = "") -> None:
        self.done += by
        now = time.monotonic()
        last = self.done >= self.total
        if self._quiet or not (last or now - self._spoke >= (0.2 if self._live else 10)):
            return
        self._spoke = now
        if self._live:
            self._draw(now - self._began, note)
        else:
            print(self.line(now - self._began, note), file=sys.stderr, flush=True)
        if last:
            self.close()

    def close(self) -> None:
        """Leave the bar as it is: nothing redraws it. Called at the end of the work, also where it ended early."""
        global _open_bars
        if self._bar is not None:
            self._bar = None
            _open_bars -= 1
            if not _open_bars:
                stop_drawing()

    def line(self, elapsed: float, note: str = "") -> str:
        share = self.done / self.total if self.total else 1.0
        bar = "#" * int(20 * share) + "-" * (20 - int(20 * share))
        left = self._left(elapsed)
        return f"{self.label:<14}[{bar}] {share:4.0%}  {self.done}/{self.total}  {note + '  ' if note else ''}{left}"

    def _left(self, elapsed: float) -> str:
        made = self.done - self._first
        if self.done >= self.total:
            return duration(elapsed)
        return f"{duration(elapsed / made * (self.total - self.done))} left" if made else "..."

    def _draw(self, elapsed: float, note: str) -> None:
        global _open_bars
        bars = _drawing()
        if self._bar is None:
            self._bar = bars.add_task(self.label, total=self.total, note="", left="")
            _open_bars += 1
        bars.update(self._bar, completed=self.done, note=note, left=self._left(elapsed), refresh=True)  # type: ignore[arg-type]


_bars: Bars | None = None
_open_bars = 0


def _drawing() -> Bars:
    """The display of all open bars. Lines of the log are printed above it."""
    global _bars
    if _bars is None:
        from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bars

        _bars = Bars(
            TextColumn("{task.description:<14}", style="cyan", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TextColumn("{task.fields[left]}", style="dim"),
            console=console(),
            auto_refresh=False,  # no thread: bars are drawn when they advance
        )
        _bars.start()
        atexit.register(stop_drawing)  # or an error would leave the terminal without a cursor
    return _bars


def stop_drawing() -> None:
    """End the display of open bars, and show the cursor again."""
    global _bars
    if _bars is not None:
        _bars.stop()
        _bars = None


class MetricsFile:
    """Metrics of a run, one JSON object a line. A resumed run deletes what came after its checkpoint.

    Args:
        keep_to_step: the step of the checkpoint, 0 without one.
        evaluations: how many evaluations of that step the checkpoint has. Those after them are deleted too.
    """

    def __init__(self, path: str | Path, *, keep_to_step: int, evaluations: int = 0) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self._lines(keep_to_step, evaluations)
        self.path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append a line. JSON has no NaN and no infinity: such a value becomes null."""
        finite = {name: None if _is_not_finite(value) else value for name, value in values.items()}
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")

    def _lines(self, last_step: int, evaluations: int) -> list[str]:
        """The file's lines up to a step, with the first `evaluations` evaluations of that step.

        Half a line, which a killed run may leave, and damaged ones are left out.
        """
        if not self.path.exists():
            return []
        kept, damaged = [], 0
        for line in self.path.read_bytes().split(b"\n"):
            try:
                text = line.decode("utf-8")
                if not text or (values := json.loads(text))["step"] > last_step:
                    continue
                if values["step"] == last_step and "eval_loss" in values:
                    evaluations -= 1
                    if evaluations < 0:
                        continue
                kept.append(text)
            except (ValueError, KeyError, TypeError, RecursionError):
                damaged += 1
        if damaged:
            logger(__name__).warning("%s: %d lines are not metrics and were deleted", self.path, damaged)
        return kept


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
