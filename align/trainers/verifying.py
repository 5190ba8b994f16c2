"""Verify checkpoints with all processes: the first one asks which is whole, and each hashes a part of the files.

One process would take 47 minutes at 2 GB/s to read the 5.7 TB of a 405B model with its optimizer states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from align.errors import CheckpointError, UnreadableCheckpointError
from align.manifest import read_manifest, verify_file, verify_folder
from align.trainers.processes import Processes, answer_or_error
from align.trainers.sealing import divided

T = TypeVar("T")

Entries = Mapping[str, Mapping[str, Any]]
"""Files as MANIFEST.json lists them: name -> size and BLAKE3."""
Verify = Callable[[Path], dict[str, Any]]
"""`verify_folder`, or the same with the help of other processes."""


def agree_verifying(processes: Processes, question: Callable[[Verify], T]) -> T:
    """`Processes.agree` for a question that verifies folders, by the function that it is given.

    Which folders depends on what is found, and the first process decides it. Until it has an answer, the others hash
    what it asks them to:

        first     verify a    verify b    answer
        others    help        help        answer
    """
    if processes.count == 1:
        return question(verify_folder)
    if processes.is_first:
        answer, error = answer_or_error(lambda: question(lambda folder: _verify_together(folder, processes)))
        processes.agree(lambda: None)  # no more to help with
    else:
        while (task := processes.agree(_nothing)) is not None:
            folder, shares = task
            processes.gathered_objects(_whole_files(folder, shares[processes.number]))

    def found() -> Any:
        if error is not None:
            raise error
        return answer

    result: T = processes.agree(found)
    return result


def _verify_together(folder: Path, processes: Processes) -> dict[str, Any]:
    """`verify_folder`, on the first process.

    A file that another process has not found whole is read here as well: a disk or a mount of that process may be at
    fault, and an error is that of one process, whatever their number.
    """
    entries = read_manifest(folder)["files"]
    shares = divided({name: entry["bytes"] for name, entry in entries.items()}, processes.count)
    listed = [{name: entries[name] for name in share} for share in shares]
    processes.agree(lambda: (folder, listed))
    whole = processes.gathered_objects(_whole_files(folder, listed[processes.number]))
    return verify_folder(folder, {name for part in whole for name in part})


def _whole_files(folder: Path, share: Entries) -> list[str]:
    """The names of the files in a share that are what the manifest says."""
    whole = []
    for name, expected in share.items():
        try:
            verify_file(folder / name, expected)
        except (CheckpointError, UnreadableCheckpointError):
            continue  # the first process reads it again
        whole.append(name)
    return whole


def _nothing() -> Any:
    raise AssertionError("the first process answers")
