"""Disk space of a run: the estimate and its checks, what is deleted at the end, the type of the finished model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from align.errors import CheckpointError, ConfigError
from align.jsonl import write_rows
from align.manifest import SEAL, is_whole, verify_folder, write_folder_manifest
from align.models.averaging import average_checkpoints
from align.models.loading import load_policy
from align.models.shapes import shape_of
from align.rows import Message, SFTRow
from align.settings import LoRAConfig, ModelConfig, TrainingConfig, TreeDataConfig
from align.trainers import disk, saving
from align.trainers.activations import without_memory
from align.trainers.arguments import training_arguments
from align.trainers.checkpoints import NOT_RESUMABLE, CheckpointFolders
from align.trainers.disk import DiskNeed, disk_need, require_space, require_space_for_checkpoint
from align.trainers.output import release_output
from align.trainers.processes import Processes
from align.trainers.saving import convert_weights
from align.trainers.weights import require_storable_weights

MB = 2**20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    turns = [(Message(role="user", content=f"Say {n}."), Message(role="assistant", content=str(n))) for n in range(8)]
    write_rows(path, [SFTRow(id=f"r{n}", source="test", messages=each) for n, each in enumerate(turns)])
    return path


@pytest.fixture(scope="module")
def train(data: Path, tiny_checkpoint: Path) -> Callable[..., Path]:
    """Four steps."""

    def run(output: Path, *, lora: bool = False, start: Path = tiny_checkpoint, **changed: Any) -> Path:
        from recipes import sft

        settings = {"batch_size": 2, "learning_rate": 1e-3, "precision": "fp32", "checks": False} | changed
        model = ModelConfig(path=start, lora=LoRAConfig(rank=4, alpha=8) if lora else None)
        training = TrainingConfig(output_dir=output, **settings)
        return sft.run(sft.SFTRecipe(model=model, data=TreeDataConfig(path=data), training=training))

    return run


@pytest.fixture(scope="module")
def whole(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that keeps the optimizer states of its last checkpoint: its files are what estimates are of."""
    return train(tmp_path_factory.mktemp("whole") / "run", save_steps=2, keep_optimizer=True)


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


# The estimate


@pytest.mark.slow
def test_the_estimate_is_the_size_of_what_is_written(whole: Path, tiny_checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    need = disk_need(model, TrainingConfig(output_dir=whole), 4)
    assert need.weights == pytest.approx((whole / "model.safetensors").stat().st_size, rel=0.02)
    assert need.states == pytest.approx((whole / "checkpoint-4" / "optimizer.pt").stat().st_size, rel=0.05)
    assert bytes_in(whole / "checkpoint-4") < need.checkpoint


def test_an_adapter_of_8b_is_a_hundredth_of_its_base() -> None:
    """Rank 16 on all linear layers: 41.9 million of 8.03 billion weights, and three times as much to resume from."""
    model = ModelConfig(path=Path("base"), lora=LoRAConfig(rank=16, alpha=32))
    adapted = without_memory(shape_of("llama3.1-8b")[1], model, False)
    need = disk_need(adapted, TrainingConfig(output_dir=Path("out"), save_dtype="bfloat16"), 4)
    base = 2 * 8_030_261_248
    assert need.converted < 0.01 * base
    assert need.weights == 2 * need.converted
    assert need.weights + need.states < 0.04 * base


@pytest.mark.parametrize(
    "optimizer, states",
    [
        ("adamw_torch_fused", 8 * 13_000),
        ("sgd", 0),
        ("rmsprop", 4 * 13_000),
        ("adafactor", 4 * (100 + 50 + 60 + 100 + 50 + 20 + 1_000)),
    ],
)
def test_the_states_of_an_optimizer_in_numbers(optimizer: str, states: int, tmp_path: Path) -> None:
    """Adafactor stores a value for each row and each column of the matrices."""

    class Weights(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, shape in {"a": (100, 50), "b": (60, 100), "c": (50, 20), "d": (1_000,)}.items():
                self.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))
            self.config = SimpleNamespace(tie_word_embeddings=False)

    training = TrainingConfig(output_dir=tmp_path, optimizer=optimizer)
    need = disk_need(Weights(), training, 4)
    assert need.weights == 4 * 13_000
    assert need.states == states
    assert disk_need(Weights(), training, 4, sharded=True).states == states + 4 * 13_000
    assert need.converted == 0
    converting = training.model_copy(update={"save_dtype": "bfloat16"})
    assert disk_need(Weights(), converting, 4).converted == 2 * 13_000


