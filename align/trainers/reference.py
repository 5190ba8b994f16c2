"""Log-probabilities of the reference: computed in one pass before training, and kept on disk in shards.

    <cache>/<key>/KEY.json                                     what the values were made from
    <cache>/<key>/<maker>-steps-0-1-rank-0-of-2.safetensors    row numbers and their values, with a checksum
    <cache>/<key>/<maker>-merged-<content>.safetensors         the rows of many such files: see `reference_files.py`

The key is made from files on disk, not from weights in memory, which have changed when a run resumes. The pass uses the
same model that is trained, wrapped and sharded in the same way, and the same batches as the first epoch, so that policy
and reference are equal at step 0 to the last bit, in bfloat16 too. Shards that were made in other batches differ by
rounding only.

Example: five rows, a batch size of 2, two processes, `shard_steps` 2. The plan and the shards that are written:

    step   rows    process 0   process 1
    0      2, 4    2           4
    1      3, 0    3           0
    2      1       1           (none: it repeats row 1 and writes nothing)

    <maker>-steps-0-1-rank-0-of-2    rows 2, 3
    <maker>-steps-0-1-rank-1-of-2    rows 4, 0
    <maker>-steps-2-3-rank-0-of-2    row 1

If the second file is lost, rows 4 and 0 are missing, so both processes repeat steps 0 and 1: in a sharded model every
forward pass needs all processes. A run with another batch size or number of processes has another <maker>: it reads the
values of these files by row, and repeats nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from blake3 import blake3

from align.errors import CheckpointError
from align.files import fingerprint_of, whole_file
from align.manifest import versions
from align.models.checkpoints import checkpoint_fingerprint, located
from align.reporting import Progress, logger
from align.settings import ModelConfig
from align.source_code import code_of
from align.trainers.reference_files import MANY, SUFFIX, add_to_shard, merge, read_shard
from align.tree.encode import PromptTree
from align.tree.pack import RunPlan, TreeBatch, collate

log = logger(__name__)

_CODE = ("align.models.logps", "align.tree.attention", "align.tree.pack")
_COMPUTES = ("align/models/", "align/tree/")


class Reference(NamedTuple):
    """The reference's values of all trees that a run trains on."""

    logps: np.ndarray
    """[trees, branches], float32 nats, by the index of the tree; NaN for trees that the plan does not reach."""
    same_batches: bool
    """Whether the values of the first optimizer step were computed in the batches that it trains on."""


NO_REFERENCE = Reference(np.zeros((0, 0), dtype=np.float32), same_batches=False)


def reference_key(
    start: ModelConfig,
    precision: str,
    trees: Sequence[PromptTree],
    summed: str,
    *,
    weights: str | None = None,
    rows: str | None = None,
) -> dict[str, str]:
    """What the values depend on, each part as a name or a fingerprint. Another value of any part makes another cache.

    start: the checkpoint that the policy was loaded from. summed: which tokens are summed, as a phrase.
    weights, rows: the fingerprints of the start's weights and of the trees; None to compute them here.
    The tokenizer is no part: the token ids in `rows` stand for it.
    """
    return {
        "weights": weights or checkpoint_fingerprint(start.path, start.revision),
        "precision": f"weights {start.dtype}, products {precision}",
        "quantization": start.quantization or "none",
        "rows": rows or rows_fingerprint(trees),
        "summed": summed,
        "code": _code(),
    }


def _code() -> str:
    """Fingerprint of the source files that compute the values, so that a cache does not outlive an error in them.

    Other files that they import (settings, errors) do not change a number, and are left out.
    """
    return fingerprint_of(*(f"{name} {value}" for name, value in code_of(*_CODE).items() if name.startswith(_COMPUTES)))


def checkpoint_folder(path: Path | str, revision: str | None = None) -> Path:
    """The folder itself, or for a name on the Hub the snapshot in its cache. Raises CheckpointError without one."""
    return Path(path) if Path(path).is_dir() else located(path, revision, local_files_only=True)


def rows_fingerprint(trees: Sequence[PromptTree]) -> str:
    """BLAKE3 of ids, levels, tokens and masks of all trees, in order. About 20 microseconds a short tree."""
    digest = blake3()
    for tree in trees:
        digest.update(f"{tree.id}\0{tree.level}\0{len(tree.prompt)}".encode())
        digest.update(np.asarray(tree.prompt, dtype=np.int64).tobytes())
        for branch in tree.branches:
            digest.update(f"\0{len(branch.ids)}".encode())
            digest.update(np.asarray(branch.ids, dtype=np.int64).tobytes())
            digest.update(np.asarray(branch.loss_mask, dtype=np.bool_).tobytes())
            digest.update(np.asarray(branch.contrast_mask, dtype=np.bool_).tobytes())
    return digest.hexdigest()


