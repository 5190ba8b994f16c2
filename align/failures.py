"""Turns failures of the environment (a full disk, no access, no memory, no network) into one message for the user, in
place of a traceback.

Errors that only a fault in the code explains (AssertionError, TypeError, KeyError, ...) are not translated: their
traceback is the message. Classes of heavy libraries are recognised by name, so that nothing is imported here.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
from collections.abc import Sequence
from contextlib import suppress

from align.errors import (
    AlignError,
    CorruptionError,
    NetworkError,
    OutOfMemoryError,
    RolledBack,
    first_line,
    system_errno,
)
from align.hub_errors import chain, hub_problem, is_of_a_library, is_of_the_network

FAILURES = "ALIGN_FAILURES"
"""Variable of the environment: the file in which a process that fails writes the cause, for who started it."""

CONTINUE = "then start the same command again: it continues from what is saved"

_BY_NUMBER = {
    errno.ENOSPC: ("the disk is full", f"Free some space or choose another folder, {CONTINUE}"),
    errno.EDQUOT: ("your disk quota is used up", f"Free some space or choose another folder, {CONTINUE}"),
    errno.EACCES: ("permission denied", "Choose a folder that you may write to, or change its permissions"),
    errno.EPERM: ("not permitted", "Choose a folder that you may write to, or change its permissions"),
    errno.EROFS: ("the file system is read-only", "Choose a folder on a disk that can be written"),
    errno.ENOENT: ("does not exist", "Check the path in the config"),
    errno.ENOTDIR: ("a part of this path is a file, not a folder", "Choose another path"),
    errno.EISDIR: ("is a folder, and a file is expected", "Name a file"),
    errno.EEXIST: ("exists already, as another kind of file", "Choose another path, or move it away"),
    errno.ENAMETOOLONG: ("the name is too long for this file system", "Choose a shorter path"),
    errno.ELOOP: ("symbolic links lead in a circle", "Choose another path"),
    errno.EIO: ("the disk reports an input/output error", "Check the disk; files on it may be damaged"),
    errno.ESTALE: ("the network file system has lost this file", f"Check the mount, {CONTINUE}"),
    errno.EMFILE: ("too many files are open", "Raise the limit (ulimit -n 65536)"),
    errno.ENFILE: ("too many files are open on this machine", "Wait, or end other programs"),
    errno.ENOMEM: ("there is not enough memory", "Lower data.token_budget or sampling.batch_size"),
    errno.EADDRINUSE: ("the address is in use by another program", "Choose another port"),
}
_MOST = 300
"""Characters of an error's own text in a message."""
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|ALLOC_FAILED", re.IGNORECASE
)
# The repository that an error of the Hub names, in an address or in quotes:
#   "404 ... url: https://huggingface.co/api/models/me/model/revision/main"   me/model
#   "403 ... url: http://mirror:8080/me/model/resolve/main/config.json"      me/model
#   "https://huggingface.co/docs/hub"                                        nothing: a page of the documentation
#   "Cannot find 'me/model'"                                                 me/model
_OWNER_AND_NAME = r"([\w.-]+/[\w.-]+)"
_REPOSITORY = re.compile(
    rf"huggingface\.co/(?!docs/|settings/)(?:api/)?(?:models/|datasets/)?{_OWNER_AND_NAME}"
    rf"|/api/(?:models|datasets)/{_OWNER_AND_NAME}|/{_OWNER_AND_NAME}/resolve/|['\"]{_OWNER_AND_NAME}['\"]"
)


