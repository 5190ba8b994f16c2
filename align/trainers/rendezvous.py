"""How the processes of a run find each other when a launcher has started them again (`--max_restarts`).

Processes find each other through a store of keys (TCPStore): each writes its address, and reads those of the others.
With the rendezvous `static`, which `accelerate launch` uses, the launcher's agent hosts one store for all attempts, and
torch (2.13) does not tell the attempts apart: a process may read an address of the attempt before.

    attempt 0   process 0 writes 0 -> port 4000, process 1 writes 1 -> port 4001; process 1 is killed, both end
    attempt 1   process 0 reads 1 -> port 4001, before process 1 writes its new one: "Connection refused", or a hang

So from attempt 1 on process 0 hosts a store of its own, and the agent's store only says where it is.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

import torch.distributed as dist

_hosted: list[dist.TCPStore] = []
"""Kept for as long as the process lives."""


def renew_store(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make torch use a new store if this is not the first attempt. Every process calls it before it joins a group.

    environment: as the agent sets it for a process. MASTER_PORT becomes the port of the new store.
    """
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    agents = dist.TCPStore(host, port, is_master=False)
    key = f"align/attempt-{attempt}/port"
    if environment["RANK"] == "0":
        # multi_tenant: torch asks for a server on this port too, and gets this one
        _hosted.append(dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, multi_tenant=True))
        agents.set(key, str(_hosted[-1].port))
    environment["MASTER_PORT"] = agents.get(key).decode()
    environment["TORCHELASTIC_USE_AGENT_STORE"] = "False"
