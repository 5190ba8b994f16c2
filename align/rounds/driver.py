"""Runs the stages of a plan, skips those that are up to date, and continues a run that was interrupted.

`plan.py` says which stages there are, `schedule.py` which of them run side by side, `decisions.py` whether a stage has
to run, `ledger.py` records what each start read and made. `processes.py` runs one stage as a process, with the locks
that make a killed run safe to restart, and `slurm.py` runs it as a job.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from align.config import dump
from align.errors import AlignError, ConfigError, StageError
from align.manifest import data_manifest_path
from align.precision import AUTO, VARIABLE, Decision, kept, overrides
from align.reporting import duration
from align.rounds.decisions import LEDGER, LOGS, StageDecisions, upgrade_notice
from align.rounds.finished import described, stage_record_path, write_stage_record
from align.rounds.inputs import MissingInput, how_to_make, missing_inputs
from align.rounds.ledger import FailureRecord, Ledger
from align.rounds.plan import RoundsConfig, plan, stages_after, stages_before, stages_of_round
from align.rounds.processes import Ending, Signals, end_leftovers, run_process, sole_driver
from align.rounds.publishing import FailedPushes
from align.rounds.restarts import Restarts, failure_of
from align.rounds.results import key_numbers
from align.rounds.schedule import Schedule, gpus_of_this_machine
from align.rounds.screen import Screen, last_start
from align.rounds.slurm import SlurmJobs, check_slurm
from align.rounds.stage import Stage, within
from align.rounds.stage_inputs import StageInputs

_PROGRESS = re.compile(r"\[#*-*\]\s+\d+%")
_TAIL_LINES = 15


class Stopped(SystemExit):
    """A signal ended the run, in good order. The exit code is the shell's: 128 and the signal's number."""


def run_rounds(config: RoundsConfig, recipes: Path) -> Path:
    """Run every stage that is not up to date, as far as there is data, and return the run's folder.

    A round whose data from outside is not there when it would start ends the run well, after the stages of `after`.

    recipes: the folder of the recipe scripts.
    Raises ConfigError before anything starts, StageError when a stage does not end well, Stopped after a signal.
    """
    stages = plan(config, recipes)
    check_slurm(config.launcher)
    gpus_of_this_machine(config.launcher.gpus)
    _check_precision(config, stages)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    with sole_driver(config.run_dir), Signals() as signals:
        if config.precision == AUTO and any(overrides(stage.config, "fp32") for stage in stages):
            config = config.model_copy(update={"precision": _decision(config.run_dir).precision})
        ledger = Ledger.opened(config.run_dir / LEDGER, lambda said: print(said, flush=True))
        driver = _Driver(config, recipes, stages, ledger, signals)
        try:
            driver.run()
        finally:
            driver.ledger.close()
    return config.run_dir


def _check_precision(config: RoundsConfig, stages: Sequence[Stage]) -> None:
    """Raise ConfigError if the driver's machine would decide what `auto` means on the nodes of SLURM jobs."""
    left_open = any(stage.allocation is not None and overrides(stage.config, "fp32") for stage in stages)
    is_named = os.environ.get(VARIABLE, "") not in ("", AUTO)
    if config.precision == AUTO and left_open and not is_named and kept(config.run_dir) is None:
        what = "is auto with launcher.slurm, and the machine where the rounds run cannot decide it for the nodes"
        raise ConfigError("precision", what, f"Set precision to bf16 or fp32, or set {VARIABLE}")


