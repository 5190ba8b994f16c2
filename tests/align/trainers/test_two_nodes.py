"""Failures of one node of two: two launchers on this machine, each with one process."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.processes import ZERO3, Started
from tests.torture.stops import command, write_pairs

pytestmark = pytest.mark.engine

SECONDS = 60
"""In which both nodes must have ended."""


def start_nodes(arguments: list[str]) -> list[Started]:
    """The launchers of both nodes. arguments: from `recipes/...` on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [*ZERO3, "--num_machines", "2", "--num_processes", "2", "--rdzv_backend", "static"]
    launch += ["--deepspeed_multinode_launcher", "standard"]
    launch += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    return [Started([*launch, "--machine_rank", str(rank), *arguments]) for rank in (0, 1)]


def end_of(nodes: list[Started]) -> list[str]:
    """What the nodes have printed. Both must end with an error in time, counted from the end of the first."""
    while all(node.poll() is None for node in nodes):
        time.sleep(0.05)
    for node in nodes:
        assert node.wait(SECONDS) not in (0, None), node.output[-3000:]
    return [node.output for node in nodes]


def test_an_error_while_rows_are_encoded_ends_both_nodes_with_its_message(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 4)
    arguments = command(tiny_checkpoint, tmp_path / "pairs.jsonl", tmp_path / "run", [], "data.max_prompt_tokens=1")
    for output in end_of(start_nodes(arguments)):
        assert "no row is left to train on (" in output


def test_an_error_of_the_second_node_in_a_step_ends_the_first_too(tmp_path: Path, tiny_checkpoint: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 8)
    script = tmp_path / "failing.py"
    script.write_text(
        "from align.config import main\n"
        "from align.errors import CheckError\n"
        "from align.trainers.gradients import Gradients\n"
        "from recipes.dpo import DPORecipe, run\n"
        "honest = Gradients.compute\n"
        "def compute(self, *arguments):\n"
        "    if self.trainer.state.global_step == 1 and not self.trainer.is_world_process_zero():\n"
        "        raise CheckError('step 2', 'the second node fails', 'Nothing to do')\n"
        "    return honest(self, *arguments)\n"
        "Gradients.compute = compute\n"
        "main(DPORecipe, run)\n"
    )
    _, *arguments = command(tiny_checkpoint, tmp_path / "pairs.jsonl", tmp_path / "run", [])
    _, second = end_of(start_nodes([str(script), *arguments]))
    assert "step 2: the second node fails. Nothing to do." in second
