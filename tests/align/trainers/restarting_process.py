"""Two processes of a launcher with `--max_restarts` form groups; in the first two attempts the second one then ends.

In later attempts the second process is late, so the first one looks for its address while the store of the launcher's
agent has only that of the attempt before.

    python -m torch.distributed.run --nproc_per_node 2 --max_restarts 2 restarting_process.py FOLDER
"""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from align.trainers.rendezvous import renew_store

attempt, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
if attempt and rank:
    time.sleep(1.5)
renew_store()
dist.init_process_group("gloo", timeout=timedelta(seconds=20))
group = dist.new_group(backend="gloo")
if attempt and rank:
    time.sleep(1.5)
total = torch.ones(1)
dist.all_reduce(total, group=group)
with (Path(sys.argv[1]) / f"attempt-{attempt}-rank-{rank}").open("w") as handle:
    handle.write(f"{int(total)} processes, store of the agent: {os.environ['TORCHELASTIC_USE_AGENT_STORE']}")
dist.barrier()
if attempt < 2 and rank:
    os._exit(1)
dist.barrier()  # fails if the other process has ended
