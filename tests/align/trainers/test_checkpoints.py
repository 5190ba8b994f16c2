"""Checkpoints of a run: what is sealed, resumed from, passed over, pruned, finished, and whose output folder it is."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerControl, TrainerState

from align import manifest as manifests
from align.errors import CheckError, CheckpointError, ConfigError, UnreadableCheckpointError
from align.jsonl import write_rows
from align.manifest import SEAL, is_whole, verify_folder, write_folder_manifest
from align.rows import Message, PreferenceRow, SFTRow
from align.settings import GuardsConfig, ModelConfig, PreferenceDataConfig, TrainingConfig, TreeDataConfig
from align.trainers.checkpoints import CheckpointFolders
from align.trainers.engine import refuse_code_while_loading
from align.trainers.saving import write_trainer_state
from align.trainers.schedules import Schedule, warmup_steps
from tests.metrics import metrics_of

STAGES = ["sft", "reward", "dpo"]
IDENTITY = {"template": "t", "start": "s", "rows": "r", "precision": "p"}


def rows_of(stage: str, place: str = "France", count: int = 12) -> list[SFTRow] | list[PreferenceRow]:
    prompts = [(Message(role="user", content=f"What is the capital of {place} {n}?"),) for n in range(count)]
    good, bad = ([(Message(role="assistant", content=f"{word} {place} {n}."),) for n in range(count)] for word in "ab")
    if stage == "sft":
        return [
            SFTRow(id=f"r{n}", source="test", messages=(*prompt, *answer))
            for n, (prompt, answer) in enumerate(zip(prompts, good, strict=True))
        ]
    pairs = zip(prompts, zip(good, bad, strict=True), strict=True)
    return [PreferenceRow(id=f"r{n}", source="test", prompt=p, completions=pair) for n, (p, pair) in enumerate(pairs)]


def train(stage: str, data: Path, start: Path, output: Path, **changed) -> Path:
    """Six steps of four rows each."""
    from recipes import dpo, reward, sft

    settings = {"batch_size": 4, "epochs": 2, "save_steps": 2, "learning_rate": 1e-3, "precision": "fp32"} | changed
    training = TrainingConfig(output_dir=output, **settings)
    model = ModelConfig(path=start)
    if stage == "sft":
        return sft.run(sft.SFTRecipe(model=model, data=TreeDataConfig(path=data), training=training))
    recipe, module = {"dpo": (dpo.DPORecipe, dpo), "reward": (reward.RewardRecipe, reward)}[stage]
    return module.run(recipe(model=model, data=PreferenceDataConfig(path=data), training=training))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", rows_of("sft"))
    return tmp_path / "rows.jsonl"


def content(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Name -> size and time of change of each file."""
    stats = {str(file.relative_to(folder)): file.stat() for file in folder.rglob("*") if file.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def metrics(folder: Path) -> list[dict]:
    return metrics_of(folder)


# The same rows, start and template


@pytest.mark.slow
@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_of_other_rows_start_or_template_under_the_same_paths_is_refused(
    stage: str, finished: bool, tmp_path: Path, tiny_checkpoint: Path, left_unfinished
) -> None:
    start, data, output = (
        shutil.copytree(tiny_checkpoint, tmp_path / "start"),
        tmp_path / "rows.jsonl",
        tmp_path / "run",
    )
    write_rows(data, rows_of(stage))
    if finished:
        train(stage, data, start, output)
    else:
        with left_unfinished():
            train(stage, data, start, output)
    place = output if finished else output / "checkpoint-4"
    identity = verify_folder(place)["identity"]
    assert set(identity) == {"template", "start", "rows", "precision"}
    assert all(identity.values())

    def refused(message: str) -> None:
        before = content(place)
        others = files_of(output)
        with pytest.raises(
            CheckpointError, match=f"{place.name}: was trained {message} .*choose another training"
        ) as said:
            train(stage, data, start, output)
        assert "Restore what changed" in str(said.value)
        assert content(place) == before
        assert files_of(output) == others, "a refusal writes nothing: not even the encoded rows"

    write_rows(data, rows_of(stage, "Italy"))
    refused("on other rows than data.path gives now")
    write_rows(data, rows_of(stage, count=11))
    refused("on other rows")
    write_rows(data, rows_of(stage))

    weights = (start / "model.safetensors").read_bytes()
    state = load_file(start / "model.safetensors")
    state["model.norm.weight"][3] += 1e-3
    save_file(state, start / "model.safetensors", metadata={"format": "pt"})
    refused("from other starting weights than model.path gives now")
    (start / "model.safetensors").write_bytes(weights)

    template = (start / "chat_template.jinja").read_text()
    (start / "chat_template.jinja").write_text(template + "{# another #}")
    refused("with another tokenizer, chat template or protocol than model.path gives now")
    (start / "chat_template.jinja").write_text(template)
    assert train(stage, data, start, output) == output, "as it was, the same command goes on"


@pytest.mark.slow
def test_settings_that_change_no_number_may_change_between_starts(
    tmp_path: Path, tiny_checkpoint: Path, data: Path, left_unfinished
) -> None:
    whole = train("sft", data, tiny_checkpoint, tmp_path / "whole", threads=1)
    with left_unfinished():
        train("sft", data, tiny_checkpoint, tmp_path / "run", threads=1)
    harmless = {"log_steps": 2, "save_steps": 100, "keep_checkpoints": 5, "report_to": ("tensorboard",)}
    done = train("sft", data, tiny_checkpoint, tmp_path / "run", **harmless)
    assert content(done) == content(whole)
    assert [line["step"] for line in metrics(done)] == [1, 2, 3, 4, 6]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_the_same_rows_and_start_may_be_elsewhere_when_a_run_goes_on(
    stage: str, tmp_path: Path, tiny_checkpoint: Path, left_unfinished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path may be relative in the next start, or the whole project may have been moved."""
    (tmp_path / "old").mkdir()
    start, data = shutil.copytree(tiny_checkpoint, tmp_path / "old" / "start"), tmp_path / "old" / "rows.jsonl"
    write_rows(data, rows_of(stage))
    whole = train(stage, data, start, tmp_path / "old" / "whole")
    with left_unfinished():
        train(stage, data, start, tmp_path / "old" / "run")
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    done = train(stage, Path("rows.jsonl"), Path("start"), Path("run"))
    assert [line["step"] for line in metrics(done)] == [1, 2, 3, 4, 5, 6]
    assert content(done) == content(tmp_path / "new" / whole.name)
    before = files_of(done)
    assert train(stage, tmp_path / "new" / "rows.jsonl", tmp_path / "new" / "start", done) == done
    assert files_of(done) == before, "finished already"
    write_rows(tmp_path / "other.jsonl", rows_of(stage, "Italy"))
    with pytest.raises(CheckpointError, match=r"made with data\.path=rows\.jsonl, and now .*other\.jsonl"):
        train(stage, tmp_path / "other.jsonl", Path("start"), done)
    assert files_of(done) == before


# What goes wrong in a step


def with_gradients_times(factor: float, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one optimizer step the loss is what it is, and its gradient is `factor` times as large."""
    from align.trainers.sft import SFTTrainer

    honest = SFTTrainer.batch_loss

    def loss(self, *arguments):
        value = honest(self, *arguments)
        if self.state.global_step + 1 == step:
            value.register_hook(lambda gradient: gradient * factor)
        return value

    monkeypatch.setattr(SFTTrainer, "batch_loss", loss)


@pytest.mark.slow
@pytest.mark.parametrize("factor, precision", [(math.inf, "fp32"), (math.nan, "bf16")])
@pytest.mark.parametrize("step", [4, 6], ids=["at a save", "at the last step"])
def test_a_gradient_that_is_not_finite_stops_the_run_before_anything_is_saved_of_it(
    factor: float, step: int, precision: str, tmp_path: Path, tiny_checkpoint: Path, data: Path
) -> None:
    output = tmp_path / "run"
    message = (
        rf"step {step}: the gradient norm is (nan|inf), with a finite loss, on rows r\d+, r\d+, r\d+, r\d+\. Nothing"
    )
    with pytest.MonkeyPatch.context() as patch:
        with_gradients_times(factor, step, patch)
        with pytest.raises(CheckError, match=message):
            train("sft", data, tiny_checkpoint, output, precision=precision, guards=GuardsConfig(max_rollbacks=0))
    assert not (output / SEAL).exists()
    assert [line["step"] for line in metrics(output)] == list(range(1, step)), "and the metrics are JSON"
    sealed = sorted(path.parent.name for path in output.glob(f"checkpoint-*/{SEAL}"))
    assert sealed == [f"checkpoint-{saved}" for saved in (2, 4) if saved < step]
    if (precision, step) == ("fp32", 4):
        whole = train("sft", data, tiny_checkpoint, tmp_path / "whole")
        assert content(train("sft", data, tiny_checkpoint, output)) == content(whole), "the same command goes on"


@pytest.mark.slow
@pytest.mark.parametrize("rate", [3e38, 1e25])
def test_weights_that_are_not_finite_after_the_last_step_are_never_sealed(
    rate: float, tmp_path: Path, tiny_checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings refuse such rates; here they come all the same. At 1e25 weights are finite, but not their squares."""
    output = tmp_path / "run"
    monkeypatch.setattr(Schedule, "__call__", lambda self, done: rate)
    with pytest.raises(CheckError, match=r"step 1: the weight model\.\S+ is not finite after the update on rows r\d+"):
        train("sft", data, tiny_checkpoint, output, learning_rate=1.0, max_steps=1)
    assert not list(output.rglob(SEAL))
    assert not list(output.rglob("*.safetensors"))


@pytest.mark.slow
def test_a_checkpoint_of_nan_weights_is_passed_over_by_name_and_a_finished_model_is_made_again(
    tmp_path: Path, tiny_checkpoint: Path, data: Path, left_unfinished, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train("sft", data, tiny_checkpoint, tmp_path / "whole")

    def spoil(folder: Path) -> None:
        manifest = verify_folder(folder)
        state = load_file(folder / "model.safetensors")
        state["model.norm.weight"][0] = math.nan
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        notes = {name: value for name, value in manifest.items() if name not in ("format", "blake3", "files")}
        write_folder_manifest(folder, [folder / name for name in manifest["files"]], notes)

    output = tmp_path / "run"
    with left_unfinished():
        train("sft", data, tiny_checkpoint, output)
    spoil(output / "checkpoint-4")
    assert content(train("sft", data, tiny_checkpoint, output)) == content(whole)
    expected = "checkpoint-4: weight model.norm.weight in model.safetensors is not finite"
    assert any(expected in message for message in caplog.messages)
    assert any("resuming from" in message and "checkpoint-2" in message for message in caplog.messages)

    spoil(output)
    assert content(train("sft", data, tiny_checkpoint, output)) == content(whole)
    assert any("the finished model is not whole and is trained again" in message for message in caplog.messages)


@pytest.mark.slow
def test_a_disk_that_takes_no_more_is_one_message_and_the_same_command_goes_on(
    tmp_path: Path, tiny_checkpoint: Path, data: Path
) -> None:
    """A limit on the size of files, which fails as a full disk does, on weights and on optimizer states."""
    import resource

    whole = train("sft", data, tiny_checkpoint, tmp_path / "whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (100_000, content(whole).__len__() + 1000):  # below the weights; above them, below Adam's states
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(CheckpointError, match=r"cannot be written \(.*\)\. Free some space.*the same command"):
                train("sft", data, tiny_checkpoint, tmp_path / "run")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content(train("sft", data, tiny_checkpoint, tmp_path / "run")) == content(whole)


# Which checkpoints stay


def folders(output: Path, keep: int = 2, sharded: bool = False) -> CheckpointFolders:
    return CheckpointFolders(output, "sft", recipe={}, identity=IDENTITY, keep=keep, sharded=sharded)


def checkpoint(output: Path, step: int, *, name: int | None = None, zero3: bool = False) -> Path:
    folder = output / f"checkpoint-{step if name is None else name}"
    states = f"global_step{step}/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt" if zero3 else "optimizer.pt"
    (folder / states).parent.mkdir(parents=True)
    save_file({"weight": torch.full((4,), float(step))}, folder / "model.safetensors")
    for file in (states, "scheduler.pt", "trainer_state.json", "rng_state.pth"):
        (folder / file).write_text(str(step))
    files = [file for file in folder.rglob("*") if file.is_file()]
    notes = {"step": step, "stage": "sft", "config": {}, "identity": IDENTITY, "processes": 1}
    write_folder_manifest(folder, files, notes)
    return folder


def damage(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def steps_in(output: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in output.glob("checkpoint-*"))


@pytest.mark.parametrize(
    "before, damaged, resumed, now, after",
    [
        ([14, 16, 18], [18], 16, 17, [16, 17, 18]),  # 18 waits for the run to get there again
        ([14, 16, 18], [16, 18], 14, 15, [14, 15, 16, 18]),
        ([8, 10], [10], 8, 9, [8, 9, 10]),
        ([2, 4, 6, 8], [], 8, 10, [8, 10]),
        ([2, 4, 6, 8], [6], 8, 10, [8, 10]),
        ([2, 4, 6], [4, 6], 2, 8, [2, 8]),
        ([2, 4], [2, 4], None, 6, [6]),
    ],
)
def test_pruning_keeps_the_newest_whole_ones_and_never_counts_a_damaged_one(
    before: list[int], damaged: list[int], resumed: int | None, now: int, after: list[int], tmp_path: Path
) -> None:
    for step in before:
        checkpoint(tmp_path, step)
    for step in damaged:
        damage(tmp_path / f"checkpoint-{step}")
    run = folders(tmp_path)
    assert run.newest() == (None if resumed is None else tmp_path / f"checkpoint-{resumed}")
    run.prune(checkpoint(tmp_path, now))
    assert steps_in(tmp_path) == after
    assert folders(tmp_path).newest() == tmp_path / f"checkpoint-{now}", "the one just written is what a restart takes"


def test_the_model_of_an_older_best_step_is_not_called_the_record_of_a_finished_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on: if the newer checkpoints are damaged, the message is about this one's states alone."""
    run = folders(tmp_path)
    for step in (2, 4, 6):
        run.prune(checkpoint(tmp_path, step), best=tmp_path / "checkpoint-2")
    assert steps_in(tmp_path) == [2, 4, 6]
    for step in (4, 6):
        damage(tmp_path / f"checkpoint-{step}")
    assert folders(tmp_path).newest() is None
    assert "checkpoint-2: holds the model alone: its optimizer states were deleted. It cannot be" in caplog.text
    assert "finished" not in caplog.text


def test_pruning_sees_damage_that_came_after_a_checkpoint_was_sealed(tmp_path: Path) -> None:
    run = folders(tmp_path)
    for step in (2, 4):
        run.prune(checkpoint(tmp_path, step))
    (tmp_path / "checkpoint-4" / "optimizer.pt").unlink()
    run.prune(checkpoint(tmp_path, 6))
    assert steps_in(tmp_path) == [2, 6]


def test_keep_checkpoints_is_at_least_two(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        TrainingConfig(output_dir=tmp_path, keep_checkpoints=1)


def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint(tmp_path, 8)
    checkpoint(tmp_path, 10, name=99)
    assert folders(tmp_path).newest() == tmp_path / "checkpoint-8"
    assert "checkpoint-99: its MANIFEST.json is of step 10, which its name does not say. Rename it" in caplog.text
    (tmp_path / "checkpoint-8").rename(tmp_path / "checkpoint-08")
    for name in ("checkpoint-", "checkpoint-best", "checkpoint-\u00b2", "checkpoint-\u0663"):
        (tmp_path / name).mkdir()
    assert folders(tmp_path).newest() is None


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json"])
def test_a_checkpoint_without_the_state_that_resuming_reads_is_passed_over(name: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 4)
    (folder / name).unlink()
    write_folder_manifest(
        folder, [f for f in folder.iterdir() if f.name != SEAL], {"step": 4, "stage": "sft", "config": {}}
    )
    assert folders(tmp_path).newest() is None


@pytest.mark.parametrize("sharded", [False, True])
def test_whole_states_of_another_launch_are_refused_and_damaged_ones_are_passed_over(
    sharded: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Passed over, a whole one would be a run that begins again from its first step, or from an older checkpoint."""
    older = checkpoint(tmp_path, 2, zero3=sharded)
    newer = checkpoint(tmp_path, 4, zero3=not sharded)
    with pytest.raises(ConfigError, match=r"launch: is .*ZeRO-3, and .*/checkpoint-4 has .*optimizer states"):
        folders(tmp_path, sharded=sharded).newest()
    assert folders(tmp_path, sharded=not sharded).newest() == newer
    damage(newer)
    assert folders(tmp_path, sharded=sharded).newest() == older
    assert "passing over a checkpoint: " in caplog.text
    older.rename(tmp_path / "elsewhere")
    assert folders(tmp_path, sharded=sharded).newest() is None


def test_a_checkpoint_that_is_a_link_to_storage_that_is_missing_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    output, storage = tmp_path / "run", tmp_path / "storage"
    checkpoint(output, 2)
    moved = checkpoint(storage, 4)
    (output / "checkpoint-4").symlink_to(moved)
    assert folders(output).newest() == output / "checkpoint-4"
    storage.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"checkpoint-4: is a link to .*, which does not exist\. Mount"):
        folders(output).newest()
    assert steps_in(output) == [2, 4]


def test_a_pickle_that_the_manifest_does_not_list_is_refused_by_name(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 4)
    (folder / "global_step4").mkdir()
    (folder / "global_step4" / "zero_pp_rank_9_mp_rank_00_optim_states.pt").write_bytes(b"code")
    with pytest.raises(
        CheckpointError, match=r"rank_9_mp_rank_00_optim_states\.pt: is a file that MANIFEST\.json does not"
    ):
        folders(tmp_path).newest()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["code", "another class", "no pickle"])
def test_deepspeeds_states_are_read_without_running_code(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed itself asks for `weights_only=False`, which runs the code that a pickle names."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    class Engine:
        def load_checkpoint(self, folder: Path) -> dict:
            return torch.load(folder / "states.pt", weights_only=False)

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    mark = tmp_path / "code ran"
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    engine, states = Engine(), tmp_path / "states.pt"
    refuse_code_while_loading(engine)
    states_of_deepspeed = {"stage": ZeroStageEnum.weights, "scaler": LossScaler(1.0), "flat": [torch.ones(3)]}
    states_of_deepspeed["slices"] = {"weight": fragment_address(numel=3, start=1)}
    torch.save(states_of_deepspeed, states)
    loaded = engine.load_checkpoint(tmp_path)
    assert loaded["stage"] is ZeroStageEnum.weights
    assert loaded["scaler"].loss_scale == 1.0
    assert loaded["slices"]["weight"] == fragment_address(numel=3, start=1)
    assert torch.equal(loaded["flat"][0], torch.ones(3))

    if how == "no pickle":
        states.write_bytes(b"import os")
    else:
        torch.save({**states_of_deepspeed, "more": Code() if how == "code" else subprocess.Popen}, states)
    if how == "code":
        torch.load(states, weights_only=False)
        mark.rmdir()  # it is there: without our reading the code runs
    with pytest.raises(CheckpointError, match=r"has optimizer states that could run code"):
        engine.load_checkpoint(tmp_path)
    assert not mark.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.slow
def test_weights_that_the_manifest_does_not_list_are_not_loaded(
    tmp_path: Path, tiny_checkpoint: Path, data: Path, left_unfinished
) -> None:
    whole = train("sft", data, tiny_checkpoint, tmp_path / "whole")
    with left_unfinished():
        train("sft", data, tiny_checkpoint, tmp_path / "run")
    stray = {name: torch.zeros_like(weight) for name, weight in load_file(whole / "model.safetensors").items()}
    save_file(stray, tmp_path / "run" / "checkpoint-4" / "model_zz.safetensors", metadata={"format": "pt"})
    save_file(stray, tmp_path / "run" / "model_zz.safetensors", metadata={"format": "pt"})
    done = train("sft", data, tiny_checkpoint, tmp_path / "run")
    assert content(done) == content(whole)
    assert "model_zz.safetensors" not in verify_folder(done)["files"]


@pytest.mark.slow
def test_checkpoints_are_saved_by_time_as_well_and_the_model_stays_the_same(
    tmp_path: Path, tiny_checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.trainers.steering import Steering

    saved: list[int] = []
    honest = Steering.on_save

    def on_save(self, args, state, control, **others) -> None:
        saved.append(state.global_step)
        honest(self, args, state, control, **others)

    monkeypatch.setattr(Steering, "on_save", on_save)
    monkeypatch.setattr("align.trainers.steering.time", SimpleNamespace(monotonic=lambda: 60.0 * clock[0]))
    clock, honest_step = [0.0], Steering.on_step_begin

    def on_step_begin(self, *arguments, **others) -> None:
        clock[0] += 1.0  # every step takes a minute
        honest_step(self, *arguments, **others)

    monkeypatch.setattr(Steering, "on_step_begin", on_step_begin)
    timed = train("sft", data, tiny_checkpoint, tmp_path / "timed", save_steps=4, save_minutes=2.5)
    # Three minutes after the start; then at step 4, and the clock begins again.
    assert saved == [3, 4]
    saved.clear()
    plain = train("sft", data, tiny_checkpoint, tmp_path / "plain", save_steps=4)
    assert saved == [4]
    assert content(timed) == content(plain)


def test_a_manifest_of_an_older_version_cannot_be_resumed_from(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 4)
    manifest = json.loads((folder / SEAL).read_text())
    old = {name: value for name, value in manifest.items() if name not in ("format", "blake3", "identity")}
    (folder / SEAL).write_text(json.dumps(old, indent=1))
    with pytest.raises(CheckpointError, match="older version, which did not record what it was trained from"):
        folders(tmp_path).newest()


@pytest.mark.slow
def test_a_finished_folder_holds_models_alone_and_they_are_whole(
    tmp_path: Path, tiny_checkpoint: Path, data: Path
) -> None:
    done = train("sft", data, tiny_checkpoint, tmp_path / "run")
    (tmp_path / "plain").touch()
    for folder in (done, done / "checkpoint-2", done / "checkpoint-4"):
        assert is_whole(folder)
        kept = {file.suffix for file in folder.iterdir()}
        assert kept <= {".safetensors", ".json", ".jinja", ".jsonl", ""}, "no optimizer states, no random states"
        assert all(file.name.startswith("checkpoint-") for file in folder.iterdir() if not file.suffix)
        for file in folder.rglob("*.*"):
            assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode, f"{file} has unusual permissions"
        assert json.loads((folder / "config.json").read_text()).get("use_cache", True)
    train("sft", data, tiny_checkpoint, done)
    assert is_whole(done / "checkpoint-2"), "a second start leaves them"
    assert is_whole(done / "checkpoint-4")
    (done / SEAL).unlink()
    again = train("sft", data, tiny_checkpoint, done)
    assert is_whole(again), "what is left of its checkpoints is not resumed from"


# Signals


@pytest.mark.slow
def test_signal_handlers_are_put_back_however_a_run_ends(
    tmp_path: Path, tiny_checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.trainers.sft import SFTTrainer

    def handlers() -> list:
        return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    before, during = handlers(), []
    honest = SFTTrainer.batch_loss

    def loss(self, *arguments):
        during.append(handlers())
        if len(during) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self, *arguments)

    monkeypatch.setattr(SFTTrainer, "batch_loss", loss)
    with pytest.raises(SystemExit) as ended:
        train("sft", data, tiny_checkpoint, tmp_path / "run")
    assert ended.value.code == 128 + signal.SIGTERM
    assert handlers() == before
    assert during[0] != before
    assert is_whole(tmp_path / "run" / "checkpoint-3")
    train("sft", data, tiny_checkpoint, tmp_path / "run")
    assert handlers() == before


# The learning rate


def test_warm_up_begins_above_0_and_the_decay_is_transformers_own() -> None:
    """The warm-up in fractions; the decay by transformers' schedules, on a plain optimizer."""
    from transformers import get_scheduler

    names = {"cosine": "cosine_with_min_lr", "linear": "linear", "constant": "constant_with_warmup"}
    for kind, name in names.items():
        for steps, warmup in [(1, 0), (1, 1), (7, 0), (7, 1), (7, 3), (7, 7), (100, 3)]:
            schedule = Schedule(kind, steps, warmup, 0.1)
            found = [schedule(done) for done in range(steps)]
            assert found[:warmup] == [float(Fraction(step, warmup)) for step in range(1, warmup + 1)]
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            more = {"min_lr_rate": 0.1} if kind == "cosine" else {}
            theirs = get_scheduler(name, optimizer, warmup, steps, scheduler_specific_kwargs=more)
            for done in range(steps):
                if done >= warmup:
                    assert found[done] == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), (kind, steps, warmup)
                optimizer.step()
                theirs.step()
            assert min(found) > 0, "no step is wasted"
            assert max(found) == 1 == found[max(warmup - 1, 0)]


def test_warm_up_is_a_share_of_the_steps_rounded_up() -> None:
    counted = [warmup_steps(share, steps) for share, steps in [(0, 9), (0.03, 7), (0.03, 100), (0.07, 100), (1, 9)]]
    assert counted == [0, 1, 3, 7, 9]


@pytest.mark.slow
def test_a_run_trains_at_the_rates_of_its_schedule(tmp_path: Path, tiny_checkpoint: Path, data: Path) -> None:
    done = train("sft", data, tiny_checkpoint, tmp_path / "run", schedule="linear", warmup_ratio=0.3)
    rates = [line["learning_rate"] for line in metrics(done)]
    assert rates == pytest.approx([1e-3 * share for share in (1 / 2, 1, 1, 3 / 4, 1 / 2, 1 / 4)])


@pytest.mark.parametrize("step", [4, 2])
def test_a_checkpoint_that_cannot_be_read_now_is_neither_passed_over_nor_deleted(
    step: int, data: Path, tmp_path: Path, tiny_checkpoint: Path, left_unfinished, caplog: pytest.LogCaptureFixture
) -> None:
    """A link to itself takes the place of a disk that fails, as root may read whatever permissions say.

    The newest one ends the start, since the run would go on from the one before. An older one is left as it is.
    """
    output = tmp_path / "run"
    with left_unfinished():
        train("sft", data, tiny_checkpoint, output, keep_checkpoints=2)
    weights = output / f"checkpoint-{step}/model.safetensors"
    weights.rename(tmp_path / "away")
    weights.symlink_to(weights)
    before = files_of(output / "checkpoint-2") if step == 4 else None
    if step == 4:
        with pytest.raises(UnreadableCheckpointError, match="cannot be read"):
            train("sft", data, tiny_checkpoint, output, keep_checkpoints=2)
        assert files_of(output / "checkpoint-2") == before
        assert not (output / "model.safetensors").exists()
    else:
        train("sft", data, tiny_checkpoint, output, keep_checkpoints=2)
        assert weights.is_symlink()
        assert (weights.parent / SEAL).exists()
    weights.unlink()
    (tmp_path / "away").rename(weights)
    verify_folder(output / f"checkpoint-{step}")
    train("sft", data, tiny_checkpoint, output, keep_checkpoints=2)
    verify_folder(output)


def test_a_run_that_is_killed_while_it_deletes_states_at_its_end_keeps_the_weights(
    data: Path, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = train("sft", data, tiny_checkpoint, tmp_path / "alone", keep_checkpoints=2)

    def killed(folder: Path, manifest: dict) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "delete_what_is_left", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train("sft", data, tiny_checkpoint, tmp_path / "run", keep_checkpoints=2)
    train("sft", data, tiny_checkpoint, tmp_path / "run", keep_checkpoints=2)
    for folder in ("checkpoint-2", "checkpoint-4"):
        assert {file.name for file in (tmp_path / "run" / folder).iterdir()} == {
            file.name for file in (alone / folder).iterdir()
        }
        assert content(tmp_path / "run" / folder) == content(alone / folder)


# The state of the trainer


def as_transformers_writes(state: TrainerState, folder: Path) -> dict:
    TrainerState.save_to_json(state, str(folder / "theirs.json"))
    return json.loads((folder / "theirs.json").read_text())


@pytest.mark.parametrize("entries", [0, 1, 3])
def test_the_trainers_state_has_the_values_that_transformers_writes(entries: int, tmp_path: Path) -> None:
    log = [{"step": n, "loss": 0.1 + n, "epoch": 1 / 3, "rewards/chosen": -1e-9} for n in range(entries)]
    state = TrainerState(global_step=entries, log_history=log, best_metric=0.5, stateful_callbacks=[TrainerControl()])
    write_trainer_state(state, tmp_path / "ours.json")
    text = (tmp_path / "ours.json").read_text()
    assert json.loads(text) == as_transformers_writes(state, tmp_path)
    assert TrainerState.load_from_json(str(tmp_path / "ours.json")) == state
    assert sum('"loss"' in line for line in text.splitlines()) == entries, "one line for each entry of the log"


def test_the_state_in_a_checkpoint_is_written_line_by_line(
    data: Path, tmp_path: Path, tiny_checkpoint: Path, left_unfinished
) -> None:
    with left_unfinished():
        train("sft", data, tiny_checkpoint, tmp_path / "run")
    text = (tmp_path / "run/checkpoint-4/trainer_state.json").read_text()
    read = TrainerState.load_from_json(str(tmp_path / "run/checkpoint-4/trainer_state.json"))
    assert read.global_step == 4
    assert [entry["step"] for entry in read.log_history] == [1, 2, 3, 4]
    assert all(f"    {json.dumps(entry, sort_keys=True)}" in text for entry in read.log_history)
    assert json.loads(text) == as_transformers_writes(read, tmp_path)
