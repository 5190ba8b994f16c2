"""Sequence parallelism: rows that processes share have the values, gradients and trained weights of whole rows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from align.errors import ConfigError
from align.jsonl import write_rows
from align.models.support import require_trainable
from align.rows import Message, PreferenceRow, SFTRow
from align.settings import ModelConfig, TrainingConfig
from align.trainers.arguments import training_arguments
from align.trainers.deepspeed_file import require_rows_of_one_process
from align.trainers.processes import Processes
from align.tree.sequence_parallel import divided_heads, require_divided_heads, require_groups
from tests.metrics import metrics_of
from tests.processes import PYTHON, TORCHRUN, ZERO3, Started, run

FOUR = ["--num_processes", "4"]


def test_heads_are_divided_with_the_key_value_heads_that_they_read() -> None:
    assert divided_heads(32, 8) == [2, 4, 8, 16, 32]
    assert divided_heads(12, 4) == [2, 4, 12]
    for heads, groups, size in ((32, 8, 8), (32, 8, 16), (4, 1, 4), (9, 3, 1)):
        require_divided_heads(heads, groups, size)
        local = [head // (heads // groups) for head in range(heads)]  # the key/value head that each head reads
        for first in range(0, heads, heads // size):
            read = local[first : first + heads // size]
            assert max(read) - min(read) < max(groups // size, 1), "each process has those that its heads read"
    with pytest.raises(ConfigError, match=r"sequence_parallel: is 2, and the model has 9 attention heads.*to 3 or 9"):
        require_divided_heads(9, 3, 2)
    with pytest.raises(ConfigError, match="to 2 or 4 or 12"):
        require_divided_heads(12, 4, 6)
    with pytest.raises(ConfigError, match="1: nothing divides"):
        require_divided_heads(1, 1, 2)


def test_a_recipe_refuses_heads_that_cannot_be_divided_before_it_reads_weights(tiny_checkpoint: Path) -> None:
    require_trainable(ModelConfig(path=tiny_checkpoint), sequence_parallel=4)
    with pytest.raises(ConfigError, match="is 3, and the model has 4 attention heads and 2 key/value heads"):
        require_trainable(ModelConfig(path=tiny_checkpoint), sequence_parallel=3)


def test_launches_that_cannot_share_rows_are_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    require_groups(1, 3, zero3=False)
    require_groups(4, 8, zero3=True)
    with pytest.raises(ConfigError, match="8 processes cannot be divided into groups of 3"):
        require_groups(3, 8, zero3=True)
    training = TrainingConfig(output_dir=tmp_path / "run", sequence_parallel=2)
    with pytest.raises(ConfigError, match="is 2, and the run is not started with DeepSpeed"):
        training_arguments(training, ModelConfig(path=tiny_checkpoint))


def test_launches_that_divide_a_model_or_rows_in_another_way_are_refused(tmp_path: Path) -> None:
    require_rows_of_one_process({f"PARALLELISM_CONFIG_{kind}_SIZE": "1" for kind in ("TP", "CP", "SP")})
    for kind, meaning in (("TP", "tensor parallelism"), ("CP", "context parallelism"), ("SP", "sequence parallelism")):
        message = rf"launch: has parallelism_config_{kind.lower()}_size 2, .*{meaning}, .*training\.sequence_parallel"
        with pytest.raises(ConfigError, match=message):
            require_rows_of_one_process({f"PARALLELISM_CONFIG_{kind}_SIZE": "2"})
    file = tmp_path / "zero3.json"
    file.write_text('{"tensor_parallel": {"autotp_size": 2}}')
    with pytest.raises(ConfigError, match=r"zero3\.json: has a section `tensor_parallel`"):
        require_rows_of_one_process({"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)})
    file.write_text('{"zero_optimization": {"stage": 3}}')
    require_rows_of_one_process({"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)})


def test_one_process_of_a_group_counts_for_all_of_it() -> None:
    four = [Processes(4, number, torch.device("cpu"), sharing=2) for number in range(4)]
    assert [(each.group, each.groups, each.leads) for each in four] == [
        (0, 2, True),
        (0, 2, False),
        (1, 2, True),
        (1, 2, False),
    ]


@pytest.mark.engine
def test_shared_rows_have_the_values_and_gradients_of_whole_ones() -> None:
    """4 processes, 4 heads and 2 key/value heads: in two groups, and in one, in which these heads are copied."""
    printed = run([*TORCHRUN[:-1], "4", "-m", "tests.align.trainers.shared_rows"])
    found = re.findall(r"^(\w+), (\d) share 4 rows: values (\S+) gradients (\S+)$", printed, re.MULTILINE)
    assert [line[:2] for line in found] == [("TreePolicy", "2"), ("TreePolicy", "4"), ("TreeScorer", "4")], printed
    for *_, values, gradients in found:
        assert float(values) < 1e-5
        assert float(gradients) < 1e-5


def say(start: int, length: int) -> str:
    words = ["capital", "France", "Italy", "river", "Paris", "Rome", "answer", "short", "sentence", "know", "guess"]
    return " ".join(words[(start * 7 + n * n) % len(words)] for n in range(length))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of all lengths, so that the parts of a packed row begin anywhere: long prompts and long answers."""
    folder = tmp_path_factory.mktemp("rows")
    pairs = [
        PreferenceRow(
            id=f"p{n}",
            source="test",
            prompt=(Message(role="user", content=say(n, 3 + n * n % 90)),),
            completions=tuple(
                (Message(role="assistant", content=say(n + 1 + side, 1 + n * (5 + side) % 50)),) for side in range(2)
            ),
        )
        for n in range(16)
    ]
    write_rows(folder / "pairs.jsonl", pairs)
    write_rows(
        folder / "dialogs.jsonl",
        [SFTRow(id=row.id, source="test", messages=(*row.prompt, *row.chosen)) for row in pairs],
    )
    return folder


