"""Write weights to safetensors files a piece at a time, so that no tensor has to be in memory whole.

`safetensors.torch.save_file` writes tensors that are all in memory. The files here have the same bytes as its files:

    8 bytes         length of the header, little-endian
    the header      JSON: name -> {"dtype", "shape", "data_offsets": [first byte, last byte + 1]}, padded with spaces
    the data        the tensors one after the other; larger types first, then by name
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from align.models.checkpoints import INDEX, Tensor

_BYTES = {
    **{"U64": 8, "I64": 8, "F64": 8, "F32": 4, "U32": 4, "I32": 4},
    **{"BF16": 2, "F16": 2, "U16": 2, "I16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1},
}
"""Bytes of an element, by the names that safetensors has for types, in the order in which a file has its tensors."""
_PADDED_TO = 8
"""The header's length is a multiple of this, so that the data can be mapped into memory as numbers."""

Pieces = Callable[[str], Iterator[torch.Tensor]]
"""Name of a tensor -> its elements in order, in flat pieces of the tensor's type. A piece is written before the next
one is asked for, so that all of them may use the same memory."""


class _Planned(NamedTuple):
    """A tensor that will be written."""

    tensor: Tensor
    size: int
    """Bytes."""


def write_shards(tensors: Mapping[str, Tensor], pieces: Pieces, output: Path, largest: int) -> list[Path]:
    """Write `model.safetensors`, or files of at most `largest` bytes of data and their index. Returns the files.

    tensors: name -> shape and type, in the order in which files are filled. A tensor above `largest` has its own file.
    """
    groups: list[dict[str, _Planned]] = [{}]
    for name, tensor in tensors.items():
        planned = _Planned(tensor, _size(tensor))
        if groups[-1] and sum(each.size for each in groups[-1].values()) + planned.size > largest:
            groups.append({})
        groups[-1][name] = planned
    if len(groups) == 1:
        return [_write(groups[0], pieces, output / "model.safetensors")]
    count = len(groups)
    files = [
        _write(group, pieces, output / f"model-{number:05d}-of-{count:05d}.safetensors")
        for number, group in enumerate(groups, start=1)
    ]
    total = sum(each.size for group in groups for each in group.values())
    file_of = {name: file.name for file, group in zip(files, groups, strict=True) for name in group}
    index = {"metadata": {"total_size": total}, "weight_map": {name: file_of[name] for name in tensors}}
    (output / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    return [*files, output / INDEX]


def _size(tensor: Tensor) -> int:
    return _BYTES[tensor.dtype] * math.prod(tensor.shape)


def _write(tensors: Mapping[str, _Planned], pieces: Pieces, file: Path) -> Path:
    order = list(_BYTES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].tensor.dtype), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor, size = tensors[name]
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _PADDED_TO)
    with file.open("wb", buffering=0) as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            written = 0
            for piece in pieces(name):
                written += _write_whole(handle, piece.view(torch.uint8).numpy().data)
            assert written == tensors[name].size, f"{name}: {written} bytes in place of {tensors[name].size}"
    return file


def _write_whole(handle: IO[bytes], content: memoryview) -> int:
    """Write all bytes; the system may take a part of them at a time. Returns how many they are."""
    size = len(content)
    while content:
        content = content[handle.write(content) :]
    return size