@pytest.mark.parametrize(
    "settings, steps, done, existing, checkpoints, models",
    [
        ({"save_steps": 10, "keep_checkpoints": 2}, 100, 0, 0, 3, 0),  # three at a rotation, more than two and a model
        ({"save_steps": 50, "keep_checkpoints": 2}, 100, 0, 0, 1, 1),  # one save: step 100 is the finished model's
        ({"save_steps": 100}, 100, 0, 0, 0, 1),
        ({"save_steps": 100, "save_minutes": 30}, 100, 0, 0, 3, 0),  # how many it will be is not known
        ({"save_steps": 100, "keep_optimizer": True}, 100, 0, 0, 1, 1),
        ({"save_steps": 40, "keep_checkpoints": 5}, 100, 0, 0, 2, 1),
        ({"save_steps": 40, "keep_checkpoints": 2}, 100, 80, 2, 2, 1),  # resumed after the last save
        ({"save_steps": 10, "keep_checkpoints": 2}, 100, 90, 2, 2, 1),
        ({"save_steps": 10, "keep_checkpoints": 2}, 100, 80, 2, 3, 0),
        ({"save_steps": 100, "eval_steps": 50}, 100, 0, 0, 1, 1),  # the only checkpoint is that of the best step
        ({"save_steps": 100, "eval_steps": 10}, 100, 0, 0, 3, 1),  # and the weights of an earlier best step
    ],
)
def test_how_much_is_on_the_disk_when_it_is_most(
    settings: dict[str, Any], steps: int, done: int, existing: int, checkpoints: int, models: int, tmp_path: Path
) -> None:
    validated = "eval_steps" in settings
    need = DiskNeed(10**9, 2 * 10**9, TrainingConfig(output_dir=tmp_path, **settings), steps, validated)
    assert need.bytes_at_the_peak(done, existing) == checkpoints * need.checkpoint + models * need.model


def test_saves_by_time_are_counted_where_the_time_of_a_step_is_known(tmp_path: Path) -> None:
    """Steps of 90 s: 20 in half an hour, where 100 steps take two and a half."""
    need = DiskNeed(10**9, 0, TrainingConfig(output_dir=tmp_path, save_steps=100, save_minutes=30), 1000)
    assert need.saves(0) == 999
    assert need.saves(0, step_seconds=90) == 49 + 9
    assert need.saves(0, step_seconds=1) == 9, "saves by steps always come first"


def test_the_copy_that_is_converted_counts_at_the_end_only(tmp_path: Path) -> None:
    """While the finished model is written. The weights of an earlier best step are not converted."""
    training = TrainingConfig(output_dir=tmp_path, save_steps=100, eval_steps=10, save_dtype="bfloat16")
    need = DiskNeed(10 * 10**9, 0, training, 100, True, 5 * 10**9)
    plain = DiskNeed(10 * 10**9, 0, training, 100, True)
    assert need.model - plain.model == 5 * 10**9
    assert need.checkpoint == plain.checkpoint
    assert need.bytes_at_the_peak(0, 0) - plain.bytes_at_the_peak(0, 0) == 5 * 10**9  # two checkpoints and both copies


# The checks


