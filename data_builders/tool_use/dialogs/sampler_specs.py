"""Samplers as a YAML file names them: `{whole: [1, 9]}` becomes `whole(1, 9)`. `samplers.py` has them all."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from align.errors import ConfigError
from data_builders.tool_use.dialogs.samplers import SAMPLERS, Sampler, Value


class SpecError(ValueError):
    """A sampler that cannot be made: what is wrong, and how to fix it."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(what)
        self.what, self.how = what, how


def sampler_of(spec: Any, named: Mapping[str, Sampler], functions: Mapping[str, Callable[..., Any]]) -> Sampler:
    """The sampler that a value of the YAML file describes. Raises SpecError.

    named: samplers that the file has under `samplers`, by name.
    functions: functions of the .py file. One whose name begins with _ is a sampler: it takes a random.Random, and
        then the arguments of the YAML. It returns the value, or (value, how people say it).
    """
    name, given = _name_and_arguments(spec)
    if name in named:
        if given:
            raise SpecError(f"{name} is a sampler of this file and takes no arguments, found {given!r}", "Remove them")
        return named[name]
    if name in SAMPLERS:
        return _made(name, SAMPLERS[name], given, lambda inner: sampler_of(inner, named, functions))
    if name.startswith("_") and name in functions:
        return _own_sampler(functions[name], *_positional(given))
    known = ", ".join([*named, *SAMPLERS, *(each for each in functions if each.startswith("_"))])
    raise SpecError(f"expected a sampler, found {name!r}", f"Known here: {known}")


def sampler_at(where: str, spec: Any, functions: Mapping[str, Callable[..., Any]] | None = None) -> Sampler:
    """`sampler_of` without named samplers. where: file and key of the spec, for the message. Raises ConfigError."""
    try:
        return sampler_of(spec, {}, functions or {})
    except SpecError as error:
        raise ConfigError(where, error.what, error.how) from None


def _name_and_arguments(spec: Any) -> tuple[str, Any]:
    if isinstance(spec, str):
        return spec, []
    if isinstance(spec, dict) and len(spec) == 1:
        ((name, given),) = spec.items()
        return name, [] if given is None else given
    raise SpecError(
        f"expected a sampler, found {spec!r}", "Write a name, or {name: [arguments]}, such as {whole: [1, 9]}"
    )


def _positional(given: Any) -> tuple[list[Any], dict[str, Any]]:
    """(arguments by place, arguments by name). A single value is a list of one."""
    if isinstance(given, dict):
        return [], given
    return (given if isinstance(given, list) else [given]), {}


def _made(name: str, factory: Callable[..., Sampler], given: Any, inner: Callable[[Any], Sampler]) -> Sampler:
    """The sampler of a factory in samplers.py, whose arguments are checked against its signature."""
    signature = inspect.signature(factory)
    usage = f"Write {name}{str(signature).partition(' ->')[0]}" if signature.parameters else f"Write {name} alone"
    by_place, by_name = _positional(given)
    by_name = dict(by_name)
    for parameter in signature.parameters.values():  # {one_of: {values: [1, 2], said: "{value}%"}}
        if parameter.kind is parameter.VAR_POSITIONAL and parameter.name in by_name:
            values = by_name.pop(parameter.name)
            by_place = values if isinstance(values, list) else [values]
    try:
        bound = signature.bind(*by_place, **by_name)
    except TypeError as error:
        raise SpecError(f"{name}: {error}", usage) from None
    types = typing.get_type_hints(factory)
    for key, value in bound.arguments.items():
        bound.arguments[key] = _argument(f"{name}: {key}", types[key], value, inner, usage)
    try:
        return factory(*bound.args, **bound.kwargs)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise SpecError(f"{name}: {error}", usage) from None


def _argument(what: str, expected: Any, value: Any, inner: Callable[[Any], Sampler], usage: str) -> Any:
    """One argument as its factory takes it: samplers made, pairs of value and saying as tuples, ranges as lists."""
    if expected == Sampler:
        return inner(value)
    if expected == Mapping[str, Sampler] and isinstance(value, dict):
        return {key: inner(part) for key, part in value.items()}
    if expected is Any:  # the values of one_of
        return tuple(_pair(each) for each in value)
    if typing.get_origin(expected) is not None and isinstance(value, dict):
        value = {key: _range(part, usage) for key, part in value.items()}
    try:
        TypeAdapter(tuple[expected, ...] if isinstance(value, tuple) else expected).validate_python(value, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        raise SpecError(f"{what}: {found['msg'].lower()}, found {found['input']!r}", usage) from None
    return value


def _pair(value: Any) -> Any:
    """{value: 1, said: first} as one_of takes it."""
    if not isinstance(value, dict):
        return value
    if value.keys() != {"value", "said"}:
        raise SpecError(f"expected value and said, found {value!r}", "Write {value: 1, said: first}")
    return value["value"], str(value["said"])


def _range(part: Any, usage: str) -> Any:
    """{first: 1, last: 9, step: 2} as a list."""
    if not isinstance(part, dict):
        return part
    step = part.get("step", 1)
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in part.values())
    if not {"first", "last"} <= part.keys() <= {"first", "last", "step"} or not whole or step < 1:
        raise SpecError(f"expected first, last and step, found {part!r}", usage)
    return list(range(part["first"], part["last"] + 1, step))


def _own_sampler(function: Callable[..., Any], by_place: list[Any], by_name: dict[str, Any]) -> Sampler:
    try:
        inspect.signature(function).bind(None, *by_place, **by_name)
    except TypeError as error:
        how = "A sampler takes a random.Random first, and then the arguments of the YAML"
        raise SpecError(f"{function.__name__}: {error}", how) from None

    def sample(rng: Any) -> Value:
        found = function(rng, *by_place, **by_name)
        return Value(*found) if isinstance(found, tuple) else Value(found, str(found))

    return sample
