"""An adapter and its base made one whole checkpoint, which is kept only when it computes what the two did.

All is compared in float32 arithmetic on the CPU, so that nothing but the weights can differ: the machine needs memory
for the base in float32.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftConfig, PeftModel, TaskType
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from align.errors import ConfigError, ProofError
from align.manifest import SEAL, seal_folder, unseal_folder, verify_folder
from align.models.adapters import CONFIG, WEIGHTS, base_of, beside
from align.models.loading import load_policy, load_reward_model, load_tokenizer
from align.models.quantization import bitsandbytes_is_missing
from align.models.serving import write_serving_files
from align.reporting import logger
from align.rows import Message
from align.settings import ModelConfig

log = logger(__name__)

LARGEST_SHARE = {"float32": 1e-4, "bfloat16": 0.05}
"""Largest difference that merging may make to an output, as a share of the largest output, by the weights' type. What
rounding alone gives: 3e-6 and 0.011, measured on a 135M model with an adapter of rank 16."""
EFFECT_SHARE = {"float32": 1e-2, "bfloat16": 0.25}
"""How far merging may move the outputs, as a share of how far the adapter moves them (root mean squares). An adapter
that is small beside the rounding of bfloat16 weights is lost in them, and refused here. Measured as above: 6e-5 and
0.14 after six steps of SFT at 2e-4; 0.002 and 7.8 after two at 1e-5, of which bfloat16 keeps nothing."""


class Difference(NamedTuple):
    """How far some outputs lie from those of base and adapter."""

    largest: float
    """Largest difference of one output: logits, or scores of a reward model."""
    largest_share: float
    """The same as a share of the largest output."""
    effect_share: float
    """Root mean square of the differences, as a share of that between the base with its adapter and without."""


def merge_adapter(
    adapter: Path, output: Path, *, prompts: Sequence[str], dtype: str | None = None, chat: str = "auto"
) -> Path:
    """Write base plus adapter to `output` as a whole checkpoint, and seal it.

    adapter: a folder as peft writes it. Its base is loaded unquantized, whatever the adapter was trained over.
    prompts: what a user says; outputs are compared at every token of them.
    dtype: the merged weights' type, to which a float32 sum is rounded once; None for the base's own.

    Raises ProofError, and leaves nothing behind, where the merged model, read back from disk, does not compute what
    base and adapter compute (LARGEST_SHARE, EFFECT_SHARE).
    """
    base = base_of(str(adapter))
    if base is None:
        raise ConfigError("adapter", f"{adapter} holds no {CONFIG}", "Name the folder of a LoRA run")
    if output.resolve() == adapter.resolve():
        raise ConfigError("output_dir", f"{output} is the adapter's own folder", "Name another")
    manifest = verify_folder(adapter) if (adapter / SEAL).exists() else {}
    scorer = PeftConfig.from_pretrained(adapter).task_type == TaskType.SEQ_CLS
    dtype = dtype or str(AutoConfig.from_pretrained(base).dtype or torch.float32).removeprefix("torch.")
    call_syntax = manifest.get("config", {}).get("model", {}).get("call_syntax")
    _, protocol = load_tokenizer(adapter, chat, call_syntax)
    ids = [protocol.encode((Message(role="user", content=text),), open_assistant=True).ids for text in prompts]
    with _folder_beside(output) as rough:
        adapted = beside(_read(base, scorer), str(adapter)).eval()
        wanted = _outputs(adapted.get_base_model(), ids)
        with _without(adapted):
            alone = _outputs(adapted.get_base_model(), ids)
        adapted.merge_and_unload(safe_merge=True).to(getattr(torch, dtype)).save_pretrained(rough)
        del adapted
        write_serving_files(rough, protocol)
        found = _outputs(_read(rough, scorer), ids)
        difference = _difference(found, wanted, alone)
        _refuse(difference, adapter, dtype)
        told = "merged outputs lie within %.2g of base and adapter (%.2g of the largest), %.2g of what the adapter does"
        log.info(told, *difference)
        notes = {"adapter": str(adapter), "base": base, "dtype": dtype, "prompts": len(ids), **difference._asdict()}
        notes |= _moved_from_quantized(manifest, adapter, scorer, ids, found, alone)
        stage = manifest.get("stage", "reward" if scorer else "merge")
        return _settle(rough, output, {"stage": stage, "merged": notes})


def _read(path: str | Path, scorer: bool) -> Any:
    """A whole model in float32 on the CPU, to compute with."""
    kind, more = (AutoModelForSequenceClassification, {"num_labels": 1}) if scorer else (AutoModelForCausalLM, {})
    model = kind.from_pretrained(path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **more)
    return model.eval()


@torch.no_grad()
def _outputs(model: Any, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits [T, V] of each prompt, or a reward model's scores [T, 1], at every token."""
    found = []
    for ids in prompts:
        row = torch.tensor([ids], device=model.device)
        output = model.score(model.base_model(row)[0]) if hasattr(model, "score") else model(row).logits
        found.append(output[0].float().cpu())
    return found


