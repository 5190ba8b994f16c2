"""Seal a checkpoint with all processes: each hashes a part of the files, and the first one writes the manifest.

DeepSpeed writes optimizer states as one file for each process, 12 of the 14 bytes per parameter of a checkpoint under
ZeRO-3. One process would take 47 minutes at 2 GB/s to read the 5.7 TB of a 405B model; 512 take 6 seconds.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from align.manifest import file_entries, seal_folder
from align.trainers.processes import Processes

_WRITER = re.compile(r"(?:rank|rng_state)_(\d+)")
"""The number of the process that wrote a file: 3 for zero_pp_rank_3_mp_rank_00_optim_states.pt and rng_state_3.pth."""


def seal_together(folder: Path, processes: Processes, notes: Callable[[], dict[str, Any]]) -> None:
    """Write MANIFEST.json of a folder whose files are complete. Every process calls it.

    notes: what else to record; called on the first process.
    Raises the first process's error on all processes, as `Processes.everywhere` does.
    """
    shares = processes.agree(lambda: shares_of(_sizes(folder), processes.count))
    own = [folder / name for name in shares[processes.number]]
    parts = processes.everywhere(lambda: file_entries(folder, own))
    entries = {name: entry for part in parts for name, entry in part.items()}
    processes.agree(lambda: seal_folder(folder, entries, notes()))


def shares_of(sizes: Mapping[str, int], processes: int) -> list[list[str]]:
    """The names of the files that each process hashes. sizes: name -> bytes, as the first process sees the folder.

    A process hashes what it has written, which may still be in its machine's memory. The other files, written by the
    first process, are divided: the largest first, each to the process that has the fewest bytes so far.

    Only processes that have written a file here take part, since a folder that machines do not share is, on the first
    one, without the files of the others. Example with 4 processes, where files of 0 and 1 are here:

        rank_0: 6, rank_1: 6, model-1: 5, model-2: 5, json: 1  ->  [rank_0, model-1, json], [rank_1, model-2], [], []
    """
    writers = {name: int(found[1]) for name in sizes if (found := _WRITER.search(name)) and int(found[1]) < processes}
    shares: list[list[str]] = [[] for _ in range(processes)]
    for name, writer in writers.items():
        shares[writer].append(name)
    _divide(sizes, sizes.keys() - writers.keys(), shares, {0, *writers.values()})
    return shares


def divided(sizes: Mapping[str, int], processes: int) -> list[list[str]]:
    """The names of the files of each process, where any of them may read any file: about as many bytes for each."""
    shares: list[list[str]] = [[] for _ in range(processes)]
    _divide(sizes, sizes.keys(), shares, range(processes))
    return shares


def _divide(sizes: Mapping[str, int], names: Iterable[str], shares: list[list[str]], numbers: Iterable[int]) -> None:
    """Add names to the shares of these processes: the largest first, each to the one with the fewest bytes so far."""
    queue = [(sum(sizes[name] for name in shares[number]), number) for number in numbers]
    heapq.heapify(queue)
    for name in sorted(names, key=lambda name: (-sizes[name], name)):
        held, number = queue[0]
        shares[number].append(name)
        heapq.heapreplace(queue, (held + sizes[name], number))


def _sizes(folder: Path) -> dict[str, int]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
