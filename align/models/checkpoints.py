"""Open a checkpoint: find its files, read which file contains which tensor, and compute what identifies it.

Loading, averaging, merging, scoring and resuming all read checkpoints through this file. It looks at files only; that
they fit a model is checked in `align/models/fitting.py`. A checkpoint is a folder of safetensors: a whole model, or a
peft adapter that names its base. A name on the Hub becomes the folder of its snapshot in the Hub's cache.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import huggingface_hub.errors as hub_errors
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from align.errors import AlignError, CheckpointError, ConfigError, first_line
from align.files import fingerprint, fingerprint_of
from align.hub_errors import HubProblem, hub_problem, similar_on_hub, with_suggestion
from align.hub_names import HUB_NAME, hub_name_in, similar_path
from align.manifest import SEAL, read_manifest, verify_folder
from align.reporting import logger

log = logger(__name__)

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

HEAD = "score.weight"
"""A reward model's head: one number from the last hidden state."""

_SMALL = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
"""The files of a Hub repository that are fetched before its weights."""
_READ_AS_JSON = (CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_FLOATS = {"F64", "F32", "F16", "BF16"}

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"),
    *("sentencepiece.bpe.model", "spiece.model"),
)
"""A folder with a tokenizer has one of them."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as the header of its file describes it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """In the spelling of safetensors: F32, BF16, ..."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole model's folder whose files agree with each other, and with its MANIFEST.json if it has one."""

    name: str
    """The name that the user gave: a folder, or owner/name on the Hub."""
    folder: Path
    config: dict[str, Any] = field(repr=False)
    """config.json."""
    tensors: dict[str, Tensor] = field(repr=False)
    """By name, as the index assigns them to files."""
    manifest: dict[str, Any] = field(repr=False)
    """MANIFEST.json; empty for a checkpoint made elsewhere."""


def open_checkpoint(
    path: str | Path, revision: str | None = None, *, quantized: bool = False, key: str = "model.path"
) -> Checkpoint:
    """Open a whole model: find it, verify it, and read the header of each of its files.

    key: the setting that names it, for the messages.
    quantized: whether weights that were saved quantized by bitsandbytes may be opened.

    Raises ConfigError if there is no such checkpoint; CheckpointError naming the first file that is missing, damaged
    or contradicts another, and for weights that are quantized without having been asked for.
    """
    folder = located(path, revision, key=key)
    config = read_config(folder)
    _refuse_quantized(folder, config, quantized)
    if not _is_local(path):
        _fetch(str(path), revision, weight_files(folder, fetched=False), key=key)
    tensors = tensor_files(folder)
    if not quantized:
        for name, tensor in tensors.items():
            if tensor.dtype not in _FLOATS and not name.endswith(("position_ids", ".attn.bias", ".attn.masked_bias")):
                what = f"tensor {name} has the type {tensor.dtype}; expected one of {', '.join(sorted(_FLOATS))}"
                raise CheckpointError(tensor.file, what, "Name the unquantized checkpoint")
    return Checkpoint(str(path), folder, config, tensors, verified(folder))


# Where it is


def located(
    path: str | Path, revision: str | None = None, *, local_files_only: bool = False, key: str = "model.path"
) -> Path:
    """The folder of a checkpoint: `path` itself, or the snapshot of a Hub name, fetched without its weights.

    A sealed folder is verified, and its JSON files are parsed. Raises ConfigError if there is no such checkpoint;
    CheckpointError for a folder that is damaged.
    """
    text = str(path)
    if _is_local(path):
        folder = Path(text)
        if revision is not None:
            what = f"is {revision!r}, and {text} is a folder on this disk"
            raise ConfigError(_revision_key(key), what, "Remove it: revisions are for names on the Hub")
        verified(folder)
    elif HUB_NAME.fullmatch(text):
        folder = _fetch(text, revision, _SMALL, local_files_only=local_files_only, key=key)
    else:
        raise _no_folder(text, key)
    for file in sorted(folder.iterdir()):
        if file.is_symlink() and not file.exists():
            what = f"is a link to {os.readlink(file)}, which does not exist"
            raise CheckpointError(file, what, "Restore the file that it links to, or copy the checkpoint again")
    if not (folder / CONFIG).exists() and not (folder / ADAPTER_CONFIG).exists():
        how = "Name a Hugging Face checkpoint folder"
        raise ConfigError(key, f"{text} holds no {CONFIG} and no {ADAPTER_CONFIG}", how)
    for name in _READ_AS_JSON:
        if (folder / name).exists():
            _require_json(folder / name, (folder / name).stat().st_size, (folder / name).stat().st_mtime_ns)
    return folder


