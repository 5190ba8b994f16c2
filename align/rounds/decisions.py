"""Whether a stage has to run, and why: shared by the driver, which runs it, and by the commands that only report it.

`stage_inputs.py` says what decides a stage's result, `finished.py` compares that and the files on disk with a record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from align.errors import StageError
from align.files import fingerprint_of, matching
from align.hub_names import is_hub_name
from align.manifest import content_fingerprint
from align.records import selected_fingerprint
from align.rounds.changes import Change, changes_since, library_change, summary_of
from align.rounds.finished import damage_in, read_stage_record, seal_damage
from align.rounds.ledger import Ledger, StageRecord
from align.rounds.plan import RoundsConfig
from align.rounds.stage import Stage, within
from align.rounds.stage_inputs import NOT_MADE, StageInputs, as_recorded, content_on_hub, launch_content

LEDGER = "ledger.sqlite"
LOGS = "logs"


@dataclass(frozen=True)
class StageDecision:
    """What the next start does with a stage."""

    stage: Stage
    runs: bool
    reason: str
    """Why it runs or does not, for a person; empty for a first start and for one that continues an earlier one."""
    clears: bool
    """Whether what the stage has made so far is deleted before it runs."""
    made_from: StageInputs
    record: StageRecord | None
    """Of the stage's last start."""
    recovered: bool = False
    """Whether the ledger had no record, and the one in the stage's folder was added to it."""
    changes: tuple[Change, ...] = ()
    """What differs between its record and now."""
    waits_for: tuple[str, ...] = ()
    """In a preview: labels of the stages that make some of its inputs before it is its turn. If it does not run for
    another reason, it runs if one of these makes something else than before."""


