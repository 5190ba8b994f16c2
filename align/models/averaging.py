"""Average checkpoints, tensor by tensor: sums run in float64 and are rounded once, to the type of the checkpoints.

Llama 3 averages models of different data versions or hyper-parameters at each stage (arXiv:2407.21783, section 4.1.5).
Memory holds a piece of the sum; of each member one file is mapped, whose pages the system can drop at any time.
`align/models/weight_search.py` chooses weights.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from align.errors import CheckpointError, ConfigError
from align.manifest import SEAL, write_folder_manifest
from align.models.bases import base_name, note_of, require_same_base, weights_fingerprint
from align.models.checkpoints import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    HEAD,
    INDEX,
    Adapter,
    Checkpoint,
    checkpoint_fingerprint,
    open_adapter,
    open_checkpoint,
    read_json,
    verified,
)
from align.models.fitting import is_finite, model_config, require_fit
from align.models.output import new_folder, refuse_foreign, refuse_overlap
from align.models.serving import write_serving_files_of_average
from align.models.shards import write_shards
from align.publish.names import shown_path

SHARD_BYTES = 5 * 10**9
"""Largest file of an average. A tensor that is larger has a file of its own."""
PIECE = 2**15
"""Elements that are summed at a time: 256 kB in float64, which stays in a processor's cache. It is also the size up to
which torch works in one thread. With more, a second thread waits for each of many short operations, and takes several
times the processor time that the sum needs."""
MADE = "averaged"
"""The key of an averaged checkpoint's manifest that says what it was made of."""

_HEAD_OF_LANGUAGE_MODEL = "lm_head.weight"
_NOT_OF_THE_MODEL = (SEAL, INDEX, "trainer_state.json", "dropped.json", "eval_dropped.json", "timing.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")
_HARMLESS = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "problem_type"}
_HARMLESS |= {"bos_token_id", "eos_token_id", "pad_token_id"}
"""Settings of config.json that change no output. Types are compared tensor by tensor, and where generation stops is
decided for the mean itself (`align/models/serving.py`): a base model and one trained on dialogs may be averaged."""


