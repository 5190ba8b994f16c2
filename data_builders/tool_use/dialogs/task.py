"""A function with the questions that it answers: what tool dialogs are sampled from where no strong model is at hand.

A domain's file defines plain typed functions with docstrings, which are really run, and beside them `TASKS` and
`CHAINS`. Nothing here knows a dialog; `dialog.py` makes those.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date as Date
from typing import Any

from align.files import fingerprint_of
from data_builders.tool_use.dialogs.samplers import Sampler


@dataclass(frozen=True)
class Query:
    """Words of a user, with arguments that they imply without naming them ("both ways" for `round_trip`)."""

    text: str
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def named(self) -> tuple[str, ...]:
        """The arguments that the text names, in its order."""
        return tuple(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(self.text) if name))


def as_query(query: str | Query) -> Query:
    return Query(query) if isinstance(query, str) else query


@dataclass(frozen=True)
class Task:
    """A function, and how people ask for it.

    A call has the arguments that the query names or implies, and no other: what it leaves out must have a default.
    """

    function: Callable[..., Any]
    """Typed, with a docstring (Google style); the same arguments always give the same result, as JSON."""
    arguments: Mapping[str, Sampler]
    """Parameter -> what is drawn for it."""
    queries: tuple[str | Query, ...]
    """What a user says; `{parameter}` is replaced by the drawn value as people say it."""
    answers: tuple[str, ...]
    """What the assistant says of the result: `{result}`, or `{key}` of a result that is an object."""
    names: tuple[str, ...] = ()
    """Other names for the function, in snake_case."""
    parameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Parameter -> other names for it."""
    different: tuple[str, ...] = ()
    """Parameters that must not get the same value, such as where a journey starts and ends."""
    slips: Mapping[str, tuple[tuple[Any, Any], ...]] = field(default_factory=dict)
    """Parameter -> (what a user says and the function refuses, what it takes); its error tells what it takes."""

    @property
    def name(self) -> str:
        return self.function.__name__


@dataclass(frozen=True)
class Chain:
    """Two calls, of which the second takes what the first gave. The functions share no parameter's name."""

    first: Callable[..., Any]
    second: Callable[..., Any]
    feeds: str
    """The parameter of the second function that gets the first one's result."""
    queries: tuple[str | Query, ...]
    """`{parameter}` of either function, but for the one that is fed."""
    between: tuple[str, ...]
    """What the assistant says before the second call; `{given}` is what the first gave."""
    answers: tuple[str, ...]
    """`{result}` is what the second gave, `{given}` what the first gave."""
    takes: str = ""
    """Which key of the first function's result is passed on; empty for a result that is no object."""


# What functions of several domains share


def day_of(text: str) -> Date:
    try:
        return Date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date; use YYYY-MM-DD, such as 2024-03-09") from None


# What a function that stands for a service returns: made up, and the same for the same arguments


def made_up(low: int, high: int, *parts: object) -> int:
    """A whole number from low to high that depends on the parts alone."""
    return low + int(fingerprint_of(*parts)[:12], 16) % (high - low + 1)


def made_up_choice(options: Sequence[str], *parts: object) -> str:
    return options[made_up(0, len(options) - 1, *parts)]
