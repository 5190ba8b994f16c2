"""Merge an adapter into its base. The new checkpoint is kept only if it computes what base and adapter compute.

All is compared in float32 arithmetic on the CPU, so that nothing but the weights can differ: the machine needs memory
for the base in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from align.errors import CheckError, ConfigError
from align.manifest import write_folder_manifest
from align.models.adapters import summed, untie_if_separate, with_adapter
from align.models.bases import require_same_base
from align.models.checkpoints import (
    ADAPTER_CONFIG,
    HEAD,
    Checkpoint,
    checkpoint_fingerprint,
    open_adapter,
    open_checkpoint,
    verified,
)
from align.models.comparison import EFFECT_SHARE, LARGEST_SHARE, Difference, difference, outputs, without_adapter
from align.models.fitting import model_config, quietly_loaded, require_finite, require_fit
from align.models.loading import load_policy, load_reward_model, load_tokenizer
from align.models.output import new_folder, refuse_overlap
from align.models.quantization import bitsandbytes_is_missing
from align.models.serving import write_serving_files
from align.publish.names import shown_path
from align.reporting import logger
from align.rows import Message
from align.settings import ModelConfig

log = logger(__name__)

MADE = "merged"
"""The key of a merged checkpoint's manifest that says what it was made of."""


def merge_adapter(
    adapter: Path, output: Path, *, prompts: Sequence[str], dtype: str | None = None, chat: str = "auto"
) -> Path:
    """Write base plus adapter to `output` as a whole checkpoint, and seal it.

    adapter: a folder as peft writes it, or a name on the Hub. Its base is loaded unquantized, whatever the adapter was
        trained over.
    prompts: what a user says; outputs are compared at every token of them.
    dtype: the merged weights' type, to which a float32 sum is rounded once; None for the base's own.

    Raises ConfigError if `output` overlaps with what is read, or holds something else; CheckError, and leaves
    nothing behind, where the merged model, read back from disk, does not compute what base and adapter compute
    (LARGEST_SHARE, EFFECT_SHARE).
    """
    opened = open_adapter(adapter, key="adapter")
    if opened is None:
        raise ConfigError("adapter", f"{adapter} holds no {ADAPTER_CONFIG}", "Name the folder of a LoRA run")
    base = open_checkpoint(opened.base.name, opened.base.revision, key=opened.base.key)
    require_same_base(opened, base)
    refuse_overlap(output, [opened.folder, base.folder])
    manifest = verified(opened.folder)
    scorer = opened.has_head or HEAD in base.tensors
    dtype = dtype or str(model_config(base).dtype or torch.float32).removeprefix("torch.")
    call_syntax = manifest.get("config", {}).get("model", {}).get("call_syntax")
    _, protocol = load_tokenizer(adapter, chat, call_syntax)
    ids = [protocol.encode((Message(role="user", content=text),), open_assistant=True).ids for text in prompts]
    with new_folder(output, MADE) as rough:
        adapted = with_adapter(_read(base, scorer, fresh_head=opened.has_head), opened.folder).eval()
        expected = outputs(adapted.get_base_model(), ids)
        with without_adapter(adapted):
            alone = outputs(adapted.get_base_model(), ids)
        merged = summed(adapted, opened.folder).to(getattr(torch, dtype))
        untie_if_separate(merged)
        merged.save_pretrained(rough)
        del adapted, merged
        write_serving_files(rough, protocol)
        found = outputs(_read(open_checkpoint(rough), scorer), ids)
        moved = difference(found, expected, alone)
        _refuse(moved, adapter, dtype)
        message = (
            "merged outputs lie within %.2g of base and adapter (%.2g of the largest), %.2g of what the adapter does"
        )
        log.info(message, *moved)
        notes = {
            "adapter": shown_path(adapter),
            "adapter_fingerprint": checkpoint_fingerprint(adapter),
            "base": shown_path(base.name),
            "base_revision": opened.base.revision,
            "base_fingerprint": checkpoint_fingerprint(base.folder),
            "dtype": dtype,
            "prompts": len(ids),
            **moved._asdict(),
        }
        notes |= _moved_from_quantized(manifest, adapter, scorer, ids, found, alone)
        stage = manifest.get("stage", "reward" if scorer else "merge")
        write_folder_manifest(
            rough, [file for file in rough.iterdir() if file.is_file()], {"stage": stage, MADE: notes}
        )
    return output


def _read(checkpoint: Checkpoint, scorer: bool, *, fresh_head: bool = False) -> Any:
    """A whole model in float32 on the CPU, to compute with. fresh_head: the adapter brings a reward model's."""
    require_fit(checkpoint, scorer=scorer, fresh_head=fresh_head)
    kind, more = (AutoModelForSequenceClassification, {"num_labels": 1}) if scorer else (AutoModelForCausalLM, {})
    model = quietly_loaded(kind, checkpoint, dtype=torch.float32, **more)
    require_finite(model, checkpoint.name)
    return model.eval()


def _refuse(moved: Difference, adapter: Path, dtype: str) -> None:
    limits = tuple(table.get(dtype, table["bfloat16"]) for table in (LARGEST_SHARE, EFFECT_SHARE))
    found = (moved.largest_share, moved.effect_share)
    if found[0] <= limits[0] and found[1] <= limits[1]:  # what is not a number is refused too
        return
    what = (
        f"merging in {dtype} moves an output by {moved.largest:.3g}, {found[0]:.2g} of the largest output (expected "
        f"at most {limits[0]:.2g}), and outputs in all by {found[1]:.2g} of what the adapter does (expected at most "
        f"{limits[1]:.2g})"
    )
    how = "Nothing was written. Keep the adapter as it is, and check the versions of peft and transformers"
    if dtype != "float32":
        how = "Nothing was written. Set dtype: float32, which rounds 65,000 times finer, or keep the adapter as it is"
    raise CheckError(adapter, what, how)


def _moved_from_quantized(
    manifest: dict[str, Any],
    adapter: Path,
    scorer: bool,
    ids: Sequence[Sequence[int]],
    found: list[Any],
    alone: list[Any],
) -> dict[str, Any]:
    """A warning for adapters trained over 4-bit weights: merged into the whole base they compute something else."""
    settings = manifest.get("config", {}).get("model", {})
    if settings.get("quantization") is None:
        return {}
    missing = bitsandbytes_is_missing()
    if missing:
        message = "it was trained over %s weights; how far the merged model lies from that is not measured: %s"
        log.warning(message, settings["quantization"], missing)
        return {"trained_over": settings["quantization"]}
    config = ModelConfig(path=adapter, dtype=settings["dtype"], quantization=settings["quantization"])
    trained = (load_reward_model if scorer else load_policy)(config).model.eval()
    moved = difference(found, outputs(trained, ids), alone)
    message = "trained over %s weights and merged into whole ones, it moved outputs by up to %.2g (%.2g of the largest)"
    log.info(message, settings["quantization"], moved.largest, moved.largest_share)
    return {"trained_over": settings["quantization"], "moved_from_there": moved._asdict()}
