"""YAML and `key=value` to a checked recipe config. No torch in reach: a mistake is answered before anything heavy.

`Section` and `Recipe` are what config classes derive from; the classes themselves are in `align/settings.py` and in
the recipe that owns them. The YAML itself is read by `align/strict_yaml.py`.
"""

from __future__ import annotations

import difflib
import os
import re
import select
import sys
import traceback
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from align.config_values import held_by, holder_of, kinds_of, prepared
from align.errors import AlignError, ConfigError, RowError
from align.failures import explained
from align.strict_yaml import MAX_DEPTH, Key, parse_value, parse_yaml, read_yaml

__all__ = ["Recipe", "Section", "config_from_argv", "dump", "help_text", "joined", "load_config", "main", "parse_yaml"]

DEBUG = "ALIGN_DEBUG"
"""Environment variable: with 1 every message is printed below its traceback."""


class Section(BaseModel):
    """A part of a config: frozen, and a key it does not know is an error. The text under a field documents it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


class Recipe(Section):
    """All that one recipe reads, in the order of use."""

    def code_modules(self) -> tuple[str, ...]:
        """The modules whose code makes the result, where the script imports more than this config uses.

        Empty: all that the script imports. Rounds make a stage again when this code changed.
        """
        return ()


R = typing.TypeVar("R", bound=Section)


def config_from_argv(recipe: type[R], argv: list[str] | None = None) -> R:
    """The config named on the command line: `CONFIG.yaml key=value ...`; `--key=value` and `--key value` count too.

    `--help` prints every setting and leaves with 0; a bad config prints one line for each mistake and leaves with 2.
    """
    argv = sys.argv[1:] if argv is None else argv
    script = Path(sys.argv[0]).name
    if not argv or any(word in ("-h", "--help") for word in argv):
        _print(help_text(recipe, script))
        raise SystemExit(0 if argv else 2)
    try:
        path, overrides = _split(argv)
        return load_config(recipe, path, overrides)
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def main(recipe: type[R], run: typing.Callable[[R], object], argv: list[str] | None = None) -> None:
    """What a recipe does when it is started: read the config and run.

    What a user can fix is one message. The exit code is 2 for a config or a row of data, 1 for everything else (a
    checkpoint, a stage, the disk, the Hub, memory), 130 after Ctrl-C. Unexpected errors keep their traceback.
    """
    config = config_from_argv(recipe, argv)
    answering(lambda: run(config), lambda: list(_hub_names(config)))


def answering(work: typing.Callable[[], object], hub_names: typing.Callable[[], list[str]] = list) -> None:
    """Do `work`, and answer what a user can fix by a message and an exit code, as `main` says.

    hub_names: what it reads from the Hub, for errors of the Hub that name nothing.
    """
    try:
        work()
        sys.stdout.flush()
    except KeyboardInterrupt:
        _show_traceback()
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            raise SystemExit(_quiet_stdout()) from None
        message = explained(error, hub_names())
        if message is None:
            raise
        _show_traceback()
        hint = "" if isinstance(error, AlignError) else f" ({DEBUG}=1 shows where in the code.)"
        print(f"{message}{hint}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ConfigError | RowError) else 1) from None


def load_config(recipe: type[R], path: str | Path, overrides: typing.Sequence[str] = ()) -> R:
    """Read `path`, lay the `key=value` overrides over it, check everything.

    Types are strict: true is not 1, "1" is not 1, and 1.0 is no integer. One value where a list is expected is a list
    of that one. `~` at the start of a path is the home folder.
    Raises ConfigError that names file, line and dotted key; with several mistakes, one line each.
    """
    path = Path(path)
    values, lines = read_yaml(path)
    where = {key: f"{path}:{line}" for key, line in lines.items()}
    for override in overrides:
        key, value = _override(override)
        key = _set(values, key, value, override)
        where = {known: at for known, at in where.items() if known[: len(key)] != key}
        for length in range(len(key), 0, -1):
            where.setdefault(key[:length], "command line")
    found: dict[Key, ConfigError] = {}
    values = prepared([recipe], values, (), lambda key, detail: _note(found, recipe, path, where, key, detail))
    try:
        checked = recipe.model_validate(values)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _note(found, recipe, path, where, detail["loc"], detail)
    if found:
        # What may be of two types fails once for each: the most exact place is reported, and once.
        exact = [key for key in found if not any(len(other) > len(key) and other[: len(key)] == key for other in found)]
        exact.sort(key=lambda key: lines.get(key, 0))
        raise joined([found[key] for key in exact])
    return checked


def _note(
    found: dict[Key, ConfigError], recipe: type[Section], path: Path, where: dict[Key, str], loc: Key, detail: Any
) -> None:
    place = _place(recipe, loc, detail["type"])
    found.setdefault(place.key, _mistake(place, path, where, detail))


def joined(mistakes: typing.Sequence[ConfigError]) -> ConfigError:
    """Several mistakes as one error, a line each; one alone stays as it is."""
    first, *rest = mistakes
    return ConfigError(first.where, first.what, "\n".join([first.how, *map(str, rest)])) if rest else first


def help_text(recipe: type[Section], script: str) -> str:
    """Every setting with its type, default and meaning."""
    out = [f"usage: {script} CONFIG.yaml [key=value ...]", "", (recipe.__doc__ or "").strip(), ""]
    out += ["A setting is given as key=value, --key=value or --key value, and is laid over the file.", ""]
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
    return next((kind for kind in kinds_of(annotation) if isinstance(kind, type) and issubclass(kind, Section)), None)


def _split(argv: typing.Sequence[str]) -> tuple[str, list[str]]:
    """The config file, and the overrides as key=value, of a command line."""
    path: str | None = None
    overrides: list[str] = []
    words = iter(argv)
    for word in words:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            if not equals:
                following = next(words, None)
                if following is None or following.startswith("--"):
                    raise ConfigError(word, "has no value", f"Write {word}=value, such as {word}=true")
                value = following
            overrides.append(f"{key}={value}")
        elif path is None:
            path = word
        else:
            overrides.append(word)
    if path is None:
        raise ConfigError("command line", "names no config file", "Name a YAML file first, then key=value")
    return path, overrides


def _print(text: str) -> None:
    """Print to standard output; a reader that has left (`| head`) has read enough."""
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _quiet_stdout()


def _quiet_stdout() -> int:
    """Send what is still buffered nowhere, so that leaving says nothing of it. Returns the code of SIGPIPE's end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return 141


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that no one reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no descriptor: a notebook's or a test's standard output
        return False


