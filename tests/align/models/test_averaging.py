"""Averaged checkpoints against a plain mean of tensors, what is refused, and the recipe's entries."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

import align.models.averaging as averaging
from align.config import load_config
from align.errors import CheckpointError, ConfigError
from align.manifest import verify_folder, write_folder_manifest
from align.models.averaging import average_checkpoints
from align.models.checkpoints import checkpoint_fingerprint, open_checkpoint
from align.models.output import new_folder
from align.rounds.plan import RoundsConfig, load_stages
from recipes.average import AverageRecipe
from recipes.average import run as run_average

ROOT = Path(__file__).parents[3]


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_bfloat16_checkpoints_are_summed_in_float64(tiny_checkpoint: Path, tmp_path: Path) -> None:
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


def most_allocated(work: Callable[[], object], mapped: set[int]) -> int:
    """The most bytes that tensors held in memory at one time while `work` ran.

    mapped: sizes of files. The profiler counts a mapped file as an allocation of its size, though it is none.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None
    sizes = [event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(size for size in sizes if abs(size) not in mapped))


@pytest.mark.slow
def test_memory_holds_a_piece_whatever_the_size(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LlamaConfig.from_pretrained(tiny_checkpoint, num_hidden_layers=24)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "deep", max_shard_size="100KB")
    deep = open_checkpoint(tmp_path / "deep")
    sizes = [4 * math.prod(tensor.shape) for tensor in deep.tensors.values()]
    assert len({tensor.file for tensor in deep.tensors.values()}) > 10
    monkeypatch.setattr(averaging, "SHARD_BYTES", 100_000)
    monkeypatch.setattr(averaging, "PIECE", 1024)
    mapped = {tensor.file.stat().st_size for tensor in deep.tensors.values()}
    mapped_at_a_time: list[int] = []
    mean_of = averaging.mean_pieces

    def counted(*arguments: Any) -> Iterator[torch.Tensor]:
        maps = Path("/proc/self/maps").read_text().splitlines()
        mapped_at_a_time.append(len({line.split()[-1] for line in maps if str(tmp_path / "deep") in line}))
        return mean_of(*arguments)

    monkeypatch.setattr(averaging, "mean_pieces", counted)
    peak = most_allocated(lambda: average_checkpoints([tmp_path / "deep"] * 3, tmp_path / "mean"), mapped)
    assert len(mapped_at_a_time) == len(sizes)
    assert max(mapped_at_a_time) == 1, "of the same checkpoint three times"
    assert peak < 4 * 8 * 1024 < max(sizes) < sum(sizes) / 20, "less than the largest tensor"
    for name, tensor in open_checkpoint(tmp_path / "mean").tensors.items():
        assert tensor.shape == deep.tensors[name].shape


