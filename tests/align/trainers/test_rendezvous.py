"""Processes that a launcher starts again find each other, and not those of the attempt before."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from align.trainers.rendezvous import renew_store
from tests.processes import PYTHON, Started


@pytest.mark.engine
def test_processes_that_are_started_again_do_not_read_addresses_of_the_attempt_before(tmp_path: Path) -> None:
    """With the rendezvous `static` of accelerate, whose store keeps the keys of all attempts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [PYTHON, "-m", "torch.distributed.run", "--rdzv_backend", "static", "--master_port", str(port)]
    launch += ["--nproc_per_node", "2", "--max_restarts", "2", "--monitor_interval", "0.1"]
    started = Started([*launch, "tests/align/trainers/restarting_process.py", str(tmp_path)])
    assert started.wait(120) == 0, started.output
    said = {path.name: path.read_text() for path in tmp_path.iterdir()}
    of_attempt = {0: "True", 1: "False", 2: "False"}
    assert said == {
        f"attempt-{attempt}-rank-{rank}": f"2 processes, store of the agent: {agents}"
        for attempt, agents in of_attempt.items()
        for rank in (0, 1)
    }


@pytest.mark.parametrize(
    "environment",
    [{}, {"TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"},
     {"TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_USE_AGENT_STORE": "False"}],
    ids=["no launcher", "the first attempt", "a store for each attempt"],
)  # fmt: skip
def test_elsewhere_nothing_is_changed(environment: dict[str, str]) -> None:
    given = dict(environment)
    renew_store(given)
    assert given == environment
