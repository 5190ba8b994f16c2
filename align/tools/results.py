"""The result of a tool call, and the two kinds of failure: one that the model sees, and one that ends the run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from align import optional
from align.errors import AlignError

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of one call."""

    text: str
    """What the model sees: the tool's output, or what went wrong, in at most the registry's number of characters."""
    ok: bool
    error: str | None = None
    """None when ok; else one of unknown-tool, arguments (they do not match the schema), refused (the tool cannot read
    it, or will not), exception, time-out, memory, size, network, rate-limit; or `code-` and the interpreter's
    outcome."""
    seconds: float = 0.0
    """Wall clock. Kept out of records, so that they are the same from run to run."""


class ToolFailure(Exception):
    """A call that cannot be answered. The message becomes the text of the result, so the model sees it.

    A fault that the user must fix (a missing library, a refused key) is an `AlignError` instead and ends the run:
    training data made from such answers would teach the model a broken set-up.
    """

    def __init__(self, kind: str, message: str, prefix: str = "Error: ") -> None:
        super().__init__(message)
        self.kind = kind
        self.text = prefix + message


class ToolError(AlignError):
    """A function that cannot be a tool, or a tool that is not set up correctly."""


def library(module: str) -> Any:
    """A library of the extra `tools`, imported when first used; the error names the command that installs it."""
    return optional.library(module, "tools", "align.tools")


def result_text(result: str, max_characters: int) -> str:
    """A tool's output, valid as UTF-8 and shortened to `max_characters`."""
    return capped(_HALF_CHARACTER.sub("\ufffd", result), max_characters)


def capped(text: str, max_characters: int) -> str:
    """The text, or its beginning and end with a mark between them that says how much was cut.

    Units: characters, the mark's own included, so the result is never longer than `max_characters`.
    """
    if len(text) <= max_characters:
        return text
    # The mark of the longest cut, so that the length of its number changes nothing.
    left = max(0, max_characters - len(_mark(len(text))))
    head, tail = left - left // 2, left // 2
    return (text[:head] + _mark(len(text) - left) + text[len(text) - tail :])[:max_characters]


def _mark(characters: int) -> str:
    return f"\n[... {characters} characters cut ...]\n"