def _hub_names(value: Any) -> typing.Iterator[str]:
    """The paths that a config reads, are no file here and look like owner/name."""
    if isinstance(value, Section):
        for name, field in type(value).model_fields.items():
            if "output" not in field.metadata:  # align.settings.OUTPUT
                yield from _hub_names(getattr(value, name))
    elif isinstance(value, tuple | list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _hub_names(item)
    elif isinstance(value, Path):
        is_data = value.suffix in (".jsonl", ".json", ".csv", ".parquet", ".txt", ".yaml")
        if len(value.parts) == 2 and not value.is_absolute() and not value.parent.exists() and not is_data:
            yield str(value)


def _show_traceback() -> None:
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exc()


def _override(text: str) -> tuple[Key, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(text, "expected key=value", "Write for example dpo.beta=0.2")
    key = key.strip()
    if not all(key.split(".")):
        raise ConfigError(text, f"has an empty name in its key {key!r}", "Write for example dpo.beta=0.2")
    parts = tuple(int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in key.split("."))
    if len(parts) > MAX_DEPTH:
        raise ConfigError(f"{key[:40]}...", f"has more than {MAX_DEPTH} parts", "See --help for the settings")
    return parts, parse_value(value, "command line", parts)


def _set(values: dict, key: Key, value: Any, override: str) -> Key:
    """Put `value` in its place. Returns the key as it is there: a number counts a list, and is text in a mapping."""
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
            raise ConfigError(override, what, "See --help for the settings") from None
    return tuple(placed)


_EXPECTED = {  # pydantic's name of a mistake -> what its setting must be
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of `key: value`",
    "model_type": "a section of `key: value` lines",
    "path_type": "a path",
    "finite_number": "a finite number",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


def _mistake(place: _Place, path: Path, where: dict[Key, str], detail: Any) -> ConfigError:
    key = place.key
    dotted = ".".join(map(str, key))
    at = str(next((where[key[:n]] for n in range(len(key), 0, -1) if key[:n] in where), path))
    at += f": {dotted}" if dotted else ""  # a recipe that checks itself as a whole points at no key
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return ConfigError(at, "is not a setting", _nearest(place))
    if kind == "missing":
        how = f"Add it: {place.text}" if place.text else "Add it to the file"
        return ConfigError(at, "required, but missing", how)
    how = f"Start from {_shown(place.default)}" if place.default is not None else (place.text or "See --help")
    if kind == "value_error":
        return ConfigError(at, str(context.get("error", detail.get("msg"))), how)
    given = detail.get("input")
    if kind == "kind":
        expected = f"be {detail['expected']}"
        if isinstance(given, str) and type(parse_value(given, "")) in (int, float, bool):
            how = "Write it without quotes"
    elif kind in _EXPECTED:
        expected = f"be {_EXPECTED[kind]}"
        if kind == "model_type" and given is None:
            how = "Write its settings under it, or remove the line"
        if kind == "string_type" and isinstance(given, int | float):  # such as a commit of digits alone
            how = "Write it in quotes"
    else:  # pydantic says "Input should be greater than 0" or "String should match pattern ..."
        expected = detail["msg"].partition(" should ")[2].split(", unable")[0] or "be of another kind"
        expected = expected.replace("greater than", "above").replace("less than", "below")
    return ConfigError(at, f"must {expected}, got {_shown(given)}", how)


def _shown(value: Any) -> str:
    """A value as a config would have it: true and null rather than True and None; long ones cut."""
    names: dict[Any, str] = {True: "true", False: "false", None: "null"}
    text = names[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_NAMES_ELSEWHERE = {  # of transformers, TRL and peft -> ours
    "model_name_or_path": "path",
    "torch_dtype": "dtype",
    "attn_implementation": "attention",
    "load_in_4bit": "quantization",
    "r": "rank",
    "lora_r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "targets",
    "lr": "learning_rate",
    "lr_scheduler_type": "schedule",
    "warmup_ratio": "warmup_share",
    "num_train_epochs": "epochs",
    "train_batch_size": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "batch_size",
    "bf16": "precision",
    "fp16": "precision",
    "save_total_limit": "keep_checkpoints",
    "logging_steps": "log_steps",
    "max_length": "token_budget",
    "max_seq_length": "token_budget",
    "max_new_tokens": "max_completion_tokens",
}


def _nearest(place: _Place) -> str:
    """A setting that an unknown key may mean: of a like name in its section, or of its name in another section."""
    known = sorted(place.section.model_fields) if place.section else []
    if (renamed := _NAMES_ELSEWHERE.get(str(place.key[-1]))) in known:
        return f"Did you mean {''.join(f'{part}.' for part in place.key[:-1])}{renamed}?"
    close = difflib.get_close_matches(str(place.key[-1]), known, n=1, cutoff=0.6)
    prefix = "".join(f"{part}." for part in place.key[:-1])
    if close:
        return f"Did you mean {prefix}{close[0]}?"
    elsewhere = [name for name, *_ in _settings(place.recipe, "") if name.rpartition(".")[2] == place.key[-1]]
    if len(elsewhere) == 1:
        return f"Did you mean {elsewhere[0]}?"
    return f"Known here: {', '.join(known) or 'nothing'}"


class _Place(typing.NamedTuple):
    """Where in a recipe a mistake is."""

    key: Key
    recipe: type[Section]
    section: type[Section] | None
    """The section that holds the last part of the key."""
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


_BRANCHES = ("<path>", "<section>", "<list>")  # of the tagged unions in align/settings.py


def _place(recipe: type[Section], loc: Key, kind: str = "") -> _Place:
    """pydantic's location of a mistake as a dotted key has it: without the names of a union's branches."""
    key: list[str | int] = []
    kinds: list[Any] = [recipe]
    section, field = None, None
    for number, part in enumerate(loc):
        if part in _BRANCHES and not (kind == "extra_forbidden" and number == len(loc) - 1):  # that is a user's key
            continue
        here = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
        holder = holder_of(kinds)
        if here is not None and (part in here.model_fields or number == len(loc) - 1):
            section, field = here, here.model_fields.get(str(part))
            kinds = kinds_of(field.annotation) if field else []
        elif holder is not None and isinstance(part, int) != (typing.get_origin(holder) is dict):
            kinds = kinds_of(held_by(holder))
        else:
            continue
        key.append(part)
    return _Place(tuple(key), recipe, section, field)


def _settings(section: type[Section], prefix: str) -> typing.Iterator[tuple[str, str, str, str]]:
    for name, field in section.model_fields.items():
        kinds = kinds_of(field.annotation)
        holder = holder_of(kinds)
        # a path or a section with a path in it is one setting, whose type names the section's keys
        is_plain = Path in kinds or (holder is not None and Path in kinds_of(held_by(holder)))
        inner = None if is_plain else section_of(field.annotation)
        if inner is not None:
            yield from _settings(inner, f"{prefix}{name}.")
            continue
        inner = section_of(held_by(holder)) if holder and not is_plain else None
        if inner is not None:
            each = "<name>" if typing.get_origin(holder) is dict else "<number>"
            yield from _settings(inner, f"{prefix}{name}.{each}.")
            continue
        default = "" if field.is_required() else f", default {field.get_default(call_default_factory=True)!r}"
        yield f"{prefix}{name}", _type_name(field.annotation), default, field.description or ""


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Annotated:
        return _type_name(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Union:
        return " | ".join(map(_type_name, typing.get_args(annotation)))
    if typing.get_origin(annotation) is tuple and typing.get_args(annotation)[1:] == (...,):
        return f"list[{_type_name(typing.get_args(annotation)[0])}]"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"{{{', '.join(annotation.model_fields)}}}"
    if isinstance(annotation, types.GenericAlias) or typing.get_origin(annotation) is not None:
        return str(annotation).replace("typing.", "").replace("pathlib.", "").replace("NoneType", "None")
    return getattr(annotation, "__name__", str(annotation))
