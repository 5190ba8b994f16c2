"""Opening checkpoints: what is refused by name before a weight is used, and what identifies a checkpoint."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import align.models.checkpoints as checkpoints
from align.errors import AlignError, CheckpointError, ConfigError
from align.manifest import write_folder_manifest
from align.models.checkpoints import base_of, open_checkpoint, tensor_files, verified
from align.models.checkpoints import checkpoint_fingerprint as fingerprint
from align.models.fitting import as_checkpoint_error, require_finite_files, require_fit
from align.models.loading import load_generator, load_policy, load_reward_model, load_tokenizer
from align.models.output import refuse_overlap
from align.publish.names import shown_path
from align.settings import ModelConfig

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny policy that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


@pytest.fixture
def reward(tiny_reward_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny reward model that a test may damage."""
    return Path(shutil.copytree(tiny_reward_checkpoint, tmp_path / "reward"))


def with_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def with_config(folder: Path, **changed: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    return folder


def sharded(folder: Path) -> dict[str, str]:
    """Split the weights into two files with an index; returns its weight_map."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    table = {}
    for number, part in enumerate((names[:5], names[5:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        table |= dict.fromkeys(part, file)
    (folder / WEIGHTS).unlink()
    return write_index(folder, table)


def write_index(folder: Path, table: dict[str, str]) -> dict[str, str]:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return table


def policy(path: Path) -> Any:
    return load_policy(ModelConfig(path=path)).model


# Files and their index


@pytest.mark.slow
def test_the_index_decides_and_what_it_does_not_name_is_reported_and_not_read(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = policy(folder).state_dict()
    sharded(folder)
    noise = {DOWN: torch.full((64, 96), 7.0)}
    save_file(noise, folder / "model_zz.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(logging.getLogger("align"), "propagate", True)
    found = policy(folder).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in whole.items())
    assert f"not read, since they are not part of {INDEX}: model_zz.safetensors" in caplog.text
    assert len({tensor.file for tensor in tensor_files(folder).values()}) == 2


@pytest.mark.parametrize("outside", ["../evil.bin", "/tmp/evil.safetensors", "../evil.safetensors", "evil.bin", ""])
def test_an_index_that_reaches_out_of_its_folder_is_refused(folder: Path, outside: str) -> None:
    table = sharded(folder)
    shutil.copy(folder / table[DOWN], folder.parent / "evil.safetensors")
    write_index(folder, table | {DOWN: outside})
    with pytest.raises(CheckpointError, match=rf"{INDEX}: assigns the tensor {DOWN} to '{outside}', which is not a"):
        policy(folder)


def test_an_index_and_files_that_contradict_each_other_are_refused(folder: Path) -> None:
    table = sharded(folder)
    one, two = sorted(set(table.values()))
    write_index(folder, table | {DOWN: one})
    with pytest.raises(CheckpointError, match=rf"{two}: holds the tensor {DOWN}, and {INDEX} assigns it to {one}"):
        tensor_files(folder)
    write_index(folder, table | {"model.extra": two})
    with pytest.raises(CheckpointError, match=rf"{two}: does not hold the tensor model\.extra"):
        tensor_files(folder)
    write_index(folder, {name: file for name, file in table.items() if name != DOWN})
    with pytest.raises(CheckpointError, match=rf"{two}: holds the tensor {DOWN}, and {INDEX} does not name it"):
        tensor_files(folder)
    write_index(folder, table)
    shutil.copy(folder / one, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=rf"holds both {WEIGHTS} and {INDEX}, which does not name it"):
        tensor_files(folder)
    (folder / WEIGHTS).unlink()
    (folder / two).unlink()
    with pytest.raises(CheckpointError, match=rf"{two}: is named by {INDEX}, and missing"):
        tensor_files(folder)


def damaged(name: str, content: bytes | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)

    return change


def truncated(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])


def lying(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content.replace(b'"shape":[64,96]', b'"shape":[96,96]'))


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def dangling(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("../gone/model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage, message",
    [
        (damaged(WEIGHTS, None), rf"model: holds no {WEIGHTS} and no {INDEX}"),
        (damaged(WEIGHTS, b""), rf"{WEIGHTS}: is not a whole safetensors file of 0 bytes"),
        (damaged(WEIGHTS, b"\xff" * 64), rf"{WEIGHTS}: is not a whole safetensors file"),
        (truncated, rf"{WEIGHTS}: is not a whole safetensors file"),
        (lying, rf"{WEIGHTS}: is not a whole safetensors file"),
        (pickled, r"holds its weights as pickle \(pytorch_model\.bin\) only, .*Convert it to safetensors"),
        (dangling, rf"{WEIGHTS}: is a link to \.\./gone/model\.safetensors, which does not exist"),
        (damaged("config.json", None), r"model holds no config\.json and no adapter_config\.json"),
        (damaged("config.json", b"{oops"), r"config\.json: cannot be read as JSON"),
        (damaged("config.json", b"[]"), r"config\.json: holds a JSON list; expected an object"),
        (damaged("config.json", b"\xff\xfe{}"), r"config\.json: cannot be read as JSON"),
        (damaged("config.json", b"{}"), r"config\.json: has the model_type None"),
        (damaged("config.json", b'{"model_type": "nonsense"}'), r"config\.json: has the model_type 'nonsense', which"),
        (lambda f: with_config(f, hidden_size="wide"), r"config\.json: describes no model that transformers"),
        (lambda f: with_config(f, model_type="t5"), r"model is a t5 model with an encoder and a decoder"),
        (damaged("generation_config.json", b"{oops"), r"generation_config\.json: cannot be read as JSON"),
        (damaged("tokenizer_config.json", b"{oops"), r"tokenizer_config\.json: cannot be read as JSON"),
    ],
)
def test_a_damaged_folder_is_one_message_that_names_the_file(
    damage: Callable[[Path], Any], message: str, folder: Path
) -> None:
    damage(folder)
    for load in (policy, lambda path: load_generator(path, "float32")):
        with pytest.raises(AlignError, match=message):
            load(folder)


@pytest.mark.parametrize(
    "damage, message",
    [
        (damaged("tokenizer.json", None), r"model: holds no tokenizer: none of tokenizer\.json"),
        (damaged("tokenizer.json", b"{}"), r"model: holds a tokenizer that cannot be read"),
        (damaged("tokenizer.json", b"{oops"), r"tokenizer\.json: cannot be read as JSON"),
        (lambda f: with_config(f, vocab_size=400), r"has a tokenizer whose token .* has the id 500; the model embeds"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_one_message(
    damage: Callable[[Path], Any], message: str, folder: Path
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(folder)


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "bitsandbytes", "compressed-tensors"])
def test_quantized_weights_are_refused_by_the_methods_name(method: str, folder: Path) -> None:
    with_config(folder, quantization_config={"quant_method": method})
    with pytest.raises(CheckpointError, match=rf"config\.json: says that the weights are quantized .*{method}"):
        policy(folder)


def test_quantized_tensors_are_refused_by_name_where_the_config_is_silent(folder: Path) -> None:
    with_tensors(folder, lambda tensors: tensors.update({DOWN: tensors[DOWN].to(torch.float8_e4m3fn)}))
    with pytest.raises(CheckpointError, match=rf"tensor {DOWN} has the type F8_E4M3"):
        policy(folder)


def test_what_was_saved_quantized_is_opened_when_asked_for_by_its_own_method_only(folder: Path) -> None:
    with_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert open_checkpoint(folder, quantized=True).tensors
    with_config(folder, quantization_config={"quant_method": "gptq"})
    with pytest.raises(CheckpointError, match=r"quantization_config: gptq"):
        open_checkpoint(folder, quantized=True)
    with_config(folder, quantization_config=None, text_config={"quantization_config": {"quant_method": "awq"}})
    with pytest.raises(CheckpointError, match=r"quantization_config: awq"):
        open_checkpoint(folder)


# Names, shapes, values


@pytest.mark.slow
def test_missing_unexpected_and_misshapen_tensors_are_refused_by_name(folder: Path) -> None:
    whole = load_file(folder / WEIGHTS)
    loads = (policy, lambda path: load_generator(path, "float32"))
    for change, message in (
        (lambda t: t.pop(DOWN), rf"has a tensor {DOWN} that is in no file\. Copy"),
        (lambda t: t.update(extra=torch.zeros(2)), r"holds the tensor extra, which the language model of config\.json"),
        (lambda t: t.update({DOWN: torch.zeros(64, 95)}), rf"{DOWN} has the shape \[64, 95\], expected \[64, 96\]"),
        (lambda t: t.update({"model.norm.weights": t.pop("model.norm.weight")}), r"it holds model\.norm\.weights inst"),
    ):
        save_file(dict(whole), folder / WEIGHTS, metadata={"format": "pt"})
        with_tensors(folder, change)
        for load in loads:
            with pytest.raises(CheckpointError, match=message):
                load(folder)
    save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})
    with_config(folder, num_hidden_layers=3, layer_types=None)
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\..* that is in no file \(9 such tensors\)"):
        policy(folder)


def test_buffers_and_a_tied_head_that_equal_what_is_computed_are_harmless(folder: Path) -> None:
    inv = "model.layers.0.self_attn.rotary_emb.inv_freq"
    with_tensors(folder, lambda t: t.update({inv: torch.ones(8), "lm_head.weight": t["model.embed_tokens.weight"] * 1}))
    policy(folder)
    with_tensors(folder, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] + 1}))
    with pytest.raises(CheckpointError, match=r"says tie_word_embeddings, and the tensors .* differ"):
        policy(folder)


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(value: float, folder: Path, reward: Path) -> None:
    for path, name, load in (
        (folder, DOWN, policy),
        (folder, DOWN, lambda path: load_generator(path, "bfloat16")),
        (reward, "score.weight", lambda path: load_reward_model(ModelConfig(path=path))),
    ):
        with_tensors(path, lambda tensors, name=name: tensors[name].view(-1)[-1:].fill_(value))
        with pytest.raises(CheckpointError, match=rf"tensor {name} holds values that are not finite"):
            load(path)


def test_sharded_or_packed_weights_are_checked_by_their_files(folder: Path) -> None:
    require_finite_files(open_checkpoint(folder))
    with_tensors(folder, lambda tensors: tensors[DOWN].view(-1)[-1:].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=rf"tensor {DOWN} holds values that are not finite"):
        require_finite_files(open_checkpoint(folder))


def test_names_and_shapes_are_compared_while_zero3_shards_too(folder: Path) -> None:
    """transformers builds nothing on the meta device under ZeRO-3, so its private state is set aside and put back."""
    from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    held = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_batch_size": 1})
    try:
        assert is_deepspeed_zero3_enabled(), held
        require_fit(open_checkpoint(folder), scorer=False)
        with_tensors(folder, lambda tensors: tensors.pop(DOWN))
        with pytest.raises(CheckpointError, match=rf"has a tensor {DOWN} that is in no file"):
            require_fit(open_checkpoint(folder), scorer=False)
        assert is_deepspeed_zero3_enabled()
    finally:
        unset_hf_deepspeed_config()


# Reward models


@pytest.mark.parametrize("name", ["value_head.weight", "v_head.summary.weight", "classifier.weight"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_head_under_another_name_is_refused(name: str, fresh: bool, reward: Path) -> None:
    with_tensors(reward, lambda tensors: tensors.update({name: tensors.pop("score.weight")}))
    with pytest.raises(CheckpointError, match=rf"has no reward head: .*it holds {name} instead"):
        load_reward_model(ModelConfig(path=reward), fresh_head=fresh)


@pytest.mark.slow
def test_a_fresh_head_is_for_training_alone_and_is_reported(
    folder: Path, reward: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("align"), "propagate", True)
    caplog.set_level(logging.INFO)
    with pytest.raises(CheckpointError, match=r"has no reward head: the tensor score\.weight is in no file"):
        load_reward_model(ModelConfig(path=folder))
    load_reward_model(ModelConfig(path=reward), fresh_head=True)
    assert "its reward head is fresh" not in caplog.text
    one, two = (load_reward_model(ModelConfig(path=folder), seed=s, fresh_head=True).model.score for s in (0, 1))
    assert not torch.equal(one.weight, two.weight)
    assert f"{folder} is a language model: its reward head is fresh" in caplog.text
    with_tensors(folder, lambda tensors: tensors.update({"v_head.summary.weight": torch.zeros(1, 64)}))
    with pytest.raises(CheckpointError, match=r"holds the tensor v_head\.summary\.weight"):
        load_reward_model(ModelConfig(path=folder), fresh_head=True)


def test_a_classifier_of_several_labels_is_no_reward_model(reward: Path) -> None:
    with_tensors(reward, lambda tensors: tensors.update({"score.weight": torch.zeros(2, 64)}))
    with_config(reward, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    for fresh in (False, True):
        with pytest.raises(CheckpointError, match=r"is a classifier of 2 labels \(LlamaForSequenceClassification\)"):
            load_reward_model(ModelConfig(path=reward), fresh_head=fresh)


def test_a_reward_model_is_no_policy(reward: Path) -> None:
    for load in (policy, lambda path: load_generator(path, "float32")):
        with pytest.raises(CheckpointError, match=r"is a reward model .*, not a language model"):
            load(reward)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["nan", "no head"])
def test_an_evaluation_with_a_broken_reward_model_ends_with_an_error(
    broken: str, reward: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from align.config import main
    from recipes.run_eval import RunEvalRecipe, run

    with_tensors(reward, lambda t: t["score.weight"].fill_(float("nan")) if broken == "nan" else t.pop("score.weight"))
    row = {"prompt": "What is 1?", "chosen": "It is 1 a", "rejected": "No 1 b"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    config = tmp_path / "eval.yaml"
    pairs = f"reward_accuracy: {{pairs: {tmp_path / 'pairs.jsonl'}}}"
    config.write_text(f"reward_model: {{path: {reward}}}\n{pairs}\noutput_dir: {tmp_path / 'out'}\n")
    with pytest.raises(SystemExit) as left:
        main(RunEvalRecipe, run, [str(config)])
    assert left.value.code == 1
    assert f"{reward}: " in capsys.readouterr().err


# Sealed folders


@pytest.mark.slow
def test_a_flipped_bit_in_a_sealed_folder_is_refused_by_the_files_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder_manifest(folder, [file for file in folder.iterdir() if file.is_file()])
    hashed = []
    honest = checkpoints.verify_folder
    monkeypatch.setattr(checkpoints, "verify_folder", lambda path: [hashed.append(path), honest(path)][1])
    for _ in range(2):
        load_tokenizer(folder)
        policy(folder)
        assert fingerprint(folder)
    assert len(hashed) == 1, "one process hashes a folder once"
    for name in (WEIGHTS, "tokenizer.json"):
        content = bytearray((folder / name).read_bytes())
        content[-9] ^= 1
        (folder / name).write_bytes(content)
        for load in (policy, load_tokenizer, lambda path: load_generator(path, "float32")):
            with pytest.raises(CheckpointError, match=rf"{name}: does not have the content"):
                load(folder)
        content[-9] ^= 1
        (folder / name).write_bytes(content)


def test_of_several_processes_on_a_machine_one_hashes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder_manifest(folder, [folder / WEIGHTS])
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(checkpoints, "verify_folder", None)
    assert WEIGHTS in verified(folder)["files"]


# Fingerprints and names


def test_a_fingerprint_is_of_the_files_that_are_read(folder: Path, tmp_path: Path) -> None:
    before = fingerprint(folder)
    (folder / "model_zz.safetensors").write_bytes(b"not read")
    (folder / "tokenizer.json").write_text("{}")
    assert fingerprint(folder) == before
    sealed = Path(shutil.copytree(folder, tmp_path / "sealed"))
    write_folder_manifest(sealed, [sealed / WEIGHTS, sealed / "config.json"])
    assert fingerprint(sealed) == before, "out of the manifest, the same"
    with_tensors(folder, lambda tensors: tensors[DOWN].add_(1e-3))
    assert fingerprint(folder) != before
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=f"holds no {WEIGHTS}"):
        fingerprint(folder)


def test_a_manifest_names_no_place_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path("owner/name") == "owner/name"
    assert shown_path("runs/sft") == shown_path(tmp_path / "runs" / "sft") == "runs/sft"
    assert shown_path("/data/me/runs/round-1/sft") == "round-1/sft"


@pytest.mark.parametrize("output", ["model", "model/out", ".", "link"])
def test_an_output_that_overlaps_with_an_input_is_refused(
    output: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    Path("link").symlink_to("model")
    with pytest.raises(ConfigError, match=r"output_dir: .*, which is read"):
        refuse_overlap(Path(output), [folder])
    refuse_overlap(Path("model-2"), [folder, "owner/name"])


# The Hub


@pytest.fixture
def hub(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub's cache with the tiny policy as me/tiny at two revisions, and no network."""
    import huggingface_hub.constants

    home = tmp_path / "hub" / "models--me--tiny"
    (home / "refs").mkdir(parents=True)
    for name, commit in (("main", "a" * 40), ("v1", "b" * 40)):
        shutil.copytree(tiny_checkpoint, home / "snapshots" / commit)
        (home / "refs" / name).write_text(commit)
    with_tensors(home / "snapshots" / ("b" * 40), lambda tensors: tensors[DOWN].fill_(0.5))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return home


@pytest.mark.slow
def test_a_hub_name_is_opened_from_the_cache_at_its_revision(hub: Path, tiny_checkpoint: Path) -> None:
    name = Path("me/tiny")
    load_tokenizer(name, revision="v1")
    assert fingerprint("me/tiny") == fingerprint(tiny_checkpoint) != fingerprint("me/tiny", "v1")
    main, old = (load_policy(ModelConfig(path=name, revision=r)).model.state_dict()[DOWN] for r in (None, "v1"))
    assert old.unique().tolist() == [0.5]
    assert not torch.equal(main, old)
    assert torch.equal(load_generator(name, "float32", "b" * 40).state_dict()[DOWN], old)


def test_what_the_hub_does_not_give_is_one_message(hub: Path) -> None:
    for load in (load_tokenizer, policy):
        with pytest.raises(AlignError, match=r"model\.path: me/other: HF_HUB_OFFLINE is set, and the local cache"):
            load(Path("me/other"))
    with pytest.raises(AlignError, match=r"the local cache has no complete copy of me/tiny at revision v2"):
        load_policy(ModelConfig(path=Path("me/tiny"), revision="v2"))
    (hub / "snapshots" / ("a" * 40) / WEIGHTS).unlink()
    with pytest.raises(AlignError, match=rf"{WEIGHTS}"):
        policy(Path("me/tiny"))


def test_a_revision_of_a_folder_and_a_path_that_is_neither_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.revision: is 'main', and .* is a folder on this disk"):
        load_policy(ModelConfig(path=folder, revision="main"))
    for path in (folder.parent / "gone", Path("a/b/c"), Path("gone")):
        with pytest.raises(ConfigError, match=f"model.path: there is no folder {path}"):
            policy(path)


# Adapters


def test_an_adapters_relative_base_is_looked_for_from_here_and_from_the_adapter(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()

    def named(base: str) -> None:
        settings = {"base_model_name_or_path": base, "peft_type": "LORA"}
        (adapter / "adapter_config.json").write_text(json.dumps(settings))

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    named("model")
    assert (found := base_of(adapter)) is not None
    assert os.path.samefile(found.name, folder)
    named("../model")
    monkeypatch.chdir(elsewhere)
    assert (found := base_of(adapter)) is not None
    assert os.path.samefile(found.name, folder)
    named("./model")
    with pytest.raises(
        CheckpointError, match=r"adapter: its base \./model is missing: no such folder from .*elsewhere"
    ):
        base_of(adapter)
    assert base_of(folder) is None
    assert open_checkpoint(folder).manifest == {}


def test_an_index_that_transformers_cannot_read_is_named(tiny_checkpoint: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    (folder / WEIGHTS).unlink()
    loaded.save_pretrained(folder, max_shard_size="100KB")
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps(table | {"metadata": {"total_size": 5}}), encoding="utf-8")
    assert open_checkpoint(folder).tensors.keys() == table["weight_map"].keys(), "the size is for display only"
    for broken in ({"metadata": None}, {}):
        index.write_text(json.dumps({"weight_map": table["weight_map"]} | broken), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"index\.json: has no object .metadata., .*Add .metadata.: {} to it"):
            open_checkpoint(folder)


@pytest.mark.parametrize(
    "error, is_of_the_files",
    [
        (RuntimeError("Error building extension 'deepspeed_shm_comm': [1/3] c++ -MMD ..."), False),
        (RuntimeError("Ninja is required to load C++ extensions (pip install ninja to get it)"), False),
        (RuntimeError("Unable to JIT load the deepspeed_shm_comm op due to ninja not being installed."), False),
        (RuntimeError("\n  shapes do not match\nmore"), True),
        (KeyError(), True),
    ],
)
def test_an_extension_that_cannot_be_compiled_is_no_fault_of_the_checkpoint(
    error: Exception, is_of_the_files: bool, folder: Path
) -> None:
    """ZeRO-3 compiles while transformers loads the weights."""
    with (
        pytest.raises((RuntimeError, CheckpointError)) as raised,
        as_checkpoint_error(open_checkpoint(folder), "cannot be loaded"),
    ):
        raise error
    if not is_of_the_files:
        assert raised.value is error
        return
    assert isinstance(raised.value, CheckpointError)
    text = "RuntimeError: shapes do not match" if str(error) else "KeyError: KeyError"
    assert f"config.json: cannot be loaded ({text})" in str(raised.value)
