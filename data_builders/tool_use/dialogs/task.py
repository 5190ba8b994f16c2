"""Tasks: a function with the questions that it answers. Tool dialogs are sampled from tasks.

A domain is a pair of files: `NAME.py` has plain typed functions, which are really run, and `NAME.yaml` has their tasks
and chains. `domain_file.py` reads the pair; `dialog_kinds.py` makes dialogs.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data_builders.tool_use.dialogs.samplers import Sampler


@dataclass(frozen=True)
class Query:
    """What a user says, with arguments that the text implies without naming them ("both ways" for `round_trip`)."""

    text: str
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def named(self) -> tuple[str, ...]:
        """The arguments that the text names, in its order."""
        return placeholders(self.text)


@dataclass(frozen=True)
class Task:
    """A function, and how people ask for it.

    A call has the arguments that the query names or implies, and no others: an argument that it leaves out has a
    default.
    """

    function: Callable[..., Any]
    """Typed, with a docstring (Google style); the same arguments always give the same result, as JSON."""
    arguments: Mapping[str, Sampler]
    """Parameter -> how its values are drawn."""
    queries: tuple[Query, ...]
    """What a user says; `{parameter}` is replaced by the drawn value as people say it."""
    answers: tuple[str, ...]
    """What the assistant says of the result: `{result}`, or `{key}` of a result that is an object."""
    other_names: tuple[str, ...] = ()
    """Other names for the function, in snake_case."""
    other_parameter_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Parameter -> other names for it."""
    different: tuple[str, ...] = ()
    """Parameters that must not get the same value, such as the start and the end of a journey."""
    corrections: Mapping[str, tuple[tuple[Any, Any], ...]] = field(default_factory=dict)
    """Parameter -> (a value that users say and the function refuses, the value it accepts). The function's error names
    the values that it accepts."""

    @property
    def name(self) -> str:
        return self.function.__name__


@dataclass(frozen=True)
class Chain:
    """Two calls: the second takes the result of the first. The functions share no parameter's name."""

    first: Callable[..., Any]
    second: Callable[..., Any]
    result_to: str
    """The parameter of the second function that gets the first one's result."""
    queries: tuple[Query, ...]
    """`{parameter}` of either function, except the one that gets the result."""
    between: tuple[str, ...]
    """What the assistant says before the second call; `{given}` is the result of the first."""
    answers: tuple[str, ...]
    """`{result}` is the result of the second call, `{given}` that of the first."""
    result_key: str = ""
    """Which key of the first function's result is passed on; empty for a result that is not an object."""


@dataclass(frozen=True)
class Domain:
    """The tasks and chains of one pair of files."""

    name: str
    tasks: tuple[Task, ...]
    chains: tuple[Chain, ...]

    def task_of(self, function: object) -> Task:
        return next(task for task in self.tasks if task.function is function)


def placeholders(template: str) -> tuple[str, ...]:
    """Names in braces, in their order, each once: "{a} and {b}, {a}" gives ("a", "b")."""
    return tuple(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name))
