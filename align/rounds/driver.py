"""Runs the stages of a plan in order, skips those that are up to date, and continues a run that was interrupted.

`plan.py` says which stages there are, `decisions.py` whether a stage has to run, `ledger.py` records what each start
read and made. `processes.py` runs one stage as a process, with the locks that make a killed run safe to restart, and
`slurm.py` runs it as a job.
"""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from align.config import dump
from align.errors import StageError
from align.manifest import data_manifest_path
from align.precision import AUTO, Decision, kept, overrides
from align.reporting import duration
from align.rounds.decisions import LEDGER, LOGS, StageDecisions, upgrade_notice
from align.rounds.finished import described, stage_record_path, write_stage_record
from align.rounds.inputs import MissingInput, how_to_make, missing_inputs
from align.rounds.ledger import Ledger
from align.rounds.plan import RoundsConfig, plan, stages_after, stages_before, stages_of_round
from align.rounds.processes import Ending, Signals, end_leftovers, run_process, sole_driver
from align.rounds.results import key_numbers
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
    config.run_dir.mkdir(parents=True, exist_ok=True)
    with sole_driver(config.run_dir), Signals() as signals:
        if config.precision == AUTO and any(overrides(stage.config, "fp32") for stage in stages):
            config = config.model_copy(update={"precision": _decision(config.run_dir).precision})
        driver = _Driver(config, recipes, stages, Ledger(config.run_dir / LEDGER), signals)
        try:
            driver.run()
        finally:
            driver.ledger.close()
    return config.run_dir


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