@pytest.mark.parametrize(
    "settings, free, message",
    [
        (
            {"save_steps": 10, "keep_checkpoints": 4},
            10**9,
            r"has 1 GB of free disk space, and this run needs 15\.2 GB: 5 checkpoints of 3\.03 GB at a time, and a "
            r"finished model of 1\.03 GB\. Free some space, name another training\.output_dir, or lower "
            r"training\.keep_checkpoints \(now 4\), save no checkpoint \(training\.save_steps above 100, now 10\), "
            r"use an optimizer with smaller states .*, train an adapter \(model\.lora\)\.$",
        ),
        ({"save_steps": 100}, 10**9, r"this run needs 1\.03 GB: a finished model of 1\.03 GB\. .* or train an adapter"),
        ({"save_steps": 100, "keep_optimizer": True}, 10**9, "1 checkpoint of 3.03 GB .*keep_optimizer: false"),
        (
            {"save_steps": 100, "save_dtype": "bfloat16"},
            10**9,
            r"needs 1\.53 GB: a finished model of 1\.53 GB while it is converted \(training\.save_dtype\)\. .* or set "
            r"training\.save_dtype: auto, ",
        ),
    ],
)
def test_too_little_space_is_one_message_with_what_to_lower(
    settings: dict[str, Any], free: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = 5 * 10**8 if "save_dtype" in settings else 0
    need = DiskNeed(10**9, 2 * 10**9, TrainingConfig(output_dir=tmp_path, **settings), 100, converted=converted)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(CheckpointError, match=message):
        require_space(need, tmp_path, 0, [])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=need.bytes_at_the_peak(0, 0)))
    require_space(need, tmp_path, 0, [])


def test_checkpoints_that_are_there_need_no_space_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need = DiskNeed(1000, 2000, TrainingConfig(output_dir=tmp_path, save_steps=10), 100)
    folder = tmp_path / "checkpoint-10"
    folder.mkdir()
    (folder / "optimizer.pt").write_bytes(bytes(50 * MB))
    write_folder_manifest(folder, [folder / "optimizer.pt"])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=50 * MB))
    with pytest.raises(CheckpointError, match="needs 101 MB"):
        require_space(need, tmp_path, 10, [])
    require_space(need, tmp_path, 10, [folder])
    with pytest.raises(CheckpointError, match=r"has 52\.4 MB of free disk space, and a checkpoint needs 86 MB"):
        require_space_for_checkpoint(need, tmp_path, [folder])  # as large as the newest one, whatever the estimate
    require_space_for_checkpoint(need, tmp_path, [])
    write_folder_manifest(folder, [folder / "optimizer.pt"], {NOT_RESUMABLE: True})
    require_space_for_checkpoint(need, tmp_path, [folder])


@pytest.mark.slow
def test_a_full_disk_stops_a_run_before_its_first_step_and_before_a_save(
    train: Callable[..., Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [0]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[0]))
    with pytest.raises(CheckpointError, match=r"has 0 MB of free disk space, and this run needs"):
        train(tmp_path / "run", save_steps=2)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    checks: list[Path] = []

    def shrinking(folder: Path) -> SimpleNamespace:
        checks.append(folder)  # enough before the first step and for checkpoint-2, too little afterwards
        return SimpleNamespace(free=10**12 if len(checks) <= 2 else 0)

    monkeypatch.setattr(shutil, "disk_usage", shrinking)
    with pytest.raises(CheckpointError, match=r"has 0 MB of free disk space, and the finished model needs .* resumes"):
        train(tmp_path / "run", save_steps=2)
    assert is_whole(tmp_path / "run" / "checkpoint-2")
    assert not (tmp_path / "run" / SEAL).exists()
    free[0] = 10**12
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[0]))
    done = train(tmp_path / "run", save_steps=2)
    assert (done / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


# After the end


def folders(output: Path, sharded: bool, keep_optimizer: bool) -> CheckpointFolders:
    return CheckpointFolders(output, "sft", {}, {}, 2, sharded=sharded, keep_optimizer=keep_optimizer)


@pytest.mark.parametrize("keep_optimizer", [False, True])
@pytest.mark.parametrize("layout", ["one process", "adapter", "ZeRO-3"])
def test_optimizer_states_go_when_a_run_is_finished(layout: str, keep_optimizer: bool, tmp_path: Path) -> None:
    """Also by the next start, for a run that was killed after its model was written."""
    weights = "adapter_model.safetensors" if layout == "adapter" else "model.safetensors"
    model = {weights, "tokenizer.json", "chat_template.jinja", "trainer_state.json"}
    states = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    if layout == "ZeRO-3":
        states = {"scheduler.pt", "latest", "zero_to_fp32.py", "rng_state_0.pth", "rng_state_1.pth"}
        states |= {
            f"global_step2/zero_pp_rank_{n}_mp_rank_00_{kind}_states.pt" for n in (0, 1) for kind in ("optim", "model")
        }
    for step in (2, 4):
        folder = tmp_path / f"checkpoint-{step}"
        for name in model | states:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        save_file({"weight": torch.ones(2)}, folder / weights)
        write_folder_manifest(folder, [file for file in folder.rglob("*") if file.is_file()], {"step": step})
    for _ in range(2):  # twice: a second start finds them cleared
        folders(tmp_path, layout == "ZeRO-3", keep_optimizer).clear_states()
        for step in (2, 4):
            folder = tmp_path / f"checkpoint-{step}"
            kept = model | states if keep_optimizer and step == 4 else model
            assert {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} == kept | {
                SEAL
            }
            assert is_whole(folder)
            assert bool(verify_folder(folder).get(NOT_RESUMABLE)) == (kept == model)


@pytest.mark.slow
def test_an_adapter_is_rounded_and_a_killed_run_deletes_its_states_when_it_is_started_again(
    train: Callable[..., Path], tmp_path: Path
) -> None:
    from align.trainers.checkpointing import Checkpointing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpointing, "clear_finished", lambda self: None)
        output = train(tmp_path / "run", lora=True, save_steps=2, save_dtype="bfloat16", keep_optimizer=True)
    assert_rounded(output, "adapter_model.safetensors")
    written = output / "checkpoint-2"
    count = sum(tensor.numel() for tensor in load_file(written / "adapter_model.safetensors").values())
    for name, each in (("adapter_model.safetensors", 4), ("optimizer.pt", 8)):  # names and shapes are small
        assert each * count < (written / name).stat().st_size < each * count + 100_000
    train(output, lora=True, save_steps=2, save_dtype="bfloat16")
    assert not list(output.rglob("optimizer.pt"))
    assert is_whole(output)
    assert is_whole(output / "checkpoint-2")
    assert not (output / "trees.arrow").exists()


