"""LoRA adapters through peft: attached to a model in place, trained on from a folder, merged in memory, and saved.

Attached in place, the model stays the transformers class that it was, with its keyword arguments and its output head.
Adapter weights are float32 over whatever the frozen weights are.

peft's own functions do the work. The methods that transformers has for it (`add_adapter`, `save_pretrained` of an
adapted model) require a minimum version of peft, and transformers 5.24 requires one that is not released yet.
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
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import cast_adapter_dtype
from peft.utils import ModulesToSaveWrapper
from peft.utils.integrations import dequantize_module_weight, gather_params_ctx
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled

from align.errors import CheckError, CheckpointError, ConfigError
from align.models.bases import base_name
from align.models.checkpoints import ADAPTER_WEIGHTS as WEIGHTS
from align.models.checkpoints import Checkpoint
from align.models.comparison import EFFECT_SHARE, LARGEST_SHARE, difference, outputs, without_adapter
from align.models.fitting import is_finite
from align.reporting import logger
from align.settings import LoRAConfig

log = logger(__name__)

_NAME = "default"
"""peft's name for the one adapter that a model has here; it is in no file."""
_DECODER_LAYER = re.compile(r"\.layers\.(\d+)\.")
_PREFIX = "base_model.model."
"""What peft puts before each name in an adapter's file."""


# A model and its adapter


def attach(
    model: Any, lora: LoRAConfig, base: Checkpoint, folder: Path | None = None, *, base_revision: str | None = None
) -> None:
    """Freeze `model` and give it an adapter to train, in place; a reward model's score head is trained whole.

    base: the whole model that `model` was loaded from, and base_revision its revision on the Hub. The saved adapter
        names it (`align/models/bases.py`).
    folder: an adapter to train on; None for a fresh one, which changes no output, since one of its factors is zero.

    Raises ConfigError for targets that the model does not have, or that differ from those of the adapter in `folder`;
    CheckError where that adapter changes nothing.
    """
    targeted = _layers(model, lora)
    settings = None
    if folder is not None:
        settings = adapter_settings(folder)
        settings.inference_mode = False
    # ZeRO-3 requires one type for what it shards, and keeps float32 master weights itself.
    one_type = is_deepspeed_zero3_enabled() and model.dtype == torch.bfloat16
    settings = inject(model, lora, settings, in_float32=not one_type)
    model.adapter_base = base
    settings.base_model_name_or_path, settings.revision = base_name(base, base_revision)
    for key in ("target_modules", "exclude_modules"):
        if isinstance(found := getattr(settings, key), set | list):  # a pattern is a text
            setattr(settings, key, sorted(found))  # a set's order would differ from file to file
    if folder is not None:
        _refuse_other_settings(model, lora, targeted, settings, folder)
        _refuse_adapted_head(model, folder)
        load_weights(model, folder)
        check_adapter_acts(model, folder)
    else:
        assert _adapted_layers(model) == targeted, "peft has adapted other layers than those that were chosen here"


def inject(model: Any, lora: LoRAConfig, settings: Any = None, *, in_float32: bool = True) -> Any:
    """Freeze `model` and put fresh adapters into it, in place. Returns peft's settings of them.

    settings: those of an adapter that is to be trained on; None for those that follow from `lora`.
    in_float32: whether the adapters are float32 whatever type the model has.
    """
    scorer = hasattr(model, "score")
    if settings is None:
        settings = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            use_rslora=lora.use_rslora,
            use_dora=lora.use_dora,
            **_placed(model, lora, _layers(model, lora)),
            task_type=TaskType.SEQ_CLS if scorer else TaskType.CAUSAL_LM,
            modules_to_save=["score"] if scorer else None,
        )
    settings.lora_dropout = lora.dropout
    inject_adapter_in_model(settings, model, _NAME)
    model._hf_peft_config_loaded = True  # gradient checkpointing and quantized models look at it, see is_adapted
    if in_float32:
        cast_adapter_dtype(model, _NAME)
        for module in model.modules():
            if isinstance(module, ModulesToSaveWrapper):
                module.float()
    return settings


def attached(model: Any, folder: Path, *, merge: bool) -> Any:
    """`model` with the adapter of `folder`: added to its weights, or next to them, frozen. For scoring, sampling, and
    for training whole what an adapter began.

    merge: a sum in float32, rounded once to the type of the weights. It is proved on a row of tokens.

    Raises CheckpointError for an adapter that cannot be attached exactly, by its cause; CheckError where the merged
    weights do not compute what base and adapter do.
    """
    if is_deepspeed_zero3_enabled():
        what = f"{folder} is an adapter, and cannot be merged into weights that ZeRO-3 has sharded"
        how = "Merge it first with recipes/merge.py, or set model.lora to train the adapter on"
        raise ConfigError("model.path", what, how)
    adapted = with_adapter(model, folder)
    if merge:
        return _merged(adapted, folder)
    alone = adapted.get_base_model()
    _refuse_adapted_head(alone, folder)
    return alone