class _Driver:
    """planned: every stage of the run, as if each round improved on those before it."""

    def __init__(
        self, config: RoundsConfig, recipes: Path, planned: Sequence[Stage], ledger: Ledger, signals: Signals
    ) -> None:
        self.config, self.recipes, self.ledger, self.signals = config, recipes, ledger, signals
        self.planned = {stage.label: stage for stage in planned}
        self.done: list[Stage] = []
        self._ran = 0
        self.screen = Screen()
        self.logs = config.run_dir / LOGS
        self.logs.mkdir(exist_ok=True)
        self._width = max(len(stage.name) for stage in planned)
        self.jobs = SlurmJobs(config.launcher.slurm, self.logs, config.stop_seconds, signals, self.screen.say)

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
        self._run_stages("before the rounds", stages_before(self.config, self.recipes), decisions, run_id)
        waiting: list[MissingInput] = []
        last = 0
        for number in range(1, self.config.rounds + 1):
            self._choose(run_id, number - 1)
            stages = stages_of_round(self.config, self.recipes, number)
            if waiting := missing_inputs(stages, self.config.run_dir):
                break
            self._run_stages(f"round {number} of {self.config.rounds}", stages, decisions, run_id)
            last = number
        if last:
            if not waiting:
                self._choose(run_id, last)
            stages = stages_after(self.config, self.recipes, last)
            self._run_stages("after the rounds", stages, decisions, run_id)
            for left_out in {stage.name for stage in self.config.all_stages.after} - {stage.name for stage in stages}:
                self.screen.say(f"  {left_out:<{self._width}}  left out: no round is better than the start")
        self.jobs.end_others()
        self.ledger.end_run(run_id)
        counts = f"{self._ran} stages run, {len(self.done) - self._ran} up to date"
        ended = f"rounds 1 to {last} of {self.config.rounds} are finished" if waiting else "finished"
        self.screen.say(f"{ended}: {counts} · {duration(time.monotonic() - began)}")
        if waiting:
            self._say_what_is_missing(waiting)

    def _run_stages(self, heading: str, stages: Sequence[Stage], decisions: StageDecisions, run_id: int) -> None:
        """Run those of the stages that are not up to date."""
        if stages:
            self.screen.say(heading)
        for stage in stages:
            decision = decisions.decide(stage, self.done)
            if decision.recovered:
                self._report(stage, "the ledger has no record of it; taken from the record in its folder")
            if decision.reason:
                self._report(stage, decision.reason)
            if decision.runs:
                if decision.clears:
                    self.jobs.end_others()
                    self._clear(stage, known=decision.record is not None)
                self._run_stage(stage, run_id, decision.made_from)
                self._ran += 1
            else:
                if decision.record is not None and decision.record.id not in self.ledger.numbers():
                    self.ledger.note_numbers(decision.record.id, key_numbers(stage.outputs))
                if stage.show:
                    self.screen.say(*last_start(self._log(stage)))
            self.done.append(stage)

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

    def _run_stage(self, stage: Stage, run_id: int, made_from: StageInputs) -> None:
        record_id = self.ledger.begin_stage(
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
        began = time.monotonic()
        ending = self._process(stage, made_from.key)
        if self.signals.caught:
            self.ledger.end_stage(record_id, "stopped")
            seconds = duration(time.monotonic() - began)
            self._report(stage, f"stopped after {seconds}; the same command continues from here")
            raise Stopped(128 + self.signals.caught[0])
        if ending.code != 0:
            self.ledger.end_stage(record_id, "failed")
            self._report(stage, "failed")
            raise self._failure(stage, f"{ending.text} after {duration(time.monotonic() - began)}")
        missing = [path for path in stage.outputs.values() if not path.exists()]
        if missing:
            self.ledger.end_stage(record_id, "failed")
            self._report(stage, "failed")
            raise self._failure(stage, f"ended well and did not make {missing[0]}")
        made_from = made_from.with_fetched()
        self.ledger.end_stage(
            record_id, "finished", described(stage.outputs), made_from.key, made_from.code, made_from.inputs
        )
        finished = self.ledger.latest(stage.label)
        assert finished is not None
        write_stage_record(finished, stage.outputs)
        numbers = key_numbers(stage.outputs)
        self.ledger.note_numbers(finished.id, numbers)
        left = self._left(stage)
        self._report(stage, numbers, duration(time.monotonic() - began), left)

    def _process(self, stage: Stage, key: str) -> Ending:
        """Run the stage's command, as a process or as a job, and end what it left running."""
        log = self._log(stage)

        def follow(lines: Sequence[str], elapsed: float) -> None:
            self._follow(stage, lines, elapsed)

        def asked_to_stop() -> None:
            self.screen.say(f"  {stage.name}: asked to save and leave (again to kill it)")

        if stage.allocation is not None:
            return self.jobs.run(stage, log, key, follow, asked_to_stop)
        self.jobs.end_others()
        code = run_process(
            stage.command, stage.shell, log, self.config.stop_seconds, self.signals, follow, asked_to_stop
        )
        self._end_leftovers(stage)
        return Ending.of_process(code)

    def _follow(self, stage: Stage, lines: Sequence[str], elapsed: float) -> None:
        for line in lines:
            if _PROGRESS.search(line):
                self.screen.progress(f"  {line}")
            elif stage.show:
                self.screen.say(line)
        if self.screen.idle():
            left = self._left(stage, elapsed)
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

    def _failure(self, stage: Stage, what: str) -> StageError:
        log = self._log(stage)
        printed = [line for line in last_start(log) if not _PROGRESS.search(line)][-_TAIL_LINES:]
        tail = "".join(f"\n    | {line}" for line in printed) or " (it printed nothing)"
        how = f"The whole log is {log}. Fix the cause, then start the same command again: it continues from here"
        return StageError(f"stage {stage.label}: {stage.shell}", f"{what}. Its last lines:{tail}\n", how)

    def _left(self, stage: Stage, elapsed: float | None = None) -> str:
        """Time left for the whole run, from how long its stages took in an earlier round or start.

        elapsed: how long `stage` has been running; None if it has ended.
        """
        ahead = itertools.dropwhile(lambda each: each.label != stage.label, self.planned.values())
        stages = list(ahead)[elapsed is None :]
        known = [self.ledger.last_seconds(each.name, each.round) for each in stages]
        seconds = sum(took for took in known if took is not None) - (elapsed or 0.0)
        if seconds < 1:
            return ""
        bound = "about" if None not in known else "at least"
        return f"{bound} {duration(seconds)} left in all"

    def _report(self, stage: Stage, *parts: str) -> None:
        self.screen.say(f"  {stage.name:<{self._width}}  " + "  ".join(part for part in parts if part))

    def _log(self, stage: Stage) -> Path:
        return self.logs / f"{stage.label.replace('/', '-')}.log"