# The type of the finished model


def assert_rounded(output: Path, name: str) -> None:
    """The finished model has the weights of the last checkpoint in bfloat16."""
    rounded, exact = load_file(output / name), load_file(output / "checkpoint-4" / name)
    assert rounded.keys() == exact.keys()
    for key, tensor in exact.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(rounded[key], tensor.to(torch.bfloat16), rtol=0, atol=0)


@pytest.mark.slow
def test_a_finished_model_is_rounded_and_its_checkpoints_are_exact(
    train: Callable[..., Path], whole: Path, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_end: list[int] = []

    def measured(tensors: Any, path: Path, **settings: Any) -> None:
        save_file(tensors, path, **settings)
        weights = [file for file in path.parent.iterdir() if "model.safetensors" in file.name]
        assert len(weights) == 2, "the copy is written before the file is deleted"
        at_the_end.append(sum(file.stat().st_size for file in weights))

    monkeypatch.setattr(saving, "save_file", measured)
    done = train(tmp_path / "run", save_steps=2, save_dtype="bfloat16", keep_optimizer=True)
    assert_rounded(done, "model.safetensors")
    assert is_whole(done)
    training = TrainingConfig(output_dir=done, save_dtype="bfloat16")
    need = disk_need(AutoModelForCausalLM.from_pretrained(tiny_checkpoint), training, 4)
    assert at_the_end == [pytest.approx(need.model - disk._OTHER_FILES, rel=0.02)]
    assert verify_folder(done)["config"]["training"]["save_dtype"] == "bfloat16"
    weights = (folder / "checkpoint-4" / "model.safetensors" for folder in (done, whole))
    assert next(weights).read_bytes() == next(weights).read_bytes()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (whole, done))
    assert (before["dtype"], after["dtype"]) == ("float32", "bfloat16")
    assert before | {"dtype": "bfloat16"} == after
    assert {weight.dtype for weight in AutoModelForCausalLM.from_pretrained(done).parameters()} == {torch.bfloat16}
    policy = load_policy(ModelConfig(path=done))
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}, "the next stage trains in float32"
    mean = average_checkpoints([done, done], tmp_path / "mean")
    assert (mean / "model.safetensors").stat().st_size == (done / "model.safetensors").stat().st_size
    assert json.loads((mean / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(CheckpointError, match=r"was made with training\.save_dtype=bfloat16, and now .*=auto"):
        train(done, save_steps=2, keep_optimizer=True)


def test_a_sharded_model_is_converted_file_by_file_with_its_index(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "run", max_shard_size="20KB")
    assert len(list((tmp_path / "run").glob("*.safetensors"))) > 2
    before = json.loads((tmp_path / "run" / "model.safetensors.index.json").read_text())
    convert_weights(tmp_path / "run", "bfloat16")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "expected", max_shard_size="20KB")
    loaded, expected = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("run", "expected"))
    for (name, one), two in zip(loaded.named_parameters(), expected.parameters(), strict=True):
        assert one.dtype == torch.bfloat16, name
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    after = json.loads((tmp_path / "run" / "model.safetensors.index.json").read_text())
    assert after["metadata"]["total_size"] * 2 == before["metadata"]["total_size"]
    assert after["weight_map"] == before["weight_map"]
    files = {file.name for file in (tmp_path / "run").iterdir()}
    assert not {name for name in files if name.endswith(".part")}


