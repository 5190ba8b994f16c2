"""The model's files in a checkpoint folder: written, read back, and compared with what was trained.

Which folders there are, and which of them a run resumes from, is decided in `align/trainers/checkpoints.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.serialization import safe_globals
from transformers import TrainerState
from transformers.core_model_loading import revert_weight_conversion

from align.chat.protocol import ChatProtocol
from align.errors import CheckpointError
from align.files import write_text
from align.manifest import SEAL, read_manifest
from align.models import adapters
from align.models.adapters import is_adapted, load_weights, trained_shapes
from align.models.checkpoints import ADAPTER_WEIGHTS, CONFIG, INDEX, weight_files
from align.models.fitting import is_finite
from align.models.serving import write_serving_files

STATE = "trainer_state.json"
MODEL_SUFFIXES = (".safetensors", ".json", ".jinja", ".model")

_TENSORS_ONLY, _ANYTHING = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
"""Variables that torch.load reads at each call."""
_PREFIX = "model."
"""What the trained module (`TreeModel`) puts before each name of the Hugging Face model in it."""


def write_model(model: Any, folder: Path, protocol: ChatProtocol, state: dict[str, Tensor] | None = None) -> None:
    """Save the Hugging Face model with its tokenizer and serving files.

    state: the tensors of the trained module as DeepSpeed gathers them; None to take them from `model`.

    transformers' own `_save` would also write training_args.bin, which contains the Hub token in plain text.
    """
    if state is not None:
        state = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    if is_adapted(model):
        adapters.save(model, folder, state)
    else:
        config = model.config
        # The cache is off for training alone: generation from the files needs it.
        config.use_cache, used = True, config.use_cache
        try:
            model.save_pretrained(folder, state_dict=state)
        finally:
            config.use_cache = used
    write_serving_files(folder, protocol)


def write_trainer_state(state: TrainerState, path: str | Path) -> None:
    """Write trainer_state.json, as `TrainerState.load_from_json` reads it, with one line for each entry of the log.

    transformers copies the whole log and indents each value of it: 70 ms a save after 1,200 logged steps, and more with
    each. Without indentation the JSON encoder in C is used.
    """
    values = {field.name: getattr(state, field.name) for field in fields(state) if field.name != "log_history"}
    lines = ",\n".join(f"    {json.dumps(entry, sort_keys=True)}" for entry in state.log_history)
    others = json.dumps(values, indent=2, sort_keys=True).removesuffix("\n}")
    Path(path).write_text(f'{others},\n  "log_history": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


def convert_weights(folder: Path, save_dtype: str) -> None:
    """Store the weights of a finished model in another data type, one file at a time. "auto" leaves them as they are.

    The index of a sharded model and `dtype` in config.json are changed to match. Integer tensors stay.
    Raises CheckpointError if a value is outside the range of the type.
    """
    if save_dtype == "auto":
        return
    dtype = getattr(torch, save_dtype)
    total = 0
    for name in saved_weights(folder):
        if not name.endswith(".safetensors"):
            continue
        with safe_open(folder / name, "pt") as handle:
            metadata = handle.metadata()
            tensors = {key: _converted(handle.get_tensor(key), dtype, key, folder) for key in handle.keys()}  # noqa: SIM118
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        part = folder / f".{name}.part"
        try:
            save_file(tensors, part, metadata=metadata)
            part.replace(folder / name)
        finally:
            part.unlink(missing_ok=True)  # what a full disk has left of it
    if (folder / CONFIG).exists():
        _edit_json(folder / CONFIG, lambda config: config.update(dtype=save_dtype))
    if (folder / INDEX).exists():
        _edit_json(folder / INDEX, lambda index: index["metadata"].update(total_size=total))


def _converted(tensor: Tensor, dtype: torch.dtype, name: str, folder: Path) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    converted = tensor.to(dtype)
    if not is_finite(converted):
        what = f"weight {name} has values that are outside the range of training.save_dtype: {str(dtype)[6:]}"
        how = "Set training.save_dtype: bfloat16; the same command then trains on from the last checkpoint"
        raise CheckpointError(folder, what, how)
    return converted


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file of transformers, and write it as transformers does."""
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_model(model: Any, folder: Path) -> None:
    """Load the weights of a checkpoint into the Hugging Face model. Raises CheckpointError if they do not fit it.

    Only files that the manifest lists are read, whatever else is in the folder.
    """
    if is_adapted(model):
        load_weights(model, folder)
        return
    state: dict[str, Tensor] = {}
    for name in read_manifest(folder)["files"]:
        if name.startswith("model") and name.endswith(".safetensors"):
            state |= load_file(folder / name)
    loaded = model.load_state_dict(state, strict=False)
    odd = [*loaded.unexpected_keys, *(set(loaded.missing_keys) - _tied_names(model))]
    if odd:
        how = "Delete it to resume from an earlier one"
        raise CheckpointError(folder, f"is whole, but does not fit the model: {', '.join(odd[:3])}", how)


