"""Samplers: how the values of an argument are drawn. A value has two forms, the call's and the one that people say.

A domain's YAML names samplers with their arguments:

    surface: {whole: [15, 240]}                           # a list: the arguments in their order
    rate: {percent: {low: 1, high: 11, as_ratio: true}}   # a mapping: the arguments by name
    town: city                                            # a name alone: no arguments
    walls: {several: [{decimal: [2, 9]}, 3, 6]}           # a sampler may take samplers

The order in which a sampler draws from the random source is fixed: the same seed gives the same bytes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import date as Date
from datetime import timedelta
from typing import Any, NamedTuple

from data_builders.tool_use.names import CITIES, FIRST_NAMES, LAST_NAMES, MONTHS, WEEKDAYS


class Value(NamedTuple):
    """An argument: the value in the call, and how a person says it."""

    value: Any
    said: str


Sampler = Callable[[random.Random], Value]


def whole(low: int, high: int) -> Sampler:
    """A whole number from low to high; large ones are said with or without commas."""
    _check_order(low, high)

    def sample(rng: random.Random) -> Value:
        value = rng.randint(low, high)
        return Value(value, f"{value:,}" if value >= 10_000 and rng.random() < 0.5 else str(value))

    return sample


def decimal(low: float, high: float, places: int = 1) -> Sampler:
    """A number with at most `places` decimal places."""
    _check_order(low, high)

    def sample(rng: random.Random) -> Value:
        value = round(rng.uniform(low, high), rng.randint(0, places))
        value = int(value) if value == int(value) else value
        return Value(value, str(value))

    return sample


def percent(low: float, high: float, places: int = 1, *, as_ratio: bool = False) -> Sampler:
    """A percentage; as_ratio puts 0.05 into the call for 5%."""
    number = decimal(low, high, places)

    def sample(rng: random.Random) -> Value:
        value = number(rng).value
        return Value(round(value / 100, 6) if as_ratio else value, f"{value}{rng.choice(('%', '%', ' percent'))}")

    return sample


def one_of(*values: Any, said: str = "{value}") -> Sampler:
    """One of the values. said: how people say each of them, such as "{value}%".

    A value that people say in its own way is a pair (value in the call, how people say it); in YAML {value: 1, said:
    first}.
    """
    if not values:
        raise ValueError("has no values")

    def sample(rng: random.Random) -> Value:
        value = rng.choice(values)
        return Value(*value) if isinstance(value, tuple) else Value(value, said.format(value=value))

    return sample


def several(sampler: Sampler, low: int, high: int) -> Sampler:
    """A list of low to high different values."""
    _check_order(low, high)

    def sample(rng: random.Random) -> Value:
        found: dict[str, Value] = {}
        for _ in range(rng.randint(low, high) * 4):
            value = sampler(rng)
            found.setdefault(str(value.value), value)
        chosen = list(found.values())[: rng.randint(low, high)]
        said = [value.said for value in chosen]
        joined = f"{', '.join(said[:-1])} and {said[-1]}" if len(said) > 1 and rng.random() < 0.6 else ", ".join(said)
        return Value([value.value for value in chosen], joined)

    return sample


def repeated(*values: Any, low: int, high: int) -> Sampler:
    """A list of low to high values, in which a value may occur several times, such as votes."""
    _check_order(low, high)

    def sample(rng: random.Random) -> Value:
        chosen = [rng.choice(values) for _ in range(rng.randint(low, high))]
        return Value(chosen, ", ".join(map(str, chosen)))

    return sample


def amounts(*names: str, low: int, high: int, fewest: int, most: int) -> Sampler:
    """An object of fewest to most names, each with a whole number from low to high; said as "rent 300, food 20"."""
    _check_order(low, high)
    _check_order(fewest, min(most, len(names)))

    def sample(rng: random.Random) -> Value:
        found = {name: rng.randint(low, high) for name in rng.sample(names, rng.randint(fewest, most))}
        return Value(found, ", ".join(f"{name} {number}" for name, number in found.items()))

    return sample


def combined(text: str, parts: Mapping[str, Sequence[Any]]) -> Sampler:
    """One of all the texts that the parts make. "{a}-{b}" with a: [X, Y] and b: [1, 2] makes X-1, X-2, Y-1 and Y-2.

    A part is a list, or {first: 1, last: 9, step: 2} in YAML, which makes 1, 3, 5, 7 and 9.
    """
    made = [text.format(**dict(zip(parts, row, strict=True))) for row in itertools.product(*parts.values())]
    return one_of(*made)


def filled(text: str, parts: Mapping[str, Sampler]) -> Sampler:
    """A text with drawn parts, drawn in the order given and written as people say them."""

    def sample(rng: random.Random) -> Value:
        said = text.format(**{name: part(rng).said for name, part in parts.items()})
        return Value(said, said)

    return sample


def date(first: str = "2021-01-01", last: str = "2025-12-31") -> Sampler:
    """A day as YYYY-MM-DD, from first to last, said in several ways."""
    start, end = Date.fromisoformat(first), Date.fromisoformat(last)
    _check_order(first, last)

    def sample(rng: random.Random) -> Value:
        day = start + timedelta(days=rng.randint(0, (end - start).days))
        said = (day.isoformat(), f"{day:%B} {day.day}, {day.year}", f"{day.day} {day:%B} {day.year}", day.isoformat())
        return Value(day.isoformat(), rng.choice(said))

    return sample


def clock() -> Sampler:
    """A time of day as HH:MM, said in two ways."""

    def sample(rng: random.Random) -> Value:
        hour, minute = rng.randint(0, 23), rng.choice((0, 15, 30, 45, rng.randint(0, 59)))
        half = "am" if hour < 12 else "pm"
        spoken = f"{(hour - 1) % 12 + 1}:{minute:02d} {half}"
        return Value(f"{hour:02d}:{minute:02d}", rng.choice((f"{hour:02d}:{minute:02d}", spoken)))

    return sample


def weekday() -> Sampler:
    """A day of the week."""
    return one_of(*WEEKDAYS)


def month() -> Sampler:
    """A month's name."""
    return one_of(*MONTHS)


def code(pattern: str) -> Sampler:
    """A letter for each A of the pattern, a digit for each 9."""
    signs = {"A": "BCDFGHKLMNPQRSTVWXZ", "9": "0123456789"}

    def sample(rng: random.Random) -> Value:
        text = "".join(rng.choice(signs.get(sign, sign)) for sign in pattern)
        return Value(text, text)

    return sample


def city() -> Sampler:
    """A large city."""
    return one_of(*CITIES)


def person() -> Sampler:
    """A first and a last name."""

    def sample(rng: random.Random) -> Value:
        name = f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
        return Value(name, name)

    return sample


def first_name() -> Sampler:
    return one_of(*FIRST_NAMES)


def last_name() -> Sampler:
    return one_of(*LAST_NAMES)


def _check_order(low: Any, high: Any) -> None:
    if low > high:
        raise ValueError(f"{low} is above {high}")


SAMPLERS: Mapping[str, Callable[..., Sampler]] = {
    sampler.__name__: sampler
    for sampler in (
        whole, decimal, percent, one_of, several, repeated, amounts, combined, filled, date, clock, weekday, month,
        code, city, person, first_name, last_name,
    )
}  # fmt: skip
"""What a domain's YAML may name."""