def test_a_value_outside_the_range_of_the_type_is_named(tmp_path: Path) -> None:
    save_file({"model.norm.weight": torch.tensor([1.0, 1e5])}, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"weight model\.norm\.weight has values .*save_dtype: float16\. Set .* trains on from"
    ):
        convert_weights(tmp_path, "float16")
    assert load_file(tmp_path / "model.safetensors")["model.norm.weight"].dtype == torch.float32
    convert_weights(tmp_path, "bfloat16")


@pytest.mark.parametrize("value, refused", [(65504.0, False), (65519.0, False), (65520.0, True), (-1e5, True)])
def test_starting_weights_outside_the_range_of_float16_are_refused_on_all_processes(
    value: float, refused: bool, tmp_path: Path
) -> None:
    """The limit is that of the conversion itself: 65519 is rounded to 65504, 65520 to infinity."""
    assert bool(torch.tensor(value).half().isfinite()) != refused
    model = torch.nn.Linear(2, 2)
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    sharded = torch.nn.Linear(2, 2)  # under ZeRO-3 the values are the parts of the processes
    with torch.no_grad():
        model.weight[0, 1] = frozen.weight[0, 1] = value
    sharded.weight.ds_tensor, sharded.bias.ds_tensor = torch.tensor([0.0, value]), torch.empty(0)  # type: ignore[attr-defined]
    one = Processes(1, 0, torch.device("cpu"))

    def require(module: torch.nn.Module, save_dtype: str, processes: Processes = one) -> None:
        require_storable_weights(module, save_dtype, processes)

    require(model, "bfloat16")
    require(model, "auto")
    require(frozen, "float16")
    for module in (model, sharded):
        if refused:
            with pytest.raises(ConfigError, match=r"save_dtype: is float16, and the weight weight has .* 65504\. Set"):
                require(module, "float16")
        else:
            require(module, "float16")
    elsewhere: Any = SimpleNamespace(anywhere=lambda here: True)
    with pytest.raises(ConfigError, match=r"and a weight has values outside its range"):
        require(torch.nn.Linear(2, 2), "float16", elsewhere)


@pytest.mark.slow
def test_a_run_whose_model_float16_cannot_hold_ends_before_its_first_step(
    train: Callable[..., Path], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    start = shutil.copytree(tiny_checkpoint, tmp_path / "start")
    weights = load_file(start / "model.safetensors")
    weights["model.norm.weight"][0] = 1e5
    save_file(weights, start / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"the weight model\.norm\.weight has values outside its range"):
        train(tmp_path / "run", start=start, save_dtype="float16")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_bfloat16_weights_are_not_stored_as_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("DS_ACCELERATOR", "")
    training = TrainingConfig(output_dir=tmp_path / "run", save_dtype="float32")
    with pytest.raises(ConfigError, match=r"training\.save_dtype: is float32, and the trained weights are bfloat16"):
        training_arguments(training, ModelConfig(path="owner/name", dtype="bfloat16"))
    release_output(training.output_dir)