def _no_folder(text: str, key: str) -> ConfigError:
    if os.path.isfile(text):
        return ConfigError(key, f"{text} is a file, and a folder is expected", "Name the folder that the file is in")
    if on_hub := hub_name_in(text):
        name, revision = on_hub
        how = f"Did you mean {key}={name}" + (f" {_revision_key(key)}={revision}?" if revision else "?")
        return ConfigError(key, f"is {text}; expected a folder, or owner/name on the Hub", how)
    similar = similar_path(Path(text))
    how = f"Did you mean {similar}?" if similar else "Name a checkpoint folder that exists, or owner/name on the Hub"
    return ConfigError(key, f"there is no folder {text}", how)


def _is_local(path: str | Path) -> bool:
    return Path(path).is_dir()


def _fetch(
    name: str,
    revision: str | None,
    files: Collection[str],
    *,
    local_files_only: bool = False,
    key: str = "model.path",
) -> Path:
    """The snapshot of a Hub repository with those of `files` (names or patterns) that it has at its top level."""
    at = f"{name} at revision {revision}" if revision else name
    try:
        found = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(files),
            ignore_patterns=["*/*"],  # such as original/, Meta's own format of the same weights
            local_files_only=local_files_only,
        )
    except (hub_errors.HFValidationError, hub_errors.HTTPError, OSError, UnicodeEncodeError) as error:
        if local_files_only:
            what = "is no folder, and the Hub's cache does not hold it"
            raise CheckpointError(at, what, "Name the checkpoint's folder") from error
        problem = hub_problem(error, name, revision=revision)
        if problem is None and isinstance(error, OSError) and error.errno is not None:
            what = f"the cache of the Hub cannot be written to ({error.strerror})"
            how = "Set HF_HOME to a folder that can be written to and has enough space"
            raise AlignError(error.filename or "HF_HOME", what, how) from None
        if problem is None:
            raise
        raise _not_fetched(problem, name, key) from None
    return Path(found)


def _not_fetched(problem: HubProblem, name: str, key: str) -> AlignError:
    if problem.about == "revision":
        return ConfigError(_revision_key(key), problem.what, problem.how)
    if problem.about == "name":
        local = similar_path(Path(name))
        problem = with_suggestion(problem, [str(local)] if local else similar_on_hub(name))
        return ConfigError(key, f"there is no folder {name}, and {problem.what}", problem.how)
    if problem.about == "network":
        return AlignError(f"{key}: {name}", problem.what, problem.how)
    return ConfigError(key, problem.what, problem.how)


def _revision_key(key: str) -> str:
    """The setting of the revision next to the setting that names a model: model.path -> model.revision."""
    for end in (".path", " base_model_name_or_path"):
        if key.endswith(end):
            return f"{key.removesuffix(end)}{end[0]}revision"
    return f"{key}_revision"


# Verification

_VERIFIED: dict[Path, tuple[dict[str, Any], list[object]]] = {}
"""Folder -> (its manifest, size and time of each file that it lists), as they were when it was verified."""


