"""Resuming with other settings: what may change, what is refused by name, and runs that get more steps than before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align.config import dump
from align.errors import CheckpointError
from align.jsonl import write_rows
from align.manifest import verify_folder
from align.rows import Message, PreferenceRow, SFTRow
from align.settings import DPOConfig, LoRAConfig, ModelConfig, PreferenceDataConfig, TrainingConfig, TreeDataConfig
from align.trainers.resuming import Run, changed_schedule, default_values, refuse_other_run
from align.tree.pack import RunPlan
from recipes.sft import SFTRecipe
from tests.metrics import metrics_of

CONSTANT = {"schedule": "constant", "batch_size": 4, "learning_rate": 1e-3, "precision": "fp32", "checks": False}
"""With a constant schedule a run of more steps is defined: its first steps are those of the shorter run."""


def rows_of(stage: str) -> list[Any]:
    made: list[Any] = []
    for n in range(20):
        prompt = Message(role="user", content=f"What is the capital of land {n}?")
        good, bad = (Message(role="assistant", content=f"{word} {n}.") for word in ("City", "Town"))
        if stage == "sft":
            made.append(SFTRow(id=f"r{n}", source="test", messages=(prompt, good)))
        else:
            made.append(PreferenceRow(id=f"r{n}", source="test", prompt=(prompt,), completions=((good,), (bad,))))
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    for stage in ("sft", "dpo"):
        write_rows(folder / f"{stage}.jsonl", rows_of(stage))
    return {stage: folder / f"{stage}.jsonl" for stage in ("sft", "dpo")}


@pytest.fixture(scope="module")
def train(data: dict[str, Path], tiny_checkpoint: Path) -> Callable[..., Path]:
    """Train on 20 rows, 4 in a step: 5 steps an epoch."""

    def run(output: Path, *, stage: str = "sft", lora: bool = False, **changed: Any) -> Path:
        from recipes import dpo, sft

        training = TrainingConfig(output_dir=output, **(CONSTANT | changed))
        model = ModelConfig(path=tiny_checkpoint, lora=LoRAConfig(rank=4, alpha=8) if lora else None)
        if stage == "sft":
            return sft.run(sft.SFTRecipe(model=model, data=TreeDataConfig(path=data[stage]), training=training))
        rows = PreferenceDataConfig(path=data[stage])
        return dpo.run(dpo.DPORecipe(model=model, data=rows, training=training, dpo=DPOConfig()))

    return run


@pytest.fixture(scope="module")
def eight(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps in one go: what extended runs are compared with."""
    return train(tmp_path_factory.mktemp("eight") / "run", max_steps=8, epochs=2)


def weights(folder: Path) -> bytes:
    return next(folder.glob("*model.safetensors")).read_bytes()


def metrics(folder: Path) -> list[dict[str, Any]]:
    return metrics_of(folder)


# Runs with more steps


@pytest.mark.slow
def test_an_unfinished_run_with_more_steps_equals_the_longer_run_to_the_byte(
    train: Callable[..., Path], eight: Path, tmp_path: Path, left_unfinished, caplog: pytest.LogCaptureFixture
) -> None:
    with left_unfinished():
        train(tmp_path / "run", max_steps=5, epochs=1, save_steps=2)
    with pytest.raises(CheckpointError, match=r"checkpoint-4: is of step 4, and .* now give 3 steps in all\. Set at"):
        train(tmp_path / "run", max_steps=3)
    done = train(tmp_path / "run", max_steps=8, epochs=2, save_steps=100)
    assert weights(done) == weights(eight)
    assert metrics(done) == metrics(eight)
    assert "the run now ends at step 8 instead of 5; the learning rate at step 5 stays 0.001" in caplog.text
    assert verify_folder(done)["steps"] == 8


@pytest.mark.slow
def test_a_run_is_shortened_to_the_steps_that_are_done_and_extended_again_to_the_same_bytes(
    train: Callable[..., Path], eight: Path, tmp_path: Path, left_unfinished, caplog: pytest.LogCaptureFixture
) -> None:
    with left_unfinished():
        train(tmp_path / "run", max_steps=8, epochs=2, save_steps=4)
    output = train(tmp_path / "run", max_steps=4, keep_optimizer=True)
    assert "the run now ends at step 4 instead of 8; all of its steps are done" in caplog.text
    assert [line["step"] for line in metrics(output)] == [1, 2, 3, 4]
    assert weights(output) == weights(output / "checkpoint-4"), "finished without a step"
    assert (output / "checkpoint-4" / "optimizer.pt").exists()
    done = train(output, max_steps=8, epochs=2)
    assert weights(done) == weights(eight)
    assert metrics(done) == metrics(eight)
    assert not list(done.rglob("optimizer.pt")), "without training.keep_optimizer they are deleted again"