def _decision(run_dir: Path) -> Decision:
    """What `precision: auto` means in this run: kept in its folder, so that a later start makes no stage again."""
    decision = kept(run_dir)
    said = "" if decision is None else decision.reason
    if decision is None:  # a process of its own: the driver lives for days, and needs neither torch nor a GPU
        command = [sys.executable, "-m", "align.precision", str(run_dir)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        decision = kept(run_dir)
        if done.returncode != 0 or decision is None:
            lines = "".join(f"\n    | {line}" for line in done.stderr.splitlines()[-_TAIL_LINES:])
            raise StageError("precision: auto", f"could not be decided:{lines}\n", "Set precision to fp32 or bf16")
        said = decision.cause
    print(f"precision: {decision.precision} ({said})", flush=True)
    return decision


@dataclass(frozen=True)
class _Ahead:
    """How long the rest of a run takes, from the start or the end of some stage on."""

    seconds: float
    bound: str
    """`about`, `at least` where the time of some stage is not known, or `at most` where some run side by side."""

    def text(self, elapsed: float = 0.0) -> str:
        left = self.seconds - elapsed
        return "" if left < 1 else f"{self.bound} {duration(left)} left in all"


@dataclass(frozen=True)
class _Running:
    """A stage that runs."""

    stage: Stage
    record_id: int
    made_from: StageInputs
    gpus: tuple[str, ...] | None
    """The GPUs that it has for itself; None where they are not divided."""
    ahead: _Ahead
    restarts: Restarts
    settings: tuple[str, ...] = ()
    """Added to the command in a further start."""
    at: float = field(default_factory=time.monotonic)


@contextmanager
def _noted(faults: list[Exception]) -> Iterator[None]:
    """Keep an error for later: other stages are running, and have to be followed to their end first."""
    try:
        yield
    except Exception as fault:
        faults.append(fault)


class _Driver:
    """planned: every stage of the run, as if each round improved on those before it."""

    def __init__(
        self, config: RoundsConfig, recipes: Path, planned: Sequence[Stage], ledger: Ledger, signals: Signals
    ) -> None:
        self.config, self.recipes, self.ledger, self.signals = config, recipes, ledger, signals
        self.planned = {stage.label: stage for stage in planned}
        self.schedule = Schedule(config.run_dir, config.launcher)
        self._round = 0
        """The newest round that is planned."""
        self._waiting: list[MissingInput] = []
        """What the next round waits for, if it cannot start."""
        self._ran = 0
        self.screen = Screen()
        self.logs = config.run_dir / LOGS
        self.logs.mkdir(exist_ok=True)
        self._width = max(len(stage.name) for stage in planned)
        self.jobs = SlurmJobs(config.launcher.slurm, self.logs, config.stop_seconds, signals, self.screen.say)
        self.pushes = FailedPushes(recipes, self.logs, config.stop_seconds, signals, self.screen.say)

    def run(self) -> None:
        began = time.monotonic()
        program, *arguments = sys.argv  # the console command `align rounds`, or the path of recipes/rounds.py
        command = shlex.join([*(program.split() if program.startswith("align ") else ("python", program)), *arguments])
        run_id = self.ledger.begin_run(command)
        decisions = StageDecisions(self.config, self.ledger, run_id, self._checking)
        for stage in self.planned.values():
            self._end_leftovers(stage)
        if upgrades := decisions.upgrades(list(self.planned.values())):
            self.screen.say(upgrade_notice(upgrades, self.config.changed_code))
        self._run_stages(self._parts(run_id), decisions, run_id)
        self.jobs.end_others()
        if self._ran:
            self.pushes.repeat(self.schedule.stages)
        self.ledger.end_run(run_id)
        counts = f"{self._ran} stages run, {len(self.schedule.stages) - self._ran} up to date"
        ended = f"rounds 1 to {self._round} of {self.config.rounds} are finished" if self._waiting else "finished"
        self.screen.say(f"{ended}: {counts} · {duration(time.monotonic() - began)}")
        if self._waiting:
            self._say_what_is_missing(self._waiting)

    def _parts(self, run_id: int) -> Iterator[set[str]]:
        """Plan the stages before the rounds, of each round, and after them.

        Gives, after each part, the labels of the stages that have to end before the next part can be planned.
        """
        self._plan("before the rounds", stages_before(self.config, self.recipes))
        yield set()
        for number in range(1, self.config.rounds + 1):
            self._choose(run_id, number - 1)
            stages = stages_of_round(self.config, self.recipes, number)
            self._waiting = missing_inputs(stages, self.config.run_dir)
            if self._waiting:
                break
            self._round = number
            self._plan(f"round {number} of {self.config.rounds}", stages)
            yield self.config.chosen_by(number)
        if self._round:
            if not self._waiting:
                self._choose(run_id, self._round)
            stages = stages_after(self.config, self.recipes, self._round)
            self._plan("after the rounds", stages)
            for left_out in {stage.name for stage in self.config.all_stages.after} - {stage.name for stage in stages}:
                self.screen.say(f"  {left_out:<{self._width}}  left out: no round is better than the start")

    def _plan(self, heading: str, stages: Sequence[Stage]) -> None:
        if stages:
            self.screen.say(heading)
        self.schedule.add(stages)

    def _run_stages(self, parts: Iterator[set[str]], decisions: StageDecisions, run_id: int) -> None:
        """Run the stages that are not up to date, some of them side by side, also of two parts.

        All that is kept of them is written here, in the main thread; other threads follow their processes. After a
        failure or a signal no further stage starts, and those that run are waited for.

        parts: see `_parts`; asked for the next part as soon as it can be planned and there is room for its stages.
        """
        needed: set[str] | None = set()
        running: dict[Future[Ending], _Running] = {}
        faults: list[Exception] = []
        with ThreadPoolExecutor(max_workers=len(self.planned)) as threads:
            while True:
                while not faults and not self.signals.caught:
                    with _noted(faults):
                        if stage := self.schedule.next():
                            began = self._begun(stage, decisions, run_id)
                            if began is None:
                                self.schedule.finish(stage)
                            else:
                                running[threads.submit(self._process, began)] = began
                        elif needed is None or not self._can_plan(needed):
                            break
                        else:
                            needed = next(parts, None)
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    began = running.pop(future)
                    again = None
                    with _noted(faults):
                        again = self._end_stage(began, future.result(), may_restart=not faults, run_id=run_id)
                    if again is None:
                        self.schedule.finish(began.stage)
                    else:
                        running[threads.submit(self._process, again)] = again
        if self.signals.caught:
            raise Stopped(128 + self.signals.caught[0])
        for fault in faults[1:]:
            self.screen.say(str(fault) if isinstance(fault, AlignError) else repr(fault))
        if faults:
            raise faults[0]

    def _can_plan(self, needed: set[str]) -> bool:
        """Whether the next part can be planned: its models can be chosen, and there is room for a stage."""
        return self.schedule.is_idle or (self.schedule.has_room and all(map(self.schedule.is_finished, needed)))

    def _begun(self, stage: Stage, decisions: StageDecisions, run_id: int) -> _Running | None:
        """Prepare the start of a stage that has to run; None if it is up to date."""
        decision = decisions.decide(stage, self.schedule.before(stage))
        if decision.recovered:
            self._report(stage, "the ledger has no record of it; taken from the record in its folder")
        if decision.reason:
            self._report(stage, decision.reason)
        if not decision.runs:
            if decision.record is not None and decision.record.id not in self.ledger.numbers():
                self.ledger.note_numbers(decision.record.id, key_numbers(stage.outputs))
            if stage.show:
                self.screen.say(*last_start(self._log(stage)))
            self.pushes.repeat([stage])
            return None
        unharmed = [*self.schedule.independent_of(stage), *([] if decision.clears else [stage])]
        self.jobs.end_others([self._log(each) for each in unharmed])
        if decision.clears:
            self._clear(stage, known=decision.record is not None)
        record_id = self._begin_record(stage, decision.made_from, run_id)
        self._ran += 1
        restarts = Restarts(self.config.restarts)
        return _Running(stage, record_id, decision.made_from, self.schedule.start(stage), self._ahead(stage), restarts)

    def _begin_record(self, stage: Stage, made_from: StageInputs, run_id: int) -> int:
        """Write down that a stage starts. Returns the record's id."""
        return self.ledger.begin_stage(
            run_id,
            label=stage.label,
            name=stage.name,
            round_number=stage.round,
            recipe=stage.recipe,
            key=made_from.key,
            command=stage.shell,
            config=dump(stage.config),
            inputs=made_from.inputs,
            code=made_from.code,
        )

    def _choose(self, run_id: int, rounds: int) -> None:
        """Write into the ledger, and say, which models are the best ones after some rounds, and why."""
        for name, choice in self.config.choices(rounds).items():
            if not choice.reason:
                continue
            self.ledger.record_choice(run_id, name, rounds, str(choice.path), choice.reason)
            if self.config.rules[name].evaluation is not None:
                self.screen.say(f"{{{name}}} is {choice.path}: {choice.reason}")

    def _say_what_is_missing(self, waiting: Sequence[MissingInput]) -> None:
        number = waiting[0].stage.round
        self.screen.say(f"round {number} waits for:")
        for path, readers in itertools.groupby(sorted(waiting, key=lambda each: each.what), lambda each: each.what):
            first, *others = readers
            read_by = ", ".join(f"{each.stage.name}: {each.key}" for each in (first, *others))
            self.screen.say(f"  {path}  (read by {read_by})")
            if how := how_to_make(first, self.config.how_to_make):
                self.screen.say(f"    {how}")
        self.screen.say(f"When all of it is there, the same command continues with round {number}.")

    def _checking(self, stage: Stage) -> None:
        if self.screen.live:
            self.screen.progress(f"  {stage.name:<{self._width}}  checking what it made")

    def _end_stage(self, began: _Running, ending: Ending, *, may_restart: bool, run_id: int) -> _Running | None:
        """Write down how a stage ended. Returns its next start, if it failed for a reason that may pass.

        Raises StageError if it failed for good.
        """
        stage, took = began.stage, duration(max(0.0, time.monotonic() - began.at))
        if self.signals.caught:
            self.ledger.end_stage(began.record_id, "stopped")
            self._report(stage, f"stopped after {took}; the same command continues from here")
            return None
        if ending.code != 0:
            failure = failure_of(stage, self._log(stage), ending)
            restart = began.restarts.after(failure, stage) if may_restart and not ending.used_up else None
            then = restart.what if restart else ""
            self.ledger.note_failure(
                FailureRecord(began.record_id, failure.cause, failure.text, failure.lost_steps, then)
            )
            if restart is None:
                raise self._failure(began, f"{ending.text} after {took}")
            self.ledger.end_stage(began.record_id, "failed")
            self._report(stage, f"{ending.text} after {took}; {then}")
            command = replace(stage, command=(*stage.command, *restart.settings))
            record_id = self._begin_record(command, began.made_from, run_id)
            at = time.monotonic() + restart.wait_seconds
            return replace(began, record_id=record_id, settings=restart.settings, at=at)
        missing = [path for path in stage.outputs.values() if not path.exists()]
        if missing:
            raise self._failure(began, f"ended well and did not make {missing[0]}")
        made_from = began.made_from.with_fetched()
        self.ledger.end_stage(
            began.record_id, "finished", described(stage.outputs), made_from.key, made_from.code, made_from.inputs
        )
        finished = self.ledger.latest(stage.label)
        assert finished is not None
        write_stage_record(finished, stage.outputs)
        numbers = key_numbers(stage.outputs)
        self.ledger.note_numbers(finished.id, numbers)
        self._report(stage, numbers, took, self._ahead(stage, started=False).text())
        return None

    def _process(self, began: _Running) -> Ending:
        """Run the stage's command, as a process or as a job, and end what it left running. In a thread of its own."""
        stage, log = replace(began.stage, command=(*began.stage.command, *began.settings)), self._log(began.stage)
        while time.monotonic() < began.at and not self.signals.caught:  # before a further start
            self.signals.wait(began.at - time.monotonic())
        if self.signals.caught:
            return Ending(128 + self.signals.caught[0], "was not started")

        def follow(lines: Sequence[str], elapsed: float) -> None:
            self._follow(began, lines, elapsed)

        def asked_to_stop() -> None:
            self.screen.say(f"  {stage.name}: asked to save and leave (again to kill it)")

        if stage.allocation is not None:
            return self.jobs.run(stage, log, began.made_from.key, follow, asked_to_stop)
        stop = self.config.stop_seconds
        code = run_process(stage.command, stage.shell, log, stop, self.signals, follow, asked_to_stop, began.gpus)
        self._end_leftovers(stage)
        return Ending.of_process(code)

    def _follow(self, began: _Running, lines: Sequence[str], elapsed: float) -> None:
        stage = began.stage
        for line in lines:
            if _PROGRESS.search(line):
                self.screen.progress(f"  {line}")
            elif stage.show:
                self.screen.say(line)
        if self.screen.idle():
            left = began.ahead.text(elapsed)
            self.screen.progress(f"  {stage.name:<{self._width}}  {duration(elapsed)}{', ' + left if left else ''}")

    def _end_leftovers(self, stage: Stage) -> None:
        def ending(processes: Sequence[int]) -> None:
            self.screen.say(f"  {stage.label}: ending what is left of it (processes {', '.join(map(str, processes))})")

        end_leftovers(stage.label, self._log(stage), self.config.stop_seconds, self.signals, ending)

    def _clear(self, stage: Stage, *, known: bool) -> None:
        """Delete what the stage made with other settings, so that none of it is mistaken for part of the new result."""
        for path in stage.outputs.values():
            assert within(path, self.config.run_dir)
            if not path.exists():
                continue
            if not known:
                how = "Move it away, or name another run_dir"
                what = f"already exists, but this run has no record of creating it (stage {stage.label})"
                raise StageError(path, what, how)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
                data_manifest_path(path).unlink(missing_ok=True)
        own = stage_record_path(stage.outputs)
        if own is not None:
            own.unlink(missing_ok=True)  # next to an output that is a file

    def _failure(self, began: _Running, what: str) -> StageError:
        """Write down that a stage failed, and return the error that says so."""
        stage, log = began.stage, self._log(began.stage)
        self.ledger.end_stage(began.record_id, "failed")
        self._report(stage, "failed")
        printed = [line for line in last_start(log) if not _PROGRESS.search(line)][-_TAIL_LINES:]
        tail = "".join(f"\n    | {line}" for line in printed) or " (it printed nothing)"
        how = f"The whole log is {log}. Fix the cause, then start the same command again: it continues from here"
        return StageError(f"stage {stage.label}: {stage.shell}", f"{what}. Its last lines:{tail}\n", how)

    def _ahead(self, stage: Stage, *, started: bool = True) -> _Ahead:
        """The time that the rest of the run takes, from how long its stages took in an earlier round or start.

        started: whether the stage counts, because it has just started and not ended.
        """
        ended = {*filter(self.schedule.is_finished, self.planned), *([] if started else [stage.label])}
        rest = [each for label, each in self.planned.items() if label not in ended]
        known = [self.ledger.last_seconds(each.name, each.round) for each in rest]
        bound = "at least" if None in known else "about" if self.config.launcher.most_stages == 1 else "at most"
        return _Ahead(sum(took for took in known if took is not None), bound)

    def _report(self, stage: Stage, *parts: str) -> None:
        name = stage.name if stage.round in (None, self._round) else stage.label
        self.screen.say(f"  {name:<{self._width}}  " + "  ".join(part for part in parts if part))

    def _log(self, stage: Stage) -> Path:
        return self.logs / f"{stage.label.replace('/', '-')}.log"
