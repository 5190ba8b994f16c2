"""LoRA adapters through peft: attached to a model in place, trained on from a folder, merged in memory, and saved.

Attached in place, the model stays the transformers class that it was, with its keyword arguments and its output head;
transformers saves it as peft does. Adapter weights are float32 over whatever the frozen weights are.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    TaskType,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import cast_adapter_dtype
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import cached_file, find_adapter_config_file

from align.errors import CheckpointError, ConfigError, ProofError
from align.settings import LoRAConfig

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_NAME = "default"
"""peft's name for the one adapter that a model has here; it is in no file."""
_DECODER_LAYER = re.compile(r"\.layers\.(\d+)\.")
_PREFIX = "base_model.model."
"""What peft puts before each name in an adapter's file."""


# Adapter folders


def base_of(path: str) -> str | None:
    """The base that an adapter folder (or a Hub repository of one) names; None where `path` is a whole model.

    Raises CheckpointError for an adapter that is not LoRA, that lies over another adapter, or that has no base.
    """
    if find_adapter_config_file(path) is None:
        return None
    config = PeftConfig.from_pretrained(path)
    base = config.base_model_name_or_path
    if not isinstance(config, LoraConfig):
        what = f"holds an adapter of peft's kind {config.peft_type}"
        raise CheckpointError(path, what, "Only LoRA is read here; merge it with peft first")
    if (Path(path) / "config.json").exists():
        raise CheckpointError(path, "holds a whole model and an adapter", "Move one of them to a folder of its own")
    if not base:
        raise CheckpointError(path, f"{CONFIG} names no base model", "Write base_model_name_or_path into it")
    if Path(base).is_dir() and (Path(base) / CONFIG).exists():
        how = f"Merge {base} first with recipes/merge.py, and name the merged folder as the base"
        raise CheckpointError(path, f"its base {base} is an adapter too", how)
    if not Path(base).is_dir() and (base.count("/") != 1 or base.startswith((".", "/"))):
        how = "Start from the folder that the base's path is relative to, or mend base_model_name_or_path"
        raise CheckpointError(path, f"its base {base} is not there", how)
    return base


# A model and its adapter


def attach(model: Any, lora: LoRAConfig, base: str, folder: str | None = None) -> None:
    """Freeze `model` and give it an adapter to train, in place; a reward model's score head is trained whole.

    base: the name that the saved adapter gives for its base.
    folder: an adapter to train on; None for a fresh one, which changes no output, since one of its factors is zero.

    Raises ConfigError for targets that the model does not have, or that differ from those of the adapter in `folder`;
    ProofError where that adapter changes nothing.
    """
    wanted = _layers(model, lora)
    scorer = hasattr(model, "score")
    settings: Any = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        **_placed(model, lora, wanted),
        task_type=TaskType.SEQ_CLS if scorer else TaskType.CAUSAL_LM,
        modules_to_save=["score"] if scorer else None,
    )
    if folder is not None:
        settings = PeftConfig.from_pretrained(folder)
        settings.inference_mode = False
    settings.lora_dropout = lora.dropout
    model.add_adapter(settings, _NAME)
    settings.base_model_name_or_path = base
    if not isinstance(settings.target_modules, str):  # a pattern, in adapters made elsewhere
        settings.target_modules = sorted(settings.target_modules)  # a set's order would differ from file to file
    if not (is_deepspeed_zero3_enabled() and model.dtype == torch.bfloat16):
        # ZeRO-3 wants one type for what it shards, and keeps float32 master weights itself.
        cast_adapter_dtype(model, _NAME)
        for module in model.modules():
            if isinstance(module, ModulesToSaveWrapper):
                module.float()
    if folder is not None:
        _refuse_other_settings(model, lora, wanted, settings, folder)
        load_weights(model, folder)
        prove_it_acts(model, folder)


def attached(model: Any, folder: str, *, merge: bool) -> Any:
    """`model` with the adapter of `folder`: added to its weights, or beside them, frozen. For scoring and sampling, and
    for training whole what an adapter began.

    merge: a sum in float32, rounded once to the type of the weights.
    """
    if is_deepspeed_zero3_enabled():
        what = f"{folder} is an adapter, and cannot be merged into weights that ZeRO-3 has sharded"
        how = "Merge it first with recipes/merge.py, or set model.lora to train the adapter on"
        raise ConfigError("model.path", what, how)
    adapted = beside(model, folder)
    return adapted.merge_and_unload(safe_merge=True).requires_grad_(True) if merge else adapted.get_base_model()


