"""Names in braces in the settings of a stage: `{run}/data`, `{round_dir}/sft`, `{best}`.

`Names` knows the values for one round; `fill` puts them into a setting, through lists and mappings.
"""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from align.config import parse_yaml
from align.errors import ConfigError

EVERY = ("every_round", "every_round_number")
"""Names with a value for each round so far: a list item that holds one becomes one item for each."""
NAMES = (
    *("run", "start", "rounds", "best", "best_round_dir"),
    *("round", "round_dir", "former_round", "former_round_dir"),
    *EVERY,
)
"""Every name, except those of experts; not all are known everywhere."""
_ROUNDS = re.compile(r"(\d+)(?:-(\d+))?")
_FROM_A_ROUND = (*EVERY, "round", "round_dir", "former_round", "former_round_dir")
"""Names that may be followed by rounds: `{round_dir:2}` has a value from round 2 on, `{round:1-3}` up to round 3."""


@dataclass(frozen=True)
class Names:
    """The names of one round, or of the stages before or after the rounds.

    values: name -> value. Without `round` no round has begun. `{best:tools}` is looked up as `best:tools`.
    variables: name -> value, which may hold names itself.
    """

    values: Mapping[str, Any]
    variables: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name] if name in self.values else self.variables[name]

    def __contains__(self, name: str) -> bool:
        return name in self.values or name in self.variables

    def with_values(self, **values: Any) -> Names:
        return Names({**self.values, **values}, self.variables)

    def without_variable(self, name: str) -> Names:
        return Names(self.values, {key: value for key, value in self.variables.items() if key != name})

    @property
    def listed(self) -> str:
        """For messages: `{run}, {start}, {best}`."""
        return ", ".join(f"{{{name}}}" for name in (*self.values, *self.variables))


def fill(value: Any, names: Names, where: str) -> Any:
    """`value` with its names in braces filled in, through lists and mappings.

    A text that is one name alone takes the name's type: "{round}" is a number. In a list, an item with {every_round}
    becomes one item for each round up to this one, with {every_round:2} for each from round 2 on; an item with
    {round_dir:2} is left out before round 2, and one with {round_dir:1-2} after it. Example, in round 3 of runs/a:

        ["x", "{every_round:2}/rows.jsonl"]    ->  ["x", "runs/a/round-2/rows.jsonl", "runs/a/round-3/rows.jsonl"]

    where: names the setting in errors.
    Raises ConfigError for a name that is not known here, and for a brace too many or too few.
    """
    if isinstance(value, str):
        return _filled(value, names, where)
    if isinstance(value, dict):
        return {key: fill(inner, names, where) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [item for each in value for item in _items(each, names, where)]
    return value


def overrides_of(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings in sections as words of a command line: {"data": {"token_budget": 8}} gives `data.token_budget=8`."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from overrides_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={as_yaml(value)}"


def as_yaml(value: Any) -> str:
    """A value as the right-hand side of key=value, so that reading it gives the same value back."""
    if isinstance(value, str) and value == value.strip() and re.fullmatch(r"[\w./-]+", value):
        try:
            if parse_yaml(f"value: {value}", value)[0] == {"value": value}:
                return value
        except (ConfigError, ValueError):
            pass  # such as 2024-13-45, which is no date: quoted below
    return json.dumps(value, ensure_ascii=False)


def _items(item: Any, names: Names, where: str) -> Sequence[Any]:
    """What a list item becomes: one item, or with a name of `EVERY` one for each round, or none."""
    used = [*_used(item, names, where)]
    if "round" not in names:
        return [fill(item, names, where)]
    now: int = names["round"]
    spans = [span for name in used if (span := _rounds_of(name)) is not None]
    first, last = (max([1, *(span[0] for span in spans)]), min([math.inf, *(span[1] for span in spans)]))
    if not any(name.partition(":")[0] in EVERY for name in used):
        return [fill(item, names, where)] if first <= now <= last else []
    folders: Sequence[str] = names["every_round"]
    return [
        fill(item, names.with_values(every_round=folders[number - 1], every_round_number=number), where)
        for number in range(first, now + 1)
        if number <= last
    ]


def _rounds_of(name: str) -> tuple[int, float] | None:
    """The first and the last round of `round_dir:2` (2 and infinity) or of `round_dir:1-3`; None without rounds."""
    plain, _, spec = name.partition(":")
    found = _ROUNDS.fullmatch(spec) if plain in _FROM_A_ROUND else None
    return None if found is None else (int(found[1]), int(found[2]) if found[2] else math.inf)


def _used(value: Any, names: Names, where: str) -> Iterator[str]:
    """The names in a value, also those in the variables that it names."""
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _used(inner, names, where)
    elif isinstance(value, str):
        for _, name in _parts(value, where):
            if name is None:
                continue
            if name in names.variables and name not in names.values:
                yield from _used(names.variables[name], names.without_variable(name), where)
            else:
                yield name


def _filled(text: str, names: Names, where: str) -> Any:
    filled: list[Any] = []
    for literal, name in _parts(text, where):
        filled += [literal] if literal else []
        filled += [_value(name, text, names, where)] if name is not None else []
    if len(filled) == 1:
        return filled[0]
    return "".join(map(str, filled))


def _value(name: str, text: str, names: Names, where: str) -> Any:
    plain, rounds = name.partition(":")[0], _rounds_of(name)
    if rounds is not None and plain in names:
        # In a list item, a name of EVERY has the value of one of the rounds so far: its bounds hold for that one.
        is_one = plain in EVERY and not isinstance(names[plain], list)
        if "round" in names and not rounds[0] <= names["every_round_number" if is_one else "round"] <= rounds[1]:
            what = f"{{{name}}} has no value in round {names['round']}"
            raise ConfigError(where, what, "Put it into a list, or give the stage a first_round")
        name = plain
    if name not in names:
        raise ConfigError(where, f"{{{name}}} is not known here", f"Known: {names.listed}")
    if name in EVERY and isinstance(names[name], list):
        raise ConfigError(where, f"{{{name}}} is allowed only in a list", f"Write a list: [{text!r}]")
    if name in names.values:
        return names[name]
    return fill(names[name], names.without_variable(name), f"{where}, variables.{name}")


def _parts(text: str, where: str) -> list[tuple[str, str | None]]:
    """Literal text and the name after it, as `string.Formatter` reads them; `{best:tools}` is the name best:tools."""
    try:
        found = list(string.Formatter().parse(text))
    except ValueError as error:
        what = f"{text!r} has a brace too many or too few ({error})"
        raise ConfigError(where, what, "Write {{ for a brace") from None
    return [(literal, f"{name}:{spec}" if spec and name is not None else name) for literal, name, spec, _ in found]
