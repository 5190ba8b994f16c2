"""Runs that are resumed with another number of processes than wrote the checkpoint, or with and without ZeRO-3."""

from __future__ import annotations

import json
import re
import shutil
from argparse import Namespace
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from align.errors import CheckpointError
from align.jsonl import write_rows
from align.manifest import read_manifest, write_folder_manifest, write_manifest
from align.rows import Message, PreferenceRow
from align.trainers.processes import Processes
from align.trainers.resharding import WrittenStates, part_size, pieces, random_states, state_files
from align.trainers.saving import tensors_only
from tests.metrics import metrics_of
from tests.processes import PYTHON, ROOT, TORCHRUN, ZERO3, Started

STEPS, ROWS = 9, 20
RECORDED = """
import json, torch
from align.config import main
from align.trainers.gradients import Gradients
from recipes.dpo import DPORecipe, run

compute = Gradients.compute

def recorded(self, model, planned):
    trainer = self.trainer
    name = f"{trainer.args.world_size}-{trainer.args.process_index}"
    loaded = trainer.output / f"loaded-{name}.pt"
    if not loaded.exists():
        torch.save(self._engine.optimizer.state_dict(), loaded)
    ids = [trainer.trees[row].id for members in planned.bins for row in members]
    with open(trainer.output / f"rows-{name}.jsonl", "a") as handle:
        print(json.dumps([trainer.state.global_step + 1, ids]), file=handle)
    return compute(self, model, planned)

Gradients.compute = recorded
main(DPORecipe, run)
"""
"""recipes/dpo.py, which also writes down which rows each process has trained on in which step, and saves what
DeepSpeed's optimizer has before the first of them."""


def start(folder: Path, output: Path, processes: int, *settings: str) -> Started:
    words = [*ZERO3, "--num_processes", str(processes), str(folder / "recorded.py"), str(folder / "dpo.yaml")]
    return Started([*words, f"training.output_dir={output}", *settings], PYTHONPATH=str(ROOT))


def ended(started: Started) -> str:
    assert started.wait() == 0, started.output[-4000:]
    return started.output


