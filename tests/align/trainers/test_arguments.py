"""Which of our settings reach transformers.TrainingArguments, and with which values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.settings import TrainingConfig
from align.trainers.arguments import mapped

CHANGED: dict[str, Any] = {
    "output_dir": "elsewhere",
    "learning_rate": 3e-4,
    "weight_decay": 0.02,
    "max_grad_norm": 0.5,
    "schedule": "linear",
    "save_steps": 7,
    "log_steps": 3,
    "report_to": ("tensorboard",),
    "run_name": "first",
    "project": "mine",
    "seed": 5,
    "optimizer": "adafactor",
    "adam_beta1": 0.8,
    "adam_beta2": 0.99,
    "adam_epsilon": 1e-6,
    "watchdog_minutes": 90,
}
"""A value for each setting that is an argument of transformers."""

OURS: dict[str, Any] = {
    "batch_size": 3,
    "epochs": 2.5,
    "max_steps": 9,
    "warmup_ratio": 0.5,
    "min_learning_rate_ratio": 0.5,
    "precision": "bf16",
    "keep_checkpoints": 4,
    "save_minutes": 30,
    "keep_optimizer": True,
    "save_dtype": "bfloat16",
    "threads": 1,
    "checks": False,
    "eval_steps": 7,
    "eval_on_start": False,
    "metric_for_best_model": "eval_loss",
    "load_best_model_at_end": True,
    "early_stopping_patience": 2,
    "early_stopping_threshold": 0.5,
    "sequence_parallel": 2,
    "slow_rank_factor": 2.0,
    "guards": {"alarms": {}},
}
"""A value for each setting that transformers does not see."""


def arguments(**changed: Any) -> dict[str, Any]:
    made = mapped(TrainingConfig.model_validate({"output_dir": "here"} | changed), bf16_weights=False)
    return {name: value for name, value in vars(made).items() if name != "distributed_state"}


def test_every_setting_either_reaches_transformers_or_is_ours() -> None:
    assert CHANGED.keys() | OURS.keys() == TrainingConfig.model_fields.keys()


@pytest.mark.parametrize("name", CHANGED)
def test_a_setting_of_transformers_changes_its_arguments(name: str) -> None:
    assert arguments(**{name: CHANGED[name]}) != arguments()


@pytest.mark.parametrize("name", OURS)
def test_a_setting_of_ours_changes_none(name: str) -> None:
    assert arguments(**{name: OURS[name]}) == arguments()


@pytest.mark.parametrize("minutes, seconds", [(60, 3900), (120.5, 7530), (1, 1800), (None, 1800)])
def test_the_watchdog_is_never_slower_than_the_time_out_of_a_collective_operation(
    minutes: float | None, seconds: int
) -> None:
    assert arguments(watchdog_minutes=minutes)["ddp_timeout"] == seconds


def test_the_optimizer_is_the_one_that_the_mapping_gives(tmp_path: Path) -> None:
    import torch
    from transformers import Trainer

    training = TrainingConfig(output_dir=tmp_path, learning_rate=3e-4, weight_decay=0.02)
    trainer = Trainer(model=torch.nn.Linear(2, 2), args=mapped(training, bf16_weights=False))
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.AdamW
    expected = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-8}
    assert {name: optimizer.defaults[name] for name in expected} == expected
    weight, bias = (
        next(g for g in optimizer.param_groups if p in set(g["params"])) for p in trainer.model.parameters()
    )
    assert (weight["weight_decay"], bias["weight_decay"]) == (0.02, 0.0)
