"""Checks that values from a config file have the types of their settings, before pydantic reads them.

pydantic alone reads true as 1 and "1" as 1, takes any integer for a seed and any text for a path. Its strict mode would
refuse lists for tuples and text for paths as well, which is all that YAML has; so strictness is here.
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from align.strict_yaml import Key

LARGEST_INTEGER = 2**63 - 1
_LIMITS = {"seed": (0, 2**32 - 1), "threads": (1, 4096)}
"""Name -> least and largest value, in every section. numpy takes seeds of 32 bits."""
_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes, on Linux and macOS file systems

Report = Callable[[Key, dict[str, Any]], None]


def prepared(kinds: list[Any], value: Any, key: Key, report: Report) -> Any:
    """`value` as pydantic may read it: single values where lists are expected made lists, paths checked.

    kinds: the types that its setting allows, as `kinds_of` gives them.
    report: called with the key and a description of what pydantic would let pass: true for 1, "1" for 1, 1.0 for 1.
    """
    section = _section(kinds)
    holder = holder_of(kinds)
    if isinstance(value, dict):
        if section is not None:
            fields = section.model_fields
            inner = {name: kinds_of(fields[name].annotation) if name in fields else [Any] for name in value}
            for name, item in value.items():
                if name in fields and fields[name].is_required() and item in ([], {}) and _section(inner[name]) is None:
                    report((*key, name), _value_error("must not be empty"))
            return {name: prepared(inner[name], item, (*key, name), report) for name, item in value.items()}
        held = kinds_of(held_by(holder)) if holder is not None and typing.get_origin(holder) is dict else [Any]
        return {name: prepared(held, item, (*key, name), report) for name, item in value.items()}
    is_list = holder is not None and typing.get_origin(holder) is not dict
    if isinstance(value, list):
        held = kinds_of(held_by(holder)) if is_list else [Any]
        return [prepared(held, item, (*key, place), report) for place, item in enumerate(value)]
    alone = [kind for kind in kinds if kind is not type(None) and kind is not holder]
    if is_list and value is not None and not any(_is_choice(kind, value) for kind in alone):
        held = kinds_of(held_by(holder))
        if not alone or any(_is_choice(kind, value) for kind in held):
            return [prepared(held, value, key, report)]
    return _scalar(kinds, value, key, report)


def _section(kinds: list[Any]) -> type[BaseModel] | None:
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _scalar(kinds: list[Any], value: Any, key: Key, report: Report) -> Any:
    if isinstance(value, str) and any(isinstance(kind, type) and issubclass(kind, Path) for kind in kinds):
        try:
            return usable_path(value)
        except ValueError as error:
            report(key, _value_error(str(error)))
    elif value is not None and Any not in kinds and not any(_is_choice(kind, value) for kind in kinds):
        # None is pydantic's to refuse; so is what no setting of numbers or booleans is concerned with
        expected = [name for kind, name in _NUMBERS.items() if kind in kinds]
        if expected:
            report(key, {"type": "kind", "expected": expected[-1], "input": value})
    elif isinstance(value, int) and not isinstance(value, bool):
        least, largest = _LIMITS.get(str(key[-1]) if key else "", (-LARGEST_INTEGER, LARGEST_INTEGER))
        if not least <= value <= largest:
            report(key, {"type": "kind", "expected": f"from {least} to {largest}", "input": value})
    return value


_NUMBERS = {bool: "true or false", int: "an integer", float: "a number"}


def _is_choice(kind: Any, value: Any) -> bool:
    """Whether a single value is one of a type that a setting allows. An integer will do for a float, nothing else."""
    if typing.get_origin(kind) is typing.Literal:
        return any(type(value) is type(choice) and value == choice for choice in typing.get_args(kind))
    if kind is Any or kind is object:
        return True
    if isinstance(kind, type) and issubclass(kind, Path):
        return isinstance(value, str)
    return type(value) is kind or (kind is float and type(value) is int)


def usable_path(text: str) -> str:
    """A path with `~` expanded. Raises ValueError for one that no file system has."""
    if not text.strip():
        raise ValueError("must not be empty")
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError(f"is {text[:80]!r}, and a path has no control characters")
    if text.startswith("~"):
        expanded = os.path.expanduser(text)
        if expanded.startswith("~"):
            name = text.partition("/")[0]
            raise ValueError(f"begins with {name}, and there is no such user; write ./{name} for a file of that name")
        text = expanded
    longest = max((len(os.fsencode(part)) for part in text.split("/")), default=0)
    if longest > _LONGEST_NAME or len(os.fsencode(text)) > _LONGEST_PATH:
        what = f"a name of {longest} bytes" if longest > _LONGEST_NAME else f"{len(os.fsencode(text))} bytes"
        raise ValueError(f"has {what}; file systems allow {_LONGEST_NAME} in a name and {_LONGEST_PATH} in all")
    return text


def _value_error(what: str) -> dict[str, Any]:
    return {"type": "value_error", "ctx": {"error": what}}


def kinds_of(annotation: Any) -> list[Any]:
    """The types that an annotation allows: unions and Annotated opened, lists and dicts left as they are."""
    if typing.get_origin(annotation) is typing.Annotated:
        return kinds_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(annotation) for kind in kinds_of(part)]
    return [annotation]


def holder_of(kinds: Iterable[Any]) -> Any:
    """The list, tuple or mapping among the kinds."""
    return next((kind for kind in kinds if typing.get_origin(kind) in (tuple, list, dict)), None)


def held_by(holder: Any) -> Any:
    """What a list, tuple or mapping holds."""
    return typing.get_args(holder)[1 if typing.get_origin(holder) is dict else 0]