class StageDecisions:
    """Decides for one stage after the other, in the order of the plan.

    ledger: receives the records that are recovered from the folders of stages, as part of `run_id`. A command that only
        reports gives a copy in memory, so that nothing is written to the disk.
    checking: called before the outputs of a stage are read whole, which takes long for a large model.
    """

    def __init__(
        self,
        config: RoundsConfig,
        ledger: Ledger,
        run_id: int,
        checking: Callable[[Stage], None] = lambda stage: None,
    ) -> None:
        self._config, self._ledger, self._run_id, self._checking = config, ledger, run_id, checking
        self._ledger_was_empty = not ledger.stages()
        self._contents: dict[tuple[int | None, str], str] = {}
        """(round, path or source) -> content, of what is outside the run. It may change between two rounds: data of
        later rounds arrives while earlier ones run."""

    def decide(self, stage: Stage, earlier: Sequence[Stage], remade: Sequence[Stage] = ()) -> StageDecision:
        """What to do with `stage`, whose inputs exist. Reads all of its inputs and outputs.

        earlier: every stage before it in the plan.
        remade: for a preview, those of `earlier` that would have run by then. Their outputs are not read.
        Raises StageError if an input is missing, or is a checkpoint that is damaged and cannot be made again.
        """
        made_from, waits_for = self._made_from(stage, earlier, remade)
        record, recovered = self._record(stage, made_from)
        if record is None:
            return StageDecision(stage, True, "", True, made_from, None, waits_for=waits_for)
        compared = made_from.compared_with(record)
        same_key = record.key == compared.key
        changes = () if same_key else tuple(compared.changes(record))
        keeps = same_key or (
            self._config.changed_code == "keep" and record.key == compared.key_with(record.code, record.config)
        )
        why = "" if same_key else summary_of(changes, record)
        kept = f", though {why} (changed_code: keep)" if keeps and not same_key else ""
        runs, clears, reason = True, not keeps, ""
        if record.status != "finished":
            reason = (f"continues{kept}" if kept else "") if keeps else f"started from scratch: {why}"
        elif not keeps:
            reason = f"made again: {why}"
        else:
            self._checking(stage)
            fault = damage_in(record, stage.outputs)
            runs = clears = bool(fault)
            reason = f"made again: {fault}" if fault else f"up to date{kept}"
        return StageDecision(stage, runs, reason, clears, made_from, record, recovered, changes, waits_for)

    def upgrades(self, stages: Sequence[Stage]) -> list[str]:
        """`torch 2.12.0 -> 2.13.0` for each library that is another one than for the last start of some stage."""
        found: dict[str, None] = {}
        for stage in stages:
            record = self._ledger.latest(stage.label)
            if record is not None:
                code = as_recorded(record.code | stage.libraries(), record.code)
                changes = changes_since(record, record.config, record.inputs, code)
                found |= {library_change(change): None for change in changes}
        return list(found)

    def _made_from(
        self, stage: Stage, earlier: Sequence[Stage], remade: Sequence[Stage]
    ) -> tuple[StageInputs, tuple[str, ...]]:
        """What the stage would be made from now, and the labels of stages in `remade` that make some of it."""
        inputs, on_hub = {}, []
        waits_for: list[str] = []
        for name, path in stage.inputs.items():
            if not within(path, self._config.run_dir) and is_hub_name(path):
                on_hub.append(name)
                content = content_on_hub(stage, name)
            elif remade and within(self._config.run_dir, path):
                content = fingerprint_of(NOT_MADE)  # the run itself, which is another one when any stage has run
            elif makers := [each.label for each in remade if each.makes(path)]:
                waits_for += makers
                content = NOT_MADE
            else:
                content = self._content(stage, name, path, earlier)
            inputs[name] = {"path": str(path), "blake3": content}
        launch = launch_content(stage.launch) if stage.launch else ""
        made_from = StageInputs(stage, inputs, tuple(on_hub), launch, stage.code())
        return made_from, tuple(dict.fromkeys(waits_for))

    def _record(self, stage: Stage, made_from: StageInputs) -> tuple[StageRecord | None, bool]:
        """The record of the stage's last start, and whether it was recovered.

        If the ledger has none, the record that the stage left in its own folder is used: always if the ledger was
        empty at the start, because then it was lost; otherwise only if its key is the stage's present key.
        """
        record = self._ledger.latest(stage.label)
        if record is not None:
            return record, False
        found = read_stage_record(stage.label, stage.outputs)
        if found is None or not (self._ledger_was_empty or found.key == made_from.compared_with(found).key):
            return None, False
        self._ledger.adopt(self._run_id, found)
        return self._ledger.latest(stage.label), True

    def _content(self, stage: Stage, name: str, path: Path, earlier: Sequence[Stage]) -> str:
        run_dir = self._config.run_dir
        if within(run_dir, path):  # the run itself: every stage before this one, each as it last ended
            records = [self._ledger.latest(each.label) for each in earlier]
            return fingerprint_of(*[(record.label, record.key, record.ended) for record in records if record])
        if within(path, run_dir):
            if not matching(path):
                what = f"reads {path}, which is not there"
                raise StageError(f"stage {stage.label}", what, f"See {run_dir / LOGS} of the stage that was to make it")
            return _content_of(stage, name, path)
        source = stage.source_of(name)
        key = (stage.round, str(path) if source is None else source.model_dump_json())
        if key not in self._contents:
            if fault := seal_damage(path):
                how = "Fetch or make that checkpoint again; this run cannot"
                raise StageError(f"stage {stage.label}: {path}", f"is damaged: {fault}", how)
            self._contents[key] = _content_of(stage, name, path)
        return self._contents[key]


def _content_of(stage: Stage, name: str, path: Path) -> str:
    """A fingerprint of an input: of the rows that its source selects by round or batch, or of all that is there.

    Rows that are not selected do not count, so that a stage that never reads them is not run again when they arrive.
    """
    source = stage.source_of(name)
    if source is not None and source.is_selective:
        return selected_fingerprint(source)
    return content_fingerprint(path)


def upgrade_notice(upgrades: Sequence[str], changed_code: str) -> str:
    """What a change of libraries since the stages of a run were made means for them."""
    remade = "stages whose code uses them are made again; set changed_code: keep to leave finished stages as they are"
    kept = "stages that they made are left as they are (changed_code: keep)"
    return f"libraries changed: {', '.join(upgrades)}: {kept if changed_code == 'keep' else remade}"
