"""Checkpoints of a run: what is sealed, resumed from, passed over, pruned, finished, and whose output folder it is."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from align.errors import CheckpointError, ConfigError, ProofError
from align.jsonl import write_rows
from align.manifest import SEAL, seal_folder, verify_folder
from align.rows import Message, PreferenceRow, SFTRow
from align.settings import ModelConfig, PreferenceDataConfig, TrainingConfig, TreeDataConfig
from align.trainers.schedules import Schedule, warmup_steps

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


def metrics(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=pytest.fail) for line in lines]


# The same rows, start and template


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_of_other_rows_start_or_template_under_the_same_paths_is_refused(
    stage: str, finished: bool, tmp_path: Path, tiny_checkpoint: Path, left_unfinished
) -> None:
    import shutil

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
        with pytest.raises(
            CheckpointError, match=f"{place.name}: was trained {message} .*choose another training"
        ) as said:
            train(stage, data, start, output)
        assert "Restore what changed" in str(said.value)
        assert content(place) == before

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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("factor", [math.inf, math.nan])
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
        with pytest.raises(ProofError, match=message):
            train("sft", data, tiny_checkpoint, output, precision=precision)
    assert not (output / SEAL).exists()
    assert [line["step"] for line in metrics(output)] == list(range(1, step)), "and the metrics are JSON"
    sealed = sorted(path.parent.name for path in output.glob(f"checkpoint-*/{SEAL}"))
    assert sealed == [f"checkpoint-{saved}" for saved in (2, 4) if saved < step]
    if (factor, precision) == (math.inf, "fp32"):
        whole = train("sft", data, tiny_checkpoint, tmp_path / "whole")
        assert content(train("sft", data, tiny_checkpoint, output)) == content(whole), "the same command goes on"


@pytest.mark.parametrize("rate", [3e38, 1e25])
def test_weights_that_are_not_finite_after_the_last_step_are_never_sealed(
    rate: float, tmp_path: Path, tiny_checkpoint: Path, data: Path
) -> None:
    output = tmp_path / "run"
    settings = {"learning_rate": rate, "schedule": "constant", "warmup_share": 0, "max_steps": 1}
    with pytest.raises(ProofError, match=r"step 1: the weight model\.\S+ is not finite after the update on rows r\d+"):
        train("sft", data, tiny_checkpoint, output, **settings)
    assert not list(output.rglob(SEAL))
    assert not list(output.rglob("*.safetensors"))


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
        seal_folder(folder, [folder / name for name in manifest["files"]], notes)

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


def test_running_out_of_memory_names_what_to_lower(
    tmp_path: Path, tiny_checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.trainers.sft import SFTTrainer

    def fail(self, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(SFTTrainer, "batch_loss", fail)
    message = (
        r"out of memory in step 1 \(CUDA out of memory\..*Lower data\.token_budget \(now 4096\), set model\.gradient_c"
    )
    with pytest.raises(ConfigError, match=message):
        train("sft", data, tiny_checkpoint, tmp_path / "run")


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


def test_a_run_trains_at_the_rates_of_its_schedule(tmp_path: Path, tiny_checkpoint: Path, data: Path) -> None:
    done = train("sft", data, tiny_checkpoint, tmp_path / "run", schedule="linear", warmup_share=0.3)
    rates = [line["learning_rate"] for line in metrics(done)]
    assert rates == pytest.approx([1e-3 * share for share in (1 / 2, 1, 1, 3 / 4, 1 / 2, 1 / 4)])