def beside(model: Any, folder: str) -> PeftModel:
    """`model` with the adapter of `folder` beside its weights, frozen, in peft's own wrapper."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks for it
        adapted = PeftModel.from_pretrained(model, folder)
    prove_it_acts(adapted, folder)
    return adapted


def is_adapted(model: nn.Module) -> bool:
    """Whether a transformers model trains an adapter."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def prove_it_acts(model: nn.Module, folder: str) -> None:
    """Raise ProofError where every adapter of the model multiplies by zero: what was trained is not there."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not any(bool(layer.lora_B[name].weight.any()) for layer in layers for name in layer.lora_B):
        what = f"the adapter changes nothing: lora_B is zero in all of its {len(layers)} layers"
        how = f"Look at {WEIGHTS}: it was saved untrained, or its names are not this model's"
        raise ProofError(f"step 0: {folder}", what, how)


# An adapter's weights and their files


def trained_shapes(model: nn.Module) -> dict[str, list[int]]:
    """Name in the adapter's file -> shape, for everything that is trained; of sharded weights the whole shape."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            saved = name.replace(f".modules_to_save.{_NAME}.", ".").replace(f".{_NAME}.", ".")
            found[_PREFIX + saved] = list(getattr(parameter, "ds_shape", parameter.shape))
    return found


def load_weights(model: nn.Module, folder: Path | str) -> None:
    """Put an adapter's saved weights into the model that it was attached to.

    Raises CheckpointError naming the first weight that one has and the other lacks, or whose shape differs.
    """
    state = load_file(cached_file(str(folder), WEIGHTS))
    wanted, found = trained_shapes(model), {name: list(tensor.shape) for name, tensor in state.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            what = f"tensor {name} has the shape {found.get(name)}, wanted {wanted.get(name)}"
            raise CheckpointError(folder, what, "The adapter was made for another model or other targets: name its own")
    set_peft_model_state_dict(model, {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}, _NAME)


# Targets


def _layers(model: Any, lora: LoRAConfig) -> set[str]:
    """Full names of the linear layers that the config asks for. Raises ConfigError for a target that names none, and
    for a first layer that the model does not have.
    """
    inside = model.base_model.named_modules()
    trunk = {f"{model.base_model_prefix}.{name}" for name, module in inside if isinstance(module, nn.Linear)}
    if lora.first_layer:
        if lora.first_layer >= (count := model.config.num_hidden_layers):
            what = f"is {lora.first_layer}, and the model has layers 0 to {count - 1}"
            raise ConfigError("model.lora.first_layer", what, "Name one of them")
        trunk = {name for name in trunk if int(_DECODER_LAYER.findall(name)[0]) >= lora.first_layer}
    if lora.targets == "all-linear":
        return trunk
    found: set[str] = set()
    for target in lora.targets:
        named = {name for name in trunk if name == target or name.endswith(f".{target}")}
        if not named:
            here = ", ".join(sorted({name.rpartition(".")[2] for name in trunk}))
            what = f"{target} is no linear layer of the model's trunk"
            raise ConfigError("model.lora.targets", what, f"Name some of {here}, or all-linear")
        found |= named
    return found


def _placed(model: Any, lora: LoRAConfig, wanted: set[str]) -> dict[str, Any]:
    """The same as peft's settings. It knows "all-linear" for all decoder layers only."""
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    if not lora.first_layer:
        return {"target_modules": targets}
    if isinstance(targets, str):
        targets = sorted({name.rpartition(".")[2] for name in wanted})
    return {
        "target_modules": targets,
        "layers_to_transform": list(range(lora.first_layer, model.config.num_hidden_layers)),
    }


def _refuse_other_settings(model: Any, lora: LoRAConfig, wanted: set[str], found: LoraConfig, folder: str) -> None:
    there = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    if (lora.rank, lora.alpha, wanted) != (found.r, found.lora_alpha, there):
        here = f"rank {lora.rank}, alpha {lora.alpha} and {_told(wanted)}"
        of_folder = f"rank {found.r}, alpha {found.lora_alpha} and {_told(there)}"
        how = "Give model.lora the adapter's own settings, or merge it first with recipes/merge.py"
        raise ConfigError("model.lora", f"has {here}, and the adapter in {folder} {of_folder}", how)


def _told(layers: set[str]) -> str:
    return f"{len(layers)} layers ({', '.join(sorted({name.rpartition('.')[2] for name in layers}))})"