@pytest.mark.slow
def test_a_finished_run_without_its_optimizer_says_how_to_train_on(train: Callable[..., Path], tmp_path: Path) -> None:
    output = train(tmp_path / "run", max_steps=2, save_steps=1)
    before = {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file()}
    message = (
        r"holds a finished run of 2 steps, and training\.epochs and training\.max_steps now give 4; its optimizer "
        r"states were deleted when it was finished\. To train on, start a new run from this model .*training\.keep_opt"
    )
    with pytest.raises(CheckpointError, match=message):
        train(output, max_steps=4)
    with pytest.raises(CheckpointError, match=r"finished run of 2 steps, .* now give 1\. Restore training\.epochs and"):
        train(output, max_steps=1)
    assert {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file()} == before


@pytest.mark.slow
def test_a_dpo_run_with_more_steps_computes_the_reference_of_the_added_rows_from_the_start(
    train: Callable[..., Path], tmp_path: Path, left_unfinished
) -> None:
    """Two steps, then five of the same epoch: three have rows of which the first start knew no reference."""
    whole = train(tmp_path / "whole", stage="dpo", max_steps=5)
    with left_unfinished():
        train(tmp_path / "run", stage="dpo", max_steps=2, save_steps=1)
    done = train(tmp_path / "run", stage="dpo", max_steps=5)
    assert weights(done) == weights(whole)
    assert metrics(done) == metrics(whole)
    shard, expected = (next(each.glob("reference/*/*.safetensors")) for each in (done, whole))
    assert sorted(torch_rows(shard)) == sorted(torch_rows(expected)), "the file keeps the rows of the first start"


def torch_rows(shard: Path) -> list[int]:
    from safetensors.torch import load_file

    return load_file(shard)["rows"].tolist()


@pytest.mark.slow
def test_later_steps_have_the_rates_of_the_longer_schedule_and_the_log_says_so(
    train: Callable[..., Path], tmp_path: Path, left_unfinished, caplog: pytest.LogCaptureFixture
) -> None:
    with left_unfinished():
        train(tmp_path / "run", schedule="linear", max_steps=5, save_steps=4, warmup_ratio=0)
    done = train(tmp_path / "run", schedule="linear", max_steps=8, epochs=2, warmup_ratio=0)

    def rate(step: int, steps: int) -> float:
        return 1e-3 * (1 - (step - 1) / steps)

    expected = [rate(step, 5) for step in (1, 2, 3, 4)] + [rate(step, 8) for step in (5, 6, 7, 8)]
    assert [line["learning_rate"] for line in metrics(done)] == pytest.approx(expected, rel=1e-12)
    moved = f"the learning rate at step 5 changes from {rate(5, 5):.3g} to {rate(5, 8):.3g}"
    assert f"the linear schedule now ends at step 8 instead of 5; {moved}" in caplog.text


def test_which_rows_are_in_a_step_does_not_depend_on_how_many_steps_there_are() -> None:
    sizes = [3 + n % 7 for n in range(23)]
    for processes in (1, 3):
        plans = [
            RunPlan(
                sizes,
                batch_size=4,
                token_budget=16,
                epochs=epochs,
                max_steps=steps,
                seed=3,
                processes=processes,
                process=0,
            )
            for epochs, steps in [(0.5, None), (1, 4), (2.5, None), (9, 17)]
        ]
        assert len({len(plan) for plan in plans}) == 4
        longest = max(plans, key=len)
        for plan in plans:
            assert [plan[step] for step in range(len(plan))] == [longest[step] for step in range(len(plan))]


def test_the_sentence_about_the_schedule() -> None:
    training = TrainingConfig(output_dir=Path("run"), learning_rate=1e-5, warmup_ratio=0.25)
    # 20 steps, 5 of warm-up: 0.1 + 0.45 (1 + cos(pi 6 / 15)) of the peak. 40 steps, 10 of warm-up: pi / 30.
    assert changed_schedule(training, 20, 40, 11) == (
        "the cosine schedule now ends at step 40 instead of 20; "
        "the learning rate at step 12 changes from 6.89e-06 to 9.98e-06"
    )
    assert changed_schedule(training, 4, 8, 4).endswith("instead of 4; step 5 has the learning rate 7.75e-06")
    assert changed_schedule(training, 8, 4, 4) == "the run now ends at step 4 instead of 8; all of its steps are done"


# Settings


def recipe(**training: Any) -> SFTRecipe:
    values = {"model": {"path": "m"}, "data": {"path": "rows.jsonl"}, "training": {"output_dir": "run"} | training}
    return SFTRecipe.model_validate(values)


IDENTITY = {"template": "t", "start": "s", "rows": "r", "precision": "p"}


def refuse(before: dict[str, Any], now: SFTRecipe, *, finished: bool = False, rows: str = "r") -> None:
    run = Run("sft", dump(now), IDENTITY, default_values(now), Path("run"))
    manifest = {"stage": "sft", "config": before, "identity": IDENTITY | {"rows": rows}}
    refuse_other_run(run, Path("run/checkpoint-2"), manifest, finished=finished)


