"""recipes/launch/slurm.sh, with programs of the cluster that say how they were called."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes/launch/slurm.sh"


def submitted(folder: Path, launch: str, nodes: int, *words: str) -> subprocess.CompletedProcess[str]:
    """What the batch script does on the first of `nodes` nodes. srun starts the command once, on this machine."""
    programs = {
        "scontrol": "echo node1; echo node2",
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
        "python": f'if [ "$1" = -c ]; then exec {sys.executable} "$@"; fi; echo "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" "$@"',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "40017", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": str(nodes), "SLURM_NODEID": "0"}
    command = ["bash", str(SCRIPT), launch, *words, "recipes/dpo.py", "a b.yaml"]
    variables = os.environ | job | {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables, check=False)


def test_each_node_launches_with_its_rank_and_the_address_of_the_first(tmp_path: Path) -> None:
    launch = "recipes/launch/zero3_hpz.yaml"
    done = submitted(tmp_path, launch, 8)
    expected = f"1800 -m accelerate.commands.launch --config_file {launch} --machine_rank 0 --num_machines 8"
    expected += " --main_process_ip node1 --main_process_port 20017 recipes/dpo.py a b.yaml"
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.parametrize(
    "launch, named, nodes", [("recipes/launch/zero3_hpz.yaml", 8, 4), ("recipes/launch/zero3.yaml", 1, 2)]
)
def test_another_number_of_nodes_than_the_launch_file_names_ends_the_job(
    launch: str, named: int, nodes: int, tmp_path: Path
) -> None:
    done = submitted(tmp_path, launch, nodes)
    assert done.returncode == 2
    assert not done.stdout
    assert f"{launch}: num_machines is {named}, and this job has {nodes} nodes. Submit it with --nodes={named}" in (
        done.stderr
    )


def test_other_nodes_are_taken_with_their_number_of_processes(tmp_path: Path) -> None:
    done = submitted(tmp_path, "recipes/launch/zero3_hpz.yaml", 7, "--num_processes", "56")
    assert "--num_machines 7 " in done.stdout, done.stderr
    assert done.stdout.endswith("--num_processes 56 recipes/dpo.py a b.yaml\n")


def test_the_signal_comes_as_early_as_the_launcher_waits() -> None:
    """A checkpoint of 405B has 5.7 TB: five minutes are too short for a disk of less than 19 GB/s."""
    text = SCRIPT.read_text(encoding="utf-8")
    signal = re.search(r"^#SBATCH --signal=TERM@(\d+)$", text, re.MULTILINE)
    patience = re.search(r"TORCH_ELASTIC_SHUTDOWN_TIMEOUT=(\d+)", text)
    assert signal
    assert patience
    assert int(signal[1]) == int(patience[1]) >= 1800
