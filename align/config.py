"""Read a recipe's config from YAML and `key=value`, check it, and start the recipe. It imports no torch.

`Section` and `Recipe` are the base classes of configs; the classes themselves are in `align/settings/` and in the
recipe that owns them. The YAML is read by `align/strict_yaml.py`, the command line by `align/command_line.py`, the text
of `--help` is made by `align/config_help.py`, and messages about mistakes by `align/config_mistakes.py`.
"""

from __future__ import annotations

import atexit
import difflib
import inspect
import os
import re
import select
import sys
import traceback
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from align.command_line import FORMS, parse_setting, set_value, split_words
from align.config_help import model_in, papers_cited, settings_of
from align.config_mistakes import mistake, place_of
from align.config_values import kinds_of, prepared
from align.effective_time import note_process_began
from align.errors import AlignError, ConfigError, RowError
from align.failures import explained, note_cause
from align.hub_names import is_hub_name
from align.leaving import clean_up_on_sigterm
from align.secret_forms import secrets_in, secrets_of_environment
from align.strict_yaml import Key, parse_yaml, read_yaml

__all__ = [
    "Recipe", "Section", "checked_values", "config_from_argv", "dump", "help_text", "joined", "load_config", "main",
    "parse_yaml",
]  # fmt: skip

_LEAST_SECRET = 16
"""Characters of an environment's secret that a config is searched for: shorter ones may be ordinary words."""
DEBUG = "ALIGN_DEBUG"
"""Environment variable: with 1 every message is printed below its traceback."""


class Section(BaseModel):
    """A part of a config: frozen, and a key it does not know is an error. The text under a field documents it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    def libraries(self) -> dict[str, str]:
        """Module -> the extra that brings it: what these settings need beyond what every recipe needs.

        Rounds look for them before the first stage, so that none fails after days of others. Sections inside this one
        have their own.
        """
        return {}


class Recipe(Section):
    """All that one recipe reads, in the order of use."""

    argument: typing.ClassVar[str] = ""
    """A setting that the first argument may give in place of a YAML file; "" where a file is required."""

    @classmethod
    def is_argument(cls, word: str) -> bool:
        """Whether the first word of the command line is a value of `argument`, and no config file of this recipe."""
        return bool(cls.argument) and not word.endswith((".yaml", ".yml"))

    @classmethod
    def for_values(cls, values: Mapping[str, Any]) -> type[Recipe]:
        """The class that checks these values. A recipe with a catalogue of sections imports only the one in use here.

        values: the config as it was read, before any check.
        """
        return cls

    @classmethod
    def catalogue(cls) -> dict[str, str]:
        """Name -> one line of meaning, for the sections of which a config has one; `--help NAME` shows its settings."""
        return {}

    def code_modules(self) -> tuple[str, ...]:
        """The modules whose code makes the result, where the script imports more than this config uses.

        Empty: all that the script imports. Rounds make a stage again when this code changed.
        """
        return ()


R = typing.TypeVar("R", bound=Section)


def config_from_argv(recipe: type[R], argv: list[str] | None = None) -> R:
    """The config named on the command line: `CONFIG.yaml key=value ...`; `--key=value` and `--key value` count too.

    `--help` prints every setting, `--help NAME` those of one section or builder, and both exit with code 0. A bad
    config prints one line for each mistake and exits with code 2.
    """
    argv = sys.argv[1:] if argv is None else argv
    script = Path(sys.argv[0]).name
    try:
        asked = next((place for place, word in enumerate(argv) if word in ("-h", "--help")), None)
        if asked is not None or not argv:
            topics = [] if asked is None else argv[asked + 1 : asked + 2]
            _print(help_text(recipe, script, "".join(topics) if _is_topic(topics) else ""))
            raise SystemExit(0 if argv else 2)
        # before any message that shows a word
        _refuse_secrets((f"command line, word {number}", word) for number, word in enumerate(argv, 1))
        path, overrides = split_arguments(argv, recipe)
        return load_config(recipe, path, overrides)
    except ConfigError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # every process of a launch finds the same mistake
            print(error, file=sys.stderr)
        raise SystemExit(2) from None


def main(recipe: type[R], run: typing.Callable[[R], object], argv: list[str] | None = None) -> None:
    """Start a recipe: read the config from the command line, and run.

    An error that a user can fix is printed as one message. The exit code is 2 for a mistake in a config or a row of
    data, 1 for everything else (a checkpoint, a stage, the disk, the Hub, memory), 130 after Ctrl-C and 143 after
    SIGTERM. Unexpected errors keep their traceback.
    """
    note_process_began()
    config = config_from_argv(recipe, argv)
    answering(lambda: run(config), lambda: list(_hub_names(config)))


def answering(work: typing.Callable[[], object], hub_names: typing.Callable[[], list[str]] = list) -> None:
    """Do `work`, and turn errors that a user can fix into a message and an exit code, as `main` describes.

    hub_names: returns the names that `work` reads from the Hub, for errors of the Hub that name nothing.
    """
    try:
        with clean_up_on_sigterm():
            work()
        sys.stdout.flush()
        _leave_process_group()
    except KeyboardInterrupt:
        _show_traceback()
        print("interrupted", file=sys.stderr)
        _leave_process_group(130)
        raise SystemExit(130) from None
    except SystemExit as left:
        _leave_process_group(left.code if isinstance(left.code, int) else 1)
        raise
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            raise SystemExit(_quiet_stdout()) from None
        message = explained(error, hub_names())
        if message is None:
            raise
        note_cause(message)
        _show_traceback()
        hint = "" if isinstance(error, AlignError) else f" ({DEBUG}=1 shows where in the code.)"
        print(f"{message}{hint}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ConfigError | RowError) else 1) from None


def _leave_process_group(code: int = 0) -> None:
    """End this process at once if it is one of several that trained together.

    Threads of torch.distributed and DeepSpeed run until the process ends. One that asks for Python's lock while the
    interpreter is torn down aborts the process ("terminate called without an active exception"), and the launcher then
    reports a run as failed whose work is done. So what is registered with `atexit` (trackers, logging) is run here, and
    the interpreter is not torn down.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    if distributed.get_world_size() == 1:
        return
    if not code:
        distributed.destroy_process_group()  # after an error it could wait for a process that has left
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def load_config(recipe: type[R], path: str | Path | None, overrides: typing.Sequence[str] = ()) -> R:
    """Read `path`, apply the `key=value` overrides, and check everything. Without a path there are the overrides alone.

    Types are strict: true is not 1, "1" is not 1, and 1.0 is no integer. A single value where a list is expected counts
    as a list of one. `~` at the start of a path is the home folder.
    Raises ConfigError that names file, line and dotted key; with several mistakes, one line each.
    """
    values, lines = ({}, {}) if path is None else read_yaml(Path(path))
    path = Path("command line" if path is None else path)
    where = {key: f"{path}:{line}" for key, line in lines.items()}
    for override in overrides:
        key, value = parse_setting(override)
        key = set_value(values, key, value, override)
        where = {known: at for known, at in where.items() if known[: len(key)] != key}
        for length in range(len(key), 0, -1):
            where.setdefault(key[:length], "command line")
    _refuse_secrets(_texts(values, path, where))
    return checked_values(_class_for(recipe, values, path), values, path, where, lines)


