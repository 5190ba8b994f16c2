"""Training as users start it: real processes, killed with SIGKILL, on two processes, on DeepSpeed ZeRO-3."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from align.jsonl import write_rows
from align.rows import Message, PreferenceRow
from align.trainers.rollbacks import read_rollbacks
from tests.metrics import metrics_of
from tests.processes import PYTHON, ROOT, TORCHRUN, ZERO3, Started, run

PLAIN = [PYTHON]

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    words = ["capital", "France", "Italy", "river", "Paris", "Rome", "answer", "short", "sentence", "know", "guess"]

    def say(start: int, length: int) -> str:
        return " ".join(words[(start * 7 + n * n) % len(words)] for n in range(length))

    rows = [
        PreferenceRow(
            id=f"p{n}",
            source="test",
            prompt=(Message(role="user", content=say(n, 3 + n % 9)),),
            completions=(
                (Message(role="assistant", content=say(n + 1, 2 + n % 7)),),
                (Message(role="assistant", content=say(n + 2, 1 + n % 11) + " no"),),
            ),
        )
        for n in range(23)
    ]
    # Hundreds of labels on one process while the other has few: they must still gather weights equally often.
    long = tuple((Message(role="assistant", content=say(rank, 160)),) for rank in range(2))
    rows.append(PreferenceRow(id="long", source="test", prompt=rows[0].prompt, completions=long))
    write_rows(path, rows)
    # Five rows and the long one: one packed row for each of two processes, so that one of them has few labels.
    write_rows(path.with_name("held_out.jsonl"), [*rows[:5], rows[-1]])
    return path


def command(checkpoint: Path, pairs: Path, output: Path, start: list[str], *extra: str) -> list[str]:
    config = output.parent / "dpo.yaml"
    config.write_text(
        f"model: {{path: {checkpoint}}}\n"
        f"data: {{path: {pairs}, eval_path: {pairs.with_name('held_out.jsonl')}, token_budget: 1536}}\n"
        "training: {output_dir: here, batch_size: 8, epochs: 3, save_steps: 3, learning_rate: 1e-4, precision: fp32}\n"
    )
    return [*start, "recipes/dpo.py", str(config), f"training.output_dir={output}", *extra]


def run_and_kill(arguments: list[str], seal: Path) -> None:
    """SIGKILL the process and all it started, as soon as the checkpoint is sealed."""
    started = Started(arguments)
    started.wait_for(seal.exists)
    started.kill()


def ask_to_stop(arguments: list[str], output: Path, *, real: bool = False) -> Started:
    """SIGTERM after the first step. Returns the process, which has ended."""
    started = Started(arguments, real=real)
    started.wait_for(lambda: (output / "metrics.jsonl").exists() and metrics(output))
    started.terminate()
    started.wait(120)
    return started


def metrics(folder: Path) -> list[dict]:
    """Of training; those of the held-out rows are in `evaluations`."""
    return [line for line in all_metrics(folder) if "loss" in line]


def evaluations(folder: Path) -> list[dict]:
    return [line for line in all_metrics(folder) if "eval_loss" in line]


def all_metrics(folder: Path) -> list[dict]:
    return metrics_of(folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, pairs: Path) -> Path:
    """The run that others are compared with: one process, left alone."""
    output = tmp_path_factory.mktemp("alone") / "run"
    run(command(tiny_checkpoint, pairs, output, PLAIN))
    return output


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, pairs: Path) -> Path:
    """The same on ZeRO-3 with two processes, left alone."""
    output = tmp_path_factory.mktemp("sharded") / "run"
    run(command(tiny_checkpoint, pairs, output, ZERO3), real=True)
    return output


def assert_same_training(one: Path, other: Path) -> None:
    for a, b in zip(metrics(one), metrics(other), strict=True):
        assert a.keys() == b.keys()
        if a["loss"] is None:  # every row of the step is left out
            assert a == b
            continue
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["rewards/margins"] == pytest.approx(b["rewards/margins"], abs=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
    assert [line["step"] for line in evaluations(other)] == [0, 3, 6, 9]
    for a, b in zip(evaluations(one), evaluations(other), strict=True):
        assert a == pytest.approx(b, abs=1e-4, rel=1e-4)
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_two_processes_equal_one(tmp_path: Path, tiny_checkpoint: Path, pairs: Path, alone: Path) -> None:
    run(command(tiny_checkpoint, pairs, tmp_path / "run", TORCHRUN), real=True)
    assert_same_training(alone, tmp_path / "run")


def test_zero3_on_two_processes_equals_one_process(alone: Path, sharded: Path) -> None:
    assert_same_training(alone, sharded)
    assert metrics(sharded)[0]["absolute_margin"] == 0
    assert list(sharded.glob("checkpoint-*/model.safetensors")), "the weights stay, to be averaged"
    assert not [*sharded.rglob("*_states.pt"), *sharded.rglob("global_step*"), *sharded.rglob("rng_state*")]


def test_500_random_shapes_equal_a_row_for_each_completion_under_zero3() -> None:
    printed = run([*TORCHRUN, "-m", "tests.align.trainers.zero3_shapes"])
    found = re.search(r"2 ranks: values (\S+) gradients (\S+)$", printed, re.MULTILINE)
    assert found, printed
    assert float(found[1]) < 1e-4
    assert float(found[2]) < 1e-3


def test_zero3_with_activation_checkpointing_equals_one_process(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path, alone: Path
) -> None:
    run(command(tiny_checkpoint, pairs, tmp_path / "run", ZERO3, "model.gradient_checkpointing=true"))
    assert_same_training(alone, tmp_path / "run")


def test_a_zero3_checkpoint_reloads_with_every_name_shape_and_the_same_loss(
    alone: Path, sharded: Path, pairs: Path
) -> None:
    from align.jsonl import read_rows
    from align.models.loading import load_policy, load_tokenizer
    from align.settings import ModelConfig, PreferenceDataConfig
    from align.tree.encode import encode_preferences
    from align.tree.pack import collate

    first, second = load_file(alone / "model.safetensors"), load_file(sharded / "model.safetensors")
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}
    losses = []
    for folder in (alone, sharded):
        _, protocol = load_tokenizer(folder)
        rows, data = read_rows(pairs, PreferenceRow), PreferenceDataConfig(path=pairs)
        batch = collate(list(encode_preferences(rows, protocol, data, dropped=Counter())))
        with torch.no_grad():
            losses.append(load_policy(ModelConfig(path=folder))(batch).mean().item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_killed_with_sigkill_and_started_again_ends_with_the_same_bytes(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path, alone: Path
) -> None:
    output = tmp_path / "run"
    arguments = command(tiny_checkpoint, pairs, output, PLAIN)
    run_and_kill(arguments, output / "checkpoint-3" / "MANIFEST.json")
    assert not (output / "MANIFEST.json").exists(), "it was killed in the middle"
    run(arguments)
    assert (output / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()
    assert all_metrics(output) == all_metrics(alone)


def test_killed_under_zero3_and_started_again_ends_with_the_same_bytes(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path, sharded: Path
) -> None:
    output = tmp_path / "run"
    arguments = command(tiny_checkpoint, pairs, output, ZERO3)
    run_and_kill(arguments, output / "checkpoint-3" / "MANIFEST.json")
    assert not (output / "MANIFEST.json").exists(), "it was killed in the middle"
    run(arguments)
    assert (output / "model.safetensors").read_bytes() == (sharded / "model.safetensors").read_bytes()
    assert all_metrics(output) == all_metrics(sharded)


def test_sigterm_saves_and_leaves(tmp_path: Path, tiny_checkpoint: Path, pairs: Path, alone: Path) -> None:
    output = tmp_path / "run"
    arguments = command(tiny_checkpoint, pairs, output, PLAIN)
    stopped = ask_to_stop(arguments, output, real=True)
    assert "asked to stop: a checkpoint is written after this step" in stopped.output
    assert stopped.poll() == 128 + signal.SIGTERM
    assert list(output.glob("checkpoint-*/MANIFEST.json"))
    run(arguments)
    assert (output / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()


def test_zero3_with_bfloat16_weights_stays_near_float32(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path, alone: Path
) -> None:
    """The 8B configs' way: bfloat16 weights, float32 master weights in the engine; 14 bytes a weight on disk."""
    rounding = ("model.dtype=bfloat16", "training.precision=bf16", "training.keep_optimizer=true")
    run(command(tiny_checkpoint, pairs, tmp_path / "run", ZERO3, *rounding))
    rough = metrics(tmp_path / "run")
    assert rough[0]["absolute_margin"] == 0
    for a, b in zip(metrics(alone), rough, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=0.02)
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    count = sum(tensor.numel() for tensor in saved.values())
    (kept,) = (tmp_path / "run").glob("checkpoint-*/global_step*")
    files = [*kept.iterdir(), kept.parent / "model.safetensors"]
    assert 14 * count < sum(file.stat().st_size for file in files) < 14 * count + 100_000, "names and shapes are small"