def kill_after(started: Started, checkpoint: Path) -> str:
    started.wait_for((checkpoint / "MANIFEST.json").exists)
    started.kill()
    assert not (checkpoint.parent / "MANIFEST.json").exists(), "it was killed in the middle"
    return started.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A config, its rows, and the script."""
    folder = tmp_path_factory.mktemp("ranks")
    rows = [
        PreferenceRow(
            id=f"r{n}",
            source="test",
            prompt=(Message(role="user", content=f"What is the capital of land {n}?" * (1 + n % 3)),),
            completions=tuple((Message(role="assistant", content=f"{word} {n}."),) for word in ("City", "The town")),
        )
        for n in range(ROWS)
    ]
    write_rows(folder / "pairs.jsonl", rows)
    (folder / "dpo.yaml").write_text(
        f"model: {{path: {tiny_checkpoint}}}\ndata: {{path: {folder / 'pairs.jsonl'}, token_budget: 256}}\n"
        "training: {output_dir: here, batch_size: 7, epochs: 3, save_steps: 3, learning_rate: 1e-3, "
        "weight_decay: 0.1, precision: fp32, checks: false}\n"
    )
    (folder / "recorded.py").write_text(RECORDED)
    return folder


@pytest.fixture(scope="module")
def killed(folder: Path) -> Path:
    """A run on two processes that was killed after its third step."""
    kill_after(start(folder, folder / "killed", 2), folder / "killed" / "checkpoint-3")
    return folder / "killed"


def rows_of_steps(output: Path) -> dict[int, set[str]]:
    """The rows of each step. A step that was computed again, with other processes, must have had the same ones."""
    found: dict[tuple[int, str], list[str]] = defaultdict(list)
    for file in output.glob("rows-*.jsonl"):
        count = file.name.split("-")[1]
        parts = dict(json.loads(line) for line in file.read_text().splitlines())  # the last one of each step
        for step, ids in parts.items():
            found[step, count] += ids
    steps: dict[int, set[str]] = {}
    for (step, _), ids in found.items():
        assert len(ids) == len(set(ids))
        assert steps.setdefault(step, set(ids)) == set(ids)
    return steps


def losses(output: Path) -> list[float]:
    lines = [line for line in metrics_of(output) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """The run that others are compared with: on two processes, left alone."""
    ended(start(folder, folder / "alone", 2))
    return folder / "alone"


def assert_same_run(output: Path, alone: Path) -> None:
    """What differs is the order of float32 sums over rows and processes."""
    assert losses(output) == pytest.approx(losses(alone), rel=1e-5)
    first, second = load_file(output / "model.safetensors"), load_file(alone / "model.safetensors")
    gaps = {name: float((first[name] - value).norm() / value.norm()) for name, value in second.items()}
    assert max(gaps.values()) < 1e-5, gaps


@pytest.mark.engine
def test_two_processes_then_one_then_three_train_as_two_do(folder: Path, killed: Path, alone: Path) -> None:
    output = folder / "moved"
    shutil.copytree(killed, output)
    printed = [
        kill_after(start(folder, output, 1), output / "checkpoint-6"),
        ended(start(folder, output, 3)),
    ]
    for text, before, now, step in zip(printed, (2, 1), (1, 3), (3, 6), strict=True):
        assert f"resuming from {output}/checkpoint-{step}" in text
        assert f"was written by {before} processes: its ZeRO-3 states, " in text
        assert f"are divided among {now} now" in text
        assert f"{ROWS} rows are known, 0 steps to compute" in text
        assert "nothing is encoded again" in text
        assert "find an RNG file" not in text
    assert rows_of_steps(output) == rows_of_steps(alone)
    assert len(rows_of_steps(output)) == STEPS
    assert_same_run(output, alone)
    assert (output / "starts.jsonl").read_text().count('"begin"') == 3


def plain(folder: Path, output: Path) -> list[str]:
    """What follows a launcher without ZeRO-3."""
    return ["recipes/dpo.py", str(folder / "dpo.yaml"), f"training.output_dir={output}"]


@pytest.fixture(scope="module")
def killed_plain(folder: Path) -> Path:
    """A run of one process without ZeRO-3 that was killed after its third step."""
    output = folder / "killed-plain"
    kill_after(Started([PYTHON, *plain(folder, output)]), output / "checkpoint-3")
    return output


@pytest.mark.engine
def test_one_process_without_zero3_then_two_train_as_zero3_does(folder: Path, killed_plain: Path, alone: Path) -> None:
    output = folder / "ddp"
    shutil.copytree(killed_plain, output)
    printed = ended(Started([*TORCHRUN, *plain(folder, output)]))
    assert f"resuming from {output}/checkpoint-3" in printed
    assert "find an RNG file" not in printed
    assert_same_run(output, alone)


def content_of(output: Path) -> dict[str, bytes]:
    """Name -> content of each file, without the hidden ones: a killed run leaves its lock."""
    files = (file for file in output.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(output)): file.read_bytes() for file in files}


@pytest.mark.engine
@pytest.mark.parametrize("zero3", [False, True], ids=["without ZeRO-3", "on ZeRO-3"])
def test_a_start_that_cannot_read_the_states_of_a_whole_checkpoint_is_refused_and_does_not_begin_again(
    zero3: bool, folder: Path, killed: Path, killed_plain: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(killed_plain if zero3 else killed, output)
    unchanged = content_of(output)
    started = start(folder, output, 1) if zero3 else Started([PYTHON, *plain(folder, output)])
    code, printed = started.wait(), " ".join(started.output.split())
    found = f"and {output}/checkpoint-3 has"
    if zero3:
        assert (code, re.findall(r"exitcode : (\d)", printed)) == (1, ["2"]), "that of the launcher, and the process's"
        what = f"launch: is on ZeRO-3, {found} its optimizer states in one file, optimizer.pt"
        before = "plain python, torchrun or accelerate launch without DeepSpeed"
    else:
        assert code == 2, printed[-3000:]
        what = f"launch: is without ZeRO-3, {found} optimizer states of ZeRO-3, divided among processes"
        before = "accelerate launch with the former --config_file, such as recipes/launch/zero3.yaml"
    assert (
        f"{what}. Start it as before ({before}), choose another training.output_dir, or delete {output} to" in printed
    )
    assert content_of(output) == unchanged, "nothing was written"


@pytest.mark.engine
@pytest.mark.slow
def test_bfloat16_weights_go_from_two_processes_to_three_bit_for_bit(folder: Path) -> None:
    """Their float32 master weights, their moments, step counters and settings, as DeepSpeed has them after loading."""
    output, settings = folder / "bf16", ["model.dtype=bfloat16", "training.keep_optimizer=true"]
    ended(start(folder, output, 2, *settings, "training.max_steps=2"))
    kept = folder / "kept"
    shutil.copytree(output / "checkpoint-2", kept)
    ended(start(folder, output, 3, *settings, "training.max_steps=3"))
    files = state_files(kept, read_manifest(kept))
    assert all(file.name.startswith("bf16_") for file in files)
    written = [torch.load(file, weights_only=False)["optimizer_state_dict"] for file in files]
    loaded = [torch.load(output / f"loaded-3-{number}.pt", weights_only=False) for number in range(3)]
    shapes = torch.load(files[0].with_name("zero_pp_rank_0_mp_rank_00_model_states.pt"))["param_shapes"]
    for number, group in enumerate(shapes):
        assert_same_bits(whole(written, number, group), whole(loaded, number, group))
    for states in loaded:
        optimizer = states["optimizer_state_dict"]
        assert [state["step"] for state in optimizer["state"].values()] == [2, 2]
        assert [each["weight_decay"] for each in optimizer["param_groups"]] == [0.1, 0]


def whole(states: list[dict[str, Any]], number: int, shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Each weight and moment of a group, put together from what all processes have of it."""
    found = {}
    for key in ("fp32", "exp_avg", "exp_avg_sq"):
        parts = [
            each["fp32_flat_groups"][number] if key == "fp32" else each["optimizer_state_dict"]["state"][number][key]
            for each in states
        ]
        first = 0
        for name, shape in shapes.items():
            size = part_size(shape.numel(), len(states))
            found[f"{name} {key}"] = torch.cat([part[first : first + size] for part in parts])[: shape.numel()]
            first += size
        assert all(first == len(part) for part in parts)
    return found


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, other[name]), name


