"""YAML and `key=value` to a checked recipe config. No torch in reach: a mistake is answered before anything heavy.

`Section` and `Recipe` are what config classes derive from; the classes themselves stand in `align/settings.py` and in
the recipe that owns them.
"""

from __future__ import annotations

import difflib
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from align.errors import AlignError, ConfigError


class Section(BaseModel):
    """A part of a config: frozen, and a key it does not know is an error. The text under a field documents it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


class Recipe(Section):
    """All that one recipe reads, in the order of use."""


R = typing.TypeVar("R", bound=Section)


def config_from_argv(recipe: type[R], argv: list[str] | None = None) -> R:
    """The config named on the command line: `CONFIG.yaml key=value ...`.

    `--help` prints every setting and leaves with 0; a bad config prints one line for each mistake and leaves with 2.
    """
    argv = sys.argv[1:] if argv is None else argv
    script = Path(sys.argv[0]).name
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text(recipe, script))
        raise SystemExit(0 if argv else 2)
    try:
        return load_config(recipe, argv[0], argv[1:])
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def main(recipe: type[R], run: typing.Callable[[R], object], argv: list[str] | None = None) -> None:
    """What a recipe does when it is started: read the config and run. What a user can mend is one message, code 1."""
    config = config_from_argv(recipe, argv)
    try:
        run(config)
    except AlignError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


def load_config(recipe: type[R], path: str | Path, overrides: typing.Sequence[str] = ()) -> R:
    """Read `path`, lay the `key=value` overrides over it, check everything.

    Raises ConfigError that names file, line and dotted key; with several mistakes, one line each.
    """
    path = Path(path)
    values, lines = _read_yaml(path)
    where = {key: f"{path}:{line}" for key, line in lines.items()}
    for override in overrides:
        key, value = _override(override)
        _set(values, key, value, override)
        where = {known: at for known, at in where.items() if known[: len(key)] != key}
        for length in range(len(key), 0, -1):
            where.setdefault(key[:length], "command line")
    try:
        return recipe.model_validate(values)
    except ValidationError as error:
        found: dict[tuple, ConfigError] = {}  # what may be of two types fails once for each; the first is told
        for detail in error.errors(include_url=False):
            place = _place(recipe, detail["loc"])
            found.setdefault(place.key, _mistake(place, path, where, detail))
        raise joined(list(found.values())) from None


def joined(mistakes: typing.Sequence[ConfigError]) -> ConfigError:
    """Several mistakes as one error, a line each; one alone stays as it is."""
    first, *rest = mistakes
    return ConfigError(first.where, first.what, "\n".join([first.how, *map(str, rest)])) if rest else first


def help_text(recipe: type[Section], script: str) -> str:
    """Every setting with its type, default and meaning."""
    out = [f"usage: {script} CONFIG.yaml [key=value ...]", "", (recipe.__doc__ or "").strip(), ""]
    for key, annotation, default, text in _settings(recipe, ""):
        first = f"  {key} ({annotation}{default})"
        out.append(first)
        if text:
            out.extend(f"      {line.strip()}" for line in text.strip().splitlines())
    return "\n".join(out)


def dump(config: Section) -> dict[str, Any]:
    """The whole config as plain values, defaults included: what manifests and logs keep."""
    return config.model_dump(mode="json")


def section_of(annotation: Any) -> type[Section] | None:
    """The Section class in an annotation such as `DPOConfig` or `HubConfig | None`."""
    return next((kind for kind in _kinds(annotation) if isinstance(kind, type) and issubclass(kind, Section)), None)


class _Loader(yaml.SafeLoader):
    """The safe loader, with numbers such as 1e-5 read as numbers (YAML 1.1 takes them for text)."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+(?:\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    """YAML text to (values, line of each dotted key). Aliases, tags and keys given twice are refused."""
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                what = f"an alias (*{event.anchor}) is not read here"
                raise ConfigError(f"{where}{_line_of(event.start_mark)}", what, "Write the value out")
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        line = _line_of(getattr(error, "problem_mark", None))
        what = f"is not YAML: {getattr(error, 'problem', error)}"
        raise ConfigError(f"{where}{line}", what, "Mend that line") from None
    if node is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        found = "list" if isinstance(node, yaml.SequenceNode) else "single value"
        raise ConfigError(where, f"wanted settings as `key: value`, found a {found}", "Write one setting a line")
    lines: dict[tuple[str | int, ...], int] = {}
    _collect_lines(node, (), lines, where)
    loader = _Loader(text)
    try:
        return loader.get_single_data(), lines
    except yaml.YAMLError as error:
        raise ConfigError(
            where, f"holds a value that the safe loader does not build: {error}", "Write plain values"
        ) from None
    finally:
        loader.dispose()


def _line_of(mark: Any) -> str:
    return f":{mark.line + 1}" if mark else ""


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            path, f"cannot be read ({error.strerror})", "Name a YAML file first, then key=value"
        ) from None
    return parse_yaml(text, str(path))


def _collect_lines(node: yaml.Node, key: tuple, lines: dict, where: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = (*key, str(name.value))
            if inner in lines:
                dotted = ".".join(map(str, inner))
                at = f"{where}:{name.start_mark.line + 1}: {dotted}"
                raise ConfigError(at, f"is given twice (first in line {lines[inner]})", "Keep one of them")
            lines[inner] = name.start_mark.line + 1
            _collect_lines(value, inner, lines, where)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            lines[(*key, place)] = value.start_mark.line + 1
            _collect_lines(value, (*key, place), lines, where)


def _override(text: str) -> tuple[tuple[str | int, ...], Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(text, "wanted key=value", "Write for example dpo.beta=0.2")
    try:
        parsed = yaml.load(value, Loader=_Loader) if value else None
    except yaml.YAMLError:
        parsed = value
    return tuple(int(part) if part.isdigit() else part for part in key.split(".")), parsed


def _set(values: dict, key: tuple[str | int, ...], value: Any, override: str) -> None:
    place: Any = values
    for part in key[:-1]:
        if isinstance(place, dict) and place.get(part) is None:
            place[part] = {}
        try:
            place = place[part]
        except (KeyError, IndexError, TypeError):
            raise ConfigError(
                override, f"there is no {part} to set a value in", "See --help for the settings"
            ) from None
    try:
        place[key[-1]] = value
    except (IndexError, TypeError):
        raise ConfigError(override, f"there is no {key[-1]} to set", "See --help for the settings") from None


def _mistake(place: _Place, path: Path, where: dict, detail: Any) -> ConfigError:
    key = place.key
    dotted = ".".join(map(str, key))
    at = str(next((where[key[:n]] for n in range(len(key), 0, -1) if key[:n] in where), path))
    at += f": {dotted}" if dotted else ""  # a recipe that checks itself as a whole points at no key
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = sorted(place.section.model_fields) if place.section else []
        close = difflib.get_close_matches(str(key[-1]), known, n=1, cutoff=0.6)
        prefix = ".".join(map(str, key[:-1]))
        if close:
            how = f"Did you mean {prefix + '.' if prefix else ''}{close[0]}?"
        else:
            how = f"Known here: {', '.join(known) or 'nothing'}"
        return ConfigError(at, "is not a setting", how)
    if kind == "missing":
        how = f"Add it: {place.text}" if place.text else "Add it to the file"
        return ConfigError(at, "is wanted and not given", how)
    how = f"Start from {place.default!r}" if place.default is not None else (place.text or "See --help")
    if kind == "value_error":
        return ConfigError(at, str(context.get("error", detail["msg"])), how)
    # pydantic says "Input should be greater than 0" or "String should match pattern ..."
    wanted = detail["msg"].partition(" should ")[2].split(", unable")[0] or "be of another kind"
    wanted = "be a path" if kind == "path_type" else wanted
    wanted = wanted.replace("greater than", "above").replace("less than", "below")
    return ConfigError(at, f"must {wanted}, got {repr(detail.get('input'))[:80]}", how)


class _Place(typing.NamedTuple):
    """Where in a recipe a mistake is."""

    key: tuple[str | int, ...]
    section: type[Section] | None
    """The section that the last part of the key stands in."""
    field: Any
    """The pydantic field that the key names; None for an unknown one."""

    @property
    def text(self) -> str:
        return " ".join((self.field.description or "").split()).rstrip(".") if self.field else ""

    @property
    def default(self) -> Any:
        if self.field is None or self.field.is_required():
            return None
        default = self.field.get_default(call_default_factory=True)
        return None if isinstance(default, BaseModel) else default


def _place(recipe: type[Section], loc: tuple[str | int, ...]) -> _Place:
    """pydantic's location of a mistake as a dotted key has it: without the names of a union's branches."""
    key: list[str | int] = []
    kinds: list[Any] = [recipe]
    section, field = None, None
    for number, part in enumerate(loc):
        here = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
        holder = _holder(kinds)
        if here is not None and (part in here.model_fields or number == len(loc) - 1):
            section, field = here, here.model_fields.get(str(part))
            kinds = _kinds(field.annotation) if field else []
        elif holder is not None and isinstance(part, int) != (typing.get_origin(holder) is dict):
            kinds = _kinds(_held(holder))
        else:
            continue
        key.append(part)
    return _Place(tuple(key), section, field)


def _kinds(annotation: Any) -> list[Any]:
    """The types that an annotation allows: unions and Annotated opened, lists and dicts left as they are."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(annotation) for kind in _kinds(part)]
    return [annotation]


def _holder(kinds: typing.Iterable[Any]) -> Any:
    """The list, tuple or mapping among the kinds."""
    return next((kind for kind in kinds if typing.get_origin(kind) in (tuple, list, dict)), None)


def _held(holder: Any) -> Any:
    """What a list, tuple or mapping holds."""
    return typing.get_args(holder)[1 if typing.get_origin(holder) is dict else 0]


def _settings(section: type[Section], prefix: str) -> typing.Iterator[tuple[str, str, str, str]]:
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            yield from _settings(inner, f"{prefix}{name}.")
            continue
        holder = _holder(_kinds(field.annotation))
        inner = section_of(_held(holder)) if holder else None
        if inner is not None:
            each = "<name>" if typing.get_origin(holder) is dict else "<number>"
            yield from _settings(inner, f"{prefix}{name}.{each}.")
            continue
        default = "" if field.is_required() else f", default {field.get_default(call_default_factory=True)!r}"
        yield f"{prefix}{name}", _type_name(field.annotation), default, field.description or ""


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, types.GenericAlias) or typing.get_origin(annotation) is not None:
        return str(annotation).replace("typing.", "").replace("pathlib.", "").replace("NoneType", "None")
    return getattr(annotation, "__name__", str(annotation))
