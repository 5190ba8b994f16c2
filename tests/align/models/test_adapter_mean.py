"""The mean of adapters: peft computes with it what the mean of the members' weights computes, or it is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from align.errors import CheckpointError
from align.manifest import verify_folder
from align.models.averaging import average_checkpoints
from align.models.loading import load_generator, load_policy
from align.settings import LoRAConfig, ModelConfig
from tests.adapters import save_adapter

WEIGHTS = "adapter_model.safetensors"
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def adapter(base: Path, folder: Path, tokenizer: Any, seed: int = 0, **lora: Any) -> Path:
    """Save an adapter of two kinds of layers; returns its folder."""
    settings = {"target_modules": ["q_proj", "down_proj"]} | lora
    save_adapter(base, folder, tokenizer, scale=0.1, seed=seed, **settings)
    return folder


def deltas(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """What peft says that an adapter adds to each weight."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    return {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}


@pytest.mark.slow
def test_the_mean_adds_the_mean_of_what_the_members_add(
    tmp_path: Path, tiny_checkpoint: Path, chatml_tokenizer: Any
) -> None:
    """Of three ranks, alphas and both scalings. Plain peft reads it, and training continues on it."""
    kinds = [{"r": 4, "lora_alpha": 8}, {"r": 2, "lora_alpha": 3}, {"r": 3, "lora_alpha": 5, "use_rslora": True}]
    members = [
        adapter(tiny_checkpoint, tmp_path / f"a{n}", chatml_tokenizer, seed=n, **kind) for n, kind in enumerate(kinds)
    ]
    shares = [0.5, 0.2, 0.3]
    mean = average_checkpoints(members, tmp_path / "mean", shares)
    found = deltas(tiny_checkpoint, mean)
    of_members = [deltas(tiny_checkpoint, member) for member in members]
    assert len(found) == 4
    for name, delta in found.items():
        expected = sum(share * each[name].double() for share, each in zip(shares, of_members, strict=True))
        torch.testing.assert_close(delta.double(), expected, atol=1e-6, rtol=1e-5)
    manifest = verify_folder(mean)
    assert [member["weight"] for member in manifest["averaged"]] == shares
    assert str(tmp_path) not in (mean / "MANIFEST.json").read_text()
    config = json.loads((mean / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (9, 9, False)

    lora = LoRAConfig(rank=9, alpha=9, targets=("q_proj", "down_proj"))
    with torch.no_grad():
        sampled = load_generator(mean, "float32")(IDS).logits
        went_on = load_policy(ModelConfig(path=mean, lora=lora)).model(IDS).logits
    torch.testing.assert_close(went_on, sampled, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_trained_heads_of_reward_adapters_are_averaged(
    tmp_path: Path, tiny_checkpoint: Path, chatml_tokenizer: Any
) -> None:
    lora = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    members = [adapter(tiny_checkpoint, tmp_path / f"a{n}", chatml_tokenizer, seed=n, **lora) for n in range(2)]
    mean = average_checkpoints(members, tmp_path / "mean")
    heads = [load_file(folder / WEIGHTS)["base_model.model.score.weight"] for folder in (*members, mean)]
    torch.testing.assert_close(heads[2], (heads[0] + heads[1]) / 2)
    assert verify_folder(mean)["stage"] == "reward"


@pytest.mark.parametrize(
    "lora, message",
    [
        ({"use_dora": True}, r"other: is a DoRA adapter, .*Merge each of them with recipes/merge\.py"),
        ({"target_modules": ["q_proj"]}, r"other: tensor .*down_proj.* is in .*first and not in the other \(4 such"),
        (
            {"rank_pattern": {"layers.1.self_attn.q_proj": 2}},
            r"other: has the setting rank_pattern: \{.*\}, which a mean",
        ),
        (
            {"modules_to_save": ["norm"]},
            r"other: has the setting modules_to_save: \['norm'\], which a mean cannot have",
        ),
    ],
    ids=str,
)
def test_a_member_whose_mean_is_no_adapter_is_refused(
    lora: dict[str, Any], message: str, tmp_path: Path, tiny_checkpoint: Path, chatml_tokenizer: Any
) -> None:
    members = [adapter(tiny_checkpoint, tmp_path / "first", chatml_tokenizer)]
    members.append(adapter(tiny_checkpoint, tmp_path / "other", chatml_tokenizer, **lora))
    with pytest.raises(CheckpointError, match=message):
        average_checkpoints(members, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_adapters_over_different_bases_are_refused(
    tmp_path: Path, tiny_checkpoint: Path, chatml_tokenizer: Any
) -> None:
    other = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    members = [adapter(base, tmp_path / f"on-{base.name}", chatml_tokenizer) for base in (tiny_checkpoint, other)]
    average_checkpoints(members, tmp_path / "mean")  # a copy is the same base
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"on-base: was trained over .*base, and .* over .*, which has other weights"
    ):
        average_checkpoints(members, tmp_path / "mean")