def with_adapter(model: Any, folder: Path) -> PeftModel:
    """`model` with the adapter of `folder` next to its weights, frozen, in peft's own wrapper.

    Raises CheckpointError where the adapter's file is not what peft expects of it, or adapts weights that are shared.
    """
    state = adapter_state(folder)
    settings = adapter_settings(folder)
    if hasattr(model, "score") and settings.task_type == TaskType.CAUSAL_LM:
        settings.task_type = None  # a policy's adapter under a fresh reward head: peft's plain wrapper, which asks less
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks for it
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error below
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings=True")  # an error below
            adapted = PeftModel.from_pretrained(model, str(folder), config=settings)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        what = f"cannot be put on its base by peft ({str(error).strip().splitlines()[0][:300]})"
        raise CheckpointError(folder, what, "The adapter was made for another model: name its own base") from error
    _refuse_shared_targets(adapted, folder)
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    # peft saves the whole embedding as well if it is a target, or if the vocabulary was resized.
    saved = get_peft_model_state_dict(adapted, save_embedding_layers=True)
    expected |= {name: tensor for name, tensor in saved.items() if name in state}
    _compare({name: list(tensor.shape) for name, tensor in expected.items()}, state, folder)
    check_adapter_acts(adapted, folder)
    return adapted


def _merged(adapted: PeftModel, folder: Path) -> Any:
    """The adapter added to the weights, with a proof that the model computes what it did before.

    The row of tokens is spread over the vocabulary. In bfloat16 the forward pass rounds as well, so an adapter that is
    small next to that rounding is reported and not refused; recipes/merge.py compares in float32.
    """
    alone = adapted.get_base_model().eval()
    rows = alone.get_input_embeddings().weight.shape[0]
    probe = [torch.linspace(0, rows - 1, 32).long().tolist()]
    dtype = "float32" if alone.dtype == torch.float32 else "bfloat16"
    expected = outputs(alone, probe)
    with without_adapter(adapted):
        base_only = outputs(alone, probe)
    merged = summed(adapted, folder).requires_grad_(True)
    untie_if_separate(merged)
    found = difference(outputs(merged, probe), expected, base_only)
    lost = not found.effect_share <= EFFECT_SHARE[dtype]
    if not found.largest_share <= LARGEST_SHARE[dtype] or (lost and dtype == "float32"):
        what = (
            f"merging the adapter in memory moves an output by {found.largest:.3g}, {found.largest_share:.2g} of the "
            f"largest output (expected at most {LARGEST_SHARE[dtype]:.2g}), and outputs in all by "
            f"{found.effect_share:.2g} of what the adapter does"
        )
        raise CheckError(folder, what, "Load it with peft, and compare its versions with those that it was made with")
    if lost:
        message = (
            "%s: rounding the sum to %s moves outputs by %.2g of what the adapter does; load it in float32 to keep it"
        )
        log.warning(message, folder, dtype, found.effect_share)
    return merged


def summed(adapted: PeftModel, folder: Path) -> Any:
    """The base with the adapter added to its weights. Raises CheckpointError where peft cannot add it."""
    try:
        return adapted.merge_and_unload(safe_merge=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, NotImplementedError) as error:
        what = f"cannot be merged by peft ({str(error).strip().splitlines()[0][:300]})"
        raise CheckpointError(folder, what, "Train it again without what cannot be merged") from error


def untie_if_separate(model: Any) -> None:
    """Correct the config of a model whose output head no longer is its embedding, as after merging an adapter that
    trained both whole: saving would drop the head otherwise."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    config = model.config.get_text_config()
    if head is not None and getattr(config, "tie_word_embeddings", False) and head.weight is not embedding.weight:
        config.tie_word_embeddings = model.config.tie_word_embeddings = False


def is_adapted(model: nn.Module) -> bool:
    """Whether a transformers model trains an adapter.

    The flag is the one that transformers reads: to let gradients pass through checkpointed layers whose weights are
    frozen, and to allow training over quantized weights.
    """
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def check_adapter_acts(model: nn.Module, folder: Path) -> None:
    """Raise CheckError where every adapter of the model changes nothing: what was trained is not there.

    That is where lora_B is zero, and with DoRA the trained magnitudes also are those of the base's weights.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if any(bool(layer.lora_B[name].weight.any()) for layer in layers for name in layer.lora_B):
        return
    if any(_has_other_magnitudes(layer) for layer in layers):
        return
    what = f"the adapter changes nothing: lora_B is zero in all of its {len(layers)} layers"
    how = f"Look at {WEIGHTS}: it was saved untrained, or its names are not this model's"
    raise CheckError(f"step 0: {folder}", what, how)


