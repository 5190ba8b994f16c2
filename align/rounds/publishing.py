"""Pushes to the Hub that failed when a stage ended are made again, at later starts of the rounds and when they end.

A training never fails for its push: `align/publish/hub.py` leaves a note in the checkpoint's folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from align.publish.hub import UNPUBLISHED, retry_settings
from align.rounds.processes import Signals, run_process
from align.rounds.screen import last_start
from align.rounds.stage import Stage
from align.settings import HubConfig

_CONFIG = Path("configs", "publish", "default.yaml")


class FailedPushes:
    """Makes failed pushes again, each in a process of its own.

    recipes: the folder of the recipe scripts. logs: that of the run. say: shows a line to a person.
    """

    def __init__(
        self, recipes: Path, logs: Path, stop_seconds: float, signals: Signals, say: Callable[[str], None]
    ) -> None:
        self._recipes, self._logs, self._stop_seconds = recipes, logs, stop_seconds
        self._signals, self._say = signals, say

    def repeat(self, stages: Sequence[Stage]) -> None:
        """Push what these stages, which are up to date, could not push, if and to where their `hub` says now.

        Another failure is said, and the next start tries again.
        """
        for stage in stages:
            hub = getattr(stage.config, "hub", None)
            if not isinstance(hub, HubConfig) or not hub.push:
                continue
            for path in stage.outputs.values():
                if (path / UNPUBLISHED).is_file() and not self._signals.caught:
                    self._push(stage, retry_settings(path, hub))

    def _push(self, stage: Stage, settings: Sequence[str]) -> None:
        log = self._logs / f"{stage.label.replace('/', '-')}.publish.log"
        command = [sys.executable, str(self._recipes / "publish.py"), str(self._recipes / _CONFIG), *settings]
        self._say(f"  {stage.label}: pushing to the Hub, which failed before")
        shell = " ".join(["python", *command[1:]])
        code = run_process(
            command, shell, log, self._stop_seconds, self._signals, lambda lines, elapsed: None, lambda: None
        )
        if code != 0:
            said = (last_start(log) or [f"ended with code {code}"])[-1]
            self._say(f"  {stage.label}: not pushed: {said} (the whole log is {log}; the next start tries again)")
