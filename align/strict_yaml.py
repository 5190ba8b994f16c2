"""Text to plain values, as strictly as a config requires: YAML 1.2's core schema, nothing executed, nothing guessed.

PyYAML follows YAML 1.1, in which `on`, `yes` and `y` are booleans, `010` is 8, `1:30` is 90 and `1_000` is 1000. Here a
plain scalar is one of

    true, false, null (and ~, nothing)     1, -2, 0x1F, 0o17     1.5, 1e-5, .inf, .nan     text: everything else

A number with a leading zero (010) is text, so that a setting of a number refuses it. Dates are text. Tags, aliases,
keys given twice, keys that are not one line of text, NUL characters and deep nesting are refused with file and line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from align.errors import ConfigError
from align.hub_names import DATA_ENDINGS, similar_path

Key = tuple[str | int, ...]

MAX_BYTES = 128 * 2**10
"""Largest config file: the YAML parser needs about 2 s for it. The longest config that we ship has 8 KiB."""
MAX_DEPTH = 32
"""Mappings and lists inside one another."""
MAX_DIGITS = 40
"""Of an integer. Python refuses to read more than 4,300, and no setting takes more than 19."""

_NULL = re.compile(r"(?:~|null|Null|NULL)?")
_BOOLEAN = re.compile(r"(?:true|True|TRUE|(false|False|FALSE))")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_BASED = re.compile(r"0(?:x([0-9a-fA-F]+)|o([0-7]+))")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_NAN = re.compile(r"\.(?:nan|NaN|NAN)")


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    """A config file in UTF-8, with or without BOM, as `parse_yaml` reads it. Raises ConfigError."""
    try:
        with path.open("rb") as handle:
            content = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise _not_readable(path, error) from None
    except ValueError as error:  # a NUL in the name
        raise ConfigError(repr(str(path)), f"is not a path ({error})", "Name a YAML file first") from None
    if len(content) > MAX_BYTES:
        what = f"has more than {MAX_BYTES // 1024} KiB; a config has a few"
        raise ConfigError(path, what, "Name the YAML file of a recipe; rows of data belong in files that it names")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"is not UTF-8 (byte 0x{content[error.start]:02x})"
        raise ConfigError(f"{path}:{line}", what, "Save the file as UTF-8") from None
    if path.name.lower().endswith(_DATA):
        how = "Name the YAML file of a recipe first; it, or key=value, names the files of data"
        raise ConfigError(path, "is a file of data, and a config file is expected", how)
    return parse_yaml(text, str(path))


def _not_readable(path: Path, error: OSError) -> ConfigError:
    if isinstance(error, IsADirectoryError):
        inside = sorted(file.name for file in path.glob("*.y*ml"))
        how = f"Name a file in it, such as {path / inside[0]}" if inside else "Name a YAML file first, then key=value"
        return ConfigError(path, "is a folder, and a config file is expected", how)
    similar = similar_path(path) if isinstance(error, FileNotFoundError) else None
    how = f"Did you mean {similar}?" if similar else "Name a YAML file first, then key=value"
    return ConfigError(path, f"cannot be read ({error.strerror})", how)


def parse_yaml(text: str, where: str) -> tuple[dict[str, Any], dict[Key, int]]:
    """YAML text to (values, line of each dotted key). Raises ConfigError, located by `where` and the line."""
    if len(text) > MAX_BYTES:
        raise ConfigError(where, f"has more than {MAX_BYTES} characters", "Write a shorter config")
    values, lines = _Reader(text, where).document()
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        found = "list" if isinstance(values, list) else "single value"
        raise ConfigError(where, f"expected settings as `key: value`, found a {found}", "Write one setting per line")
    return values, lines


def parse_value(text: str, where: str, key: Key = ()) -> Any:
    """The right-hand side of `key=value`.

    A list, mapping or quoted text ([a, b], {a: 1}, "a") is YAML; everything else is one plain scalar, so `*.jsonl`,
    `a: b` and `!x` are text. A list or mapping that is not YAML is text too. Nothing at all is None.
    """
    text = text.strip(" ")
    at = ": ".join(part for part in (where, ".".join(map(str, key))) if part)
    if len(text) > MAX_BYTES:
        raise ConfigError(at, f"has more than {MAX_BYTES} characters", "Write it in the config file")
    if text[:1] not in tuple("[{\"'"):
        return _scalar(_checked(text, at), at)
    try:
        return _Reader(text, where, lines=False).document(key)[0]
    except _SyntaxError:
        return _checked(text, at)


_DATA = tuple(ending for ending in DATA_ENDINGS if ending not in (".json", ".yaml", ".yml", ".txt"))


class _SyntaxError(ConfigError):
    """Text that is no YAML at all, as against YAML that is not read here."""


class _Reader:
    """Values and lines from the parser's events, in one pass. Nothing is built before its size and depth are known."""

    def __init__(self, text: str, where: str, *, lines: bool = True) -> None:
        self._events = yaml.parse(text, Loader=yaml.SafeLoader)
        self._text = text
        self._file = where
        self._with_lines = lines
        self._lines: dict[Key, int] = {}

    def document(self, key: Key = ()) -> tuple[Any, dict[Key, int]]:
        """The only document of the stream; None for an empty one. key: where its value belongs, for messages."""
        self._next()  # the start of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None, {}
        value = self._value(self._next(), key)
        self._next()  # the end of the document
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise ConfigError(self._at(event), "a second document (---) begins here", "Keep one document in a file")
        return value, self._lines

    def _value(self, event: yaml.Event, key: Key) -> Any:
        if isinstance(event, yaml.AliasEvent):
            how = f'Write the value out; if it is a file pattern, quote it: "*{event.anchor}"'
            raise ConfigError(self._at(event, key), f"aliases (*{event.anchor}) are not supported", how)
        tag = getattr(event, "tag", None)
        if tag is not None:
            tag = tag.replace("tag:yaml.org,2002:", "!!")
            raise ConfigError(self._at(event, key), f"tags ({tag}) are not supported", "Write a plain value")
        if isinstance(event, yaml.ScalarEvent):
            value = _checked(event.value, self._at(event, key))
            return value if event.style else _scalar(value, self._at(event, key))
        if len(key) >= MAX_DEPTH:
            raise ConfigError(self._at(event), f"is nested more than {MAX_DEPTH} deep", "Write a flatter config")
        return self._mapping(key) if isinstance(event, yaml.MappingStartEvent) else self._list(key)

    def _mapping(self, key: Key) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or "\n" in event.value:
                raise ConfigError(self._at(event, key), "a key must be one line of text", "Write `key: value`")
            inner = (*key, _checked(event.value, self._at(event, key)))
            if event.value in found:
                first = f" (first in line {self._lines[inner]})" if self._with_lines else ""
                raise ConfigError(self._at(event, inner), f"is given twice{first}", "Keep one of them")
            self._lines[inner] = _line(event)
            found[event.value] = None
            found[event.value] = self._value(self._next(), inner)
        return found

    def _list(self, key: Key) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            inner = (*key, len(found))
            self._lines[inner] = _line(event)
            found.append(self._value(event, inner))
        return found

    def _next(self) -> yaml.Event:
        try:
            return next(self._events)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
            mark = getattr(error, "problem_mark", None)
            # A character that no YAML may hold has no mark; the error knows its place in the text.
            before = mark.line if mark is not None else self._text.count("\n", 0, getattr(error, "position", 0))
            line = before + 1
            where = f"{self._file}:{line}" if self._with_lines else self._file
            how = 'Fix that line; quote text that begins with * & ! % @ or holds ": "'
            if "'\\t'" in problem:
                how = "Replace the tab by spaces"
            raise _SyntaxError(where, f"is not YAML: {problem}", how) from None
        except StopIteration:  # the parser ends with StreamEndEvent, after which nothing is asked for
            raise AssertionError("read past the end of the stream") from None

    def _at(self, event: yaml.Event, key: Key = ()) -> str:
        where = f"{self._file}:{_line(event)}" if self._with_lines else self._file
        return f"{where}: {'.'.join(map(str, key))}" if key else where


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.line + 1


def _scalar(text: str, where: str) -> Any:
    """A plain scalar by YAML 1.2's core schema."""
    if _NULL.fullmatch(text):
        return None
    if boolean := _BOOLEAN.fullmatch(text):
        return boolean[1] is None
    if len(text) > MAX_DIGITS and re.fullmatch(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+", text):
        raise ConfigError(where, f"is a number of {len(text)} digits", f"At most {MAX_DIGITS} are read")
    if _INTEGER.fullmatch(text):
        return int(text)
    if based := _BASED.fullmatch(text):
        return int(based[1], 16) if based[1] else int(based[2], 8)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITY.fullmatch(text):
        return float("-inf") if text.startswith("-") else float("inf")
    return float("nan") if _NAN.fullmatch(text) else text


def _checked(text: str, where: str) -> str:
    """Text that files, paths and JSON can hold."""
    if "\0" in text:
        raise ConfigError(where, "holds a NUL character", "Take it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"holds {text[error.start]!a}, which is half of a character or a byte that is not UTF-8"
        raise ConfigError(where, what, "Write it in UTF-8") from None
    return text