def checked_values(
    recipe: type[R], values: dict[str, typing.Any], path: Path, where: dict[Key, str], lines: dict[Key, int]
) -> R:
    """Values that `read_yaml` returned, as the section that they describe. Raises ConfigError as `load_config` does.

    where: dotted key -> its place for messages, `file:line` or "command line".
    lines: dotted key -> its line; mistakes are listed in this order.
    """
    found: dict[Key, ConfigError] = {}
    values = prepared([recipe], values, (), lambda key, detail: _note(found, recipe, path, where, key, detail))
    try:
        checked = recipe.model_validate(values)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _note(found, recipe, path, where, detail["loc"], detail)
    if found:
        # A setting that allows two types fails once for each of them: report the most exact place, and once.
        exact = [key for key in found if not any(len(other) > len(key) and other[: len(key)] == key for other in found)]
        exact.sort(key=lambda key: lines.get(key, 0))
        raise joined([found[key] for key in exact])
    return checked


def _refuse_secrets(places: typing.Iterable[tuple[str, str]]) -> None:
    """Raise ConfigError naming the first place whose text holds a secret: what a config or a command line holds gets
    into manifests and logs. places: where it is, and the text."""
    places = list(places)
    values = {what: value for what, value in secrets_of_environment().items() if len(value) >= _LEAST_SECRET}
    if not secrets_in("\n".join(text for _, text in places).encode("utf-8", "surrogatepass"), values):
        return
    for where, text in places:
        if found := secrets_in(text.encode("utf-8", "surrogatepass"), values):
            what = f"holds {found[0]}; configs and command lines are written to manifests and logs"
            how = "Delete it here, and set it as an environment variable; docs/configs.md lists them"
            raise ConfigError(where, what, how)


