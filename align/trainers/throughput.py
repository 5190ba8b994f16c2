"""How much arithmetic the rows of a run are, and which share of its devices' peak a run reaches (MFU).

The arithmetic is that of `align/tree/flops.py`: what the model has to compute, without what gradient checkpointing
computes again. The peak is that of `align/hardware.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from align.hardware import peak_flops
from align.trainers.trackers import whole_count
from align.tree.encode import PromptTree
from align.tree.flops import counts_all_weights, training_flops


class LayerWeights(NamedTuple):
    """Weights in the matrices of a model's layers, without embeddings and heads."""

    model: int
    adapters: int
    trained: int


@dataclass(frozen=True)
class Arithmetic:
    """The floating point operations of each row, and what the devices of the run could do."""

    flops: np.ndarray | None
    """[trees]; None for a model whose operations are not known, such as a mixture of experts."""
    peak: float | None
    """FLOP/s of the devices of all processes; None where it is not known, such as on a CPU."""

    def of(self, rows: Sequence[int]) -> float:
        """The operations of some rows, 0 if they are not known."""
        return 0.0 if self.flops is None else float(self.flops[list(rows)].sum())

    def rates(self, flops: float, seconds: float) -> dict[str, float]:
        """`flops_per_second` over all processes, and `mfu`, its share of the peak. What is not known is left out."""
        if not flops or not seconds:
            return {}
        rate = flops / seconds
        return {"flops_per_second": rate} | ({} if self.peak is None else {"mfu": rate / self.peak})


def arithmetic(trees: Sequence[PromptTree], model: Any, *, device: torch.device, processes: int) -> Arithmetic:
    """Of a run that trains on `trees`. model: a `TreeModel`, with its adapters attached."""
    weights = layer_weights(model.model)
    head = model.model.get_output_embeddings()
    flops = None
    if counts_all_weights(model.config, weights.model):
        flops = training_flops(
            trees,
            model.config,
            trained=weights.trained,
            head=head is not None,
            head_is_trained=head is not None and head.weight.requires_grad,
            added=weights.adapters,
        )
    peak = None
    if device.type == "cuda" and model.low_precision:
        each = peak_flops(torch.cuda.get_device_name(device))
        peak = None if each is None else each * processes
    return Arithmetic(flops, peak)


def layer_weights(model: Any) -> LayerWeights:
    """Count the matrices of a Hugging Face model's layers. Whole ones, also if ZeRO-3 has sharded them."""
    outside = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = model.get_output_embeddings()
    if head is not None:
        outside.add(id(head.weight))
    base = adapters = trained = 0
    for name, parameter in model.named_parameters():
        is_matrix = len(getattr(parameter, "ds_shape", parameter.shape)) >= 2
        if not is_matrix or id(parameter) in outside or name.startswith("score."):
            continue
        count = whole_count(parameter)
        if ".lora_" in name:
            adapters += count
        else:
            base += count
        trained += count if parameter.requires_grad else 0
    return LayerWeights(base, adapters, trained)
