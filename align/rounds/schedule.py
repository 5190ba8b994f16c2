"""Which stages run side by side: those of which none reads what another one makes, as far as the machine has room.

An example with `launcher.parallel: 2`, and `->` for "is read by":

    reward -> average <- reward-seed-1        tools -> mix

    reward and reward-seed-1 start. When reward-seed-1 ends, average still waits for reward, so tools starts next to it.

Stages are looked at in the order of the file, so that with one at a time this is the order in which they run. The
stages of the next round are added when its models are chosen, so they may run next to what is left of the round before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from align.errors import ConfigError
from align.rounds.launchers import LauncherConfig
from align.rounds.stage import Stage, within


class Schedule:
    """The stages of a run, as far as it is planned: which run and which are finished."""

    def __init__(self, run_dir: Path, launcher: LauncherConfig) -> None:
        self._run_dir, self._most = run_dir, launcher.most_stages
        self.stages: list[Stage] = []
        self._gpus = gpus_of_this_machine(launcher.gpus)
        self._finished: set[str] = set()
        self._running: dict[str, tuple[str, ...]] = {}
        """Label -> the GPUs that the stage has for itself."""

    def add(self, stages: Iterable[Stage]) -> None:
        """Plan further stages, after those that are planned already."""
        self.stages += stages

    def is_finished(self, label: str) -> bool:
        """Whether a stage has run or is up to date."""
        return label in self._finished

    @property
    def has_room(self) -> bool:
        """Whether fewer stages run than `launcher.parallel` allows."""
        return len(self._running) < self._most

    @property
    def is_idle(self) -> bool:
        """Whether no stage runs."""
        return not self._running

    def next(self) -> Stage | None:
        """The first stage that can start: what it reads is made, and there is room. None if it has to wait.

        While a stage waits for room alone, no later one takes GPUs of this machine: it might keep them for days.
        """
        if not self.has_room:
            return None
        unfinished: list[Stage] = []
        gpus_are_reserved = False
        for stage in self.stages:
            if stage.label in self._finished:
                continue
            waits = stage.label in self._running or any(self._depends(stage, each) for each in unfinished)
            takes_gpus = stage.allocation is None and bool(stage.local.gpus)
            if not waits and not (takes_gpus and gpus_are_reserved):
                if self._has_room(stage):
                    return stage
                gpus_are_reserved = True
            unfinished.append(stage)
        return None

    def start(self, stage: Stage) -> tuple[str, ...] | None:
        """Count the stage as running. Returns the GPUs that it gets for itself, None where they are not divided."""
        count = None if stage.allocation is not None else stage.local.gpus
        self._running[stage.label] = tuple(self._free_gpus()[: count or 0])
        return None if count is None else self._running[stage.label]

    def finish(self, stage: Stage) -> None:
        """Count the stage as finished, whether it has run or is up to date."""
        self._running.pop(stage.label, None)
        self._finished.add(stage.label)

    def before(self, stage: Stage) -> list[Stage]:
        """The stages that are before this one in the file."""
        return list(self.stages[: self.stages.index(stage)])

    def independent_of(self, stage: Stage) -> list[Stage]:
        """The stages that do not read what this one makes, nor what is made from that."""
        dependent = [stage]
        for each in self.stages[self.stages.index(stage) + 1 :]:
            if any(self._depends(each, one) for one in dependent):
                dependent.append(each)
        return [each for each in self.stages if each not in dependent]

    def _has_room(self, stage: Stage) -> bool:
        """Whether the machine of the driver has what the stage needs, next to the stages that run there."""
        if stage.allocation is not None:
            return True
        here = [each for each in self.stages if each.label in self._running and each.allocation is None]
        if here and (stage.local.alone or any(each.local.alone for each in here)):
            return False
        return (stage.local.gpus or 0) <= len(self._free_gpus())

    def _free_gpus(self) -> list[str]:
        return [gpu for gpu in self._gpus if not any(gpu in taken for taken in self._running.values())]

    def _depends(self, stage: Stage, earlier: Stage) -> bool:
        """Whether a stage reads what an earlier one makes.

        A stage that reads the run itself, such as a report, reads what all stages before it make, and nothing is
        written while it does.
        """
        if any(within(self._run_dir, path) for each in (stage, earlier) for path in each.inputs.values()):
            return True
        return any(earlier.makes(path) for path in stage.inputs.values())


def gpus_of_this_machine(count: int | None) -> list[str]:
    """The first `count` GPUs, as CUDA_VISIBLE_DEVICES names them: of those that this variable has, if it is set.

    count: None where GPUs are not divided, which gives none. Raises ConfigError if the variable has fewer.
    """
    if count is None:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if visible is None else [n for n in visible.split(",") if n]
    if len(names) < count:
        what = f"is {count}, and CUDA_VISIBLE_DEVICES has {len(names)} ({visible})"
        raise ConfigError("launcher.gpus", what, "Set it to the number of GPUs that the rounds may use")
    return names[:count]
