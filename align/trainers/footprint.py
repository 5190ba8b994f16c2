"""Memory that a process needs to train: weights, gradients and optimizer states, and the activations of a packed row.

With N weights, of which M are trained, P processes, and `b` bytes for a weight:

    without sharding        ZeRO-3                                 what
    b N                     b N / P                                weights
    b M                     g M / P                                gradients; g is data_types.grad_accum_dtype, or b
    -                       4 M / P                                float32 master weights
    8 M                     8 M / P                                states of AdamW; others: `align/optimizers.py`
    -                       4 M / P                                float32 gradients while the optimizer steps
    -                       b min(N, largest + 1.05e9)             whole weights that are gathered at one time
    b M if P > 1            2 g 5e7                                buffers in which gradients are averaged

Before the gradients of the first packed row are there, its activations have their place: with a single row in each
optimizer step the larger of the two counts.

Source of the second column: Rajbhandari et al. 2020, arXiv:1910.02054, and DeepSpeed's stage 3: weights that are used
again within `stage3_max_reuse_distance` stay gathered, and one prefetch is on its way.

The float32 gradients of a step and the activations are never there together, so the larger one counts. Activations are
measured by `align/trainers/activations.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from align.optimizers import OPTIMIZERS
from align.settings import TrainingConfig
from align.trainers.activations import Activations
from align.trainers.deepspeed_file import ZeroSettings
from align.trainers.disk import state_bytes

GPU_CONTEXT = int(1.5 * 2**30)
"""CUDA's context, libraries and the buffers of collectives, which PyTorch does not count."""

ENGINE = 60 * 2**20
"""Of DeepSpeed and its process group in each process on a CPU: 40 to 70 MiB between the start of the trainer and the
first step, measured with models of 28 to 135 million parameters. On a GPU it is in the machine's memory."""

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in 4 bits, with a byte for each block of 64 and a float32 for 256 of these (QLoRA, arXiv:2305.14314)."""


class Weights(NamedTuple):
    """Sums over the parameters of a model."""

    number: int
    trained: int
    bytes: int
    trained_bytes: int
    state_bytes: int
    """Of the optimizer."""
    largest: int
    """Values of the largest parameter."""
    largest_bytes: int


@dataclass(frozen=True)
class Footprint:
    """Bytes of one process at its peak, by what they are for."""

    parts: dict[str, int]
    host: dict[str, int] = field(default_factory=dict)
    """In the machine's memory in place of the GPU's."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def footprint(
    weights: Weights,
    row: Activations,
    *,
    processes: int,
    zero: ZeroSettings | None,
    on_gpu: bool = True,
    rows_a_step: int = 2,
) -> Footprint:
    """Of a process that trains.

    row: the activations of the largest packed row. zero: None without sharding. rows_a_step: packed rows of a process
        in one optimizer step, 1 or more.
    """
    context = {"context": GPU_CONTEXT} if on_gpu else {}
    if zero is None:
        averaged = weights.trained_bytes if processes > 1 else 0
        gradients = weights.trained_bytes
        if rows_a_step == 1:  # the first gradient, of the output head, is there when the activations are at their peak
            gradients = max(min(weights.largest_bytes, gradients), gradients - row.peak)
        whole = {
            "weights": weights.bytes,
            "gradients": gradients,
            "optimizer": weights.state_bytes,
            "communication": averaged,
            "activations": row.peak,
        }
        return Footprint({name: size for name, size in whole.items() if size} | context)
    shard = weights.trained / processes
    each = weights.bytes / weights.number
    gradient = zero.gradient_bytes or weights.trained_bytes / max(weights.trained, 1)
    gathered = min(weights.number - weights.largest, zero.reuse_distance + zero.prefetch_bucket)
    in_step = 4 * min(zero.sub_group, shard)
    parts: dict[str, float] = {
        "weights": weights.bytes / processes,
        "second shard": weights.bytes / zero.second_shard if zero.second_shard > 1 else 0,
        "gradients": gradient * shard,
        "optimizer": 4 * shard + weights.state_bytes / processes,
        "gathered weights": weights.largest_bytes + gathered * each,
        "communication": (2 if on_gpu else 1) * min(zero.reduce_bucket, weights.trained) * gradient,
        "activations": max(row.peak, in_step),
        "libraries": 0 if on_gpu else ENGINE,
    }
    host: dict[str, float] = {}
    if zero.offload_optimizer:
        host = {"optimizer": parts["optimizer"], "gradients": 4 * shard}
        parts["optimizer"] = 0
        parts["activations"] = row.peak
    if zero.offload_weights:
        host["weights"], parts["weights"] = parts["weights"], 0
    in_bytes = {name: round(value) for name, value in parts.items() if value}
    return Footprint(in_bytes | context, {name: round(value) for name, value in host.items()})


def counted(model: Any, training: TrainingConfig, *, quantized: bool = False) -> Weights:
    """Sums over the parameters of a model, which may be on the meta device, or sharded.

    quantized: whether the matrices of its layers will be stored in 4 bits.
    """
    facts = OPTIMIZERS[training.optimizer]
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = model.get_output_embeddings()
    outside = embeddings | ({id(head.weight)} if head is not None else set())
    count = trained = largest = largest_bytes = 0
    size = trained_size = states = 0.0
    for name, weight in model.named_parameters():
        shape = tuple(getattr(weight, "ds_shape", weight.shape))
        number = torch.Size(shape).numel()
        is_packed = quantized and len(shape) == 2 and ".lora_" not in name and id(weight) not in outside
        each = NF4_BYTES if is_packed else weight.element_size()
        count += number
        size += each * number
        if number > largest:
            largest, largest_bytes = number, round(weight.element_size() * number)
        if weight.requires_grad:
            trained += number
            trained_size += each * number
            states += state_bytes(facts, shape, embedding=id(weight) in embeddings)
    return Weights(count, trained, round(size), round(trained_size), round(states), largest, largest_bytes)
