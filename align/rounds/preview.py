"""What the next start of the rounds would do with each stage, and why. Nothing is written and nothing is started.

A stage whose inputs an earlier stage makes again is judged without them. If all else is as it was, it runs only if that
stage makes something else than before, which is known only then:

    sft     runs        settings changed: training.epochs
    dpo     may run     if sft makes something else than before
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from align.errors import ConfigError
from align.precision import AUTO, decide, kept, overrides
from align.reporting import duration
from align.rounds.changes import Change, library_change
from align.rounds.decisions import LEDGER, StageDecision, StageDecisions, upgrade_notice
from align.rounds.inputs import MissingInput, missing_inputs
from align.rounds.ledger import Ledger
from align.rounds.plan import RoundsConfig, plan, stages_after, stages_before, stages_of_round
from align.rounds.stage import Stage
from align.rounds.stage_inputs import NOT_MADE

Verdict = Literal["runs", "may run", "up to date"]
_HASH_SHOWN = 8


@dataclass(frozen=True)
class PlannedStage:
    """One stage of the next start."""

    decision: StageDecision
    seconds: float | None
    """How long it took in this round or the nearest other one; None if it has never run to its end."""

    @property
    def label(self) -> str:
        return self.decision.stage.label

    @property
    def verdict(self) -> Verdict:
        if self.decision.runs:
            return "runs"
        return "may run" if self.decision.waits_for else "up to date"

    @property
    def is_made_again(self) -> bool:
        """Whether a result that is there is or may be replaced."""
        return self.verdict != "up to date" and self.decision.record is not None

    @property
    def reason(self) -> str:
        """Why, for a person."""
        record, after = self.decision.record, ", ".join(self.decision.waits_for)
        if record is None:
            return "it has not run yet"
        said = self.decision.reason
        for beginning in ("made again: ", "up to date, ", "up to date"):
            said = said.removeprefix(beginning)
        if self.decision.runs:
            ended = "was interrupted" if record.status == "running" else f"has {record.status}"
            said = f"it {ended}" if record.status != "finished" and not said else said
            return f"{said}; reads what {after} makes" if after else said
        return "; ".join(
            part for part in (f"if {after} makes something else than before" if after else "", said) if part
        )


@dataclass(frozen=True)
class Preview:
    """The stages of the next start, in order, up to the round whose data is not there."""

    stages: tuple[PlannedStage, ...]
    waiting: tuple[MissingInput, ...]
    """What the first round that cannot start lacks."""
    chosen_later: tuple[str, ...]
    """Labels of evaluations by which the best model is chosen, and which are made again before: another model than
    the one that is planned with may be the best one then."""
    upgrades: tuple[str, ...]
    """Libraries that are other ones than for the last start of some stage."""
    changed_code: str


def preview(config: RoundsConfig, recipes: Path) -> Preview:
    """What the next start would do. Reads every input and output of the stages that it judges, as the start does.

    recipes: the folder of the recipe scripts.
    Raises ConfigError for what a start would refuse, StageError for a damaged ledger or input.
    """
    ledger = Ledger(config.run_dir / LEDGER, in_memory=True)
    config = _with_precision(config, plan(config, recipes), ledger)
    decisions = StageDecisions(config, ledger, ledger.begin_run("preview"))
    found: list[PlannedStage] = []

    def judge(stages: Sequence[Stage]) -> None:
        for stage in stages:
            earlier = [each.decision.stage for each in found]
            remade = [each.decision.stage for each in found if each.verdict != "up to date"]
            decision = decisions.decide(stage, earlier, remade)
            found.append(PlannedStage(decision, ledger.last_seconds(stage.name, stage.round)))

    judge(stages_before(config, recipes))
    waiting: list[MissingInput] = []
    last = 0
    for number in range(1, config.rounds + 1):
        stages = stages_of_round(config, recipes, number)
        if waiting := missing_inputs(stages, config.run_dir):
            break
        judge(stages)
        last = number
    if last:
        judge(stages_after(config, recipes, last))
    rules = {name for rule in config.rules.values() for name in (rule.evaluation, rule.start_evaluation)}
    chosen_later = [each.label for each in found if each.decision.stage.name in rules and each.is_made_again]
    upgrades = decisions.upgrades([each.decision.stage for each in found])
    return Preview(tuple(found), tuple(waiting), tuple(chosen_later), tuple(upgrades), config.changed_code)


def plan_text(found: Preview) -> str:
    """A preview as a table, with the time that the stages took before."""
    width = max(len(stage.label) for stage in found.stages)
    lines = []
    if found.upgrades:
        lines.append(upgrade_notice(found.upgrades, found.changed_code))
    for stage in found.stages:
        took = duration(stage.seconds) if stage.seconds is not None and stage.verdict != "up to date" else ""
        lines.append(f"{stage.label:{width}}  {stage.verdict:10}  {took:>12}  {stage.reason}".rstrip())
    if found.waiting:
        lacking = dict.fromkeys(each.what for each in found.waiting)
        lines.append(f"round {found.waiting[0].stage.round} waits for: {', '.join(lacking)}")
    if found.chosen_later:
        lines.append(f"the best model is chosen again after {', '.join(found.chosen_later)}, and may be another one")
    counts = {verdict: [each for each in found.stages if each.verdict == verdict] for verdict in ("runs", "may run")}
    parts = [f"{len(counts['runs'])} run{_time_of(counts['runs'])}"]
    if counts["may run"]:
        parts.append(f"{len(counts['may run'])} may run{_time_of(counts['may run'])}")
    parts.append(f"{len(found.stages) - sum(map(len, counts.values()))} are up to date")
    return "\n".join([*lines, f"{len(found.stages)} stages: {', '.join(parts)}"])


def explanation(stage: PlannedStage) -> str:
    """Everything that differs from when a stage was made, one thing a line; or that nothing does."""
    record = stage.decision.record
    if record is None:
        return f"{stage.label} runs: it has not run yet"
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.started))
    took = f" in {duration(record.seconds)}" if record.seconds is not None else ""
    lines = [f"{stage.label}: {stage.verdict}", f"  {record.status}, started {made}{took}: {record.command}"]
    for change in stage.decision.changes:
        lines.append(f"  {change.kind:13}  {_change_text(change)}")
    for name, entry in stage.decision.made_from.inputs.items():
        if entry["blake3"] == NOT_MADE:
            lines.append(f"  input          {name} ({entry['path']}): made before it is this stage's turn")
    if not stage.decision.changes and stage.reason:
        lines.append(f"  {stage.reason}")
    if len(lines) == 2:
        lines.append("  nothing that decides its result has changed, and its outputs are as they were")
    return "\n".join(lines)


def stages_named(found: Preview, name: str) -> list[PlannedStage]:
    """The stage with a label such as `round-2/sft`, or the stages of all rounds with a name such as `sft`."""
    stages = [stage for stage in found.stages if name in (stage.label, stage.decision.stage.name)]
    if not stages:
        labels = [stage.label for stage in found.stages]
        close = difflib.get_close_matches(name, labels, n=3)
        raise ConfigError(f"stage {name}", "the config has no such stage", f"Known: {', '.join(close or labels)}")
    return stages


def _with_precision(config: RoundsConfig, stages: Sequence[Stage], ledger: Ledger) -> RoundsConfig:
    """The config with the precision that a start would work with. It matters only for stages that have run."""
    if config.precision != AUTO or not ledger.stages():
        return config
    if not any(overrides(stage.config, "fp32") for stage in stages):
        return config
    decision = kept(config.run_dir) or decide()
    return config.model_copy(update={"precision": decision.precision})


def _change_text(change: Change) -> str:
    if change.kind == "library":
        return library_change(change)
    if change.kind == "setting":
        return f"{change.name}: {change.before or 'not set'} -> {change.now or 'not set'}"
    texts = (value if value == NOT_MADE else value[:_HASH_SHOWN] for value in (change.before, change.now))
    before, now = (text or "none" for text in texts)
    return f"{change.name}{f' ({change.path})' if change.path else ''}: content {before} -> {now}"


def _time_of(stages: Sequence[PlannedStage]) -> str:
    known = [stage.seconds for stage in stages if stage.seconds is not None]
    if not known:
        return ""
    return f" in {'about' if len(known) == len(stages) else 'at least'} {duration(sum(known))}"
