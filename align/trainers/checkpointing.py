"""The checkpoints and the finished model of a trainer: looked for at a start, written, sealed, and cleared.

Which folders there are and what they must hold is decided in `checkpoints.py`; the files of a model are written in
`saving.py`, and the manifest in `sealing.py`. Every process calls each method.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerState

from align.effective_time import SAVING, RunClock
from align.files import whole_file
from align.manifest import remove_manifest, write_folder_manifest
from align.models.bases import base_note
from align.reporting import logger
from align.settings import ModelConfig, TrainingConfig
from align.trainers import step_times
from align.trainers.checkpoints import CheckpointFolders
from align.trainers.disk import disk_need, require_space, require_space_for_checkpoint, require_space_for_model
from align.trainers.guards import StepGuards
from align.trainers.processes import Processes
from align.trainers.resuming import Default
from align.trainers.rollbacks import Rollback, require_rows_left, require_run_of
from align.trainers.saving import convert_weights, expected_shapes, model_files, require_savable, require_saved
from align.trainers.sealing import seal_together
from align.trainers.validation import Validation, copy_model, whole_model
from align.trainers.verifying import agree_verifying
from align.trainers.watchdog import Watchdog
from align.trainers.weights import require_storable_weights
from align.tree.encode import PromptTree
from align.tree.pack import RunPlan
from align.tree.store import TreeStore

log = logger(__name__)


class Checkpointed(Protocol):
    """What checkpointing needs of a trainer."""

    stage: str
    start: ModelConfig
    training: TrainingConfig
    recipe: dict[str, Any]
    identity: dict[str, str]
    output: Path
    trees: Sequence[PromptTree]
    plan: RunPlan
    processes: Processes
    state: TrainerState
    guards: StepGuards
    rollbacks: list[Rollback]
    validation: Validation | None
    clock: RunClock
    watchdog: Watchdog
    is_deepspeed_enabled: bool

    @property
    def hugging_face_model(self) -> Any: ...
    def run_notes(self) -> dict[str, Any]: ...
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None: ...


class Checkpointing:
    """What one run finds in its output folder, and writes to it.

    Args:
        trainer: the trainer, whose `identity` is known.
        defaults: see `align.trainers.resuming.default_values`.
    """

    def __init__(self, trainer: Checkpointed, defaults: Mapping[str, Default]) -> None:
        self.trainer = trainer
        self.folders = CheckpointFolders(
            trainer.output,
            stage=trainer.stage,
            recipe=trainer.recipe,
            identity=trainer.identity,
            keep=trainer.training.keep_checkpoints,
            sharded=trainer.is_deepspeed_enabled,
            steps=len(trainer.plan),
            keep_optimizer=trainer.training.keep_optimizer,
            defaults=defaults,
        )
        self.disk = disk_need(
            trainer.hugging_face_model,
            trainer.training,
            len(trainer.plan),
            sharded=trainer.is_deepspeed_enabled,
            validated=trainer.validation is not None,
        )

    # A start

    def is_finished(self) -> bool:
        """Whether the folder holds the finished model of this run. Then what it no longer needs is deleted."""
        trainer = self.trainer
        trainer.watchdog.note_progress("verifying the finished model")
        if not agree_verifying(trainer.processes, self.folders.finished):
            return False
        log.info("%s is finished already; nothing to train", trainer.output)
        self.clear_finished()
        return True

    def newest(self) -> Path | None:
        """The checkpoint to resume from, if there is one.

        Raises CheckpointError if there is one that must not be passed over, or if the model could not be saved.
        """
        trainer, agree = self.trainer, self.trainer.processes.agree
        model = trainer.hugging_face_model
        require_savable(model, trainer.start.path)
        require_storable_weights(model, trainer.training.save_dtype, trainer.processes)
        trainer.watchdog.note_progress("verifying checkpoints")
        checkpoint = agree_verifying(trainer.processes, self.folders.newest)
        trainer.watchdog.note_progress("the start")
        agree(lambda: require_run_of(self.folders, trainer.rollbacks, checkpoint))
        require_rows_left(trainer.plan, trainer.output)
        return checkpoint

    def require_space(self, step: int) -> None:
        """Raise CheckpointError if the disk is too small for what the run writes after `step`."""
        output, folders = self.trainer.output, self.folders
        self.trainer.processes.agree(lambda: require_space(self.disk, output, step, folders.whole()))

    # A checkpoint

    def save(self, write: Callable[[], None]) -> None:
        """Write and seal the checkpoint of the step that was made just now, and delete old ones.

        write: transformers' part: weights, states of optimizer, schedule and random numbers.
        """
        trainer = self.trainer
        trainer.watchdog.note_progress("saving")
        with trainer.clock.phase(SAVING), trainer.processes.times.whole(step_times.SAVING):
            try:
                self._save_sealed(write)
            except Exception:
                if trainer.processes.is_first:
                    self.folders.delete_unsealed(trainer.state.global_step)
                raise
        trainer.watchdog.note_progress("saving")
        trainer.clock.saved()

    def _save_sealed(self, write: Callable[[], None]) -> None:
        trainer, processes, step = self.trainer, self.trainer.processes, self.trainer.state.global_step
        trainer.guards.require_finite_weights(trainer.hugging_face_model)
        folder = self.folders.of_step(step)
        processes.agree(lambda: require_space_for_checkpoint(self.disk, trainer.output, self.folders.whole()))
        if processes.is_first:
            shutil.rmtree(folder, ignore_errors=True)  # what a killed run left half-written
        processes.wait()
        write()
        processes.wait()
        processes.agree(lambda: self._complete(folder))
        seal_together(folder, processes, lambda: {"step": step, **self._notes(folder)})
        processes.agree(lambda: self._prune(folder))

    def _complete(self, folder: Path) -> None:
        self._require_saved(folder)
        self.trainer.guards.save(folder)

    def _prune(self, sealed: Path) -> None:
        validation = self.trainer.validation
        self.folders.prune(sealed, best=validation and validation.best_checkpoint(self.trainer.output))

    def _require_saved(self, folder: Path) -> None:
        trainer = self.trainer
        require_saved(folder, expected_shapes(trainer.hugging_face_model), sharded=trainer.is_deepspeed_enabled)

    # The end of a run

    def finish(self) -> None:
        """Write the finished model and its manifest, and delete the optimizer states of the checkpoints before it."""
        trainer, processes, output = self.trainer, self.trainer.processes, self.trainer.output
        trainer.watchdog.note_progress("writing the finished model")
        trainer.guards.require_finite_weights(trainer.hugging_face_model)
        processes.agree(lambda: require_space_for_model(self.disk, output))
        if processes.is_first:
            remove_manifest(output)
        processes.wait()
        best = self._best_to_load()
        if best is None:
            trainer.save_model(str(output), _internal_call=True)
        processes.agree(lambda: self._seal_finished(best))
        if trainer.validation is not None:
            trainer.validation.tell(output, loaded=best is not None)
        trainer.watchdog.note_progress("verifying checkpoints")
        self.clear_finished()
        processes.wait()

    def _best_to_load(self) -> Path | None:
        """The checkpoint whose model is to be the finished one; None for the model as it is now."""
        trainer = self.trainer
        if trainer.validation is None or not trainer.training.load_best_model_at_end:
            return None
        best = trainer.validation.best_checkpoint(trainer.output)
        return best if best is not None and trainer.processes.agree(lambda: whole_model(best)) else None

    def _seal_finished(self, best: Path | None) -> None:
        """best: the checkpoint whose model is copied; None if the finished model is written already."""
        trainer, output = self.trainer, self.trainer.output
        if best is not None:
            copy_model(best, output)
        convert_weights(output, trainer.training.save_dtype)
        self._require_saved(output)
        with whole_file(output / "timing.json") as handle:
            json.dump({"steps": trainer.state.global_step, **trainer.clock.effective_time().record()}, handle)
        write_folder_manifest(output, model_files(output), self._notes(output, loaded=best is not None))

    def clear_finished(self) -> None:
        """Delete what a finished run no longer needs: its encoded rows, and what resuming reads.

        Trees that are mapped into memory can still be read.
        """
        trainer = self.trainer
        if trainer.processes.is_first:
            self.folders.clear_states()
            for trees in (trainer.trees, None if trainer.validation is None else trainer.validation.trees):
                if isinstance(trees, TreeStore):
                    trees.path.unlink(missing_ok=True)

    def _notes(self, folder: Path, *, loaded: bool = False) -> dict[str, Any]:
        """What the manifest of each folder of this run records. loaded: whether it is of the best step's model."""
        trainer = self.trainer
        return {
            **trainer.run_notes(),
            **({"rollbacks": [asdict(each) for each in trainer.rollbacks]} if trainer.rollbacks else {}),
            **({} if trainer.validation is None else {"validation": trainer.validation.notes(loaded=loaded)}),
            **base_note(trainer.hugging_face_model, folder),
        }