def universal(states: Path, folder: Path) -> Path:
    """What DeepSpeed's own converter makes of the states: a file for each weight and state."""
    from deepspeed.checkpoint import ds_to_universal

    settings = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
    ds_to_universal.main(
        Namespace(input_folder=str(states), output_folder=str(folder / "u"), inject_missing_state=False, **settings)
    )
    return folder / "u" / "zero"


@pytest.mark.engine
@pytest.mark.parametrize("count", [1, 3, 8])
def test_divided_states_are_those_of_deepspeeds_universal_checkpoint(killed: Path, tmp_path: Path, count: int) -> None:
    """Bit for bit, each weight put together again from the parts of `count` processes."""
    folder = killed / "checkpoint-3"
    files = state_files(folder, read_manifest(folder))
    expected = universal(files[0].parent, tmp_path)
    with tensors_only(folder):
        written = WrittenStates(folder, files)
        seen = 0
        for shapes in written.model["param_shapes"]:
            parts = [written.group(list(shapes), number, count) for number in range(count)]
            assert all(part.states["step"] == 3 for part in parts)
            for key in ("fp32", "exp_avg", "exp_avg_sq"):
                flat = [part.weights if key == "fp32" else part.states[key] for part in parts]
                first = 0
                for name, shape in shapes.items():
                    size = part_size(shape.numel(), count)
                    whole = torch.cat([each[first : first + size] for each in flat])
                    kept, filled = whole[: shape.numel()], whole[shape.numel() :]
                    assert torch.equal(kept, torch.load(expected / name / f"{key}.pt").flatten())
                    assert not filled.any()
                    first, seen = first + size, seen + 1
    assert seen == 3 * 20
    groups = [written.group(list(shapes), 0, count) for shapes in written.model["param_shapes"]]
    assert groups[0].states["step"] is not groups[1].states["step"], "each group counts its own steps"


class _Code:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.mark,)


@pytest.mark.engine
def test_a_foreign_state_with_a_fitting_manifest_is_not_divided(folder: Path, killed: Path, tmp_path: Path) -> None:
    output, mark = tmp_path / "run", tmp_path / "code ran"
    shutil.copytree(killed, output)
    for checkpoint in output.glob("checkpoint-*"):
        if (checkpoint / "MANIFEST.json").exists():
            replace_state(checkpoint, {"more": _Code(mark)})
    started = start(folder, output, 1)
    assert started.wait() != 0
    assert "has optimizer states that could run code" in started.output, started.output[-3000:]
    assert not mark.exists()


