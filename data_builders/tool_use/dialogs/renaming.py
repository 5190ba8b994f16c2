"""The same function under other names, so that a model learns to read schemas: one name each would be memorized.

The function and its parameters get other names, and their spelling and descriptions vary; the function that runs stays
the real one.
"""

from __future__ import annotations

import inspect
import random
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from align.rows import ToolCall
from align.tools.registry import Tool, tool_of
from align.tools.results import library
from data_builders.tool_use.dialogs.task import Task

PREFIXES = ("get", "find", "compute", "fetch", "run", "do", "lookup")
Style = Callable[[list[str]], str]
STYLES: Mapping[str, Style] = {
    "snake": "_".join,
    "camel": lambda words: words[0] + "".join(word.capitalize() for word in words[1:]),
    "dotted": lambda words: f"{words[0]}.{'_'.join(words[1:])}" if len(words) > 1 else words[0],
    "pascal": lambda words: "".join(word.capitalize() for word in words),
}


@dataclass(frozen=True)
class Offered:
    """A task's function as one dialog offers it."""

    task: Task
    tool: Tool
    names: Mapping[str, str]
    """Parameter of the real function -> its name in this dialog."""

    def call(self, arguments: Mapping[str, Any]) -> ToolCall:
        """A call with the real function's arguments, under the names of this dialog and in the schema's order."""
        renamed = {other: arguments[name] for name, other in self.names.items() if name in arguments}
        return ToolCall(name=self.tool.spec.name, arguments=renamed)


def plain(task: Task) -> Offered:
    """The function under its own names."""
    return Offered(task, tool_of(task.function), {name: name for name in inspect.signature(task.function).parameters})


def renamed(task: Task, domain: str, rng: random.Random) -> Offered:
    """The function under names drawn from those that the task lists, in one style of writing.

    The domain's name may come before the function's, as a module's would.
    """
    style = rng.choices(tuple(STYLES), weights=(6, 2, 2, 1))[0]
    words = rng.choice((task.name, *task.other_names)).split("_")
    if style == "dotted" or rng.random() < 0.1:
        words = [domain.split("_")[0], *words]
    elif rng.random() < 0.15 and words[0] not in PREFIXES:
        words = [rng.choice(PREFIXES), *words]
    parameters = inspect.signature(task.function).parameters
    names: dict[str, str] = {}
    for name in parameters:
        other = rng.choice((name, *task.other_parameter_names.get(name, ())))
        other = STYLES["camel"](other.split("_")) if style == "camel" else other
        names[name] = other if other not in names.values() and other not in parameters.keys() - {name} else name
    function = _under_other_names(task.function, STYLES[style](words), names, rng)
    return Offered(task, tool_of(function, identity=tool_of(task.function).identity), names)


def _under_other_names(
    function: Callable[..., Any], name: str, names: Mapping[str, str], rng: random.Random
) -> Callable[..., Any]:
    real = {other: own for own, other in names.items()}

    def call(**arguments: Any) -> Any:
        return function(**{real[key]: value for key, value in arguments.items()})

    signature = inspect.signature(function)
    types = typing.get_type_hints(function, include_extras=True)
    docstrings = library("docstring_parser")
    described = docstrings.parse(function.__doc__ or "")
    for item in described.params:
        default = signature.parameters[item.arg_name].default
        text = (item.description or "").rstrip()
        if default is not inspect.Parameter.empty and "efault" not in text and rng.random() < 0.5:
            text = f"{text.rstrip('.')}. Default is {default!r}." if text else f"Default is {default!r}."
        item.description = text.rstrip(".") if rng.random() < 0.3 else text
        item.arg_name = names[item.arg_name]
        item.args = ["param", item.arg_name]
    call.__name__ = name
    call.__doc__ = docstrings.compose(described)
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[
            parameter.replace(name=names[own], kind=inspect.Parameter.KEYWORD_ONLY)
            for own, parameter in signature.parameters.items()
        ]
    )
    call.__annotations__ = {names.get(own, own): type_ for own, type_ in types.items()}
    return call


def name_key(name: str) -> str:
    """One key for all spellings of a function's name: `get_stock_price` and `stocks.stockPrice` give `stockprice`.

    It is the last part in lower case, without punctuation and without a leading verb such as get.
    """
    last = re.sub(r"[^a-z0-9]", "", name.rsplit(".", 1)[-1].lower())
    for verb in (*PREFIXES, "calculate", "calc"):
        if last.startswith(verb) and len(last) > len(verb):
            return last[len(verb) :]
    return last
