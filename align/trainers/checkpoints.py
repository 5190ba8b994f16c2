"""The checkpoint folders of a run: which is resumed from, which are deleted, and what they must hold.

    <output_dir>/checkpoint-N/MANIFEST.json   N optimizer steps done; weights, optimizer states, random states
    <output_dir>/MANIFEST.json                the finished model

A folder is resumed from, or counts as finished, only if every file is what its manifest says, every weight is finite,
and the config, the starting weights, the encoded rows and the tokenizer are those that it was made with.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.chat.protocol import ChatProtocol
from align.errors import CheckpointError, ConfigError, UnreadableCheckpointError
from align.files import fingerprint, fingerprint_of
from align.manifest import SEAL, delete_listed_files, delete_what_is_left, read_manifest, remove_manifest, verify_folder
from align.reporting import logger
from align.settings import ModelConfig
from align.trainers.output import CHECKPOINT
from align.trainers.reference import checkpoint_fingerprint, checkpoint_folder, rows_fingerprint
from align.trainers.resharding import has_zero3_states, state_files
from align.trainers.resuming import LENGTH, Default, Run, refuse_other_run
from align.trainers.saving import MODEL_SUFFIXES, STATE, require_finite
from align.trainers.verifying import Verify
from align.tree.encode import PromptTree

log = logger(__name__)

OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
NOT_RESUMABLE = "optimizer_states_deleted"
"""In the manifest of a checkpoint that holds weights only: of a finished run, or of the best step so far."""

_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")


def run_identity(
    model: ModelConfig, precision: str, trees: Sequence[PromptTree], protocol: ChatProtocol
) -> dict[str, str]:
    """Fingerprints of what a run is made of, beyond its settings: they go into the manifest of all that it saves.

    model: what the run starts from. precision: fp32 or bf16, as the products run. trees: all encoded rows.
    """
    return {
        "template": template_fingerprint(model.path, protocol, model.revision),
        "start": checkpoint_fingerprint(model.path, model.revision),
        "rows": rows_fingerprint(trees),
        "precision": f"weights {model.dtype}, products {precision}",
    }


def template_fingerprint(start: Path | str, protocol: ChatProtocol, revision: str | None = None) -> str:
    """BLAKE3 of all that makes tokens of text: protocol, template, tokenizer, and the tokenizer files of the start."""
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
    files = [checkpoint_folder(start, revision) / name for name in names]
    return fingerprint_of(
        *protocol.identity,
        protocol.chat_template,
        protocol.tokenizer_fingerprint,
        *(f"{file.name} {fingerprint(file)}" for file in files if file.exists()),
    )


@dataclass
class CheckpointFolders:
    """The checkpoints of one run. Rank zero asks; the others learn its answers.

    verify: of `finished` and `newest`, which read whole folders, so that other processes can help.
    """

    output: Path
    stage: str
    recipe: dict[str, Any]
    identity: Mapping[str, str]
    keep: int
    """Verified checkpoints that stay, the newest ones."""
    sharded: bool
    """Whether each process has a part of the optimizer states, under DeepSpeed; otherwise one file holds them."""
    steps: int | None = None
    """Optimizer steps of the whole run, as it is configured now. None to accept any number."""
    keep_optimizer: bool = False
    """Whether the newest checkpoint keeps its optimizer states when the run is finished."""
    defaults: Mapping[str, Default] = field(default_factory=dict)
    """See `default_values`."""
    _resumed: Path | None = None
    """What `newest` has found already, for an extended run: verifying means reading everything."""
    _verified: dict[Path, bool] = field(default_factory=dict)
    """Folders that this process has sealed or checked; each is read once."""

    def of_step(self, step: int) -> Path:
        return self.output / f"{CHECKPOINT}{step}"

    def finished(self, verify: Verify = verify_folder) -> bool:
        """Whether the output folder holds the finished model of this very run.

        False if the run is to be extended: it has another number of steps now, and a checkpoint to resume from.
        Raises CheckpointError if the folder holds the model of another run, or of one that cannot be extended.
        """
        try:
            manifest = verify(self.output)
            require_finite(self.output, manifest)
        except CheckpointError as error:
            if (self.output / SEAL).exists():
                log.warning("the finished model is not whole and is trained again: %s", error)
            return False
        same_length = self._steps_of(manifest) == self.steps
        refuse_other_run(self._run, self.output, manifest, finished=same_length)
        if not same_length:
            self._require_extendable(manifest, verify)
        return same_length

    def newest(self, verify: Verify = verify_folder) -> Path | None:
        """The newest checkpoint that can be resumed from; damaged ones are named and passed over.

        Raises CheckpointError if it belongs to another run, or if a file in it could run code; ConfigError if it was
        written on ZeRO-3 and this start is without, or the other way round; UnreadableCheckpointError if it cannot be
        read now, since a run that goes on from an older one would write over what it did.
        """
        if self._resumed is not None:
            return self._resumed
        for folder in self._folders():
            try:
                manifest = self._verify(folder, verify)
            except CheckpointError as error:
                log.warning("passing over a checkpoint: %s", error)
                continue
            refuse_other_run(self._run, folder, manifest, finished=False)
            self._refuse_beyond_the_end(folder)
            self._refuse_states_of_another_launch(folder, manifest)
            if self.sharded:
                state_files(folder, manifest)
            _refuse_unlisted_pickles(folder, manifest)
            return folder
        return None

    def require_same_run(self, place: Path, recorded: Mapping[str, Any]) -> None:
        """Raise CheckpointError if what is at `place` was recorded by another run than this one."""
        refuse_other_run(self._run, place, recorded, finished=False)

    def whole(self) -> list[Path]:
        """Sealed checkpoints, newest first. Their files are not read."""
        return [folder for folder in self._folders() if (folder / SEAL).is_file()]

    def steps_before(self, checkpoint: Path) -> int | None:
        """How many steps the run had in all when a checkpoint was written, if it has another number now."""
        before = self._steps_of(read_manifest(checkpoint))
        return None if before == self.steps else before

    def prune(self, sealed: Path, best: Path | None = None) -> None:
        """Delete checkpoints older than the newest `keep` verified ones, and damaged ones older than `sealed`.

        sealed: the checkpoint that was written just now, with its manifest. It stays.
        best: the checkpoint of the best step. It stays, but once it is older than `keep` others only its model does.
        Those with a higher step, which this run has passed over, do not count and are left until it gets there. So do
        those that cannot be read now.
        """
        self._verified[sealed] = True
        kept = 0
        for folder in self._folders():
            if _step(folder) > _step(sealed):
                continue
            try:
                if kept < self.keep and self._is_whole(folder):
                    kept += 1
                    continue
            except UnreadableCheckpointError as error:
                log.warning("a checkpoint does not count, and is left as it is: %s", error)
                continue
            assert folder != sealed
            if folder == best and _sizes_fit(folder):
                self._delete_states(folder)
                continue
            self._delete(folder)

    def delete_unsealed(self, step: int) -> None:
        """Delete what a failed save has written of a checkpoint: its disk may be full."""
        folder = self.of_step(step)
        if folder.is_dir() and not (folder / SEAL).exists():
            shutil.rmtree(folder, ignore_errors=True)

    def clear_states(self) -> None:
        """After the end: delete the optimizer states of the checkpoints, whose weights stay, and delete what is not
        whole. With `keep_optimizer` the newest checkpoint is left as it is.
        """
        keep = self.keep_optimizer
        for folder in self._folders():
            try:
                manifest = read_manifest(folder)
                if manifest.get(NOT_RESUMABLE):  # an earlier start has deleted them, or was killed while it did
                    delete_what_is_left(folder, manifest)
                    _delete_inner_folders(folder, manifest)
                    continue
                if folder not in self._verified:
                    verify_folder(folder)
            except UnreadableCheckpointError as error:
                log.warning("a checkpoint is left as it is: %s", error)
                continue
            except CheckpointError as error:
                log.warning("deleting a checkpoint that is not whole: %s", error)
                self._delete(folder)
                continue
            if keep:
                keep = False
                continue
            self._delete_states(folder)

    def _delete_states(self, folder: Path) -> None:
        """Delete the optimizer states of a whole checkpoint. Its model stays."""
        manifest = read_manifest(folder)
        if manifest.get(NOT_RESUMABLE):
            return
        states = [name for name in manifest["files"] if "/" in name or not name.endswith(MODEL_SUFFIXES)]
        delete_listed_files(folder, states, {NOT_RESUMABLE: True})
        _delete_inner_folders(folder, {"deleted": states})
        self._verified.pop(folder, None)

    def _folders(self) -> list[Path]:
        """Checkpoint folders by their names, newest first.

        Raises CheckpointError for a link whose folder is missing: its storage may not be mounted, and a run that goes
        on from an older checkpoint would write over what it did.
        """
        # Not `isdigit`, which "²" passes, though it is no number.
        found = [path for path in self.output.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdecimal()]
        for path in found:
            if path.is_symlink() and not path.exists():
                what = f"is a link to {path.readlink()}, which does not exist"
                raise CheckpointError(path, what, "Mount the storage that it is on, or delete the link")
        return sorted((path for path in found if path.is_dir()), key=_step, reverse=True)

    def _verify(self, folder: Path, verify: Verify = verify_folder) -> dict[str, Any]:
        """The manifest of a checkpoint that can be resumed from. Raises CheckpointError if it cannot."""
        manifest = verify(folder)
        if manifest.get("step") != _step(folder) or folder.name != f"{CHECKPOINT}{_step(folder)}":
            what = f"its {SEAL} is of step {manifest.get('step')}, which its name does not say"
            raise CheckpointError(folder, what, f"Rename it to {CHECKPOINT}{manifest.get('step')}, or delete it")
        if manifest.get(NOT_RESUMABLE):
            how = "It cannot be resumed from; its weights can start a new run (model.path)"
            raise CheckpointError(folder, "holds the model alone: its optimizer states were deleted", how)
        # By what wrote it, not by this start: a whole checkpoint of another launch is refused, not passed over.
        for name in (STATE,) if has_zero3_states(manifest) else (STATE, OPTIMIZER, SCHEDULER):
            if name not in manifest["files"]:
                what = f"its {SEAL} does not list {name}, so it cannot be resumed from"
                raise CheckpointError(folder, what, "Delete it; an earlier one is used")
        require_finite(folder, manifest)
        self._verified[folder] = True
        return manifest

    def _is_whole(self, folder: Path) -> bool:
        if folder not in self._verified:
            try:
                self._verify(folder)
            except CheckpointError as error:
                if (folder / SEAL).exists():
                    log.warning("a checkpoint does not count: %s", error)
                self._verified[folder] = False
        return self._verified[folder] and _sizes_fit(folder)

    def _delete(self, folder: Path) -> None:
        remove_manifest(folder)
        shutil.rmtree(folder)
        self._verified.pop(folder, None)

    @property
    def _run(self) -> Run:
        return Run(self.stage, self.recipe, self.identity, self.defaults, self.output)

    def _steps_of(self, manifest: Mapping[str, Any]) -> int | None:
        """The steps of the whole run that a manifest records. Those of now if either is unknown."""
        recorded = manifest.get("steps")
        return recorded if isinstance(recorded, int) and self.steps is not None else self.steps

    def _require_extendable(self, manifest: Mapping[str, Any], verify: Verify) -> None:
        """Raise CheckpointError if the finished run cannot get the number of steps that it is started with now."""
        before = self._steps_of(manifest)
        settings = " and ".join(LENGTH)
        what = f"holds a finished run of {before} steps, and {settings} now give {self.steps}"
        assert before is not None
        assert self.steps is not None
        if self.steps < before:
            raise CheckpointError(self.output, what, f"Restore {settings}, or choose another training.output_dir")
        self._resumed = self.newest(verify)
        if self._resumed is None:
            how = (
                "To train on, start a new run from this model (model.path, another training.output_dir, the steps that "
                "are to be added); its optimizer and learning rate begin again. A run that was started with "
                "training.keep_optimizer: true can be extended"
            )
            raise CheckpointError(self.output, f"{what}; its optimizer states were deleted when it was finished", how)

    def _refuse_beyond_the_end(self, folder: Path) -> None:
        if self.steps is not None and _step(folder) > self.steps:
            what = f"is of step {_step(folder)}, and {' and '.join(LENGTH)} now give {self.steps} steps in all"
            raise CheckpointError(folder, what, f"Set at least {_step(folder)} steps, or delete the folder")

    def _refuse_states_of_another_launch(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """ZeRO-3 divides optimizer states among processes; without it one file holds them. Neither reads the other's.

        Passed over, a whole checkpoint would be a run that silently begins again.
        """
        if has_zero3_states(manifest) == self.sharded:
            return
        if self.sharded:
            what = f"is on ZeRO-3, and {folder} has its optimizer states in one file, {OPTIMIZER}"
            before = "plain python, torchrun or accelerate launch without DeepSpeed"
        else:
            what = f"is without ZeRO-3, and {folder} has optimizer states of ZeRO-3, divided among processes"
            before = "accelerate launch with the former --config_file, such as recipes/launch/zero3.yaml"
        how = (
            f"Start it as before ({before}), choose another training.output_dir, or delete {self.output} to start over"
        )
        raise ConfigError("launch", what, how)


def _delete_inner_folders(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Delete the folders of deleted files, such as `global_step4` of DeepSpeed."""
    for top in {name.split("/")[0] for name in manifest.get("deleted", ()) if "/" in name}:
        if top not in ("", ".", ".."):
            shutil.rmtree(folder / top, ignore_errors=True)


def _refuse_unlisted_pickles(folder: Path, manifest: dict[str, Any]) -> None:
    """DeepSpeed loads by pattern, and a pickle can run code: only files that the manifest lists may be there."""
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if file.suffix in _PICKLES and name not in manifest["files"]:
            what = f"is a file that {SEAL} does not list, in a checkpoint that would be resumed from"
            raise CheckpointError(file, what, "Delete it: loading it could run code")


def _sizes_fit(folder: Path) -> bool:
    try:
        listed = read_manifest(folder)["files"]
        return all((folder / name).stat().st_size == entry["bytes"] for name, entry in listed.items())
    except (CheckpointError, UnreadableCheckpointError, OSError):
        return False


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(CHECKPOINT))
