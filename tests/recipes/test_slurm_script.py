"""recipes/launch/slurm.sh, with programs of the cluster that say how they were called."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes/launch/slurm.sh"


def submitted(folder: Path, launch: str, nodes: int, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What the batch script does on the first of `nodes` nodes. srun starts the command once, on this machine.

    variables: of SLURM, those that say how many GPUs the job has.
    """
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
    given = os.environ | job | variables | {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=given, check=False)


def test_each_node_launches_with_its_rank_and_the_address_of_the_first(tmp_path: Path) -> None:
    launch = "recipes/launch/zero3_hpz.yaml"
    done = submitted(tmp_path, launch, 8)
    expected = f"1800 -m accelerate.commands.launch --config_file {launch} --machine_rank 0 --num_machines 8"
    expected += " --num_processes 64 --main_process_ip node1 --main_process_port 20017 recipes/dpo.py a b.yaml"
    assert done.stdout.strip() == expected, done.stderr
    assert not done.stderr


@pytest.mark.parametrize(
    "launch, nodes, variables, processes",
    [
        ("zero3_hpz.yaml", 7, {}, 56),
        ("zero3.yaml", 2, {}, 16),
        ("zero3_hpz.yaml", 8, {"SLURM_GPUS_ON_NODE": "4"}, 32),
        ("zero3_hpz.yaml", 3, {"SLURM_GPUS_PER_NODE": "h100:4"}, 12),
        ("zero3_nodes.yaml", 3, {"SLURM_GPUS_ON_NODE": "8", "SLURM_GPUS_PER_NODE": "h100:8"}, 24),
        ("sample_nodes.yaml", 3, {"SLURM_GPUS_ON_NODE": "8"}, 3),
    ],
)
def test_a_job_has_a_process_for_each_of_its_gpus(
    launch: str, nodes: int, variables: dict[str, str], processes: int, tmp_path: Path
) -> None:
    done = submitted(tmp_path, f"recipes/launch/{launch}", nodes, **variables)
    assert done.returncode == 0, done.stderr
    assert f"--num_machines {nodes} --num_processes {processes} --main_process_ip" in done.stdout
    assert f"recipes/launch/{launch}: {processes} processes on {nodes} nodes, in place of" in done.stderr


def test_a_number_of_processes_before_the_recipe_is_taken(tmp_path: Path) -> None:
    """The launcher takes the last one of two."""
    done = submitted(tmp_path, "recipes/launch/zero3_hpz.yaml", 7, "--num_processes", "28")
    assert done.stdout.endswith("--num_processes 28 recipes/dpo.py a b.yaml\n"), done.stderr
    assert not done.stderr
    arguments = done.stdout.split()[3:]
    assert launch_command_parser().parse_args(arguments).num_processes == 28


def test_a_launch_file_that_is_missing_ends_the_job(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.yaml")
    done = submitted(tmp_path, missing, 2)
    assert done.returncode != 0
    assert not done.stdout
    assert missing in done.stderr


def test_the_signal_comes_as_early_as_the_launcher_waits() -> None:
    """A checkpoint of 405B has 5.7 TB: five minutes are too short for a disk of less than 19 GB/s."""
    text = SCRIPT.read_text(encoding="utf-8")
    signal = re.search(r"^#SBATCH --signal=TERM@(\d+)$", text, re.MULTILINE)
    patience = re.search(r"TORCH_ELASTIC_SHUTDOWN_TIMEOUT=(\d+)", text)
    assert signal
    assert patience
    assert int(signal[1]) == int(patience[1]) >= 1800
