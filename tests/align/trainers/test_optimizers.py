"""The optimizers of `training.optimizer`: the names, what is refused before anything is loaded, and that they train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from align.errors import ConfigError
from align.jsonl import write_rows
from align.optimizers import OPTIMIZERS, UNSUPPORTED, require_usable
from align.optional import is_installed
from align.rows import Message, SFTRow
from align.settings import ModelConfig, TrainingConfig, TreeDataConfig
from align.trainers.arguments import mapped, training_arguments
from align.trainers.deepspeed_file import require_one_optimizer, require_zero_3

ON_A_CPU = [name for name, facts in OPTIMIZERS.items() if not facts.gpu and "adamw_torch" not in name]
"""The default and its slower twin are left out: every other test trains with the default."""


def training(**changed: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"output_dir": "run"} | changed)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_rows(
        path,
        [
            SFTRow(
                id=f"r{n}",
                source="test",
                messages=(Message(role="user", content=f"Say {n}."), Message(role="assistant", content=f"It is {n}.")),
            )
            for n in range(6)
        ],
    )
    return path


@pytest.fixture(scope="module")
def train(data: Path, tiny_checkpoint: Path) -> Callable[..., Path]:
    def run(output: Path, **changed: Any) -> Path:
        from recipes import sft

        settings = {"batch_size": 2, "learning_rate": 1e-3, "precision": "fp32", "checks": False} | changed
        return sft.run(
            sft.SFTRecipe(
                model=ModelConfig(path=tiny_checkpoint),
                data=TreeDataConfig(path=data),
                training=TrainingConfig(output_dir=output, **settings),
            )
        )

    return run


# Names


def test_the_names_are_those_of_transformers() -> None:
    from transformers.training_args import OptimizerNames

    known = {name.value for name in OptimizerNames}
    assert OPTIMIZERS.keys() | UNSUPPORTED.keys() == known
    assert not OPTIMIZERS.keys() & UNSUPPORTED.keys()
    assert get_args(TrainingConfig.model_fields["optimizer"].annotation) == tuple(OPTIMIZERS)


def test_a_name_that_cannot_be_used_is_refused_with_what_to_use() -> None:
    for name, (why, how) in UNSUPPORTED.items():
        with pytest.raises(ValueError, match=rf"training\.optimizer: {name} .*\. Use ") as refused:
            training(optimizer=name)
        assert f"{name} {why}. {how}." in str(refused.value)
        assert any(each in how for each in OPTIMIZERS) or "model.lora" in how


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("align.optimizers.is_installed", lambda package: False)
    for name, facts in OPTIMIZERS.items():
        if facts.package:
            with pytest.raises(
                ValueError, match=rf"optimizer {name} requires bitsandbytes.* pip install '.*\[qlora\]'"
            ):
                training(optimizer=name)
        else:
            assert training(optimizer=name).optimizer == name


@pytest.mark.parametrize(
    "optimizer, setting",
    [("sgd", "adam_beta1"), ("adafactor", "adam_beta2"), ("rmsprop", "adam_epsilon"), ("adagrad", "adam_epsilon")],
)
def test_a_setting_that_the_optimizer_does_not_read_is_refused(optimizer: str, setting: str) -> None:
    with pytest.raises(
        ValueError, match=rf"training\.{setting} is 0\.5, which the optimizer {optimizer} does not read"
    ):
        training(optimizer=optimizer, **{setting: 0.5})
    assert training(optimizer=optimizer).optimizer == optimizer


def test_what_needs_a_gpu_or_one_process_is_refused_before_anything_is_loaded() -> None:
    for name, facts in OPTIMIZERS.items():
        if facts.gpu:
            with pytest.raises(ConfigError, match=rf"{name} moves optimizer states .* no GPU is visible\. Use \w"):
                require_usable(name, gpu=False, sharded=False)
        require_usable(name, gpu=True, sharded=False)
        if not facts.sharded:
            with pytest.raises(ConfigError, match=rf"{name} does not work with DeepSpeed.* Use adamw_torch_fused or"):
                require_usable(name, gpu=True, sharded=True)


# DeepSpeed's file


@pytest.mark.parametrize(
    "content, optimizer, message",
    [
        ({}, "adamw_torch", None),
        ({"optimizer": {"type": "AdamW"}}, "adamw_torch_fused", None),
        (
            {"optimizer": {"type": "AdamW"}},
            "adamw_torch",
            r"is adamw_torch, and \S+ has a section `optimizer` \(AdamW\)",
        ),
        ({"scheduler": {"type": "WarmupLR"}}, "adamw_torch_fused", "has a section `scheduler`, which would replace"),
    ],
)
def test_the_deepspeed_file_and_the_config_do_not_both_name_an_optimizer(
    content: dict[str, Any],
    optimizer: str,
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "zero3.json"
    path.write_text(json.dumps(content))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    if message is None:
        require_one_optimizer(training(optimizer=optimizer))
        assert (f"the optimizer AdamW of {path} is used" in caplog.text) == ("optimizer" in content)
    else:
        with pytest.raises(ConfigError, match=message):
            require_one_optimizer(training(optimizer=optimizer))


@pytest.mark.parametrize("stage", [0, 1, 2, None])
def test_another_zero_stage_than_3_is_refused_before_anything_is_loaded(
    stage: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deepspeed.json"
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    path.write_text(json.dumps({} if stage is None else {"zero_optimization": {"stage": stage}}))
    message = f"is of ZeRO stage {stage}.* Set zero_optimization.stage to 3"
    with pytest.raises(ConfigError, match="is no DeepSpeed file with a section" if stage is None else message):
        require_zero_3()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("DS_ACCELERATOR", "")
    with pytest.raises(ConfigError, match="zero_optimization"):
        training_arguments(training(output_dir=tmp_path / "run"), ModelConfig(path="gpt2"))
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    require_zero_3()
    monkeypatch.delenv("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", str(stage))
    with pytest.raises(ConfigError, match=f"launch: is of ZeRO stage {stage}, and only stage 3 is supported"):
        require_zero_3()


# Training


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_A_CPU)
def test_an_optimizer_trains_saves_and_resumes_to_the_byte(
    name: str, train: Callable[..., Path], tmp_path: Path, left_unfinished
) -> None:
    """Three steps in one go, of which the second and the third are saved; then the third step again, resumed."""
    if OPTIMIZERS[name].package and not is_installed(OPTIMIZERS[name].package):
        pytest.skip(f"{OPTIMIZERS[name].package} is not installed: pip install -e '.[qlora]'")
    with left_unfinished():
        train(tmp_path / "run", optimizer=name, save_steps=2, keep_optimizer=True)
    second, third = tmp_path / "run" / "checkpoint-2", tmp_path / "third"
    (tmp_path / "run" / "checkpoint-3").rename(third)
    state = torch.load(second / "optimizer.pt", weights_only=True)["state"]
    assert bool(state) == (name != "sgd"), "plain SGD has no state"
    done = train(tmp_path / "run", optimizer=name, save_steps=2, keep_optimizer=True)
    for file in ("model.safetensors", "optimizer.pt", "scheduler.pt"):
        assert (done / "checkpoint-3" / file).read_bytes() == (third / file).read_bytes()
    assert (done / "model.safetensors").read_bytes() == (third / "model.safetensors").read_bytes()
    assert (done / "model.safetensors").read_bytes() != (second / "model.safetensors").read_bytes()


def test_adam_has_the_values_of_its_settings() -> None:
    config = training(optimizer="adamw_torch", adam_beta1=0.8, adam_beta2=0.99, adam_epsilon=1e-6)
    made = mapped(config, bf16_weights=False)
    assert (made.optim, made.adam_beta1, made.adam_beta2, made.adam_epsilon) == ("adamw_torch", 0.8, 0.99, 1e-6)
