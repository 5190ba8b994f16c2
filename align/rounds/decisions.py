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
from align.rounds.finished import damage_in, read_stage_record, seal_damage
from align.rounds.ledger import Ledger, StageRecord
from align.rounds.plan import RoundsConfig, Stage, within
from align.rounds.stage_inputs import StageInputs, content_on_hub, launch_content

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
        self._contents: dict[Path, str] = {}  # of paths outside the run, which stay as they are while it goes

    def decide(self, stage: Stage, earlier: Sequence[Stage]) -> StageDecision:
        """What to do with `stage`, whose inputs exist. Reads all of its inputs and outputs.

        earlier: every stage before it in the plan.
        Raises StageError if an input is missing, or is a checkpoint that is damaged and cannot be made again.
        """
        made_from = self._made_from(stage, earlier)
        record, recovered = self._record(stage, made_from)
        if record is None:
            return StageDecision(stage, True, "", True, made_from, None)
        same_key = record.key == made_from.compared_with(record).key
        runs, reason = self._compared(stage, record, made_from.compared_with(record))
        clears = runs and (not same_key or record.status == "finished")
        return StageDecision(stage, runs, reason, clears, made_from, record, recovered)

    def _made_from(self, stage: Stage, earlier: Sequence[Stage]) -> StageInputs:
        inputs, on_hub = {}, []
        for name, path in stage.inputs.items():
            if not within(path, self._config.run_dir) and is_hub_name(path):
                on_hub.append(name)
            content = content_on_hub(stage, name) if name in on_hub else self._content(stage, name, path, earlier)
            inputs[name] = {"path": str(path), "blake3": content}
        launch = launch_content(stage.launch) if stage.launch else ""
        return StageInputs(stage, inputs, tuple(on_hub), launch, stage.code())

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

    def _compared(self, stage: Stage, record: StageRecord, made_from: StageInputs) -> tuple[bool, str]:
        """Whether the stage runs, and why. Reads all of its outputs to find damage."""
        same_key = record.key == made_from.key
        if record.status != "finished":
            return True, "" if same_key else f"started from scratch: {made_from.changes(record)}"
        kept = ""
        if not same_key:
            if self._config.changed_code == "remake" or record.key != made_from.key_with(record.code):
                return True, f"made again: {made_from.changes(record)}"
            kept = f", though {made_from.changes(record)} (changed_code: keep)"
        self._checking(stage)
        if fault := damage_in(record, stage.outputs):
            return True, f"made again: {fault}"
        return False, f"up to date{kept}"

    def _content(self, stage: Stage, name: str, path: Path, earlier: Sequence[Stage]) -> str:
        run_dir = self._config.run_dir
        if within(run_dir, path):  # the run itself: every stage before this one, each as it last ended
            records = [self._ledger.latest(each.label) for each in earlier]
            return fingerprint_of(*[(record.label, record.key, record.ended) for record in records if record])
        if within(path, run_dir):
            if not matching(path):
                what = f"reads {path}, which is not there"
                raise StageError(f"stage {stage.label}", what, f"See {run_dir / LOGS} of the stage that was to make it")
            return self._selected(stage, name) or content_fingerprint(path)
        if content := self._selected(stage, name):
            return content
        if path not in self._contents:
            if fault := seal_damage(path):
                how = "Fetch or make that checkpoint again; this run cannot"
                raise StageError(f"stage {stage.label}: {path}", f"is damaged: {fault}", how)
            self._contents[path] = content_fingerprint(path)
        return self._contents[path]

    def _selected(self, stage: Stage, name: str) -> str:
        """A fingerprint of the rows that a source selects by round or batch; empty for an input that is read whole.

        Rows of other rounds are left out, so that a stage that never reads them is not run again when they arrive.
        """
        source = stage.source_of(name)
        return selected_fingerprint(source) if source is not None and source.is_selective else ""