def _has_other_magnitudes(layer: Any) -> bool:
    """Whether the DoRA magnitudes of a layer differ from the norms of its weight by more than rounding.

    With lora_B = 0 a row w of the weight becomes m * w / |w|, which is w itself if its magnitude m is |w|.
    """
    for magnitude in getattr(layer, "lora_magnitude_vector", {}).values():
        base = layer.get_base_layer()
        with gather_params_ctx(base.parameters()):  # whole under ZeRO-3, too
            weight = dequantize_module_weight(base)
            norms = torch.linalg.norm(weight.float(), dim=1)
        if not torch.allclose(magnitude.weight.float(), norms, rtol=1e-2 if weight.dtype == torch.bfloat16 else 1e-4):
            return True
    return False


# An adapter's weights and their files


def trained_shapes(model: nn.Module) -> dict[str, list[int]]:
    """Name in the adapter's file -> shape, for everything that is trained; of sharded weights the whole shape."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            saved = name.replace(f".modules_to_save.{_NAME}.", ".").replace(f".{_NAME}.", ".")
            saved = saved.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector")  # DoRA, as peft saves it
            found[_PREFIX + saved] = list(getattr(parameter, "ds_shape", parameter.shape))
    return found


def save(model: Any, folder: Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
    """Write the adapter's weights and settings as peft does, and the generation settings of its base.

    state_dict: the whole weights of the model, where it has only parts of them itself (ZeRO-3).
    """
    folder.mkdir(parents=True, exist_ok=True)
    # No embedding is adapted here; peft would look on the Hub whether the base's vocabulary has grown.
    state = get_peft_model_state_dict(model, state_dict, _NAME, save_embedding_layers=False)
    model.peft_config[_NAME].save_pretrained(str(folder))
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    tensors = {f"{_PREFIX}{name}": tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_weights(model: nn.Module, folder: Path | str) -> None:
    """Put an adapter's saved weights into the model that it was attached to.

    Raises CheckpointError naming the first weight that one has and the other lacks, or whose shape differs.
    """
    state = adapter_state(Path(folder))
    _compare(trained_shapes(model), state, folder)
    set_peft_model_state_dict(model, {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}, _NAME)


def _compare(expected: dict[str, list[int]], state: dict[str, torch.Tensor], folder: Path | str) -> None:
    found = {name: list(tensor.shape) for name, tensor in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            what = f"tensor {name} has the shape {found.get(name)}, expected {expected.get(name)}"
            raise CheckpointError(folder, what, "The adapter was made for another model or other targets: name its own")


def adapter_state(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter's file. Raises CheckpointError for a file that is damaged or not finite."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise CheckpointError(folder, f"holds no {WEIGHTS}", "Name a finished adapter folder, saved as safetensors")
    try:
        state = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(file, f"is not a whole safetensors file ({error})", "Copy it again") from None
    for name, tensor in state.items():
        if not is_finite(tensor):
            what = f"tensor {name} holds values that are not finite (NaN or infinity)"
            raise CheckpointError(file, what, "Use an earlier checkpoint of the run that wrote it, or copy it again")
    return state


def adapter_settings(folder: Path) -> Any:
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (TypeError, ValueError, KeyError) as error:
        what = f"is not a LoRA config that peft reads ({error})"
        raise CheckpointError(folder / "adapter_config.json", what, "Copy the adapter again") from None


# Targets


def _layers(model: Any, lora: LoRAConfig) -> set[str]:
    """Full names of the linear layers that the config asks for, by peft's rules.

    Raises ConfigError for a target or an exclusion that names none, and for layers that the model does not have.
    """
    inside = model.base_model.named_modules()
    linear = {f"{model.base_model_prefix}.{name}" for name, module in inside if isinstance(module, nn.Linear)}
    found = _of_layers(linear, _transformed(model, lora))
    if lora.targets != "all-linear":
        key = "model.lora.targets"
        found = _matching(lora.targets, found, linear, key)
        if isinstance(lora.targets, str):
            others = (name for name, _ in model.named_modules() if name and name not in linear)
            other = next((name for name in others if re.fullmatch(lora.targets, name)), None)
            if other is not None:
                what = f"{lora.targets!r} also matches {other}, which is no linear layer of the model's trunk"
                raise ConfigError(key, what, f"Narrow it to some of {_endings(linear)}")
    if lora.exclude_modules:
        found -= _matching(lora.exclude_modules, found, linear, "model.lora.exclude_modules")
        if not found:
            what = "excludes every layer that model.lora.targets names"
            raise ConfigError("model.lora.exclude_modules", what, f"Leave some of {_endings(linear)}")
    return found


def _transformed(model: Any, lora: LoRAConfig) -> list[int] | None:
    """The decoder layers that get adapters; None for all of them."""
    count = model.config.num_hidden_layers
    key = "model.lora.first_layer" if lora.first_layer else "model.lora.layers_to_transform"
    beyond = [layer for layer in (lora.first_layer, *lora.layers_to_transform) if layer >= count]
    if beyond:
        raise ConfigError(key, f"is {beyond[0]}, and the model has layers 0 to {count - 1}", "Name one of them")
    if lora.layers_to_transform:
        return list(lora.layers_to_transform)
    return list(range(lora.first_layer, count)) if lora.first_layer else None


def _of_layers(names: set[str], layers: list[int] | None) -> set[str]:
    return names if layers is None else {name for name in names if int(_DECODER_LAYER.findall(name)[0]) in layers}


def _matching(asked: str | tuple[str, ...], names: set[str], linear: set[str], key: str) -> set[str]:
    """Those of `names` that a regular expression matches whole, or that end with one of several names.

    Raises ConfigError for an expression or a name that matches none, with the names of all linear layers.
    """
    found: set[str] = set()
    for one in (asked,) if isinstance(asked, str) else asked:
        if isinstance(asked, str):
            matched = {name for name in names if re.fullmatch(one, name)}
            what = f"{one!r} matches no linear layer of the model's trunk, such as {min(linear)}"
        else:
            matched = {name for name in names if name == one or name.endswith(f".{one}")}
            what = f"{one} is no linear layer of the model's trunk"
        if not matched:
            what += "" if names == linear else " in the layers that are chosen"
            raise ConfigError(key, what, f"Name some of {_endings(linear)}, or all-linear")
        found |= matched
    return found


def _endings(names: set[str]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in names}))


def _placed(model: Any, lora: LoRAConfig, targeted: set[str]) -> dict[str, Any]:
    """The same as peft's settings. It knows "all-linear" for all decoder layers only."""
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    placed: dict[str, Any] = {}
    if lora.exclude_modules:
        excluded = lora.exclude_modules
        placed["exclude_modules"] = excluded if isinstance(excluded, str) else list(excluded)
    layers = _transformed(model, lora)
    if layers is not None:
        if isinstance(targets, str):
            targets = sorted({name.rpartition(".")[2] for name in targeted})
        placed["layers_to_transform"] = layers
    return {"target_modules": targets, **placed}


