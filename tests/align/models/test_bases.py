"""The base of an adapter: named so that plain peft finds it, found after a move, and never another model's weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from align.errors import CheckpointError, ConfigError
from align.manifest import read_manifest, write_folder_manifest
from align.models import adapters
from align.models.bases import base_note, require_same_base, weights_fingerprint
from align.models.checkpoints import open_adapter, open_checkpoint
from align.models.loading import load_generator, load_policy, load_tokenizer
from align.models.merging import merge_adapter
from align.settings import LoRAConfig, ModelConfig

LORA = LoRAConfig(rank=4, alpha=8, targets=("q_proj", "up_proj"))
WEIGHTS = "model.safetensors"
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def make_adapter(base: Path, folder: Path, lora: LoRAConfig = LORA) -> torch.Tensor:
    """Save an adapter with noise in its weights as a run does; returns what base and adapter compute."""
    model = load_policy(ModelConfig(path=base, lora=lora)).model.eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
        expected = model(IDS).logits
    adapters.save(model, folder)
    load_tokenizer(base)[0].save_pretrained(folder)
    write_folder_manifest(folder, [file for file in folder.iterdir() if file.is_file()], base_note(model, folder))
    return expected


@pytest.fixture
def project(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A folder with a base in models/base and its adapter in runs/sft."""
    shutil.copytree(tiny_checkpoint, tmp_path / "project" / "models" / "base")
    torch.save(make_adapter(tmp_path / "project/models/base", tmp_path / "project/runs/sft"), tmp_path / "expected.pt")
    return tmp_path / "project"


def peft_logits(adapter: Path | str) -> torch.Tensor:
    from peft import AutoPeftModelForCausalLM

    with torch.no_grad():
        return AutoPeftModelForCausalLM.from_pretrained(adapter).eval()(IDS).logits


def our_logits(adapter: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_generator(adapter, "float32")(IDS).logits


@pytest.mark.slow
def test_plain_peft_loads_an_adapter_from_any_working_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = torch.load(tmp_path / "expected.pt")
    for place in (project, tmp_path, Path("/")):
        monkeypatch.chdir(place)
        torch.testing.assert_close(peft_logits(project / "runs/sft"), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_dora_and_rslora_are_the_same_in_peft_in_memory_and_merged(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Loaded by plain peft, trained on, merged in memory, merged on disk, and against peft's merge_and_unload."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    kind = LORA.model_copy(update={"use_dora": True, "use_rslora": True})
    folder = tmp_path / "adapter"
    expected = make_adapter(tiny_checkpoint, folder, kind)
    close = {"atol": 2e-5, "rtol": 1e-4}
    torch.testing.assert_close(peft_logits(folder), expected, **close)
    torch.testing.assert_close(our_logits(folder), expected, **close)
    went_on = load_policy(ModelConfig(path=folder, lora=kind)).model.eval()
    with torch.no_grad():
        torch.testing.assert_close(went_on(IDS).logits, expected, **close)
    whole = merge_adapter(folder, tmp_path / "merged", prompts=["What is the capital of France?"], dtype="float32")
    theirs = AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload()
    ours = AutoModelForCausalLM.from_pretrained(whole)
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    message = r"has rank 4, alpha 8 and 4 layers .* and the adapter in .* rank 4, alpha 8, use_dora, use_rslora and 4"
    with pytest.raises(ConfigError, match=message):
        load_policy(ModelConfig(path=folder, lora=LORA))


def test_an_adapter_is_found_with_its_base_after_both_were_moved(project: Path, tmp_path: Path) -> None:
    expected = torch.load(tmp_path / "expected.pt")
    note = read_manifest(project / "runs/sft")["base"]
    assert note["path"] == "../../models/base"
    assert str(tmp_path) not in json.dumps(note)
    moved = project.rename(tmp_path / "elsewhere")
    torch.testing.assert_close(our_logits(moved / "runs/sft"), expected, atol=1e-5, rtol=1e-5)
    went_on = make_adapter(moved / "runs/sft", moved / "runs/dpo")
    assert not torch.equal(went_on, expected)
    config = json.loads((moved / "runs/dpo/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(moved / "models/base"), "named by where it is now"
    shutil.rmtree(moved / "models")
    with pytest.raises(
        CheckpointError, match=r"sft: its base .*/project/models/base is missing.*Put the base, or a link"
    ):
        our_logits(moved / "runs/sft")


def test_a_base_with_other_weights_of_the_same_shapes_is_refused(project: Path, tmp_path: Path) -> None:
    base, adapter = project / "models/base", project / "runs/sft"
    tensors = load_file(base / WEIGHTS)
    name = "model.layers.1.mlp.up_proj.weight"
    changed = {**tensors, name: tensors[name].clone()}
    changed[name][3, 5] += 1e-3
    save_file(changed, base / WEIGHTS, metadata={"format": "pt"})
    message = r"runs/sft: was trained over other weights than those of .*models/base, which has its shapes"
    for load in (
        lambda: our_logits(adapter),
        lambda: load_policy(ModelConfig(path=adapter, lora=LORA)),
        lambda: merge_adapter(adapter, tmp_path / "merged", prompts=["Hi"]),
    ):
        with pytest.raises(CheckpointError, match=message):
            load()
    assert not (tmp_path / "merged").exists()
    save_file(dict(reversed(tensors.items())), base / WEIGHTS, metadata={"format": "pt", "made": "again"})
    our_logits(adapter)  # the same weights in another file
    (adapter / "MANIFEST.json").unlink()
    save_file(changed, base / WEIGHTS, metadata={"format": "pt"})
    our_logits(adapter)  # an adapter made elsewhere records nothing


def test_weights_are_the_same_however_they_are_split_into_files(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    whole, shards = (weights_fingerprint(open_checkpoint(path)) for path in (tiny_checkpoint, tmp_path / "shards"))
    assert whole == shards
    model.bfloat16().save_pretrained(tmp_path / "rounded")
    assert weights_fingerprint(open_checkpoint(tmp_path / "rounded")) != whole


def test_a_base_from_the_hub_is_named_by_its_name_and_commit(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened by name, or by the folder of its snapshot; then plain peft finds it by the name from anywhere."""
    import huggingface_hub.constants

    home, commit = tmp_path / "hub" / "models--me--tiny", "a" * 40
    shutil.copytree(tiny_checkpoint, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for number, path in enumerate([Path("me/tiny"), home / "snapshots" / commit]):
        folder = tmp_path / f"adapter-{number}"
        expected = make_adapter(path, folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == ("me/tiny", commit)
        note = read_manifest(folder)["base"]
        assert note["name"] == "me/tiny"
        assert ("path" in note) == (number == 1), "a folder is found without asking the Hub"
        torch.testing.assert_close(our_logits(folder), expected, atol=1e-5, rtol=1e-5)
    adapter = open_adapter(folder)
    assert adapter is not None
    require_same_base(adapter, open_checkpoint("me/tiny", commit))
