"""The weighted mean of LoRA adapters over one base, as one adapter: exact, by joining their factors.

An adapter adds s B A to a weight, with s = alpha / rank, or alpha / sqrt(rank) for rsLoRA. The mean of the adapters'
weights is not the mean of their A and of their B, since the mean of two products is not the product of two means. But

    w1 s1 B1 A1 + w2 s2 B2 A2  =  [w1 s1 B1  w2 s2 B2] [A1]
                                                       [A2]

so factors that are put side by side, with the shares and scales in B, are an adapter whose rank is the sum of the
ranks, and whose own scale is 1. Averaging the merged models gives the same weights, except for their rounding.

Example: ranks 4 and 8, a layer with 64 inputs and 96 outputs. A is [12, 64], B is [96, 12], and alpha is 12.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from align.errors import CheckpointError
from align.models.adapters import adapter_settings, adapter_state
from align.models.checkpoints import Adapter

_FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
_FREE = {
    # settings that may differ between the members, or that say nothing of what an adapter computes
    *("r", "lora_alpha", "use_rslora", "lora_dropout", "init_lora_weights", "inference_mode", "peft_version"),
    *("base_model_name_or_path", "revision", "auto_mapping", "task_type", "runtime_config", "megatron_config"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),  # the factors' names are compared
}
_HEADS = {"score", "classifier"}
"""Names of a reward model's head; peft lists both for every model that scores."""
_MERGE = "Merge each of them with recipes/merge.py, and average the whole models"


def mean_adapter(members: Sequence[Adapter], shares: Sequence[float]) -> tuple[dict[str, Tensor], Any]:
    """(tensors by their names in an adapter's file, peft's settings) of the mean. A trained reward head is averaged.

    The members lie over one base. Sums run in float64 and are rounded once, to the members' type.

    Raises CheckpointError for a member whose mean with others is no adapter (DoRA), or that adapts other layers.
    """
    settings = [adapter_settings(member.folder) for member in members]
    for member, found in zip(members, settings, strict=True):
        _refuse_other_kinds(member, found)
    states = [adapter_state(member.folder) for member in members]
    for member, state in zip(members[1:], states[1:], strict=True):
        _refuse_unlike(members[0], states[0], member, state)
    scales = [share * _scale(found) for share, found in zip(shares, settings, strict=True)]
    mean: dict[str, Tensor] = {}
    for name, tensor in sorted(states[0].items()):
        factor = _FACTOR.fullmatch(name)
        if factor is None:
            total = torch.zeros(tensor.shape, dtype=torch.float64)
            for state, share in zip(states, shares, strict=True):
                total.add_(state[name].double(), alpha=share)
            mean[name] = total.to(tensor.dtype)
        elif factor["side"] == "A":
            mean[name] = torch.cat([state[name] for state in states])
        else:
            scaled = [state[name].double() * scale for state, scale in zip(states, scales, strict=True)]
            mean[name] = torch.cat(scaled, dim=1).to(tensor.dtype)
    joined = settings[0]
    joined.r = sum(found.r for found in settings)
    joined.lora_alpha, joined.use_rslora, joined.lora_dropout = joined.r, False, 0.0
    joined.inference_mode = True
    return mean, joined


def _scale(settings: Any) -> float:
    return float(settings.lora_alpha / (math.sqrt(settings.r) if settings.use_rslora else settings.r))


def _refuse_other_kinds(member: Adapter, settings: Any) -> None:
    """Only plain LoRA, and a reward head that is trained whole: for these the sum above is what is computed."""
    if settings.use_dora:
        what = "is a DoRA adapter, whose rows are scaled by norms of the trained weights: a mean has no low rank"
        raise CheckpointError(member.name, what, _MERGE)
    plain = LoraConfig().to_dict()
    for key, value in settings.to_dict().items():
        usual = plain.get(key)
        is_head = key == "modules_to_save" and set(value or ()) <= _HEADS
        if key in _FREE or value == usual or not (value or usual) or is_head:
            continue
        raise CheckpointError(member.name, f"has the setting {key}: {value}, which a mean cannot have", _MERGE)


def _refuse_unlike(first: Adapter, one: dict[str, Tensor], other: Adapter, two: dict[str, Tensor]) -> None:
    odd = sorted(one.keys() ^ two.keys())
    if odd:
        holder = first if odd[0] in one else other
        what = f"tensor {odd[0]} is in {holder.name} and not in the other ({len(odd)} such tensors)"
        raise CheckpointError(other.name, what, f"Average adapters of the same layers. {_MERGE}")
    for name, tensor in two.items():
        if tensor.dtype != one[name].dtype:
            what = f"tensor {name} has the type {tensor.dtype}, and {one[name].dtype} in {first.name}"
            raise CheckpointError(other.name, what, "Save both in one type; a mean of two would be rounded to either")
        # The rank is the first size of A and the second of B; the other size is the layer's.
        factor = _FACTOR.fullmatch(name)
        side = None if factor is None else 1 if factor["side"] == "A" else 0
        sizes = [list(t.shape) if side is None else [t.shape[side]] for t in (tensor, one[name])]
        if sizes[0] != sizes[1]:
            what = f"tensor {name} has shape {list(tensor.shape)}, and {list(one[name].shape)} in {first.name}"
            raise CheckpointError(other.name, what, "Average adapters of one architecture")