def _texts(value: Any, path: Path, where: Mapping[Key, str], key: Key = ()) -> typing.Iterator[tuple[str, str]]:
    """Place and text of every text in a config, names in mappings included."""
    at = where.get(key, str(path))
    if isinstance(value, str):
        yield f"{at}: {'.'.join(map(str, key))}", value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield f"{where.get((*key, name), at)}: a name", str(name)
            yield from _texts(inner, path, where, (*key, name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _texts(inner, path, where, (*key, place))


def _note(
    found: dict[Key, ConfigError], recipe: type[Section], path: Path, where: dict[Key, str], loc: Key, detail: Any
) -> None:
    place = place_of(recipe, loc, detail["type"])
    found.setdefault(place.key, mistake(place, path, where, detail))


def joined(mistakes: typing.Sequence[ConfigError]) -> ConfigError:
    """Several mistakes as one error with a line for each; a single one is returned unchanged."""
    first, *rest = mistakes
    return ConfigError(first.where, first.what, "\n".join([first.how, *map(str, rest)])) if rest else first


def help_text(recipe: type[Section], script: str, topic: str = "") -> str:
    """Every setting with its type, default and meaning, then the papers that the text cites.

    topic: a section, a setting or a name of the recipe's catalogue; only its settings are shown.
    Raises ConfigError for a topic that does not exist.
    """
    catalogue = recipe.catalogue() if issubclass(recipe, Recipe) else {}
    name = topic.partition(".")[0]
    shown = _class_for(recipe, {name: {}}, "--help") if name in catalogue else recipe
    settings = list(settings_of(shown))
    if topic and (topic != name or name not in catalogue):
        settings = [each for each in settings if f"{each.key}.".startswith(f"{topic}.")]
    if not settings:
        known = dict.fromkeys([*catalogue, *(each.key.partition(".")[0] for each in settings_of(recipe))])
        close = difflib.get_close_matches(topic, known, n=1)
        how = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}"
        raise ConfigError(f"--help {topic}", "there is no setting or section of this name", how)
    about = [catalogue[name]] if name in catalogue else [inspect.cleandoc(recipe.__doc__ or "")]
    body = [line for each in settings for line in each.lines()]
    if catalogue and not topic:
        width = max(map(len, catalogue))
        body += ["", f"Sections that a config may have; `{script} --help NAME` shows the settings of one:", ""]
        body += [f"  {each:{width}}  {meaning}" for each, meaning in catalogue.items()]
    out = [f"usage: {script} CONFIG.yaml [key=value ...]"]
    if issubclass(recipe, Recipe) and recipe.argument:
        out.append(f"       {script} {recipe.argument.upper()} [key=value ...]")
    out += [f"       {script} --help [NAME]", "", *about, ""]
    out += [
        f"A setting is given as {FORMS}, and replaces the one of the YAML file. A single value counts",
        "as a list of one. true and false are written out: --training.checks=false. [a, b] and {a: 1} are YAML.",
        *("", *body),
    ]
    if papers := papers_cited("\n".join((*about, *body))):
        out += ["", "Papers and data that are cited above:", "", *(f"  {paper}" for paper in papers)]
    return "\n".join(out)


def dump(config: Section) -> dict[str, Any]:
    """The whole config as plain values, defaults included, for manifests and logs."""
    return config.model_dump(mode="json")


def section_of(annotation: Any) -> type[Section] | None:
    """The Section class in an annotation such as `DPOConfig` or `HubConfig | None`."""
    found = model_in(kinds_of(annotation))
    return found if found is not None and issubclass(found, Section) else None


def _class_for(recipe: type[R], values: Mapping[str, Any], where: object) -> type[R]:
    """The class that checks `values`, by `Recipe.for_values`; a class that is no Recipe checks them itself."""
    if not issubclass(recipe, Recipe):
        return recipe
    try:
        return typing.cast(type[R], recipe.for_values(values))
    except ValueError as error:
        raise ConfigError(where, str(error), "See --help") from None


def _is_topic(words: typing.Sequence[str]) -> bool:
    """Whether the word after `--help` names a section or a setting, and is no config file and no key=value."""
    return bool(words) and not words[0].startswith("-") and not re.search(r"[=/]|\.ya?ml$", words[0])


def split_arguments(argv: typing.Sequence[str], recipe: type[Section] = Section) -> tuple[str | None, list[str]]:
    """The config file, and the settings as key=value, of a recipe's command line: see `split_words`."""
    if not issubclass(recipe, Recipe):
        return split_words(argv)
    return split_words(argv, recipe.argument, recipe.is_argument)


def _print(text: str) -> None:
    """Print to standard output; a reader that closed the pipe (`| head`) is no error."""
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _quiet_stdout()


def _quiet_stdout() -> int:
    """Discard what is still buffered, so that Python prints no error at exit. Returns the exit code of SIGPIPE."""
    discarded = os.open(os.devnull, os.O_WRONLY)
    os.dup2(discarded, sys.stdout.fileno())
    os.close(discarded)
    return 141


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe whose reader has closed it."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no descriptor: a notebook's or a test's standard output
        return False


def _hub_names(value: Any) -> typing.Iterator[str]:
    """The paths that a config reads which do not exist here and look like owner/name, a name on the Hub."""
    if isinstance(value, Section):
        for name, field in type(value).model_fields.items():
            if "output" not in field.metadata:  # align.settings.OUTPUT
                yield from _hub_names(getattr(value, name))
    elif isinstance(value, tuple | list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _hub_names(item)
    elif isinstance(value, Path) and is_hub_name(value) and not value.parent.exists():
        yield str(value)


def _show_traceback() -> None:
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exc()
