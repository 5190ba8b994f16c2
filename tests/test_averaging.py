"""Averaged checkpoints against a plain mean of tensors, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import align.models.averaging as averaging
from align.errors import CheckpointError, ConfigError
from align.manifest import seal_folder, verify_folder
from align.models.averaging import average_checkpoints


def checkpoints(tiny: Path, tmp_path: Path, count: int, dtype: torch.dtype = torch.float32) -> list[Path]:
    """Copies of the tiny checkpoint with seeded noise on every weight."""
    folders = []
    for number in range(count):
        folder = tmp_path / f"c{number}"
        shutil.copytree(tiny, folder)
        generator = torch.Generator().manual_seed(number)
        tensors = {
            name: (tensor + torch.randn(tensor.shape, generator=generator)).to(dtype)
            for name, tensor in load_file(tiny / "model.safetensors").items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    return folders


@pytest.mark.parametrize("shares", [None, (0.5, 0.3, 0.2)])
def test_the_mean_equals_stacked_tensors(shares, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folders = checkpoints(tiny_checkpoint, tmp_path, 3)
    mean = load_file(average_checkpoints(folders, tmp_path / "mean", shares) / "model.safetensors")
    weights = torch.tensor(shares or (1 / 3,) * 3)
    loaded = [load_file(folder / "model.safetensors") for folder in folders]
    assert mean.keys() == loaded[0].keys()
    for name, tensor in mean.items():
        expected = torch.einsum("n,n...->...", weights, torch.stack([each[name] for each in loaded]))
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-6)


def test_bfloat16_checkpoints_are_summed_in_float32(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folders = checkpoints(tiny_checkpoint, tmp_path, 7, torch.bfloat16)
    mean = load_file(average_checkpoints(folders, tmp_path / "mean") / "model.safetensors")
    loaded = [load_file(folder / "model.safetensors") for folder in folders]
    rough = 0
    for name, tensor in mean.items():
        exact = torch.stack([each[name].double() for each in loaded]).mean(0)
        assert tensor.dtype == torch.bfloat16
        assert (tensor.double() - exact).abs().max() <= exact.abs().max() * 2**-8, "one rounding, at the end"
        in_bfloat16 = torch.zeros_like(tensor)
        for each in loaded:
            in_bfloat16 += each[name] / 7
        rough += (in_bfloat16.double() - exact).abs().sum() > 1.5 * (tensor.double() - exact).abs().sum()
    assert rough, "the test would not see a sum in bfloat16"


def test_the_mean_loads_as_a_checkpoint_in_one_or_many_shards(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = checkpoints(tiny_checkpoint, tmp_path, 2)
    whole = AutoModelForCausalLM.from_pretrained(average_checkpoints(folders, tmp_path / "one")).state_dict()
    monkeypatch.setattr(averaging, "SHARD_BYTES", 60_000)
    many = average_checkpoints(folders, tmp_path / "many")
    assert len(list(many.glob("model-*.safetensors"))) > 2
    assert verify_folder(many)
    AutoTokenizer.from_pretrained(many)
    for name, tensor in AutoModelForCausalLM.from_pretrained(many).state_dict().items():
        assert torch.equal(tensor, whole[name])


def test_a_tensor_of_another_shape_is_refused_by_name_before_anything_is_written(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    one, two = checkpoints(tiny_checkpoint, tmp_path, 2)
    tensors = load_file(two / "model.safetensors")
    tensors["model.norm.weight"] = torch.zeros(3)
    save_file(tensors, two / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"c1: tensor model\.norm\.weight has shape \[3\], and \[64\] in .*c0"):
        average_checkpoints([one, two], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_a_tensor_that_one_lacks_is_refused_by_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    one, two = checkpoints(tiny_checkpoint, tmp_path, 2)
    tensors = load_file(two / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, two / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor model\.norm\.weight is in .*c0 and not in the other"):
        average_checkpoints([one, two], tmp_path / "mean")


def test_shares_that_do_not_fit_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoints: expected 1 weights above 0 that add up to 1, got \[0\.5\]"):
        average_checkpoints([tiny_checkpoint], tmp_path / "mean", [0.5])


def test_a_damaged_checkpoint_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (one,) = checkpoints(tiny_checkpoint, tmp_path, 1)
    seal_folder(one, [one / "model.safetensors"])
    content = bytearray((one / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (one / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: does not have the content"):
        average_checkpoints([one, tiny_checkpoint], tmp_path / "mean")