def replace_state(checkpoint: Path, changes: dict[str, Any], number: int = -1) -> None:
    """Change what one process has saved, and seal the folder again."""
    manifest = read_manifest(checkpoint)
    file = state_files(checkpoint, manifest)[number]
    torch.save({**torch.load(file, weights_only=False), **changes}, file)
    notes = {name: value for name, value in manifest.items() if name not in ("format", "blake3", "files")}
    write_folder_manifest(checkpoint, [checkpoint / name for name in manifest["files"]], notes)


def write_states(folder: Path, *, moments: int = 1, rms: tuple[float, float] = (0.5, 0.5)) -> list[Path]:
    """Two files as DeepSpeed writes them, of one weight of ten values. rms: one value of each process."""
    files = []
    for number in (0, 1):
        values = torch.arange(5.0) + 5 * number
        states = {"step": torch.tensor(3.0), "rms": rms[number], **{f"m{n}": values * 10 for n in range(moments)}}
        state = {"optimizer_state_dict": {"state": {0: states}}, "fp32_flat_groups": [values]}
        files.append(folder / f"zero_pp_rank_{number}_mp_rank_00_optim_states.pt")
        torch.save({"optimizer_state_dict": state}, files[-1])
    torch.save({"param_shapes": [{"w": torch.Size([2, 5])}]}, folder / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    return files


def test_a_weight_of_ten_values_goes_from_two_processes_to_three(tmp_path: Path) -> None:
    written = WrittenStates(tmp_path, write_states(tmp_path))
    parts = [written.group(["w"], number, 3) for number in range(3)]
    assert [part.weights.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]]
    assert parts[1].states["m0"].tolist() == [40, 50, 60, 70]
    assert parts[1].states["rms"] == 0.5


def test_states_that_differ_between_processes_are_refused(tmp_path: Path) -> None:
    written = WrittenStates(tmp_path, write_states(tmp_path, rms=(0.5, 0.6)))
    with pytest.raises(
        CheckpointError, match=r"an optimizer state, rms, that cannot be divided .* Resume with as many"
    ):
        written.group(["w"], 1, 3)


def test_states_of_other_weights_are_refused(tmp_path: Path) -> None:
    written = WrittenStates(tmp_path, write_states(tmp_path))
    written.require_weights([{"w": [2, 5]}])
    for shapes in ({"w": [5, 2]}, {"v": [2, 5]}, {"w": [2, 5], "v": [1]}):
        with pytest.raises(CheckpointError, match=r"ZeRO-3 states of other weights than are trained: [wv]"):
            written.require_weights([shapes])


@pytest.mark.parametrize("values", [1, 2, 10, 97])
def test_every_value_is_read_once_and_from_its_place(values: int) -> None:
    for before in (1, 2, 3, 7, 64):
        for count in (1, 2, 3, 5, 128):
            read = [
                before_first + n
                for number in range(count)
                for piece in pieces(values, before, number, count)
                for before_first in [piece.process * part_size(values, before) + piece.source]
                for n in range(piece.values)
                if number * part_size(values, count) + piece.target == before_first
            ]
            assert read == list(range(values))


def test_a_checkpoint_without_a_file_of_each_process_is_refused(tmp_path: Path) -> None:
    name = "global_step3/bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt"
    manifest = {"processes": 2, "files": {name.format(n): {} for n in (1, 0)}}
    assert state_files(tmp_path, manifest) == [tmp_path / name.format(n) for n in (0, 1)]
    for other in ({"processes": 3, "files": manifest["files"]}, {"processes": 2, "files": {"optimizer.pt": {}}}):
        with pytest.raises(CheckpointError, match=r"written by \d processes, and has the ZeRO-3 states of \d"):
            state_files(tmp_path, other)


@pytest.mark.parametrize("before, now, number, expected", [(1, 2, 1, 0), (2, 1, 0, 0), (2, 3, 2, 0), (3, 5, 4, 1)])
def test_random_states_go_on_with_another_number_of_processes(
    tmp_path: Path, before: int, now: int, number: int, expected: int
) -> None:
    names = [f"rng_state_{n}.pth" for n in range(before)] if before > 1 else ["rng_state.pth"]
    for n, name in enumerate(names):
        (tmp_path / name).write_text(str(n))
    write_manifest(tmp_path, {"files": {}, "processes": before})
    with random_states(tmp_path, Processes(now, number, torch.device("cpu"))) as found:
        name = f"rng_state_{number}.pth" if now > 1 else "rng_state.pth"
        assert (found / name).read_text() == str(expected)
    with random_states(tmp_path, Processes(before, 0, torch.device("cpu"))) as found:
        assert found == tmp_path
