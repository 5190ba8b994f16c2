"""What a tool dialog is made from and how it is written: offered functions, requests, real calls and answers.

`dialog_kinds.py` has the kinds of dialogs, which draw what is asked and offered.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from align.errors import ConfigError
from align.rows import Message, Messages, ToolCall, ToolSpec
from align.tools.registry import Registry
from align.tools.replay import CallRecord, Recorder
from data_builders.tool_use.dialogs import phrases
from data_builders.tool_use.dialogs.renaming import Offered, plain, renamed
from data_builders.tool_use.dialogs.samplers import Value
from data_builders.tool_use.dialogs.task import Domain, Query, Task

DialogKind = Literal[
    "single",
    "parallel",
    "multi-step",
    "mended",  # codespell:ignore mended
    "dialog",
    "none-right",
    "restraint",
    "tools-off",
    "file",
    "code",
]

MAX_DRAWS = 1000
"""Draws of a task's arguments before values that must differ are reported as impossible."""


@dataclass(frozen=True)
class ExecutedDialog:
    """A dialog whose calls were made: every result in it is what the function returned."""

    kind: DialogKind
    messages: Messages
    tools: tuple[ToolSpec, ...]
    records: tuple[CallRecord, ...]
    offered: tuple[Offered, ...]
    final: str = ""
    """The result of the last call, which the last message reports; empty if no call was made."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Content of the files that the calls read, by path below the folder that is read."""


class CallFailed(Exception):
    """A call failed that should have succeeded, or the reverse. The message is the kind of the error."""


@dataclass(frozen=True)
class DialogSource:
    """What dialogs are made from: the domains, and how functions are offered."""

    domains: Sequence[Domain]
    most_offered: int
    """Functions offered in one dialog, at most."""
    renamed_ratio: float
    """Share of the functions that appear under another name."""
    alone_ratio: float = 0.0
    """Share of the dialogs that offer only the functions that they are about."""

    def domain(self, rng: random.Random) -> Domain:
        return rng.choice(self.domains)

    def offer(self, task: Task, domain: Domain, rng: random.Random) -> Offered:
        return renamed(task, domain.name, rng) if rng.random() < self.renamed_ratio else plain(task)

    def others(self, taken: Sequence[Offered], domain: Domain, rng: random.Random, least: int = 0) -> list[Offered]:
        """Further functions to offer, half of them from the same domain, and none of those taken already."""
        if not least and rng.random() < self.alone_ratio:
            return []
        free = self.most_offered - len(taken)
        count = min(free, rng.choices(range(least, least + 4), weights=(5, 3, 2, 1))[0])
        found: list[Offered] = []
        for _ in range(10 * count):
            if len(found) == count:
                break
            there = domain if rng.random() < 0.5 else self.domain(rng)
            task = rng.choice(there.tasks)
            if all(task is not other.task for other in (*taken, *found)):
                offered = self.offer(task, there, rng)
                if all(offered.tool.spec.name != other.tool.spec.name for other in (*taken, *found)):
                    found.append(offered)
        return found


@dataclass(frozen=True)
class Request:
    """What a user says, and the arguments of the call that answers it."""

    text: str
    arguments: dict[str, Any]
    said: dict[str, str]


def request(task: Task, rng: random.Random, query: Query | None = None) -> Request:
    """A drawn request for a task, with the given query or a drawn one."""
    query = query or rng.choice(task.queries)
    drawn = draw_values(task, query.named, rng)
    return fill_query(query, drawn)


def fill_query(query: Query, drawn: Mapping[str, Value]) -> Request:
    said = {name: value.said for name, value in drawn.items()}
    arguments = {name: value.value for name, value in drawn.items()} | dict(query.fixed)
    return Request(query.text.format(**said), arguments, said)


def draw_values(task: Task, names: Sequence[str], rng: random.Random) -> dict[str, Value]:
    """A value for each name; drawn again until the task's `different` parameters differ.

    Raises ConfigError if they never do, because their samplers have too few values.
    """
    for _ in range(MAX_DRAWS):
        drawn = {name: task.arguments[name](rng) for name in names}
        different = [str(drawn[name].value) for name in task.different if name in drawn]
        if len(set(different)) == len(different):
            return drawn
    what = f"{' and '.join(task.different)} had the same value in {MAX_DRAWS} draws"
    raise ConfigError(f"tasks.{task.name}.different", what, "Give their samplers more values")


class DialogWriter:
    """A dialog that is being written: adds messages, makes the calls and records them."""

    def __init__(self, offered: Sequence[Offered], rng: random.Random) -> None:
        self.offered = tuple(rng.sample(list(offered), len(offered)))
        self.recorder = Recorder(Registry(each.tool for each in self.offered))
        said = rng.choice(phrases.SYSTEM)
        self.messages = [Message(role="system", content=said)] if said else []
        self.final = ""

    def user(self, text: str) -> None:
        self.messages.append(Message(role="user", content=text))

    def says(self, text: str) -> None:
        self.messages.append(Message(role="assistant", content=text))

    def calls(self, *calls: ToolCall, content: str = "", fails: bool = False) -> list[Any]:
        """Make the calls in one message, and return their results. fails: whether every call is expected to fail.

        Raises CallFailed if a call ends otherwise.
        """
        self.messages.append(Message(role="assistant", content=content, tool_calls=calls))
        found = []
        for call in calls:
            result = self.recorder.call(call)
            if result.ok is fails:
                raise CallFailed(result.error or "no error, though one was expected")
            self.messages.append(Message(role="tool", content=result.text, name=call.name))
            found.append(_value(result.text, self._returns_text(call.name)))
            self.final = result.text
        return found

    def _returns_text(self, name: str) -> bool:
        function = next(each.task.function for each in self.offered if each.tool.spec.name == name)
        return get_type_hints(function).get("return") is str

    def finished(self, kind: DialogKind, files: Mapping[str, bytes] | None = None) -> ExecutedDialog:
        specs = tuple(each.tool.spec for each in self.offered)
        records = tuple(self.recorder.records)
        return ExecutedDialog(kind, tuple(self.messages), specs, records, self.offered, self.final, files or {})


def _value(text: str, is_text: bool) -> Any:
    """The result of a call. Digits stay text if the function returns text ("0042" of `pad_code`)."""
    if is_text:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def answer(template: str, result: Any, said: Mapping[str, str], given: Any = None) -> str:
    """The template with the arguments as the user said them, the result, and its keys if it is an object.

    Raises ConfigError for a name that is none of these.
    """
    fields = {key: shown(value) for key, value in result.items()} if isinstance(result, dict) else {}
    values = {**said, **fields, "result": shown(result), "given": shown(given)}
    try:
        return template.format(**values)
    except KeyError as error:
        what = f"{{{error.args[0]}}} has no value; known here: {', '.join(values)}"
        raise ConfigError(f"answer {template!r}", what, "Name an argument or a key of the function's result") from None


def shown(value: Any) -> str:
    """A value as the assistant writes it: yes for true, and the values of a list with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(each)}" for key, each in value.items())
    return str(value)
