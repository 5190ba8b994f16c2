"""Two processes whose collective operations have a time-out of two seconds seal a checkpoint, which takes five seconds,
and verify it.

Each hashes only what it has written. A collective operation of the default group would not have waited: that is shown
last, since nothing can follow it.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from align import manifest
from align.errors import CheckpointError
from align.trainers import verifying
from align.trainers.processes import Processes
from align.trainers.sealing import seal_together
from align.trainers.verifying import agree_verifying

TIMEOUT, LATE = 2.0, 5.0


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT))
    number = dist.get_rank()
    processes = Processes(dist.get_world_size(), number, torch.device("cpu"))
    processes.wait()
    (folder / f"zero_pp_rank_{number}_optim_states.pt").write_text(f"states of {number}")
    processes.wait()

    honest, hashed = manifest.fingerprint, []

    def slow(path: Path) -> str:
        hashed.append(path.name)
        if path.name.startswith("zero_pp_rank_1"):
            time.sleep(LATE)
        return honest(path)

    manifest.fingerprint = slow
    seal_together(folder, processes, lambda: {"step": 2})
    lists = processes.gathered_objects(hashed)
    manifest.fingerprint = lambda path: hashed.append(path.name) or honest(path)
    verified = verifications(folder, processes, hashed)

    def fail() -> None:
        if number == 1:
            raise CheckpointError(folder, "its disk is lost", "Mount it")

    try:
        processes.everywhere(fail)
    except CheckpointError as error:
        errors = processes.gathered_objects(str(error))
    waited = "yes"
    if number == 1:
        time.sleep(LATE)
    try:
        dist.barrier()
    except RuntimeError:
        waited = "no"
    if number == 0:
        found = {"hashed": lists, "verified": verified, "errors": errors, "the default group waited": waited}
        print(json.dumps(found), flush=True)


def verifications(folder: Path, processes: Processes, hashed: list[str]) -> list[list[object]]:
    """What each process hashes and gets when the folder is verified: whole, with damage that only the second process
    sees, and with real damage."""
    found: list[list[object]] = []
    states = folder / "zero_pp_rank_1_optim_states.pt"
    for damage in ("none", "seen by one", "real"):
        hashed.clear()
        if damage == "real" and processes.is_first:
            states.write_text("states of 7")
        processes.wait()
        if damage == "seen by one" and not processes.is_first:
            verifying.verify_file = lambda file, expected: manifest.verify_file(file.with_name("elsewhere"), expected)
        try:
            answer = agree_verifying(processes, lambda verify: verify(folder)["step"])
        except CheckpointError as error:
            answer = str(error)
        verifying.verify_file = manifest.verify_file
        found.append(processes.gathered_objects([sorted(hashed), answer]))
        if damage == "real" and processes.is_first:
            states.write_text("states of 1")
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
