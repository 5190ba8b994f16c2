"""What a call comes back with, and how a tool says that it could not."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from align.errors import AlignError, ConfigError

ErrorKind = Literal[
    "unknown-tool",  # no tool bears the name
    "arguments",  # the arguments do not match the schema
    "refused",  # the tool understood and will not, or cannot: a file of another kind, a query it cannot read
    "exception",  # the tool's code raised
    "time-out",
    "memory",
    "size",  # more than the tool takes in, or unpacks
    "network",
    "rate-limit",
]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What one call came back with."""

    text: str
    """What the model sees: the tool's output, or what went wrong, in at most the registry's number of characters."""
    ok: bool
    error: str | None = None
    """None when ok; else an `ErrorKind`, or `code-` and the interpreter's outcome, such as `code-timeout`."""
    seconds: float = 0.0
    """Wall clock. Kept out of records, so that they are the same from run to run."""


class ToolFailure(Exception):
    """A call that cannot be answered, told to the model: the message becomes the result's text.

    What the user must mend (a missing library, a refused key) is an `AlignError` instead: it ends the run, since
    data made from such answers would teach a broken set-up.
    """

    def __init__(self, kind: str, message: str, prefix: str = "Error: ") -> None:
        super().__init__(message)
        self.kind = kind
        self.text = prefix + message


class ToolError(AlignError):
    """A function that cannot be a tool, or a tool whose set-up does not hold."""


def library(module: str) -> Any:
    """An optional library, imported when first used; the error names the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise ConfigError(
            "align.tools",
            f"wanted the library {module}, which is not installed",
            "Install the extra: pip install 'align[tools]'",
        ) from None
