"""Checkpoints that several processes seal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.files import fingerprint
from align.manifest import verify_folder
from align.trainers.sealing import divided, shares_of
from tests.processes import TORCHRUN, Started


def test_each_process_hashes_what_it_wrote_and_the_rest_is_divided_by_size() -> None:
    states = "global_step2/zero_pp_rank_{}_mp_rank_00_optim_states.pt"
    sizes = {states.format(0): 60, states.format(1): 60, "rng_state_0.pth": 1, "rng_state_1.pth": 1}
    sizes |= {"model-00001-of-00002.safetensors": 50, "model-00002-of-00002.safetensors": 49, "config.json": 2}
    shares = shares_of(sizes, 4)
    assert [set(share) for share in shares] == [
        {states.format(0), "rng_state_0.pth", "model-00001-of-00002.safetensors"},
        {states.format(1), "rng_state_1.pth", "model-00002-of-00002.safetensors", "config.json"},
        set(),
        set(),
    ]
    assert shares_of({"model.safetensors": 5, "optimizer.pt": 9}, 1) == [["optimizer.pt", "model.safetensors"]]
    # Left over from a run of more processes, or a name that happens to have a number: still hashed once.
    assert shares_of({"rng_state_7.pth": 1}, 2) == [["rng_state_7.pth"], []]


@pytest.mark.parametrize("processes", [1, 3, 512])
def test_every_file_is_hashed_once(processes: int) -> None:
    sizes = {f"zero_pp_rank_{n}_mp_rank_00_model_states.pt": n for n in range(processes)}
    sizes |= {f"model-{n}.safetensors": 1000 * n for n in range(2000)}
    shares = shares_of(sizes, processes)
    for found in (shares, divided(sizes, processes)):
        assert sorted(name for share in found for name in share) == sorted(sizes)
        loads = [sum(sizes[name] for name in share) for share in found]
        assert max(loads) - min(loads) <= max(sizes.values())


@pytest.mark.engine
def test_hashing_that_takes_longer_than_the_time_out_of_collective_operations_ends_sealed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("weights")
    started = Started([*TORCHRUN, "-m", "tests.align.trainers.late_process", str(tmp_path)])
    started.wait()
    found = json.loads(next(line for line in started.output.splitlines() if line.startswith('{"hashed"')))
    states = [f"zero_pp_rank_{n}_optim_states.pt" for n in (0, 1)]
    assert found["hashed"] == [["model.safetensors", states[0]], [states[1]]]
    whole, seen_by_one, real = found["verified"]
    assert sorted([*whole[0][0], *whole[1][0]]) == sorted(["model.safetensors", *states]), "each file is hashed once"
    assert all(hashed for hashed, _ in whole), "both processes hash"
    assert [answer for _, answer in [*whole, *seen_by_one]] == [2, 2, 2, 2]
    assert seen_by_one[0][0] == sorted(["model.safetensors", *states]), "it reads what the other did not find"
    damaged = f"{tmp_path / states[1]}: does not have the content that MANIFEST.json says. Run its stage again."
    assert [answer for _, answer in real] == [damaged, damaged]
    assert all(error == f"{tmp_path}: its disk is lost. Mount it." for error in found["errors"])
    assert found["the default group waited"] == "no"
    files = verify_folder(tmp_path)["files"]
    assert {name: entry["blake3"] for name, entry in files.items()} == {
        name: fingerprint(tmp_path / name) for name in ["model.safetensors", *states]
    }
