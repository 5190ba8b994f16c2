"""Checkpoints averaged into one, tensor by tensor in float32, so that memory stays at one tensor of each.

Llama 3 averages models of different data versions or hyper-parameters at each stage (arXiv:2407.21783, section 4.1.5).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from align.errors import CheckpointError, ConfigError
from align.manifest import SEAL, seal_folder, unseal_folder, verify_folder
from align.models.adapters import CONFIG
from align.models.serving import write_serving_files_of_average

SHARD_BYTES = 5 * 10**9
INDEX = "model.safetensors.index.json"


def average_checkpoints(folders: Sequence[Path], output: Path, weights: Sequence[float] | None = None) -> Path:
    """Write the weighted mean of `folders` to `output`, and seal it.

    weights: one share for each folder, adding up to 1; None for equal shares. Sums run in float32; each tensor is
    written in the first folder's type. Tokenizer and config files are the first folder's.

    Raises CheckpointError naming the tensor whose presence or shape differs, before anything is written.
    """
    shares = _shares(folders, weights)
    for folder in folders:
        if (folder / SEAL).exists():
            verify_folder(folder)
    where = [_files_of(folder) for folder in folders]
    _refuse_unlike(folders, where)
    output.mkdir(parents=True, exist_ok=True)
    unseal_folder(output)
    for stale in output.glob("model*.safetensors*"):
        stale.unlink()
    written = _write_shards(_means(folders, where, shares), output)
    for file in sorted(folders[0].iterdir()):
        if file.is_file() and file.suffix in (".json", ".jinja", ".model") and file.name not in (SEAL, INDEX):
            if file.name in ("trainer_state.json", "dropped.json", "timing.json"):
                continue
            shutil.copy2(file, output / file.name)
            written.append(output / file.name)
    written = sorted({*written, *write_serving_files_of_average(output, folders)})
    return seal_folder(output, written, {"averaged": {str(f): s for f, s in zip(folders, shares, strict=True)}}).parent


def _shares(folders: Sequence[Path], weights: Sequence[float] | None) -> list[float]:
    if not folders:
        raise ConfigError("checkpoints", "there is nothing to average", "Name at least one folder")
    if weights is None:
        return [1 / len(folders)] * len(folders)
    if len(weights) != len(folders) or abs(sum(weights) - 1) > 1e-6:
        what = f"wanted {len(folders)} shares that add up to 1, got {list(weights)}"
        raise ConfigError("weights", what, "Give one share for each checkpoint, or leave weights out for equal shares")
    return list(weights)


def _files_of(folder: Path) -> dict[str, Path]:
    """Tensor name -> the safetensors file that holds it."""
    if (folder / CONFIG).exists():
        # The mean of two products is not the product of two means.
        what = "holds an adapter, and the mean of adapters is not the adapter of the mean"
        raise CheckpointError(folder, what, "Merge it first with recipes/merge.py, and average the whole models")
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise CheckpointError(folder, "holds no model*.safetensors", "Name a finished checkpoint folder")
    found = {}
    for file in files:
        with safe_open(file, "pt") as handle:
            found.update(dict.fromkeys(handle.keys(), file))
    return found


def _refuse_unlike(folders: Sequence[Path], where: Sequence[dict[str, Path]]) -> None:
    for folder, files in zip(folders[1:], where[1:], strict=True):
        odd = sorted(files.keys() ^ where[0].keys())
        if odd:
            holder = folders[0] if odd[0] in where[0] else folder
            what = f"tensor {odd[0]} is in {holder} and not in the other ({len(odd)} such tensors)"
            raise CheckpointError(folder, what, "Average checkpoints of one architecture")
        for name, file in files.items():
            shape, first = _shape(file, name), _shape(where[0][name], name)
            if shape != first:
                what = f"tensor {name} has shape {shape}, and {first} in {folders[0]}"
                raise CheckpointError(folder, what, "Average checkpoints of one architecture")


def _shape(file: Path, name: str) -> list[int]:
    with safe_open(file, "pt") as handle:
        return handle.get_slice(name).get_shape()


def _means(
    folders: Sequence[Path], where: Sequence[dict[str, Path]], shares: Sequence[float]
) -> Iterator[tuple[str, torch.Tensor]]:
    for name in sorted(where[0]):
        total: torch.Tensor | None = None
        kind = torch.float32
        for files, share in zip(where, shares, strict=True):
            with safe_open(files[name], "pt") as handle:
                tensor = handle.get_tensor(name)
            if total is None:
                kind, total = tensor.dtype, torch.zeros(tensor.shape, dtype=torch.float32)
            total.add_(tensor.float(), alpha=share)
        assert total is not None
        yield name, total.to(kind)


def _write_shards(tensors: Iterator[tuple[str, torch.Tensor]], output: Path) -> list[Path]:
    """Shards of at most SHARD_BYTES and, where there is more than one, their index."""
    shards: list[Path] = []
    index: dict[str, int] = {}
    held: dict[str, torch.Tensor] = {}
    size = total = 0

    def flush() -> None:
        nonlocal held, size
        shards.append(output / f"model-part-{len(shards) + 1:05d}.safetensors")
        save_file(held, shards[-1], metadata={"format": "pt"})
        held, size = {}, 0

    for name, tensor in tensors:
        bytes_of = tensor.numel() * tensor.element_size()
        if held and size + bytes_of > SHARD_BYTES:
            flush()
        held[name] = tensor
        index[name] = len(shards)
        size, total = size + bytes_of, total + bytes_of
    flush()
    if len(shards) == 1:
        return [shards[0].rename(output / "model.safetensors")]
    named = [
        shard.rename(output / f"model-{place:05d}-of-{len(shards):05d}.safetensors")
        for place, shard in enumerate(shards, start=1)
    ]
    table = {
        "metadata": {"total_size": total},
        "weight_map": {name: named[place].name for name, place in index.items()},
    }
    (output / INDEX).write_text(json.dumps(table, indent=1), encoding="utf-8")
    return [*named, output / INDEX]
