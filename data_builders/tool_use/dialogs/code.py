"""Questions that a few lines of Python answer. The lines are run in the real sandbox; their output is the answer.

`code.yaml` has the questions, which are beyond mental arithmetic, so that running code is the right reply;
`dialog_kinds.py` makes the dialog.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from align.config import Section, load_config
from align.tools.interpreter import DialogSession, interpreter_tool
from align.tools.sandbox.session import Sandbox
from data_builders.tool_use.dialogs.renaming import Offered
from data_builders.tool_use.dialogs.sampler_specs import sampler_at
from data_builders.tool_use.dialogs.samplers import Sampler, Value
from data_builders.tool_use.dialogs.task import Task


@dataclass(frozen=True)
class Program:
    """A question with the lines that answer it."""

    name: str
    arguments: Mapping[str, Sampler]
    queries: tuple[str, ...]
    """What a user says; `{argument}` is the drawn value as people say it."""
    code: str
    """Python, whose only output is the answer; `$argument` is the drawn value."""
    answers: tuple[str, ...]
    """`{result}`, and the arguments."""

    def drawn(self, rng: random.Random) -> dict[str, Value]:
        return {name: sample(rng) for name, sample in self.arguments.items()}

    def lines(self, drawn: Mapping[str, Value]) -> str:
        return Template(self.code).substitute({name: repr(value.value) for name, value in drawn.items()})


@contextmanager
def interpreter() -> Iterator[Offered]:
    """`code_interpreter` over a sandboxed process of its own. Raises SandboxError if it cannot be started."""
    with DialogSession(Sandbox()) as session:
        tool = interpreter_tool(session)
        yield Offered(Task(tool.function, {}, (), ()), tool, {"code": "code"})


def result_of(text: str) -> str:
    """The output of a run: its printed lines, or the value of its last expression."""
    found = re.search(r"\[(stdout|value)\](.*)\[/\1\]", text, re.DOTALL)
    return found[2] if found else ""


RUNNING = ("", "", "", "I compute it.", "A few lines of Python tell.", "Let me run this.")
"""What the assistant says with the call."""


class ProgramEntry(Section):
    """A question with the lines that answer it, as code.yaml has it."""

    arguments: dict[str, Any]
    """Argument -> its sampler."""
    queries: tuple[str, ...]
    """What a user says; `{argument}` is the drawn value as people say it."""
    code: str
    """Python, whose only output is the answer; `$argument` is the drawn value."""
    answers: tuple[str, ...]
    """`{result}`, and the arguments."""


class Programs(Section):
    """The questions, by name."""

    programs: dict[str, ProgramEntry]
    """One question each."""


@cache
def programs() -> tuple[Program, ...]:
    """The programs of code.yaml. Raises ConfigError."""
    path = Path(__file__).with_suffix(".yaml")
    return tuple(
        Program(
            name,
            {
                key: sampler_at(f"{path}: programs.{name}.arguments.{key}", spec)
                for key, spec in entry.arguments.items()
            },
            entry.queries,
            entry.code,
            entry.answers,
        )
        for name, entry in load_config(Programs, path).programs.items()
    )
