"""Errors that a user can fix: where it is, what was expected and found, how to fix it.

Everything here is a `ValueError`. What only we can have broken is an `assert`.
"""

from __future__ import annotations

import re

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's text that is not empty, cut after `most` characters; its class if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)[:most]


def system_errno(error: BaseException) -> int | None:
    """The number of the system's error that an exception reports, such as `errno.ENOSPC`; None if it reports none.

    Libraries in Rust (safetensors, tokenizers) write it into the text of an exception of any class:
    "No space left on device (os error 28)".
    """
    if isinstance(error, OSError):
        return error.errno
    found = _OS_ERROR.search(str(error))
    return int(found[1]) if found else None


class AlignError(ValueError):
    """`where: what. how`: every part is required, so no message can leave one out.

    where: a file, `file:line`, dotted key or command.
    what: what was expected and what was found.
    how: what to do about it.
    """

    def __init__(self, where: object, what: str, how: str) -> None:
        self.where = str(where)
        self.what = what.rstrip(".")
        self.how = how if how.endswith("?") else how.rstrip(".") + "."
        super().__init__(f"{self.where}: {self.what}. {self.how}")

    def __reduce__(self) -> tuple[type[AlignError], tuple[str, ...]]:
        # An exception rebuilds itself from its one message by default, which would fail between processes.
        return type(self), (self.where, self.what, self.how)


class ConfigError(AlignError):
    """A recipe's YAML or a `key=value` that cannot be used."""


class RowError(AlignError):
    """A row of data that is not what its stage reads."""


class UnusableRow(RowError):
    """A row that can be read and says nothing to train on, such as a tie: dropped and counted, never an end of a run.

    reason: for the count, such as `tie`.
    """

    def __init__(self, where: object, what: str, how: str, reason: str) -> None:
        super().__init__(where, what, how)
        self.reason = reason

    def __reduce__(self) -> tuple[type[AlignError], tuple[str, ...]]:
        return type(self), (self.where, self.what, self.how, self.reason)


class AssetError(AlignError):
    """A pinned package that cannot be fetched, verified or unpacked."""


class CheckpointError(AlignError):
    """A checkpoint folder that is not whole, or does not fit."""


class UnreadableCheckpointError(AlignError):
    """A checkpoint that cannot be read now, and may be whole: permissions, a disk that is not there, or a newer version
    of this project that wrote it. It is no CheckpointError, since code that catches one passes the checkpoint over,
    makes it again or deletes it."""


class CheckError(AlignError):
    """A check before or during training that fails. The run stops."""


class RolledBack(CheckError):
    """Ends a trainer after a faulty step. The rows are recorded, and the next start leaves them out."""


class CorruptionError(CheckError):
    """Values that differ when they are computed again: the machine is suspected to compute wrongly."""


class OutOfMemoryError(AlignError):
    """The memory of the machine or of a GPU is used up."""


class NetworkError(AlignError):
    """The Hub, a server or a connection does not answer. The same may work later."""


class StageError(AlignError):
    """A stage of a round that did not end well."""


class ServerError(AlignError):
    """A server that samples and does not answer, or serves something else than what is expected."""


class UnreachableServerError(ServerError, NetworkError):
    """Servers that do not answer, or only with errors."""


class PublishError(AlignError):
    """A checkpoint that could not, or must not, go to the Hub."""


class SandboxError(AlignError):
    """No boundary can be had on this machine, or a sandbox that cannot be used: nothing runs unprotected instead."""