@pytest.mark.slow
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
    write_folder_manifest(one, [one / "model.safetensors"])
    content = bytearray((one / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (one / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: does not have the content"):
        average_checkpoints([one, tiny_checkpoint], tmp_path / "mean")


def changed(folder: Path, file: str, **values: Any) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | values))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.slow
def test_three_equal_checkpoints_average_to_the_same_bits(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (one,) = checkpoints(tiny_checkpoint, tmp_path, 1)
    mean = load_file(average_checkpoints([one] * 3, tmp_path / "mean") / "model.safetensors")
    assert all(torch.equal(tensor, mean[name]) for name, tensor in load_file(one / "model.safetensors").items())


@pytest.mark.parametrize("output", ["c1", "c0", "c1/mean", ".", "link"])
def test_an_output_that_is_contains_or_lies_in_an_input_leaves_the_inputs_as_they_are(
    output: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = checkpoints(tiny_checkpoint, tmp_path, 2)
    before = [contents(folder) for folder in folders]
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("c1")
    with pytest.raises(ConfigError, match=r"output_dir: .* (is|lies in|contains) .*, which is read\. Name a folder"):
        average_checkpoints(folders, Path(output))
    assert [contents(folder) for folder in folders] == before
    assert {path.name for path in tmp_path.iterdir()} == {"c0", "c1", "link"}


@pytest.mark.slow
def test_an_output_that_holds_something_else_is_refused_and_an_earlier_mean_is_replaced(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folders = checkpoints(tiny_checkpoint, tmp_path, 2)
    output = tmp_path / "mean"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"mean holds files that this recipe did not write"):
        average_checkpoints(folders, output)
    assert contents(output) == {"notes.txt": b"mine"}
    (output / "notes.txt").unlink()
    average_checkpoints(folders[:1], output)
    (output / "stale.txt").write_text("of the earlier one")
    average_checkpoints(folders, output)
    assert not (output / "stale.txt").exists()
    assert (output / "model.safetensors").stat().st_mode & 0o044 == 0o044, "others may read it"
    assert {path.name for path in tmp_path.iterdir()} == {"c0", "c1", "mean"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, message",
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}, "has rope_parameters: .*500000"),
        ({"num_attention_heads": 8, "head_dim": 16, "hidden_size": 64}, "has num_attention_heads: 8, and 4|shape"),
        ({"rms_norm_eps": 1e-5}, "has rms_norm_eps: 1e-05, and 1e-06"),
        ({"max_position_embeddings": 4096}, "has max_position_embeddings: 4096, and 2048"),
        ({"tie_word_embeddings": False}, "has tie_word_embeddings: False, and True"),
        ({"vocab_size": 9}, r"has vocab_size: 9, and \d+|shape"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantized \(quantization_config: gptq\)"),
    ],
)
def test_a_config_of_other_mathematics_is_refused_by_key(
    change: dict[str, Any], message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    one, two = checkpoints(tiny_checkpoint, tmp_path, 2)
    changed(two, "config.json", **change)
    with pytest.raises(CheckpointError, match=rf"c1.*{message}"):
        average_checkpoints([one, two], tmp_path / "mean")
    shutil.copy(one / "config.json", two / "config.json")
    changed(two, "config.json", eos_token_id=[0, 2], use_cache=False, transformers_version="5.0.0")
    average_checkpoints([one, two], tmp_path / "mean")


@pytest.mark.slow
def test_another_tokenizer_is_refused_and_another_padding_is_not(tiny_checkpoint: Path, tmp_path: Path) -> None:
    one, two = checkpoints(tiny_checkpoint, tmp_path, 2)
    table = json.loads((two / "tokenizer.json").read_text())
    padding = {"strategy": {"Fixed": 8}, "direction": "Left", "pad_to_multiple_of": None}
    changed(two, "tokenizer.json", padding=padding | {"pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"})
    average_checkpoints([one, two], tmp_path / "mean")
    vocabulary = table["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (two / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=r"c1/tokenizer\.json: is another tokenizer than that of .*c0"):
        average_checkpoints([one, two], tmp_path / "other")
    (two / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"c1: lacks tokenizer\.json, unlike"):
        average_checkpoints([one, two], tmp_path / "other")


@pytest.mark.slow
def test_members_that_are_not_finite_or_of_another_type_are_refused_and_nothing_is_left(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    one, two = checkpoints(tiny_checkpoint, tmp_path, 2)
    tensors = load_file(two / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, two / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"c1: tensor model\.norm\.weight holds values that are not finite"):
        average_checkpoints([one, two], tmp_path / "mean")
    tensors = {name: tensor.nan_to_num().bfloat16() for name, tensor in tensors.items()}
    save_file(tensors, two / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"c1: tensor \S+ has the type BF16, and F32 in .*c0"):
        average_checkpoints([one, two], tmp_path / "mean")
    assert {path.name for path in tmp_path.iterdir()} == {"c0", "c1"}


def test_a_member_that_is_not_there_is_named_by_its_setting(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoints: there is no folder .*gone"):
        average_checkpoints([tiny_checkpoint, tmp_path / "gone"], tmp_path / "mean")


@pytest.mark.slow
def test_averaged_reward_models_are_a_reward_model(tiny_reward_checkpoint: Path, tmp_path: Path) -> None:
    mean = average_checkpoints([tiny_reward_checkpoint] * 2, tmp_path / "mean")
    assert verify_folder(mean)["stage"] == "reward"
    assert torch.equal(
        load_file(mean / "model.safetensors")["score.weight"],
        load_file(tiny_reward_checkpoint / "model.safetensors")["score.weight"],
    )


def test_a_reward_model_and_a_language_model_are_refused(
    tiny_checkpoint: Path, tiny_reward_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"has architectures: \['LlamaForSeq\w+'\], and \['LlamaForCausalLM'\]"):
        average_checkpoints([tiny_checkpoint, tiny_reward_checkpoint], tmp_path / "mean")


@pytest.mark.slow
def test_stray_files_are_not_averaged_in(tiny_checkpoint: Path, tmp_path: Path) -> None:
    one, two = checkpoints(tiny_checkpoint, tmp_path, 2)
    expected = contents(average_checkpoints([one, two], tmp_path / "mean"))["model.safetensors"]
    zeros = {name: torch.zeros_like(tensor) for name, tensor in load_file(one / "model.safetensors").items()}
    save_file(zeros, two / "model_zz.safetensors", metadata={"format": "pt"})
    assert contents(average_checkpoints([one, two], tmp_path / "again"))["model.safetensors"] == expected


@pytest.mark.slow
def test_the_manifest_says_which_weights_were_averaged_and_how_they_were_trained(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = checkpoints(tiny_checkpoint, tmp_path, 2)
    training = {"learning_rate": 1e-5, "output_dir": str(folders[0])}
    write_folder_manifest(
        folders[0], [folders[0] / "model.safetensors"], {"stage": "dpo", "config": {"training": training}}
    )
    manifest = verify_folder(average_checkpoints(folders, tmp_path / "mean", (0.75, 0.25)))
    first, second = manifest["averaged"]
    assert (first["weight"], second["weight"]) == (0.75, 0.25)
    assert [each["fingerprint"] for each in (first, second)] == [checkpoint_fingerprint(folder) for folder in folders]
    assert (first["stage"], first["config"]["training"]["learning_rate"]) == ("dpo", 1e-5)
    assert str(tmp_path) not in json.dumps(manifest), "no place of this machine"


# The recipe


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "[{path: a, weight: 0.5}, b]",
            r"checkpoints: b has no weight, and others have one; give one to each or to none",
        ),
        ("[{path: a, weight: 0.5}, {path: b, weight: 0.4}]", r"the weights \[0\.5, 0\.4\] add up to 0\.9; expected 1"),
        ("[{path: a, weight: 1.5}, {path: b, weight: -0.5}]", r"checkpoints\.0\.weight: must be"),
        ("[{path: a, weight: 0}, {path: b, weight: 1}]", r"checkpoints\.0\.weight: must be above 0"),
        ("[{path: a, weight: .nan}, {path: b, weight: 1}]", r"checkpoints\.0\.weight: must be"),
        ("[]", r"checkpoints: must not be empty"),
        ("[{path: a, share: 1}]", r"checkpoints\.0\.share: is not a setting"),
        ("[a, b]\nweights: [0.5, 0.5]", r"weights: is not a setting"),
    ],
)
def test_a_checkpoint_and_its_weight_are_one_entry(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"checkpoints: {text}\noutput_dir: out\n")
    with pytest.raises(ConfigError, match=message):
        load_config(AverageRecipe, tmp_path / "c.yaml")


@pytest.mark.slow
def test_the_recipe_weighs_each_entry_by_its_own_weight(tiny_checkpoint: Path, tmp_path: Path) -> None:
    one, two = checkpoints(tiny_checkpoint, tmp_path, 2)
    names = {"text": f"[{{path: {two}, weight: 0.75}}, {{path: {one}, weight: 0.25}}]", "plain": f"[{one}, {two}]"}
    found = {}
    for name, text in names.items():
        (tmp_path / "c.yaml").write_text(f"checkpoints: {text}\noutput_dir: {tmp_path / name}\n")
        found[name] = load_file(run_average(load_config(AverageRecipe, tmp_path / "c.yaml")) / "model.safetensors")[
            "model.norm.weight"
        ]
    a, b = (load_file(folder / "model.safetensors")["model.norm.weight"] for folder in (one, two))
    torch.testing.assert_close(found["text"], 0.25 * a + 0.75 * b)
    torch.testing.assert_close(found["plain"], 0.5 * a + 0.5 * b)


@pytest.mark.slow
def test_the_rehearsal_gives_most_of_the_weight_to_dpo_and_none_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    rounds = load_stages(load_config(RoundsConfig, "recipes/configs/rounds/rehearsal.yaml"), Path("recipes"))
    stages = [stage for stage in rounds if stage.recipe == "average"]
    assert [stage.round for stage in stages] == [1, 2]
    for stage in stages:
        folder = f"runs/rehearsal/round-{stage.round}"
        weights = {str(m.path): m.weight for m in stage.config.checkpoints}  # type: ignore[attr-defined]
        assert weights == {f"{folder}/dpo": 0.75, f"{folder}/sft": 0.25}
        reads = {"checkpoints.0.path": f"{folder}/dpo", "checkpoints.1.path": f"{folder}/sft"}
        assert {key: str(path) for key, path in stage.inputs.items()} == reads
        known = dict.fromkeys(stage.inputs, "x")
        assert stage.key(known, "", "") != stage.key(known | {"checkpoints.0.path": "y"}, "", "")
    alone = load_config(AverageRecipe, "recipes/configs/average/rehearsal.yaml")
    assert {member.path.name: member.weight for member in alone.checkpoints} == {"dpo": 0.75, "sft": 0.25}


@pytest.mark.slow
def test_a_copy_of_a_tied_embedding_is_no_difference(tiny_checkpoint: Path, tmp_path: Path) -> None:
    one, two = checkpoints(tiny_checkpoint, tmp_path, 2)
    tensors = load_file(two / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, two / "model.safetensors", metadata={"format": "pt"})
    for place, members in enumerate(([one, two], [two, one], [two, two])):
        mean = load_file(average_checkpoints(members, tmp_path / f"mean-{place}") / "model.safetensors")
        assert "lm_head.weight" not in mean
    tensors["lm_head.weight"] += 1
    save_file(tensors, two / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"says tie_word_embeddings, and the tensors .* differ"):
        average_checkpoints([one, two], tmp_path / "other")


@pytest.mark.slow
def test_one_run_at_a_time_makes_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom align.models.output import new_folder\n"
        "with new_folder(Path(sys.argv[1]), 'averaged') as rough:\n"
        "    (rough / 'half').touch()\n    print('ready', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "mean")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(ConfigError, match=f"another run is writing to it .process {other.pid}"):  # noqa: SIM117
            with new_folder(tmp_path / "mean", "averaged"):
                pass
        other.kill()
    with new_folder(tmp_path / "mean", "averaged") as rough:
        assert not list(rough.iterdir())
        (rough / "whole").touch()
    assert [file.name for file in tmp_path.iterdir()] == ["mean"], "what the killed run has left is deleted"
    assert [file.name for file in (tmp_path / "mean").iterdir()] == ["whole"]


def test_an_earlier_mean_survives_a_run_that_is_killed_while_it_takes_its_place(tmp_path: Path) -> None:
    work = tmp_path / ".mean.part"
    for name in ("new", "old"):
        (work / name).mkdir(parents=True)
        (work / name / name).touch()
        write_folder_manifest(work / name, [work / name / name], {"averaged": []})
    with pytest.raises(RuntimeError), new_folder(tmp_path / "mean", "averaged"):
        raise RuntimeError
    assert sorted(file.name for file in (tmp_path / "mean").iterdir()) == ["MANIFEST.json", "old"]
    assert [file.name for file in tmp_path.iterdir()] == ["mean"]