@pytest.mark.parametrize(
    "changed",
    [
        *({"batch_size": 2}, {"learning_rate": 2e-3}, {"schedule": "linear"}, {"warmup_ratio": 0.5}, {"seed": 1}),
        *({"min_learning_rate_ratio": 0.5}, {"weight_decay": 0.0}, {"max_grad_norm": 2.0}, {"optimizer": "sgd"}),
        *({"adam_beta1": 0.8}, {"adam_beta2": 0.99}, {"adam_epsilon": 1e-7}, {"precision": "bf16"}),
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_would_change_the_past_is_refused_by_name(changed: dict[str, Any]) -> None:
    name, value = next(iter(changed.items()))
    message = rf"checkpoint-2: was made with training\.{name}=\S+, and now training\.{name}={value}\. Choose another"
    for finished in (False, True):
        with pytest.raises(CheckpointError, match=message):
            refuse(dump(recipe()), recipe(**changed), finished=finished)


@pytest.mark.parametrize(
    "changed",
    [
        *(
            {"report_to": ("tensorboard",)},
            {"log_steps": 7},
            {"save_steps": 7},
            {"keep_checkpoints": 7},
            {"threads": 1},
        ),
        *({"checks": False}, {"output_dir": "elsewhere"}, {"keep_optimizer": True}, {"epochs": 7}, {"max_steps": 7}),
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_changes_no_past_value_may_change(changed: dict[str, Any]) -> None:
    for finished in (False, True):
        refuse(dump(recipe()), recipe(**changed), finished=finished)
        refuse(dump(recipe(**changed)), recipe(), finished=finished)


def test_what_decides_the_result_may_change_until_the_run_is_finished() -> None:
    for name, value in {"save_dtype": "bfloat16", "early_stopping_threshold": 0.5}.items():
        before, now = dump(recipe()), recipe()
        before["training"][name] = value
        refuse(before, now)
        with pytest.raises(
            CheckpointError, match=rf"was made with training\.{name}={value}, and now training\.{name}="
        ):
            refuse(before, now, finished=True)


def test_a_run_that_has_run_out_of_memory_may_go_on_with_a_smaller_token_budget() -> None:
    before = dump(recipe())
    before["data"]["token_budget"] *= 2
    refuse(before, recipe())
    with pytest.raises(CheckpointError, match=r"was made with data\.token_budget=8192, and now .*=4096"):
        refuse(before, recipe(), finished=True)
    with pytest.raises(CheckpointError, match="other rows"):
        refuse(before, recipe(), rows="without those that were too long")
    refuse(dump(recipe()), recipe(sequence_parallel=2))
    with pytest.raises(CheckpointError, match=r"was made with training\.sequence_parallel=1, and now .*=2"):
        refuse(dump(recipe()), recipe(sequence_parallel=2), finished=True)


def test_rows_that_were_moved_are_the_same_rows_however_their_place_is_written() -> None:
    """As text, as a section, in a list of either. With other rows the first setting that differs is named."""

    def of(place: Any) -> SFTRecipe:
        return SFTRecipe.model_validate(dump(recipe()) | {"data": {"path": place}})

    section = {"path": "old/rows.jsonl", "weight": 2.0}
    for before, now in (
        ("old/rows.jsonl", "new/rows.jsonl"),
        (section, section | {"path": "new/rows.jsonl"}),
        (section, section | {"columns": {"prompt": "question"}}),
        ([section, "b.jsonl"], [section | {"path": "new/rows.jsonl"}, "b.jsonl"]),
        ("old/rows.jsonl", {"path": "new/rows.jsonl"}),
    ):
        for finished in (False, True):
            refuse(dump(of(before)), of(now), finished=finished)
            with pytest.raises(CheckpointError, match=r"was made with data\.path.*=.*, and now data\.path"):
                refuse(dump(of(before)), of(now), finished=finished, rows="others")
    limited = of(section).model_dump(mode="json")
    limited["data"]["limit"] = 3
    with pytest.raises(CheckpointError, match=r"made with data\.limit=3"):
        refuse(limited, of(section | {"path": "new/rows.jsonl"}))


def test_a_section_that_came_or_went_is_named() -> None:
    adapted = SFTRecipe.model_validate(dump(recipe()) | {"model": {"path": "m", "lora": {}}})
    with pytest.raises(CheckpointError, match=r"was made with model\.lora=None, and now model\.lora=\{'"):
        refuse(dump(recipe()), adapted)
    with pytest.raises(CheckpointError, match=r"was made with model\.lora=\{.*\}, and now model\.lora=None"):
        refuse(dump(adapted), recipe())


def test_a_manifest_from_before_a_setting_existed_counts_as_its_default() -> None:
    before = dump(recipe())
    for name in ("optimizer", "adam_beta1", "adam_beta2", "adam_epsilon"):
        del before["training"][name]
    refuse(before, recipe())
    with pytest.raises(CheckpointError, match=r"with training\.adam_beta2=0\.95, and now training\.adam_beta2=0\.99"):
        refuse(before, recipe(adam_beta2=0.99))


def test_defaults_are_those_of_every_section_that_is_there() -> None:
    adapted = SFTRecipe.model_validate(dump(recipe()) | {"model": {"path": "m", "lora": {"rank": 3}}})
    found = default_values(adapted)
    assert found["training"].inside["adam_beta2"].value == 0.95
    assert found["training"].inside["output_dir"].value is None
    assert found["model"].inside["lora"].value is None
    assert found["model"].inside["lora"].inside["rank"].value == LoRAConfig.model_fields["rank"].default