def explained(error: BaseException, hub_names: Sequence[str] = ()) -> AlignError | None:
    """`error` as a message of where, what and how; None for one that is, or may be, a fault of the code.

    hub_names: what the config reads from the Hub, for errors of the Hub that name nothing.
    """
    if isinstance(error, AlignError):
        return error
    if isinstance(error, OSError | ValueError | RuntimeError) or is_of_the_network(error):
        about_the_hub = _of_the_hub(error, ", ".join(hub_names))
        if about_the_hub is not None:
            return about_the_hub
    names = {cls.__name__ for cls in type(error).__mro__}
    if is_out_of_memory(error):
        how = "Lower data.token_budget or sampling.batch_size, whichever this recipe has"
        return OutOfMemoryError("memory", f"there is not enough: {first_line(error, _MOST)}", how)
    if not isinstance(error, OSError) and (number := system_errno(error)) in _BY_NUMBER:
        return AlignError("a checkpoint", *_BY_NUMBER[number])
    if "SafetensorError" in names:
        what = f"a .safetensors file cannot be read or written ({first_line(error, _MOST)})"
        return AlignError("a checkpoint", what, "Check the disk and the file; download or make the checkpoint again")
    if isinstance(error, sqlite3.Error):
        return AlignError("a database", first_line(error, _MOST), "Check the disk, the path and who else has it open")
    if isinstance(error, RecursionError):
        return AlignError("a value", "is nested too deep to be read", "Look for thousands of brackets in the input")
    if isinstance(error, UnicodeEncodeError) and not error.encoding.lower().startswith("utf"):
        what = f"the encoding {error.encoding} has no {error.object[error.start]!a}"
        return AlignError("a text", what, "Set PYTHONUTF8=1, so that the output and all files are UTF-8; start again")
    if isinstance(error, UnicodeDecodeError | UnicodeEncodeError):
        return AlignError(
            "a text", f"is not UTF-8 ({first_line(error, _MOST)})", "Save the file that was read last as UTF-8"
        )
    if isinstance(error, ConnectionError) and not isinstance(error, BrokenPipeError):
        how = f"Check the network and the program at the other end, {CONTINUE}"
        return NetworkError("network", f"a connection has failed ({first_line(error, _MOST)})", how)
    if isinstance(error, OSError):
        return _of_the_system(error)
    return None


def note_cause(error: AlignError) -> None:
    """Append the cause of an error to the file that ALIGN_FAILURES names, if it names one.

    The causes are those of `align/rounds/restarts.py`: an exit code does not reach the rounds through a launcher.
    """
    path = os.environ.get(FAILURES)
    if not path:
        return
    causes = {
        OutOfMemoryError: "out_of_memory",
        CorruptionError: "corruption",
        NetworkError: "network",
        RolledBack: "rolled_back",
    }
    cause = next((name for kind, name in causes.items() if isinstance(error, kind)), "error")
    with suppress(OSError), open(path, "a", encoding="utf-8") as handle:  # the error itself is what has to be said
        handle.write(json.dumps({"cause": cause, "text": first_line(error, _MOST)}) + "\n")


def _of_the_system(error: OSError) -> AlignError:
    where = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    if error.errno in _BY_NUMBER:
        return AlignError(where or "files", *_BY_NUMBER[error.errno])
    if error.errno is not None:
        return AlignError(where or "files", f"{error.strerror}", "Check the path, the disk and the permissions")
    # transformers raises OSError with a text alone: "... is not a local folder and is not a valid model identifier"
    return AlignError(
        where or "a checkpoint", first_line(error, _MOST), "Check model.path: a folder, or owner/name on the Hub"
    )


def _of_the_hub(error: BaseException, names: str) -> AlignError | None:
    links = list(chain(error))
    found = _REPOSITORY.search("\n".join(map(str, links)))
    name = next(filter(None, found.groups()), "") if found else names
    problem = hub_problem(error, name)
    if problem is not None and problem.about == "network" and not name and not any(map(is_of_a_library, links)):
        return None  # a connection of something else: of a process group, a judge, a database
    if problem is None:
        return None
    kind = NetworkError if problem.about == "network" else AlignError
    return kind(name or "Hugging Face Hub", problem.what, problem.how)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or the GPU is used up: torch has no class for the CPU's."""
    if isinstance(error, MemoryError) or "OutOfMemoryError" in {cls.__name__ for cls in type(error).__mro__}:
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