def expected_shapes(model: Any) -> dict[str, list[int]]:
    """Name -> shape of each weight that the saved files must contain; under ZeRO-3 the shape of the whole weight."""
    if is_adapted(model):
        return trained_shapes(model)
    tied = _tied_names(model)
    named = model.named_parameters()
    return {name: list(getattr(weight, "ds_shape", weight.shape)) for name, weight in named if name not in tied}


def require_savable(model: Any, start: Path | str) -> None:
    """Raise CheckpointError before any training if the model's weights would be saved under other names.

    transformers renames the weights of some models while saving: in a mixture of experts one tensor of all experts
    becomes one for each expert. Tried here on weights without content. start: `model.path`, for the message.
    """
    if is_adapted(model):
        return
    shapes = expected_shapes(model)
    weights = {name: torch.empty(shape, dtype=model.dtype, device="meta") for name, shape in shapes.items()}
    saved = {name: list(tensor.shape) for name, tensor in revert_weight_conversion(model, weights).items()}
    for name, shape in shapes.items():
        if saved.get(name) != shape:
            what = f"{type(model).__name__} cannot be trained here: its weight {name} is not saved under that name"
            raise CheckpointError(start, what, "Train a dense model, or set model.lora")


def _tied_names(model: Any) -> set[str]:
    """Weights that are saved under another name only: a tied output head."""
    return set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()


@contextmanager
def tensors_only(folder: Path | str) -> Iterator[None]:
    """Within it `torch.load` reads nothing but tensors, plain values and four classes of DeepSpeed's own.

    DeepSpeed's optimizer states are pickles, which it reads with `weights_only=False`: whoever wrote them could run any
    code. Raises CheckpointError if a file has anything else in it. The manifest of a folder is no protection, since
    whoever can write a state can also write a manifest that fits.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address  # in the states of ZeRO-1 and 2

    before = {name: os.environ.pop(name, None) for name in (_TENSORS_ONLY, _ANYTHING)}
    os.environ[_TENSORS_ONLY] = "1"  # goes before the argument weights_only of torch.load
    try:
        with safe_globals([DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]):
            yield
    except UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"has optimizer states that could run code ({found[1] if found else 'they are no plain tensors'})"
        how = "Delete it if you did not write it yourself; an earlier checkpoint is used"
        raise CheckpointError(folder, what, how) from None
    finally:
        del os.environ[_TENSORS_ONLY]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def saved_weights(folder: Path) -> list[str]:
    """Names of the files that hold what a run has saved: an adapter, or a whole model with its index.

    Raises CheckpointError if a file is missing.
    """
    if (folder / ADAPTER_WEIGHTS).exists():
        return [ADAPTER_WEIGHTS]
    return [*([INDEX] if (folder / INDEX).exists() else []), *weight_files(folder)]


def model_files(folder: Path) -> list[Path]:
    """What a finished model's manifest lists: weights, config, tokenizer; not the records of the run next to them."""
    records = {"timing.json", "dropped.json", "eval_dropped.json", "skipped.json", "guards.json", SEAL, STATE}
    weights = set(saved_weights(folder))
    return [
        file
        for file in folder.iterdir()
        if file.is_file()
        and not file.name.startswith(".")
        and file.suffix in MODEL_SUFFIXES
        and file.name not in records
        and (file.name in weights or not file.name.endswith((".safetensors", INDEX)))
    ]


def require_saved(folder: Path, shapes: Mapping[str, list[int]], *, sharded: bool) -> None:
    """Raise CheckpointError if a name or shape of what was trained is not in the files that were written.

    sharded: under ZeRO-3, which is known to save tensors of shape [0].
    """
    saved: dict[str, list[int]] = {}
    for name in saved_weights(folder):
        if name.endswith(".safetensors"):
            with safe_open(folder / name, "pt") as handle:
                saved.update({key: handle.get_slice(key).get_shape() for key in handle.keys()})  # noqa: SIM118
    for name, shape in shapes.items():
        if saved.get(name) != shape:
            what = f"tensor {name} was saved as {saved.get(name)}, expected {shape}"
            how = "Set stage3_gather_16bit_weights_on_model_save in the DeepSpeed file"
            raise CheckpointError(folder, what, how if sharded else "The model cannot be saved here: report its name")


def require_finite(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise CheckpointError naming the first saved weight that is NaN or infinite."""
    for name in sorted(manifest["files"]):
        if "/" in name or not name.endswith(".safetensors"):
            continue
        try:
            with safe_open(folder / name, "pt") as handle:
                for key in handle.keys():  # noqa: SIM118
                    tensor = handle.get_tensor(key)
                    if not is_finite(tensor):
                        what = f"weight {key} in {name} is not finite: training had diverged when it was written"
                        raise CheckpointError(folder, what, "Delete it; an earlier one is used")
        except SafetensorError as error:
            raise CheckpointError(folder / name, f"cannot be read ({error})", "Delete the checkpoint") from None