def test_gradients_are_summed_in_float32_over_rows_and_processes_under_zero3(tmp_path: Path) -> None:
    """1 and 15 times 1/512, each exact in bfloat16. A sum in bfloat16 stays 1, whose next number is 1 + 1/128."""
    script = tmp_path / "summed.py"
    script.write_text(
        "import json, os, sys, torch, deepspeed\n"
        "from align.trainers.extensions import prepare_extension\n"
        "from deepspeed.utils import safe_get_full_grad\n"
        "prepare_extension()\n"
        "deepspeed.init_distributed('gloo')\n"
        "config = json.load(open('recipes/launch/zero3.json'))\n"
        "config |= {'bf16': {'enabled': True}, 'gradient_clipping': 0.0, 'train_batch_size': 16,\n"
        "           'train_micro_batch_size_per_gpu': 1, 'gradient_accumulation_steps': 8}\n"
        "layer = torch.nn.Linear(1, 6, bias=False)\n"
        "optimizer = torch.optim.AdamW(layer.parameters())\n"
        "engine, *_ = deepspeed.initialize(model=layer, optimizer=optimizer, config=config)\n"
        "for row in range(8):\n"
        "    value = 1.0 if row == int(os.environ['RANK']) == 0 else 1 / 512\n"
        "    loss = engine(torch.full((1, 1), value, dtype=torch.bfloat16)).sum()\n"
        "    engine.set_gradient_accumulation_boundary(row == 7)\n"
        "    engine.backward(loss, scale_wrt_gas=False)\n"
        "found = safe_get_full_grad(layer.weight)\n"
        "json.dump((2 * found).flatten().tolist(), open(f'{sys.argv[1]}/{os.environ[\"RANK\"]}.json', 'w'))\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    run([*TORCHRUN, str(script), str(tmp_path)], **environment)
    sums = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert sums == [[1 + 15 / 512] * 6] * 2


def test_every_deepspeed_file_sums_gradients_in_float32() -> None:
    files = sorted((ROOT / "recipes" / "launch").glob("*.json"))
    assert len(files) >= 2
    for file in files:
        content = json.loads(file.read_text())
        assert content["data_types"]["grad_accum_dtype"] == content["communication_data_type"] == "fp32", file


def test_the_reward_model_trains_under_zero3_and_loads_as_a_classifier(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    arguments = command(
        tiny_checkpoint, pairs, tmp_path / "run", ZERO3, "training.epochs=5", "training.learning_rate=3e-3"
    )
    run(["recipes/reward.py" if part == "recipes/dpo.py" else part for part in arguments])
    lines = metrics(tmp_path / "run")
    assert lines[0]["loss"] == pytest.approx(0.693, abs=0.1)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.1
    model, found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not found["missing_keys"]
    assert model.score.weight.shape == (1, 64)


def test_an_adapter_asked_to_stop_under_zero3_saves_no_base_weights_and_goes_on_with_the_same_bytes(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path
) -> None:
    """SIGTERM to the launcher, which hands it on to its workers."""
    lora = ("model.lora={rank: 4, alpha: 8}", "training.save_steps=100", "training.learning_rate=1e-2")
    whole, output = tmp_path / "whole", tmp_path / "run"
    run(command(tiny_checkpoint, pairs, whole, ZERO3, *lora))
    arguments = command(tiny_checkpoint, pairs, output, ZERO3, *lora)
    stopped = ask_to_stop(arguments, output)
    assert stopped.poll() != 0
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" in stopped.output, "it says how long the launcher waits"
    (seal,) = output.glob("checkpoint-*/MANIFEST.json")
    states = list(seal.parent.rglob("*_model_states.pt"))
    assert len(states) == 2
    base = (tiny_checkpoint / "model.safetensors").stat().st_size
    assert sum(file.stat().st_size for file in states) < base / 4, "the frozen weights are not among them"
    run(arguments)
    assert all_metrics(output) == all_metrics(whole)
    name = "adapter_model.safetensors"
    assert (output / name).read_bytes() == (whole / name).read_bytes()
    assert not list(output.rglob("*_states.pt")), "a finished run keeps no optimizer states"


def spoiled(arguments: list[str], when: str) -> list[str]:
    """The same command with a gradient that is infinite when `when` holds, an expression of `step` (from 0), `last`
    (whether this is the last process) and `times` (how often the step was computed).
    """
    script = Path(arguments[arguments.index("recipes/dpo.py") + 1]).with_name("spoiled.py")
    script.write_text(
        "from collections import Counter\n"
        "from align.config import main\n"
        "from align.trainers.dpo import DPOTrainer\n"
        "from align.trainers.gradients import Gradients\n"
        "from recipes.dpo import DPORecipe, run\n"
        "honest, compute = DPOTrainer.batch_loss, Gradients.compute\n"
        "counts = Counter()\n"
        "def counted(self, *arguments):\n"
        "    counts[self.trainer.state.global_step] += 1\n"
        "    return compute(self, *arguments)\n"
        "def faulty(self, *arguments):\n"
        "    loss = honest(self, *arguments)\n"
        "    step, last = self.state.global_step, self.args.process_index == self.args.world_size - 1\n"
        "    times = counts[step]\n"
        f"    if {when}:\n"
        "        loss.register_hook(lambda gradient: gradient * float('inf'))\n"
        "    return loss\n"
        "Gradients.compute, DPOTrainer.batch_loss = counted, faulty\n"
        "main(DPORecipe, run)\n"
    )
    return [str(script) if word == "recipes/dpo.py" else word for word in arguments]


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, pairs: Path) -> Path:
    """One process, with a gradient at step 5 that is not finite however often it is computed."""
    output = tmp_path_factory.mktemp("rolled_back") / "run"
    run(spoiled(command(tiny_checkpoint, pairs, output, PLAIN), "step == 4"), PYTHONPATH=str(ROOT))
    return output


@pytest.mark.parametrize("launcher", [TORCHRUN, ZERO3], ids=["ddp", "zero3"])
def test_two_processes_roll_back_together_and_end_as_one_process_does(
    launcher: list[str], tmp_path: Path, tiny_checkpoint: Path, pairs: Path, rolled_back: Path
) -> None:
    output = tmp_path / "run"
    faults = "last and (step == 4 or step == 7 and times == 1)"
    arguments = spoiled(command(tiny_checkpoint, pairs, output, launcher), faults)
    for _ in range(2 if launcher == ZERO3 else 1):  # DeepSpeed's processes end for a roll-back
        started = Started(arguments, PYTHONPATH=str(ROOT))
        assert started.wait() != 0
    rollbacks = [read_rollbacks(folder) for folder in (output, rolled_back)]
    assert rollbacks[0] == rollbacks[1]
    assert [each.step for each in rollbacks[0]] == [5]
    errors = re.findall(r"^\S*(?:Error|Exception)\b.*", started.output, re.MULTILINE)
    assert "step 8: suspected silent data corruption on rank" in started.output, errors
    run(command(tiny_checkpoint, pairs, output, launcher))
    assert_same_training(rolled_back, output)


def test_a_gradient_that_is_not_finite_on_one_of_two_processes_stops_zero3_before_anything_is_saved_of_it(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path
) -> None:
    output = tmp_path / "run"
    settings = ["training.checks=false", "training.guards.max_rollbacks=0"]
    arguments = spoiled(command(tiny_checkpoint, pairs, output, ZERO3, *settings), "step == 2 and last")
    started = Started(arguments, PYTHONPATH=str(ROOT))
    assert started.wait() != 0
    assert re.search(r"step 3: the gradient norm is (inf|nan), with a finite loss, on rows \w+, \w+", started.output)
    assert not list(output.rglob("MANIFEST.json"))
    assert [line["step"] for line in metrics(output)] == [1, 2]
