"""What a DeepSpeed file may decide about the optimizer and the schedule, and what it says of memory and transfers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from align.errors import ConfigError
from align.optimizers import KEY
from align.reporting import logger
from align.settings import TrainingConfig

log = logger(__name__)

FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
"""Set by `accelerate launch` for a launch file that names a DeepSpeed file."""


STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"
"""Set by `accelerate launch` for a launch file without a DeepSpeed file."""


class ZeroSettings(NamedTuple):
    """What the memory and the transfers of ZeRO-3 depend on. Sizes are numbers of values; defaults are DeepSpeed's."""

    gradient_bytes: int = 0
    """Of an accumulated gradient; 0 for the type of the weights."""
    second_shard: int = 1
    """hpZ: a second copy of the weights is divided over this many processes, which are on one node."""
    offload_optimizer: bool = False
    offload_weights: bool = False
    reduce_bucket: int = 500_000_000
    prefetch_bucket: int = 50_000_000
    reuse_distance: int = 1_000_000_000
    sub_group: int = 1_000_000_000


def zero_settings(path: Path) -> ZeroSettings:
    """The settings of a DeepSpeed file. Raises ConfigError if it cannot be read or is not of stage 3."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        zero = content["zero_optimization"]
        stage = zero["stage"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"is no DeepSpeed file with a section zero_optimization ({type(error).__name__})"
        raise ConfigError(path, what, "Name a file such as recipes/launch/zero3.json") from None
    if stage != 3:
        raise ConfigError(path, f"is of ZeRO stage {stage}", "Set zero_optimization.stage to 3: no other is supported")
    default = ZeroSettings()

    def size(name: str, otherwise: int) -> int:
        found = zero.get(name, otherwise)
        return otherwise if found == "auto" else int(float(found))

    gradients = (content.get("data_types") or {}).get("grad_accum_dtype")
    return ZeroSettings(
        gradient_bytes={"fp32": 4, "bf16": 2, "fp16": 2}.get(str(gradients), 0),
        second_shard=size("zero_hpz_partition_size", 1),
        offload_optimizer=_on_cpu(zero.get("offload_optimizer")),
        offload_weights=_on_cpu(zero.get("offload_param")),
        reduce_bucket=size("reduce_bucket_size", default.reduce_bucket),
        prefetch_bucket=size("stage3_prefetch_bucket_size", default.prefetch_bucket),
        reuse_distance=size("stage3_max_reuse_distance", default.reuse_distance),
        sub_group=size("sub_group_size", default.sub_group),
    )


def _on_cpu(section: Any) -> bool:
    return isinstance(section, dict) and section.get("device", "none") != "none"


def require_zero_3() -> None:
    """Raise ConfigError if the launcher asks for another ZeRO stage than 3: gradient norms, saving and resuming are of
    sharded weights. Without a DeepSpeed file, accelerate's own setting `zero_stage` counts.
    """
    path = Path(os.environ.get(FILE, "none"))
    if path.is_file():
        zero_settings(path)
        return
    stage = os.environ.get(STAGE, "2")  # accelerate's default
    if stage != "3":
        how = "Launch with --config_file recipes/launch/zero3.yaml"
        raise ConfigError("launch", f"is of ZeRO stage {stage}, and only stage 3 is supported", how)


def require_rows_of_one_process(environment: Mapping[str, str]) -> None:
    """Raise ConfigError if the launcher divides the model, or rows, among processes in a way that trainers do not know.

    Each process would still train on rows of its own, where these ways expect the same rows in each of a group.

    environment: what `accelerate launch` has set.
    """
    how = "Remove it. Rows are shared by training.sequence_parallel (docs/large-models.md), states by ZeRO-3"
    for kind, meaning in _PARALLELISM.items():
        size = environment.get(f"PARALLELISM_CONFIG_{kind}_SIZE", "1")
        if size != "1":
            what = f"has parallelism_config_{kind.lower()}_size {size}, {meaning}, which is not supported"
            raise ConfigError("launch", what, how)
    path = Path(environment.get(FILE, "none"))
    if path.is_file() and "tensor_parallel" in _content(path):
        raise ConfigError(path, "has a section `tensor_parallel`, which is not supported in training", how)


_PARALLELISM = {"TP": "tensor parallelism", "CP": "context parallelism", "SP": "accelerate's sequence parallelism"}


def _content(path: Path) -> dict[str, Any]:
    """Of a DeepSpeed file; empty if it cannot be read: DeepSpeed reads it next, and reports what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def require_one_optimizer(training: TrainingConfig) -> None:
    """Raise ConfigError if the config and the DeepSpeed file both name an optimizer, or both a schedule.

    A section `optimizer` of the file is used if `training.optimizer` is left at its default, and a warning says so: it
    is the way to DeepSpeed's own Adam for offloaded states.
    """
    path = Path(os.environ.get(FILE, "none"))
    if not path.is_file():
        return
    content = _content(path)
    if "scheduler" in content:
        what = "has a section `scheduler`, which would replace training.schedule"
        raise ConfigError(path, what, "Delete the section; the learning rate is set by training.* alone")
    if "optimizer" not in content:
        return
    named = content["optimizer"].get("type") if isinstance(content["optimizer"], dict) else content["optimizer"]
    default = TrainingConfig.model_fields["optimizer"].default
    if training.optimizer != default:
        what = f"is {training.optimizer}, and {path} has a section `optimizer` ({named}), which DeepSpeed would use"
        raise ConfigError(KEY, what, "Delete that section, or this setting")
    log.warning("the optimizer %s of %s is used; training.optimizer (%s) is not read", named, path, default)
