"""Log-probabilities of the reference, taken in one pass before training and kept on disk in shards.

    <cache>/<key>/KEY.json                              what the values were made from
    <cache>/<key>/<maker>-steps-0-19-rank-0-of-2.safetensors   row numbers and their values, with a checksum

The key comes from files on disk and not from weights in memory, which have moved by the time a run resumes. The pass
uses the very model that will train, wrapped and sharded as it will be, and the very batches of the first epoch, so that
policy and reference agree at step 0 to the bit, in bfloat16 too. Shards that other batches made are as good but for
rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from align.errors import CheckpointError
from align.files import fingerprint_of, whole_file
from align.manifest import versions
from align.models.checkpoints import checkpoint_fingerprint, located
from align.reporting import Progress, logger
from align.settings import ModelConfig
from align.source_code import code_of
from align.tree.encode import PromptTree
from align.tree.pack import RunPlan, TreeBatch, collate

log = logger(__name__)

_SUFFIX = ".safetensors"
_CODE = ("align.models.logps", "align.tree.attention", "align.tree.pack")
_COMPUTES = ("align/models/", "align/tree/")


class Reference(NamedTuple):
    """The reference's values of all trees that a run trains on."""

    logps: np.ndarray
    """[trees, branches], float32 nats, by the tree's place; nan where the plan does not come in its first epoch."""
    same_batches: bool
    """Whether the first optimizer step's values were made in the batches that it trains on."""


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
    """What the values depend on, each part as a name or a fingerprint.

    start: the checkpoint that the policy was loaded from. summed: in words, which tokens are summed.
    weights, rows: the fingerprints of the start's weights and of the trees, if they are known already.
    The tokenizer counts by the token ids that it gave.
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
    """Of the sources that compute the values: a fault that is fixed there must not live on in a cache. What else they
    import (texts of settings, errors) moves no number.
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
    """Optimizer steps whose rows stand in one file."""

    def logps(
        self,
        logps_of: Callable[[TreeBatch], torch.Tensor],
        agree: Callable[[Callable[[], Any]], Any],
        *,
        resumed: bool,
    ) -> Reference:
        """The values, read where they are on disk, made and written where not. Every process comes here.

        logps_of: a batch to one value for each branch, [B]. agree: gives rank zero's answer to all processes. So all
        know the same steps to be missing, and make as many forward passes as each other.
        Raises CheckpointError where a resumed run does not find what it began with: its weights have moved.
        """
        stored: tuple[np.ndarray, np.ndarray] = agree(self._read)
        values, same = stored
        missing = self._missing_steps(values)
        if missing and resumed:
            what = f"the reference log-probabilities of {len(missing)} optimizer steps are not there, or not whole"
            how = (
                "The weights have moved since: restore the files, or the code that made them, or delete the checkpoint "
                "folders to start over"
            )
            raise CheckpointError(self._place, what, how)
        known = int(np.isfinite(values).all(axis=1).sum())
        log.info("reference log-probabilities in %s: %d rows known, %d steps to do", self._place, known, len(missing))
        if missing:
            made = torch.from_numpy(self._make(missing, logps_of)).to(self.device)
            if self.plan.processes > 1:
                dist.all_reduce(made)  # each row was made by one process; the others hold 0 for it
            rows = np.concatenate([self.plan[step].rows for step in missing]).astype(np.int64)
            values[rows] = made.cpu().numpy()[rows]
            same[rows] = True
        return Reference(values, same_batches=bool(same[list(self.plan[0].rows)].all()))

    @property
    def _place(self) -> Path:
        return self.folder / fingerprint_of(*sorted(self.key.items()))[:16]

    @property
    def _maker(self) -> str:
        """What decides the last bits besides the key: how rows meet in batches, libraries, device and threads."""
        plan = self.plan
        batches = (plan.batch_size, plan.token_budget, plan.seed, plan.processes)
        return fingerprint_of(*batches, versions(), self.device.type, torch.get_num_threads())[:8]

    def _missing_steps(self, values: np.ndarray) -> list[int]:
        steps = range(min(len(self.plan), self.plan.steps_per_epoch))
        unknown = np.isnan(values).any(axis=1)
        if not unknown.any():
            return []
        return [step for step in steps if unknown[list(self.plan[step].rows)].any()]

    def _make(self, missing: Sequence[int], logps_of: Callable[[TreeBatch], torch.Tensor]) -> np.ndarray:
        """Values of this process's rows of the missing steps, 0 elsewhere; written shard by shard."""
        made = np.zeros((len(self.trees), len(self.trees[0].branches)), dtype=np.float32)
        progress = Progress("reference", len(missing))
        for shard, steps in groupby(missing, key=lambda step: step // self.shard_steps):
            rows: list[int] = []
            for step in steps:
                rows += self._make_step(step, logps_of, made)
                progress.advance()
            if rows:
                first = shard * self.shard_steps
                span = f"steps-{first}-{first + self.shard_steps - 1}"
                name = f"{self._maker}-{span}-rank-{self.plan.process}-of-{self.plan.processes}{_SUFFIX}"
                _write_shard(self._place / name, np.asarray(rows), made[rows])
        return made

    @torch.no_grad()
    def _make_step(self, step: int, logps_of: Callable[[TreeBatch], torch.Tensor], made: np.ndarray) -> list[int]:
        rows: list[int] = []
        planned = self.plan[step]
        for members in planned.bins:
            batch = collate([self.trees[member] for member in members or planned.rows[:1]]).to(self.device)
            values = logps_of(batch).float().cpu().numpy()
            if members:  # otherwise it only kept step with the other processes
                made[list(members)] = values.reshape(len(members), -1)
                rows += members
        return rows

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        """Every value on disk, nan for the others, and whether it was made in this run's batches. For rank zero."""
        values = np.full((len(self.trees), len(self.trees[0].branches)), np.nan, dtype=np.float32)
        same = np.zeros(len(self.trees), dtype=np.bool_)
        if not (self._place / "KEY.json").exists():
            with whole_file(self._place / "KEY.json") as handle:
                json.dump(self.key, handle, indent=1)
        ours = f"{self._maker}-"
        # Ours last: where two hold a row, the value of the very batch wins.
        for file in sorted(self._place.glob(f"*{_SUFFIX}"), key=lambda file: (file.name.startswith(ours), file.name)):
            try:
                rows, logps = _read_shard(file)
            except CheckpointError as error:
                log.warning("its rows are done again: %s", error)
                continue
            values[rows] = logps
            same[rows] = file.name.startswith(ours)
        return values, same


def _write_shard(path: Path, rows: np.ndarray, logps: np.ndarray) -> None:
    tensors = {"rows": rows.astype(np.int64), "logps": logps}
    with whole_file(path, "wb") as handle:
        handle.write(save(tensors, metadata={"blake3": _checksum(tensors)}))


def _read_shard(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers [n] and values [n, branches]. Raises CheckpointError where they are not what was written."""
    try:
        with safe_open(path, "np") as handle:
            wanted = (handle.metadata() or {}).get("blake3")
            tensors = {name: handle.get_tensor(name) for name in ("rows", "logps")}
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"cannot be read ({error})", "Take the file away") from None
    if _checksum(tensors) != wanted:
        raise CheckpointError(path, "does not hold what was written to it", "Take the file away")
    return tensors["rows"], tensors["logps"]


def _checksum(tensors: dict[str, np.ndarray]) -> str:
    return fingerprint_of(*((name, array.dtype, array.shape, array.tobytes().hex()) for name, array in tensors.items()))