def _adapted_layers(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _refuse_other_settings(model: Any, lora: LoRAConfig, targeted: set[str], found: LoraConfig, folder: Path) -> None:
    there = _adapted_layers(model)
    here = _described(lora.rank, lora.alpha, lora.use_dora, lora.use_rslora, targeted)
    of_folder = _described(found.r, found.lora_alpha, found.use_dora, found.use_rslora, there)
    if here != of_folder or targeted != there:
        how = "Give model.lora the adapter's own settings, or merge it first with recipes/merge.py"
        raise ConfigError("model.lora", f"has {here}, and the adapter in {folder} {of_folder}", how)


def _described(rank: int, alpha: float, dora: bool, rslora: bool, layers: set[str]) -> str:
    kinds = "".join(f", {name}" for name, used in (("use_dora", dora), ("use_rslora", rslora)) if used)
    return f"rank {rank}, alpha {alpha}{kinds} and {len(layers)} layers ({_endings(layers)})"


# What cannot be attached exactly


def _refuse_shared_targets(adapted: PeftModel, folder: Path) -> None:
    """Refuse low-rank factors on a weight that another module uses too, such as an embedding that is also the head.

    The adapter changes one use of the weight; added to the weight itself it would change both.
    """
    users: dict[int, list[str]] = {}
    for name, module in adapted.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None:
            users.setdefault(id(weight), []).append(name)
    for name, module in adapted.named_modules():
        if isinstance(module, LoraLayer):
            shared = users[id(module.get_base_layer().weight)]
            if len(shared) > 1:
                first, *_ = (user for user in shared if not user.startswith(f"{name}."))
                target, other = (_plain(n).rpartition(".")[2] for n in (name, first))
                what = f"adapts {target}, whose weight {other} uses too (tied embeddings)"
                how = "Untie the base's weights, or train the adapter again without embed_tokens and lm_head as targets"
                raise CheckpointError(folder, what, how)


def _refuse_adapted_head(model: Any, folder: Path) -> None:
    """Log-probabilities are computed from the head's own weight (LabelHead), which an adapter on it does not reach."""
    head = model.get_output_embeddings()
    if isinstance(head, LoraLayer | ModulesToSaveWrapper):
        what = f"adapts the output head ({type(head).__name__}), next to which it cannot be kept"
        raise CheckpointError(folder, what, "Merge it first with recipes/merge.py, and name the merged folder")


def _plain(name: str) -> str:
    """A module's name without the parts that peft puts into it."""
    return name.removesuffix(".base_layer").removesuffix(".original_module")