def command(stage: str, start: list[str], checkpoint: Path, data: Path, output: Path, *extra: str) -> list[str]:
    config = output.parent / f"{output.name}.yaml"
    rows = data / ("pairs.jsonl" if stage == "dpo" else "dialogs.jsonl")
    config.write_text(
        f"model: {{path: {checkpoint}}}\n"
        f"data: {{path: {rows}, eval_path: {rows}, eval_limit: 5, token_budget: 401}}\n"
        f"training: {{output_dir: {output}, batch_size: 8, epochs: 2, save_steps: 2, learning_rate: 1e-4, "
        "precision: fp32}\n"
    )
    return [*start, f"recipes/{stage}.py", str(config), *extra]


def assert_same_training(one: Path, other: Path) -> None:
    """Losses, gradient norms and all other metrics, and the trained weights."""
    first, second = metrics_of(one), metrics_of(other)
    assert len(first) == len(second) == 7, "steps, and evaluations at the start and every other step"
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"filled_share"}:  # the rows are packed for more processes
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-6), (name, a["step"])
    before, after = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert before.keys() == after.keys()
    for name in before:
        assert (after[name] - before[name]).norm() < 1e-5 * before[name].norm(), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, data: Path) -> dict[str, Path]:
    """The runs that others are compared with: one process, left alone."""
    folder = tmp_path_factory.mktemp("alone")
    for stage in ("sft", "dpo"):
        run(command(stage, [PYTHON], tiny_checkpoint, data, folder / stage))
    return {stage: folder / stage for stage in ("sft", "dpo")}


def killed_after_two_steps(words: list[str], output: Path) -> None:
    started = Started(words)
    started.wait_for((output / "checkpoint-2/MANIFEST.json").exists)
    started.kill()
    assert not (output / "MANIFEST.json").exists(), "it was killed in the middle"


@pytest.mark.engine
def test_sft_in_two_groups_of_two_that_is_killed_and_resumed_equals_one_process(
    tmp_path: Path, tiny_checkpoint: Path, data: Path, alone: dict[str, Path]
) -> None:
    settings = ("training.sequence_parallel=2", "model.gradient_checkpointing=true")
    shared = command("sft", [*ZERO3, *FOUR], tiny_checkpoint, data, tmp_path / "shared", *settings)
    killed_after_two_steps(shared, tmp_path / "shared")
    assert "resuming from" in run(shared)
    assert_same_training(alone["sft"], tmp_path / "shared")


@pytest.mark.engine
def test_dpo_on_two_processes_that_share_rows_goes_on_in_one_process_and_in_two_groups_of_two(
    tmp_path: Path, tiny_checkpoint: Path, data: Path, alone: dict[str, Path]
) -> None:
    """ZeRO-3 divides its states among all processes, those that share rows too. Reference values are found by row."""
    output, other = tmp_path / "shared", tmp_path / "four"
    two = command("dpo", ZERO3, tiny_checkpoint, data, output, "training.sequence_parallel=2")
    killed_after_two_steps(two, output)
    shutil.copytree(output, other)
    starts = {
        output: command("dpo", [*ZERO3, "--num_processes", "1"], tiny_checkpoint, data, output),
        other: command("dpo", [*ZERO3, *FOUR], tiny_checkpoint, data, other, "training.sequence_parallel=2"),
    }
    for (folder, words), now in zip(starts.items(), (1, 4), strict=True):
        printed = run(words)
        assert f"resuming from {folder}/checkpoint-2" in printed
        assert f"are divided among {now} now" in printed
        assert "15 rows are known, 0 steps to compute" in printed
        assert_same_training(alone["dpo"], folder)


@pytest.mark.engine
def test_dpo_on_two_processes_that_share_rows_equals_one_process(
    tmp_path: Path, tiny_checkpoint: Path, data: Path, alone: dict[str, Path]
) -> None:
    run(command("dpo", ZERO3, tiny_checkpoint, data, tmp_path / "shared", "training.sequence_parallel=2"))
    assert_same_training(alone["dpo"], tmp_path / "shared")
    first = metrics_of(tmp_path / "shared")[1]
    assert first["absolute_margin"] == 0, "the reference pass has the values of the first step"
