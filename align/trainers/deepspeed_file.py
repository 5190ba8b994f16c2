"""What a DeepSpeed file may decide about the optimizer and the schedule, and what the config decides."""

from __future__ import annotations

import json
import os
from pathlib import Path

from align.errors import ConfigError
from align.optimizers import KEY
from align.reporting import logger
from align.settings import TrainingConfig

log = logger(__name__)

_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
"""Set by `accelerate launch` for a launch file that names a DeepSpeed file."""


def require_one_optimizer(training: TrainingConfig) -> None:
    """Raise ConfigError if the config and the DeepSpeed file both name an optimizer, or both a schedule.

    A section `optimizer` of the file is used if `training.optimizer` is left at its default, and a warning says so: it
    is the way to DeepSpeed's own Adam for offloaded states.
    """
    path = Path(os.environ.get(_FILE, "none"))
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # DeepSpeed reads it next, and reports what is wrong with it
    if not isinstance(content, dict):
        return
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