def verified(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed folder whose files are as it says; empty for a folder without one.

    A folder is hashed once in a process, and again only after one of its files has changed. Of several processes on a
    machine the first one hashes; if that fails, the launcher ends the others.

    Raises CheckpointError naming the first file that is missing or differs.
    """
    if not (folder / SEAL).exists():
        return {}
    place = folder.resolve()
    known = _VERIFIED.get(place)
    if known is not None and known[1] == _state(place, known[0]):
        return known[0]
    first_of_machine = os.environ.get("LOCAL_RANK", "0") == "0"
    manifest = verify_folder(folder) if first_of_machine else read_manifest(folder)
    _VERIFIED[place] = (manifest, _state(place, manifest))
    return manifest


def _state(folder: Path, manifest: dict[str, Any]) -> list[object]:
    files = [folder / name for name in (SEAL, *manifest.get("files", ()))]
    stats = [file.stat() if file.exists() else None for file in files]
    return [s and (s.st_size, s.st_mtime_ns, s.st_ino) for s in stats]


# Which file holds which tensor


def tensor_files(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a whole model's folder, from the headers of its files.

    The index decides which files are read; without one it is model.safetensors. Raises CheckpointError naming the file
    where an index and its files contradict each other, where a file lies outside of the folder, or is not safetensors.
    """
    index = folder / INDEX
    assigned = _index(index) if index.exists() else {}
    found: dict[str, Tensor] = {}
    files = weight_files(folder)
    for name in files:
        for tensor_name, tensor in _header(folder / name).items():
            if assigned and assigned.get(tensor_name) != name:
                elsewhere = assigned.get(tensor_name)
                says = f"assigns it to {elsewhere}" if elsewhere else "does not name it"
                what = f"holds the tensor {tensor_name}, and {INDEX} {says}"
                raise CheckpointError(folder / name, what, "Copy the checkpoint again, or delete the wrong file")
            found[tensor_name] = tensor
    for tensor_name, name in assigned.items():
        if tensor_name not in found:
            what = f"does not hold the tensor {tensor_name}, which {INDEX} assigns to it"
            raise CheckpointError(folder / name, what, "Copy the checkpoint again: this file is not of its index")
    strays = {file.name for file in folder.glob("*.safetensors")} - {*files, ADAPTER_WEIGHTS}
    if strays:
        reader = INDEX if assigned else f"{SINGLE}, which is whole without them"
        log.warning("%s: not read, since they are not part of %s: %s", folder, reader, ", ".join(sorted(strays)))
    return found


def weight_files(folder: Path, *, fetched: bool = True) -> list[str]:
    """Names of the files that hold a whole model's weights: the index decides, without one it is model.safetensors.

    fetched: whether they have to be in the folder. Raises CheckpointError if one is missing, or where the folder
    holds both a single file and the index of others.
    """
    index = folder / INDEX
    if index.exists():
        files = sorted(set(_index(index).values()))
        if SINGLE not in files and (folder / SINGLE).exists():
            what = f"holds both {SINGLE} and {INDEX}, which does not name it"
            raise CheckpointError(folder, what, f"Delete the one that is out of date; transformers reads {SINGLE}")
    else:
        files = [SINGLE]
    if not fetched:
        return files
    for name in files:
        if not (folder / name).is_file():
            raise _missing(folder, name, of_index=index.exists())
    return files


def tensor_names(folder: Path) -> set[str]:
    """The tensors in the weight files of a folder: of a whole model, or of an adapter. Only headers are read.

    Raises CheckpointError if a file is missing or cut off.
    """
    files = [ADAPTER_WEIGHTS] if (folder / ADAPTER_CONFIG).exists() else weight_files(folder)
    if not (folder / files[0]).is_file():
        raise CheckpointError(folder, f"holds no {files[0]}", "Name a finished adapter folder, saved as safetensors")
    return {tensor for name in files for tensor in _header(folder / name)}


def _missing(folder: Path, name: str, *, of_index: bool) -> CheckpointError:
    if of_index:
        what = f"is named by {INDEX}, and missing"
        return CheckpointError(folder / name, what, "Copy the checkpoint again: it is incomplete")
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickled:
        what = f"holds its weights as pickle ({pickled[0]}) only, which can run code when it is read"
        return CheckpointError(folder, what, "Convert it to safetensors: load it elsewhere and save_pretrained it")
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    holds = f"; its files are {', '.join(others[:4])}" if others else ""
    what = f"holds no {SINGLE} and no {INDEX}{holds}"
    return CheckpointError(folder, what, "Name a finished checkpoint folder, or restore its index")


def _index(index: Path) -> dict[str, str]:
    """Tensor name -> file name. Raises CheckpointError if the index names what may not be read."""
    content = read_json(index)
    table = content.get("weight_map")
    if not isinstance(content.get("metadata"), dict):
        what = 'has no object "metadata", without which transformers cannot read it'
        raise CheckpointError(index, what, 'Add "metadata": {} to it')
    if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
        what = "has no weight_map from tensor names to file names"
        raise CheckpointError(index, what, "Copy the checkpoint again")
    for tensor, file in table.items():
        if Path(file).name != file or not file.endswith(".safetensors"):
            what = f"assigns the tensor {tensor} to {file!r}, which is not a safetensors file in this folder"
            raise CheckpointError(index, what, "Do not use a checkpoint that reaches out of its folder")
    return table


def _header(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, "pt") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
            found = {name: Tensor(file, tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        what = f"is not a whole safetensors file of {file.stat().st_size} bytes ({first_line(error)})"
        raise CheckpointError(file, what, "Copy it again") from None
    if not found:
        raise CheckpointError(file, "holds no tensors", "Copy it again")
    return found


# Its config


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a whole model, with what every loader needs of it."""
    if not (folder / CONFIG).exists():
        raise CheckpointError(folder, f"holds no {CONFIG}", "Name a whole model's folder")
    config = read_json(folder / CONFIG)
    if not isinstance(config.get("model_type"), str):
        what = f"has the model_type {config.get('model_type')!r}; expected a name such as 'llama'"
        raise CheckpointError(folder / CONFIG, what, "Copy config.json of the model that the weights are of")
    return config


def require_known_architecture(folder: Path) -> None:
    """Raise CheckpointError if transformers has no model of the kind that config.json names. Imports transformers."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = read_config(folder)
    kind = config["model_type"]
    if kind in CONFIG_MAPPING:
        return
    what = f"has the model_type {kind!r}, which transformers {transformers.__version__} does not know"
    if "auto_map" in config:
        what += ", and its own code, which is never run here"
    close = difflib.get_close_matches(kind, CONFIG_MAPPING.keys(), n=1, cutoff=0.8)
    how = f"If the model is newer than this version: pip install --upgrade transformers. {_OTHERWISE}"
    raise CheckpointError(folder / CONFIG, what, f"Did you mean {close[0]!r}? {how}" if close else how)


def _refuse_quantized(folder: Path, config: dict[str, Any], allowed: bool) -> None:
    nested = [config, *(part for part in config.values() if isinstance(part, dict))]
    for part in nested:
        found = part.get("quantization_config") or part.get("compression_config")
        if not found:
            continue
        method = str(found.get("quant_method", "unknown")) if isinstance(found, dict) else str(found)
        if method == "bitsandbytes" and allowed:
            continue
        what = f"says that the weights are quantized (quantization_config: {method})"
        how = "Name the unquantized checkpoint; model.quantization: nf4 quantizes it while it loads"
        raise CheckpointError(folder / CONFIG, what, how)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError if the file does not hold one."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(file, f"cannot be read as JSON ({first_line(error)})", "Copy it again") from None
    if not isinstance(found, dict):
        what = f"holds a JSON {type(found).__name__}; expected an object"
        raise CheckpointError(file, what, "Copy it again")
    return found


@cache
def _require_json(file: Path, size: int, changed: int) -> None:
    """Raise as `read_json`, which takes 40 ms for a tokenizer of 49,152 tokens, once for each state of the file."""
    read_json(file)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a file that a tokenizer is read from."""
    return any((folder / file).exists() for file in TOKENIZER_FILES)


def no_tokenizer(folder: Path) -> CheckpointError:
    """The error for a folder without one."""
    what = f"holds no tokenizer: none of {', '.join(TOKENIZER_FILES)}"
    return CheckpointError(folder, what, "Copy the tokenizer's files out of the model that it was made from")


_OTHERWISE = "Otherwise choose a model that transformers has built in"


# An adapter and its base


@dataclass(frozen=True, slots=True)
class Base:
    """The model that an adapter was trained over."""

    name: str
    """A folder as it can be opened from here, or owner/name on the Hub."""
    revision: str | None
    key: str = "base_model_name_or_path"
    """What names it, for messages: a field of the adapter's config."""


@dataclass(frozen=True)
class Adapter:
    """A peft adapter's folder, as `open_checkpoint` opens a whole model's."""

    name: str
    folder: Path
    base: Base
    has_head: bool
    """Whether it holds a reward model's head."""


def open_adapter(path: str | Path, revision: str | None = None, *, key: str = "model.path") -> Adapter | None:
    """Open an adapter and read its header; None for a whole model. Raises as `located` and `base_of` do."""
    folder = located(path, revision, key=key)
    base = base_of(folder)
    if base is None:
        return None
    if not _is_local(path):
        _fetch(str(path), revision, [ADAPTER_WEIGHTS], key=key)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        what = f"holds no {ADAPTER_WEIGHTS}"
        raise CheckpointError(folder, what, "Name a finished adapter folder, saved as safetensors")
    has_head = any(name.endswith(f".{HEAD}") for name in _header(folder / ADAPTER_WEIGHTS))
    return Adapter(str(path), folder, base, has_head)


def base_of(adapter: Path) -> Base | None:
    """The base that the adapter in a folder names; None if the folder holds a whole model.

    A folder is looked for where the adapter's manifest says that it is from the adapter's folder, which still holds
    after both were moved together; then under the name in the adapter's config, from the working folder and from the
    adapter's folder.

    Raises CheckpointError for an adapter that is not LoRA, lies over another adapter, or whose base is missing.
    """
    if not (adapter / ADAPTER_CONFIG).exists():
        return None
    if (adapter / CONFIG).exists():
        raise CheckpointError(adapter, "holds a whole model and an adapter", "Move one of them to a folder of its own")
    config = read_json(adapter / ADAPTER_CONFIG)
    if config.get("peft_type", "LORA") != "LORA":
        what = f"holds an adapter of peft's kind {config['peft_type']}"
        raise CheckpointError(adapter, what, "Only LoRA is read here; merge it with peft first")
    name = config.get("base_model_name_or_path")
    if not name or not isinstance(name, str):
        what = f"{ADAPTER_CONFIG} names no base model"
        raise CheckpointError(adapter, what, "Write base_model_name_or_path into it")
    folder = _base_folder(adapter, name, recorded_base(adapter).get("path"))
    if folder is None and not HUB_NAME.fullmatch(name):
        what = f"its base {name} is missing: no such folder from {Path.cwd()} or from the adapter's folder"
        if (adapter / SEAL).exists():  # the config is sealed: a corrected one would not be what the manifest says
            raise CheckpointError(adapter, what, f"Put the base, or a link to it, at {name}")
        raise CheckpointError(adapter, what, f"Restore it, or correct base_model_name_or_path in {ADAPTER_CONFIG}")
    if folder is not None and (Path(folder) / ADAPTER_CONFIG).exists():
        how = f"Merge {folder} first with recipes/merge.py, and name the merged folder as the base"
        raise CheckpointError(adapter, f"its base {folder} is an adapter too", how)
    key = f"{adapter / ADAPTER_CONFIG}: base_model_name_or_path"
    return Base(folder or name, config.get("revision") if folder is None else None, key)


def recorded_base(adapter: Path) -> dict[str, Any]:
    """What the manifest of an adapter's folder records of its base (`align/models/bases.py`); empty if nothing."""
    found = read_manifest(adapter).get("base") if (adapter / SEAL).exists() else None
    return found if isinstance(found, dict) else {}


def _base_folder(adapter: Path, name: str, near: object) -> str | None:
    """The folder of a base, as it can be opened from here; None if there is no folder.

    name: as the adapter's config has it. near: its path from the adapter's folder, where that is known.
    """
    relative = (adapter / near).resolve() if isinstance(near, str) and near else None
    if relative is not None and relative.is_dir():
        return name if Path(name).is_dir() and Path(name).samefile(relative) else str(relative)
    return next((str(place) for place in (Path(name), adapter / name) if place.is_dir()), None)


# What identifies it


def checkpoint_fingerprint(path: str | Path, revision: str | None = None) -> str:
    """BLAKE3 of a checkpoint's weight files and config, by content; of an adapter's and of its base's.

    path: a folder, or a name on the Hub, of which the snapshot in the cache is read.
    Raises CheckpointError if there are no weights to identify.
    """
    folder = Path(path) if _is_local(path) else located(path, revision, local_files_only=True)
    base = base_of(folder)
    if base is not None:
        settings = read_json(folder / ADAPTER_CONFIG)
        settings.pop("base_model_name_or_path")  # where the base is stored does not matter; its content is below
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise CheckpointError(folder, f"holds no {ADAPTER_WEIGHTS}", "Name a finished adapter folder")
        own = json.dumps(settings, sort_keys=True), _content(folder, ADAPTER_WEIGHTS)
        return fingerprint_of("adapter", *own, checkpoint_fingerprint(base.name, base.revision))
    files = [CONFIG, *weight_files(folder)]
    return fingerprint_of(*((name, _content(folder, name)) for name in files))


def _content(folder: Path, name: str) -> str:
    """BLAKE3 of a file. Of a verified folder it is read from the manifest, which has the same value."""
    listed = verified(folder).get("files", {}).get(name)
    return listed["blake3"] if listed else fingerprint(folder / name)
