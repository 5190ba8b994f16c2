"""Weights that are written a piece at a time: the files are those of `save_file`, and no more memory is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from align.models.checkpoints import INDEX, Tensor
from align.models.shards import write_shards

GENERATOR = torch.Generator().manual_seed(0)
WEIGHTS = {
    "b": torch.randn(7, 5, generator=GENERATOR),
    "a.long.name": torch.randn(3, generator=GENERATOR),
    "scalar": torch.tensor(2.5),
    "none": torch.empty(0, 4),
    "half": torch.randn(9, generator=GENERATOR).bfloat16(),
    "other half": torch.randn(2, 2, generator=GENERATOR).half(),
    "double": torch.randn(1, 3, generator=GENERATOR).double(),
    "counts": torch.arange(5),
    "short": torch.arange(3, dtype=torch.int16),
    "flags": torch.tensor([True, False, True]),
    "Größe": torch.randn(2, generator=GENERATOR),
}


def described(weights: Mapping[str, torch.Tensor], folder: Path) -> dict[str, Tensor]:
    """The tensors as the header of a file by safetensors describes them, in the order of `weights`."""
    save_file(dict(weights), folder / "saved.safetensors", metadata={"format": "pt"})
    with safe_open(folder / "saved.safetensors", "pt") as handle:
        slices = {name: handle.get_slice(name) for name in weights}
        return {n: Tensor(folder, tuple(one.get_shape()), one.get_dtype()) for n, one in slices.items()}


def in_pieces(name: str) -> Iterator[torch.Tensor]:
    """Four elements at a time, all in the same memory."""
    flat = WEIGHTS[name].reshape(-1)
    memory = torch.empty(4, dtype=flat.dtype)
    for first in range(0, flat.numel(), 4):
        part = flat[first : first + 4]
        yield memory[: part.numel()].copy_(part)


def test_a_file_has_the_bytes_that_safetensors_would_write(tmp_path: Path) -> None:
    tensors = described(WEIGHTS, tmp_path)
    (written,) = write_shards(tensors, in_pieces, tmp_path, 10**6)
    assert written == tmp_path / "model.safetensors"
    assert written.read_bytes() == (tmp_path / "saved.safetensors").read_bytes()


def test_files_are_filled_in_the_order_given_up_to_their_size(tmp_path: Path) -> None:
    tensors = described(WEIGHTS, tmp_path)
    *files, index = write_shards(tensors, in_pieces, tmp_path, 100)
    assert index == tmp_path / INDEX
    held = {}
    for file in files:
        with safe_open(file, "pt") as handle:
            found = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
        assert all(torch.equal(found[name], WEIGHTS[name]) for name in found)
        size = sum(each.nbytes for each in found.values())
        assert size <= 100 or len(found) == 1
        held[file.name] = found.keys()
    assert {"b"} in held.values(), "140 bytes, alone in a file"
    table = json.loads(index.read_text())
    assert table["metadata"]["total_size"] == sum(each.nbytes for each in WEIGHTS.values())
    assert list(table["weight_map"]) == list(WEIGHTS)
    assert all(name in held[file] for name, file in table["weight_map"].items())
    assert files == [
        tmp_path / f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)
    ]


def test_pieces_that_are_not_the_whole_tensor_are_a_fault_of_ours(tmp_path: Path) -> None:
    tensors = described({"b": WEIGHTS["b"]}, tmp_path)
    with pytest.raises(AssertionError, match="b: 16 bytes in place of 140"):
        write_shards(tensors, lambda name: iter([torch.zeros(4)]), tmp_path, 10**6)