@contextmanager
def _without(model: PeftModel) -> Iterator[None]:
    """The base alone; a reward model keeps its trained head, since scores under another tell nothing of the adapter."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    yield
    for layer in layers:
        layer.enable_adapters(True)


def _difference(found: list[Tensor], wanted: list[Tensor], alone: list[Tensor]) -> Difference:
    apart, effect, whole = (
        torch.cat([(a - b).flatten() for a, b in zip(wanted, other, strict=True)])
        for other in (found, alone, [torch.zeros(()) for _ in wanted])
    )
    largest = apart.abs().max().item()
    return Difference(largest, largest / whole.abs().max().item(), (apart.norm() / effect.norm()).item())


def _refuse(difference: Difference, adapter: Path, dtype: str) -> None:
    limits = tuple(table.get(dtype, table["bfloat16"]) for table in (LARGEST_SHARE, EFFECT_SHARE))
    found = (difference.largest_share, difference.effect_share)
    if found[0] <= limits[0] and found[1] <= limits[1]:  # what is not a number is refused too
        return
    what = (
        f"merging in {dtype} moves an output by {difference.largest:.3g}, {found[0]:.2g} of the largest output (wanted "
        f"at most {limits[0]:.2g}), and outputs in all by {found[1]:.2g} of what the adapter does (wanted at most "
        f"{limits[1]:.2g})"
    )
    how = "Nothing was written. Keep the adapter as it is, and look at the versions of peft and transformers"
    if dtype != "float32":
        how = "Nothing was written. Set dtype: float32, which rounds 65,000 times finer, or keep the adapter as it is"
    raise ProofError(adapter, what, how)


def _moved_from_quantized(
    manifest: dict[str, Any], adapter: Path, scorer: bool, ids: Sequence[Sequence[int]], found: list, alone: list
) -> dict[str, Any]:
    """What an adapter trained over 4-bit weights computes elsewhere than over the base that it is merged into."""
    settings = manifest.get("config", {}).get("model", {})
    if settings.get("quantization") is None:
        return {}
    missing = bitsandbytes_is_missing()
    if missing:
        told = "it was trained over %s weights; how far the merged model lies from that is not measured: %s"
        log.warning(told, settings["quantization"], missing)
        return {"trained_over": settings["quantization"]}
    config = ModelConfig(path=adapter, dtype=settings["dtype"], quantization=settings["quantization"])
    trained = (load_reward_model if scorer else load_policy)(config).model.eval()
    moved = _difference(found, _outputs(trained, ids), alone)
    told = "trained over %s weights and merged into whole ones, it moved outputs by up to %.2g (%.2g of the largest)"
    log.info(told, settings["quantization"], moved.largest, moved.largest_share)
    return {"trained_over": settings["quantization"], "moved_from_there": moved._asdict()}


@contextmanager
def _folder_beside(output: Path) -> Iterator[Path]:
    output.parent.mkdir(parents=True, exist_ok=True)
    rough = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        yield rough
    finally:
        shutil.rmtree(rough)


def _settle(rough: Path, output: Path, notes: dict[str, Any]) -> Path:
    """Move the files into `output` and seal it; until then it is no checkpoint."""
    output.mkdir(exist_ok=True)
    unseal_folder(output)
    for stale in [*output.glob("model*.safetensors*"), output / CONFIG, output / WEIGHTS]:
        stale.unlink(missing_ok=True)
    return seal_folder(output, [file.replace(output / file.name) for file in rough.iterdir()], notes).parent
