"""Runs that are asked to stop or are killed, in processes of their own: in every part of a run, under a launcher."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from align.effective_time import effective_time_of, read_starts
from align.leaving import HANG_CODE
from align.manifest import is_whole
from tests.processes import PYTHON, TORCHRUN, ZERO3, Started, run
from tests.torture import kills
from tests.torture.stops import command, debris, full_disk, small_disk, start_slowed, stop_in, write_pairs

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    write_pairs(path, 12)
    return path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, pairs: Path) -> Path:
    output = tmp_path_factory.mktemp("alone") / "run"
    run(command(tiny_checkpoint, pairs, output, [PYTHON]))
    return output


def test_sigterm_in_every_part_of_a_run_ends_it_at_once_or_sealed(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path, alone: Path
) -> None:
    """One run, stopped in each of its starts, and compared with one that was left alone."""
    output = tmp_path / "run"
    arguments = command(tiny_checkpoint, pairs, output, [PYTHON])
    for part, sealed in {
        "encoding": [],
        "reference pass": [],
        "saving": [2],
        "validation": [2, 4],
        "finishing": [2, 4],
    }.items():
        stopped = stop_in(part, arguments, tmp_path, seconds=0.5)
        assert stopped.poll() == 128 + signal.SIGTERM, (part, stopped.output)
        assert "Traceback" not in stopped.output, part
        found = sorted(int(folder.name.removeprefix("checkpoint-")) for folder in output.glob("checkpoint-*"))
        assert found == sealed, part
        assert all(is_whole(output / f"checkpoint-{step}") for step in sealed), part
        assert debris(output) == [], part
        assert is_whole(output) == (part == "finishing"), part
    assert "is finished already" in run(arguments)
    assert (output / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()
    found = effective_time_of(output)
    assert found is not None
    assert (found.killed, found.lost_steps) == (0, 0)
    assert [line["outcome"] for line in read_starts(output) if line["event"] == "end"] == ["stopped"] * (found.starts)


def test_a_save_that_is_longer_than_the_launchers_patience_needs_the_setting_and_is_sealed_with_it(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path
) -> None:
    """ZeRO-3 on two processes. The launcher kills its workers after TORCH_ELASTIC_SHUTDOWN_TIMEOUT."""
    output = tmp_path / "run"
    arguments = command(tiny_checkpoint, pairs, output, ZERO3)
    killed = stop_in("saving", arguments, tmp_path, seconds=6.0, TORCH_ELASTIC_SHUTDOWN_TIMEOUT="1")
    assert killed.poll() != 0
    assert not list(output.rglob("MANIFEST.json")), "it was killed in the middle of the save"
    patient = stop_in("saving", arguments, tmp_path, seconds=3.0, TORCH_ELASTIC_SHUTDOWN_TIMEOUT="60")
    assert patient.poll() != 0
    assert [seal.parent.name for seal in output.rglob("MANIFEST.json")] == ["checkpoint-2"]
    assert is_whole(output / "checkpoint-2")
    assert debris(output) == []


def test_a_second_ctrl_c_ends_a_run_without_a_checkpoint(tmp_path: Path, tiny_checkpoint: Path, pairs: Path) -> None:
    output, reached = tmp_path / "run", tmp_path / "reached"
    arguments = command(tiny_checkpoint, pairs, output, [PYTHON])
    arguments[arguments.index("recipes/dpo.py")] = "tests/torture/slowed.py"
    started = Started(arguments, SLOWED="steps", SLOWED_SECONDS="60", SLOWED_REACHED=str(reached))
    started.wait_for(reached.exists)
    started.interrupt()
    started.wait_for(lambda: "asked to stop" in started.output)
    time.sleep(1.2)  # a second one within a second of the first is taken for the same one
    started.interrupt()
    assert started.wait(20) == 128 + signal.SIGINT
    assert not list(output.rglob("MANIFEST.json"))


def test_a_rank_that_hangs_ends_all_ranks_with_their_stacks_and_the_run_resumes(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path
) -> None:
    """Rank 1 hangs in step 3, after a checkpoint; rank 0 waits for it in the next collective operation."""
    output = tmp_path / "run"
    settings = ("training.watchdog_minutes=0.25", "data.eval_path=null")
    arguments = command(tiny_checkpoint, pairs, output, TORCHRUN, *settings)
    hanging, _ = start_slowed("steps", arguments, tmp_path, 300, SLOWED_RANK="1")
    assert hanging.wait() != 0
    stacks = [(output / "stacks" / f"rank-{rank}.txt").read_text() for rank in (0, 1)]
    assert ["in batch_loss" in stack for stack in stacks] == [True, False], "rank 0 waits in its forward pass"
    assert "in slowed" in stacks[1]
    assert "rank 1 on " in hanging.output
    assert "no progress for 15 s (training.watchdog_minutes) in step 3" in hanging.output
    assert f"exitcode  : {HANG_CODE}" in hanging.output
    assert read_starts(output)[-1]["outcome"] == "hung"
    run(arguments)
    found = effective_time_of(output)
    assert found is not None
    assert (found.starts, found.killed, found.lost_steps) == (2, 0, 0)
    assert found.causes["lost steps"] > 14, "the step that hung"


def test_a_disk_that_becomes_full_in_a_save_leaves_the_checkpoint_before_it_and_nothing_else(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    with small_disk(tmp_path / "disk", 128) as disk:
        if disk is None:
            pytest.skip("a tmpfs cannot be mounted here")
        assert full_disk([0.5], tiny_checkpoint, tmp_path, disk)["failures"] == []


def test_a_run_that_kills_itself_in_saves_and_deletions_ends_with_the_bytes_of_one_that_was_left_alone(
    tmp_path: Path,
) -> None:
    runs = kills.Runs(tmp_path, random.Random(1))
    phases = ["saving", "pruning"]
    assert kills.killed_run(runs, "sft", 1, phases, tmp_path / "killed" / "run") == (phases, [])
    counts = runs.alone("sft", 1).counts
    assert counts["saving"] > 50
    assert counts["pruning"] > 20