def average_checkpoints(
    folders: Sequence[Path],
    output: Path,
    weights: Sequence[float] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write the weighted mean of `folders` to `output`, and seal it.

    folders: whole models, or LoRA adapters over one base, whose mean is an adapter (`align/models/adapter_mean.py`).
    weights: one share above 0 for each folder, adding up to 1; None for equal shares. Sums run in float64 and are
        rounded once, to the members' common type. Tokenizer and config files are the first folder's.
    notes: what the manifest records in addition, such as how the weights were chosen.

    Raises CheckpointError naming the tensor, setting or file by which two members differ, or that is not finite, and
    ConfigError if `output` overlaps with a member or holds something else. Nothing is left behind then.
    """
    shares = _shares(folders, weights)
    whole, adapters = _opened(folders)
    base = _require_alike(whole, adapters, output)
    members: Sequence[Checkpoint | Adapter] = whole or adapters
    is_scorer = any(HEAD in member.tensors for member in whole) or any(member.has_head for member in adapters)
    with new_folder(output, MADE) as rough:
        if base is None:
            tensors = {name: whole[0].tensors[name] for name in _in_order_of_files(whole[0])}
            written, of_base = write_shards(tensors, _Mean(whole, shares).pieces, rough, SHARD_BYTES), {}
        else:
            written, of_base = _write_adapter(adapters, base, shares, rough), note_of(base, output)
        written += _copied_files(members[0].folder, rough, written)
        written = sorted({*written, *write_serving_files_of_average(rough, [member.folder for member in members])})
        made_of = [_note(member, share) for member, share in zip(members, shares, strict=True)]
        about = {"stage": "reward" if is_scorer else "average", MADE: made_of, **of_base, **(notes or {})}
        write_folder_manifest(rough, written, about)
    return output


def require_averageable(folders: Sequence[Path], output: Path) -> list[dict[str, Any]]:
    """Raise as `average_checkpoints` would for these members and this output, before any work is done.

    Values are not read: a weight that is not finite is found when it is averaged. Returns a note on each member as the
    manifest of their mean has it, without a weight.
    """
    whole, adapters = _opened(folders)
    _require_alike(whole, adapters, output)
    refuse_foreign(output, MADE)
    members: Sequence[Checkpoint | Adapter] = whole or adapters
    return [_note(member, None) for member in members]


def _opened(folders: Sequence[Path]) -> tuple[list[Checkpoint], list[Adapter]]:
    """The members, as whole models or as adapters; one of the lists is empty."""
    found = [open_adapter(folder, key="checkpoints") for folder in folders]
    adapters = [adapter for adapter in found if adapter is not None]
    if len(adapters) == len(found):
        return [], adapters
    if adapters:
        what = "holds an adapter, and others are whole models"
        how = "Merge it first with recipes/merge.py, and average the whole models"
        raise CheckpointError(adapters[0].name, what, how)
    return [_without_tied_head(open_checkpoint(folder, key="checkpoints")) for folder in folders], []


def _require_alike(whole: Sequence[Checkpoint], adapters: Sequence[Adapter], output: Path) -> Checkpoint | None:
    """Raise if the members have no mean, or if `output` overlaps with what is read. Returns the base of adapters."""
    members: list[Checkpoint | Adapter] = [*whole, *adapters]
    base = _common_base(adapters) if adapters else None
    refuse_overlap(output, [each.folder for each in (*members, *([base] if base else []))])
    if whole:
        require_fit(whole[0], scorer=HEAD in whole[0].tensors)
    for model in whole[1:]:
        _refuse_unlike(whole[0], model)
    for member in members[1:]:
        _refuse_other_tokenizer(members[0], member)
    return base


def _common_base(members: Sequence[Adapter]) -> Checkpoint:
    bases = [open_checkpoint(each.base.name, each.base.revision, key=each.base.key) for each in members]
    for member, base in zip(members, bases, strict=True):
        require_same_base(member, base)
    for member, base in zip(members[1:], bases[1:], strict=True):
        if weights_fingerprint(base) != weights_fingerprint(bases[0]):
            what = f"was trained over {base.name}, and {members[0].name} over {bases[0].name}, which has other weights"
            raise CheckpointError(member.name, what, "Average adapters of one base, or merge each of them first")
    return bases[0]


def _write_adapter(members: Sequence[Adapter], base: Checkpoint, shares: Sequence[float], rough: Path) -> list[Path]:
    from align.models.adapter_mean import mean_adapter  # imports peft: 2 s, which whole models do not need

    tensors, settings = mean_adapter(members, shares)
    settings.base_model_name_or_path, settings.revision = base_name(base, members[0].base.revision)
    settings.save_pretrained(str(rough))
    save_file(tensors, rough / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    return [rough / ADAPTER_CONFIG, rough / ADAPTER_WEIGHTS]


def _copied_files(first: Path, rough: Path, written: Sequence[Path]) -> list[Path]:
    """Config, tokenizer and generation settings of the first member, copied to where the mean's weights are written."""
    copied = []
    own = {*_NOT_OF_THE_MODEL, *(file.name for file in written)}
    for file in sorted(first.iterdir()):
        of_model = file.suffix in (".json", ".jinja", ".model") or file.name in _TOKENIZER_FILES
        if file.is_file() and of_model and file.name not in own:
            shutil.copy2(file, rough / file.name)
            copied.append(rough / file.name)
    return copied


def _shares(folders: Sequence[Path], weights: Sequence[float] | None) -> list[float]:
    if not folders:
        raise ConfigError("checkpoints", "there is nothing to average", "Name at least one folder")
    if weights is None:
        return [1 / len(folders)] * len(folders)
    good = len(weights) == len(folders) and all(0 < weight <= 1 for weight in weights)
    if not good or abs(sum(weights) - 1) > 1e-6:
        what = f"expected {len(folders)} weights above 0 that add up to 1, got {list(weights)}"
        raise ConfigError("checkpoints", what, "Give each checkpoint a weight, or none of them for equal shares")
    return list(weights)


def _without_tied_head(member: Checkpoint) -> Checkpoint:
    """The checkpoint without a copy of its embedding under the output head's name, as some programs save tied weights.

    The mean is saved without one as well. A head that is not the embedding, though the config says so, is refused by
    `require_fit`.
    """
    tied = getattr(model_config(member).get_text_config(), "tie_word_embeddings", False)
    if not tied or _HEAD_OF_LANGUAGE_MODEL not in member.tensors:
        return member
    require_fit(member, scorer=False)
    return replace(member, tensors={name: t for name, t in member.tensors.items() if name != _HEAD_OF_LANGUAGE_MODEL})


def _refuse_unlike(first: Checkpoint, other: Checkpoint) -> None:
    """The first one fits its config. Another one of the same config and the same tensors does, too."""
    _refuse_other_config(first, other)
    how = "Average checkpoints of one architecture"
    odd = sorted(first.tensors.keys() ^ other.tensors.keys())
    if odd:
        holder = first if odd[0] in first.tensors else other
        what = f"tensor {odd[0]} is in {holder.name} and not in the other ({len(odd)} such tensors)"
        raise CheckpointError(other.name, what, how)
    for name, tensor in other.tensors.items():
        expected = first.tensors[name]
        if tensor.shape != expected.shape:
            what = f"tensor {name} has shape {list(tensor.shape)}, and {list(expected.shape)} in {first.name}"
            raise CheckpointError(other.name, what, how)
        if tensor.dtype != expected.dtype:
            what = f"tensor {name} has the type {tensor.dtype}, and {expected.dtype} in {first.name}"
            raise CheckpointError(other.name, what, "Save both in one type; a mean of two would be rounded to either")


def _refuse_other_config(first: Checkpoint, other: Checkpoint) -> None:
    """Weights of one shape may still mean different things: other rotary angles, other heads, another epsilon."""
    one, two = (_mathematics(model_config(member).to_dict()) for member in (first, other))  # in one spelling
    for key in sorted(one.keys() | two.keys()):
        if one.get(key) != two.get(key):
            what = f"has {key}: {two.get(key)}, and {one.get(key)} in {first.name}"
            raise CheckpointError(other.folder / CONFIG, what, "Average checkpoints of one architecture")


def _mathematics(config: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in _HARMLESS}
    return {key: _mathematics(value) if isinstance(value, dict) else value for key, value in kept.items()}


def _refuse_other_tokenizer(first: Checkpoint | Adapter, other: Checkpoint | Adapter) -> None:
    for name in _TOKENIZER_FILES:
        one, two = (member.folder / name for member in (first, other))
        if one.exists() != two.exists():
            what = f"{'holds' if two.exists() else 'lacks'} {name}, unlike {first.name}"
            raise CheckpointError(other.folder, what, "Give both the tokenizer that they were trained with")
        if one.exists() and one.read_bytes() != two.read_bytes() and _vocabulary(one) != _vocabulary(two):
            what = f"is another tokenizer than that of {first.name}: the same ids are other texts"
            raise CheckpointError(two, what, "Average checkpoints of one tokenizer")


def _vocabulary(file: Path) -> Any:
    """What decides which text an id is. Padding, and which tokens count as special, may differ."""
    if file.name != "tokenizer.json":
        return file.read_bytes()
    table = read_json(file)
    added = {token["id"]: token["content"] for token in table.get("added_tokens", ())}
    return [added, *(table.get(key) for key in ("model", "normalizer", "pre_tokenizer", "decoder"))]


class _Reader:
    """Reads a checkpoint's tensors with one of its files open at a time.

    Tensors are views of the mapped file, whose pages count as memory of the process until it is closed.
    """

    def __init__(self, member: Checkpoint) -> None:
        self._tensors = member.tensors
        self._file: Path | None = None

    def read(self, name: str) -> torch.Tensor:
        file = self._tensors[name].file
        if file != self._file:
            self._file, self._opened = file, safe_open(file, "pt")
        value: torch.Tensor = self._opened.get_tensor(name)
        return value


def _in_order_of_files(member: Checkpoint) -> list[str]:
    return sorted(member.tensors, key=lambda name: (member.tensors[name].file.name, name))


class _Mean:
    """The mean of checkpoints, tensor by tensor."""

    def __init__(self, members: Sequence[Checkpoint], shares: Sequence[float]) -> None:
        self._members, self._shares = members, shares
        self._readers = [_Reader(member) for member in members]

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        """A tensor of the mean in pieces, as `mean_pieces`. Raises CheckpointError if one of its values is not finite.

        The bound on finite values is that of `is_finite`, for the largest value of any piece.
        """
        values = [reader.read(name) for reader in self._readers]
        largest, finite = 0.0, True
        for piece in mean_pieces(values, self._shares):
            if piece.is_floating_point():
                low, high = map(float, torch.aminmax(piece))
                largest = max(largest, -low, high)
                finite = finite and math.isfinite(low) and math.isfinite(high)
            yield piece
        if not finite or largest * largest * values[0].numel() >= torch.finfo(torch.float32).max:
            self._require_finite(name, values)

    def _require_finite(self, name: str, values: Sequence[torch.Tensor]) -> None:
        """NaN and infinity of a member pass on to the mean."""
        mean = torch.cat([piece.clone() for piece in mean_pieces(values, self._shares)])
        if is_finite(mean):
            return
        odd = next((member for member, each in zip(self._members, values, strict=True) if not is_finite(each)), None)
        what = f"tensor {name} holds values that are not finite (NaN or infinity)"
        where = self._members[0].name if odd is None else odd.name
        raise CheckpointError(where, what, "Use an earlier checkpoint of the run that wrote it")


def mean_pieces(values: Sequence[torch.Tensor], shares: Sequence[float]) -> Iterator[torch.Tensor]:
    """The sum of shares[i] * values[i] in float64, rounded once to the type of the values, in flat pieces.

    values: tensors of one shape and type. All pieces have the same memory: use one before the next is asked for.
    """
    parts = [each.reshape(-1) for each in values]
    count = parts[0].numel()
    sums, terms = (torch.empty(min(PIECE, count), dtype=torch.float64) for _ in range(2))
    rounded = torch.empty(min(PIECE, count), dtype=values[0].dtype)
    for first in range(0, count, PIECE):
        size = min(PIECE, count - first)
        total, term, mean = sums[:size], terms[:size], rounded[:size]
        total.copy_(parts[0][first : first + size]).mul_(shares[0])
        for part, share in zip(parts[1:], shares[1:], strict=True):
            total.add_(term.copy_(part[first : first + size]), alpha=share)
        yield mean.copy_(total if mean.is_floating_point() else total.round_())


def _note(member: Checkpoint | Adapter, share: float | None) -> dict[str, Any]:
    """What the manifest of the average records of a member: its weights, and how they were trained."""
    kept = ("stage", "steps", "processes", "config", MADE, "merged")
    manifest = verified(member.folder)
    how = {key: without_places(manifest[key]) for key in kept if key in manifest}
    fingerprint = checkpoint_fingerprint(member.folder)
    weight = {} if share is None else {"weight": share}
    return {"checkpoint": shown_path(member.name), **weight, "fingerprint": fingerprint, **how}


def without_places(value: Any) -> Any:
    """A config without absolute paths of this machine."""
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_places(inner) for inner in value]
    return shown_path(value) if isinstance(value, str) and value.startswith("/") else value
