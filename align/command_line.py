"""The words of a recipe's command line: the config file, and the settings that replace those of the file.

    python recipes/dpo.py CONFIG.yaml dpo.beta=0.2 --training.seed=3 --training.learning_rate 1e-4

Every form is read as key=value. What a value means and whether a key exists is checked in `align/config.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from align.errors import ConfigError
from align.strict_yaml import MAX_DEPTH, Key, parse_value

FORMS = "key=value, --key=value or --key value"
_EXAMPLE = "Write for example training.seed=1"


def split_words(
    words: Sequence[str], argument: str = "", is_argument: Callable[[str], bool] = lambda word: False
) -> tuple[str | None, list[str]]:
    """The config file, and the settings as key=value. Raises ConfigError for words that are neither.

    argument: a setting that the first word may give in place of the file, which is then None: with `rows`,
        `rows.jsonl --to trl` is `rows=rows.jsonl to=trl`. is_argument: whether the first word is that.
    """
    path: str | None = None
    settings: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word.startswith("--"):
            settings.append(_option(word, left))
        elif word.startswith("-"):
            raise ConfigError(word, "options begin with two dashes", f"Write -{word}")
        elif path is None and not _is_setting(word):
            path = word
        elif "=" in word:
            settings.append(word)
        elif left and left[0] == "=":
            how = f"Write {word}={left[1] if len(left) > 1 else 'value'}"
            raise ConfigError(word, "a setting has no spaces around its equals sign", how)
        elif word.endswith((".yaml", ".yml")):
            raise ConfigError(word, f"is a second config file, after {path}", "Name one file; override with key=value")
        else:
            colon = re.fullmatch(r"([\w.]+):(\S+)", word)
            how = f"Write {colon[1]}={colon[2]}" if colon else _EXAMPLE
            raise ConfigError(word, "expected key=value", how)
    if argument and path is not None and is_argument(path):
        path, settings = None, [f"{argument}={path}", *settings]
    elif path is None and not argument:
        raise ConfigError("command line", "names no config file", "Name a YAML file first, then key=value")
    return path, settings


def _is_setting(word: str) -> bool:
    """Whether a word before any config file is key=value: runs/lr=1e-4.yaml is a file, and training.seed=1 is not."""
    return re.match(r"[A-Za-z_][\w.-]*=", word) is not None and not os.path.exists(word)


def _option(word: str, left: list[str]) -> str:
    """`--key=value` or `--key value` as key=value; the value is taken from the words that are left."""
    key, equals, value = word[2:].partition("=")
    if key in ("config", "config_file", "config-file"):
        how = f"Write the file's name alone: {value or (left[0] if left else 'CONFIG.yaml')}"
        raise ConfigError(word, "the config file is no option", how)
    if equals:
        return f"{key}={value}"
    if not left or left[0].startswith("--"):
        if negated := re.fullmatch(r"no[-_](.+)", key):
            raise ConfigError(word, "has no value, and settings are not negated", f"Write --{negated[1]}=false")
        how = f"Write --{key}=value; a switch has a value too: --{key}=true or --{key}=false"
        raise ConfigError(word, "has no value", how)
    return f"{key}={left.pop(0)}"


def parse_setting(text: str) -> tuple[Key, Any]:
    """Key and value of `key=value`. Parts of the key that are numbers are indices of lists."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(text, "expected key=value", _EXAMPLE)
    key = key.strip()
    if not all(key.split(".")):
        raise ConfigError(text, f"has an empty name in its key {key!r}", _EXAMPLE)
    parts = tuple(int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in key.split("."))
    if len(parts) > MAX_DEPTH:
        raise ConfigError(f"{key[:40]}...", f"has more than {MAX_DEPTH} parts", "See --help for the settings")
    return parts, parse_value(value, "command line", parts)


def set_value(values: dict[str, Any], key: Key, value: Any, setting: str) -> Key:
    """Set `value` at `key`. Returns the key as it is in `values`: a number is an index of a list, or text in a mapping.

    For example "sources.0.weight=2" sets the weight of the first item where `sources` is a list, and that of the item
    named "0" where it is a mapping.
    """
    place: Any = values
    placed: list[str | int] = []
    for number, part in enumerate(key):
        part = str(part) if isinstance(place, dict) else part
        placed.append(part)
        last = number == len(key) - 1
        if isinstance(place, dict) and place.get(part) is None and not last:
            place[part] = {}
        try:
            if last:
                place[part] = value
            else:
                place = place[part]
        except (KeyError, IndexError, TypeError):
            what = f"there is no {part} to set" + ("" if last else " a value in")
            raise ConfigError(setting, what, "See --help for the settings") from None
    return tuple(placed)
