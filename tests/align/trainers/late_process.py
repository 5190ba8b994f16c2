"""Two processes whose collective operations have a time-out of two seconds seal a checkpoint, which takes five seconds.

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
from align.trainers.processes import Processes
from align.trainers.sealing import seal_together

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
        print(json.dumps({"hashed": lists, "errors": errors, "the default group waited": waited}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