@dataclass
class ReferenceCache:
    """The shards of one key, for one run."""

    folder: Path
    """Holds a folder for each key."""
    key: dict[str, str]
    trees: Sequence[PromptTree]
    plan: RunPlan
    device: torch.device
    shard_steps: int
    """How many optimizer steps have their rows in one file."""
    sharing: int = 1
    """This many processes share each packed row: `plan.processes` is the number of such groups."""
    leads: bool = True
    """Whether this process keeps and writes the values of its rows: of those that share them, the first one does."""

    def logps(
        self,
        logps_of: Callable[[TreeBatch], torch.Tensor],
        agree: Callable[[Callable[[], Any]], Any],
        *,
        resumed: bool,
    ) -> Reference:
        """Read the values from disk, compute and write the missing ones. Every process calls it.

        logps_of: gives one value for each branch of a batch, [B]. agree: gives the answer of the first process to all
            (`Processes.agree`), so that all have the same missing steps and make equally many forward passes.
        Raises CheckpointError if values are missing in a resumed run: its weights have changed since.
        """
        stored: tuple[np.ndarray, np.ndarray] = agree(self._read)
        values, same = stored
        missing = self._missing_steps(values)
        if missing and resumed:
            what = f"the reference log-probabilities of {len(missing)} optimizer steps are missing or damaged"
            how = (
                "The weights have changed since: restore the files, or the code that made them, or delete the "
                "checkpoint folders to start over"
            )
            raise CheckpointError(self._place, what, how)
        known = int(np.isfinite(values).all(axis=1).sum())
        log.info(
            "reference log-probabilities in %s: %d rows are known, %d steps to compute",
            self._place,
            known,
            len(missing),
        )
        if missing:
            made = torch.from_numpy(self._make(missing, logps_of)).to(self.device)
            if self.plan.processes * self.sharing > 1:
                dist.all_reduce(made)  # each row was kept by one process; the others hold 0 for it
            agree(self._merge_all)  # every process has written its files: the sum above needed them all
            rows = np.concatenate([self.plan[step].rows for step in missing]).astype(np.int64)
            values[rows] = made.cpu().numpy()[rows]
            same[rows] = True
        return Reference(values, same_batches=bool(same[list(self.plan.first_with_rows().rows)].all()))

    @property
    def _place(self) -> Path:
        return self.folder / fingerprint_of(*sorted(self.key.items()))[:16]

    @property
    def _maker(self) -> str:
        """What changes the last bits, apart from the key: which rows share a batch, libraries, device and threads."""
        plan = self.plan
        batches = (plan.batch_size, plan.token_budget, plan.seed, plan.processes)
        shared = (self.sharing,) if self.sharing > 1 else ()
        return fingerprint_of(*batches, *shared, versions(), self.device.type, torch.get_num_threads())[:8]

    def _missing_steps(self, values: np.ndarray) -> list[int]:
        steps = range(min(len(self.plan), self.plan.steps_per_epoch))
        unknown = np.isnan(values).any(axis=1)
        if not unknown.any():
            return []
        return [step for step in steps if unknown[list(self.plan[step].rows)].any()]

    def _make(self, missing: Sequence[int], logps_of: Callable[[TreeBatch], torch.Tensor]) -> np.ndarray:
        """Compute and write the values of this process's rows in the missing steps; 0 for all other rows."""
        made = np.zeros((len(self.trees), len(self.trees[0].branches)), dtype=np.float32)
        progress = Progress("reference", len(missing))
        written: set[Path] = set()
        for shard, steps in groupby(missing, key=lambda step: step // self.shard_steps):
            rows: list[int] = []
            for step in steps:
                rows += self._make_step(step, logps_of, made)
                progress.advance()
            if rows:
                first = shard * self.shard_steps
                span = f"steps-{first}-{first + self.shard_steps - 1}"
                name = f"{self._maker}-{span}-rank-{self.plan.process}-of-{self.plan.processes}{SUFFIX}"
                add_to_shard(self._place / name, np.asarray(rows), made[rows])
                written.add(self._place / name)
            if len(written) >= MANY:
                merge(written, self._maker)
                written.clear()
        return made

    def _merge_all(self) -> None:
        """Merge the files of this run's maker if there are many."""
        files = list(self._place.glob(f"{self._maker}-*{SUFFIX}"))
        if len(files) > MANY:
            merge(files, self._maker)

    @torch.no_grad()
    def _make_step(self, step: int, logps_of: Callable[[TreeBatch], torch.Tensor], made: np.ndarray) -> list[int]:
        rows: list[int] = []
        planned = self.plan[step]
        for members in planned.bins:
            batch = collate([self.trees[member] for member in members or planned.rows[:1]]).to(self.device)
            values = logps_of(batch).float().cpu().numpy()
            if members and self.leads:  # otherwise this pass was only for the other processes
                made[list(members)] = values.reshape(len(members), -1)
                rows += members
        return rows

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        """Every value on disk, NaN for the others, and for each row whether it was made in this run's batches."""
        if not (self._place / "KEY.json").exists():
            with whole_file(self._place / "KEY.json") as handle:
                json.dump(self.key, handle, indent=1)
        while (found := self._read_files()) is None:
            pass  # another run merges its files meanwhile
        return found

    def _read_files(self) -> tuple[np.ndarray, np.ndarray] | None:
        """As `_read`; None if a file is gone before it could be read: its rows are in another one."""
        values = np.full((len(self.trees), len(self.trees[0].branches)), np.nan, dtype=np.float32)
        same = np.zeros(len(self.trees), dtype=np.bool_)
        ours = f"{self._maker}-"
        # Our own files last: if two files have a row, the value from the same batch is used.
        for file in sorted(self._place.glob(f"*{SUFFIX}"), key=lambda file: (file.name.startswith(ours), file.name)):
            try:
                rows, logps = read_shard(file)
            except CheckpointError as error:
                if not os.path.lexists(file):  # a link whose target is gone is no file that was merged: it stays
                    return None
                log.warning("its rows are computed again: %s", error)
                continue
            values[rows] = logps
            same[rows] = file.name.startswith(ours)
        return values, same
