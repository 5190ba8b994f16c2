"""Read the commands out of Markdown pages, and check each without running it. Used by test_documented_commands.py."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from align.cli import commands as console_commands
from align.config import Section, help_text, load_config, split_arguments
from align.errors import ConfigError
from align.rounds.commands import COMMANDS as READING
from align.rounds.plan import RoundsConfig, load_stages, recipe_class
from align.settings import INPUT, OUTPUT, paths_of

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
FOLDERS = {"data": "build_data"}
"""Folder of recipes/configs -> its recipe, where the names differ."""

CHECKED = ("python", "accelerate", "align", "make", "pip", "docker", "cp", "ls", "cat", "head")
OTHER = ("git", "cd", "mkdir", "export", "source", "pytest", "ruff", "mypy", "mkdocs", "tensorboard", "rm", "tail",
         "apt-get", "chmod", "pre-commit", "nvidia-smi", "curl", "echo", "touch", "vllm")  # fmt: skip
"""Programs that are no part of the project: nothing about their arguments is checked."""
NOT_RUNNABLE = "<!-- example -->"


class WrongCommand(AssertionError):
    """A documented command that would not work."""


@dataclass(frozen=True)
class Command:
    """One command of a page."""

    words: tuple[str, ...]
    line: int
    is_example: bool
    """It has a placeholder, or its block is marked: paths and values are not checked."""

    @property
    def program(self) -> str:
        name = self.words[0].rpartition("/")[2]  # .venv/bin/python; `align/` is a folder, not the program
        return re.sub(r"^python3?(\.\d+)?$", "python", name)


def commands_of(text: str) -> list[Command]:
    """The commands of a page, in order.

    Every line of a fenced block marked bash, sh, shell or console is a command. In an indented block, and in a fenced
    block without a mark, the lines are commands that begin with a program of CHECKED; the rest is output.
    """
    found: list[Command] = []
    for start, lines, is_shell, is_example in _blocks(text):
        joined, number = "", start
        for offset, line in enumerate(lines):
            if not joined:
                number = start + offset
            joined += re.sub(r"^\$ ", "", line.strip())
            if joined.endswith("\\"):
                joined = joined[:-1]
                continue
            for words in _split(joined):
                program = Command(words, number, False).program
                if is_shell or program in CHECKED[:5]:
                    found.append(Command(words, number, is_example or any(map(_is_placeholder, words))))
            joined = ""
    return found


def _blocks(text: str) -> Iterator[tuple[int, list[str], bool, bool]]:
    """First line number, lines, whether it is marked as shell, whether it is marked as an example."""
    lines = text.splitlines()
    number, marked, after_blank = 0, False, True
    while number < len(lines):
        line = lines[number]
        fence = re.match(r"^(\s*)(```+|~~~+)\s*(\w*)", line)
        if fence:
            end = number + 1
            while end < len(lines) and lines[end].strip() != fence[2]:
                end += 1
            if fence[3] in ("bash", "sh", "shell", "console", ""):
                yield number + 2, lines[number + 1 : end], bool(fence[3]), marked
            number, marked, after_blank = end + 1, False, False
        elif after_blank and line.startswith("    ") and line.strip():
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield number + 1, lines[number:end], False, marked
            number, marked, after_blank = end, False, True
        else:
            marked = line.strip() == NOT_RUNNABLE or (marked and not line.strip())
            after_blank = not line.strip()
            number += 1


def _split(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a line, without comments, variables set in front, and what a pipe passes on to."""
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:  # an open quote: prose or output
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if word and set(word) <= set("&|;"):
            while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
                command = command[1:]
            if command:
                yield tuple(command)
            command = []
        else:
            command.append(word)


def _is_placeholder(word: str) -> bool:
    """Whether a word has a part to be replaced: <name>, ..., or capitals such as CONFIG.yaml, N and INDEX."""
    values = re.split(r"[=/.:\[\],]", word.partition("=")[2] or word)
    return (
        "..." in word
        or bool(re.search(r"<[^>]*>", word))
        or any(re.fullmatch(r"[A-Z][A-Z_]*", value) for value in values)
    )


@dataclass
class Page:
    """What the commands of a page have written so far; `check` takes them in order."""

    shipped: frozenset[Path] = frozenset()
    """What shipped configs write: a shipped config may read it although the page does not write it."""
    written: list[Path] = field(default_factory=list)

    def check(self, command: Command) -> None:
        """Raises WrongCommand for a command that would not work."""
        program, arguments = command.program, list(command.words[1:])
        if program not in CHECKED:
            if program not in OTHER:
                raise WrongCommand(f"line {command.line}: {program} is no known program")
            return
        getattr(self, f"_{program}")(arguments, command)

    def _python(self, arguments: list[str], command: Command) -> None:
        if arguments[:1] == ["-m"]:
            self._module(arguments[1], arguments[2:], command)
        elif arguments and arguments[0].endswith(".py"):
            self._script(arguments[0], arguments[1:], command)

    def _module(self, name: str, arguments: list[str], command: Command) -> None:
        if name.startswith("recipes."):
            self._recipe(name.removeprefix("recipes."), arguments, command)
        elif name not in OTHER and find_spec(name) is None:
            raise WrongCommand(f"line {command.line}: there is no module {name}")

    def _script(self, path: str, arguments: list[str], command: Command) -> None:
        if path.startswith("recipes/"):
            self._recipe(Path(path).stem, arguments, command)
        elif not command.is_example and not (ROOT / path).is_file():
            raise WrongCommand(f"line {command.line}: there is no {path}")

    def _accelerate(self, arguments: list[str], command: Command) -> None:
        if arguments[:1] != ["launch"]:
            return
        rest = arguments[1:]
        while rest and rest[0].startswith("--"):
            flag, equals, value = rest[0].partition("=")
            is_single = equals or flag in ("--cpu", "--multi_gpu", "--use_deepspeed")
            value = value if equals else rest[1]
            if flag == "--config_file" and not _is_placeholder(value) and not (ROOT / value).is_file():
                raise WrongCommand(f"line {command.line}: there is no {value}")
            rest = rest[1 if is_single else 2 :]
        if rest[:1] == ["-m"]:
            self._module(rest[1], rest[2:], command)
        elif rest and rest[0] != "...":
            self._script(rest[0], rest[1:], command)

    def _align(self, arguments: list[str], command: Command) -> None:
        if not arguments or arguments[0].startswith("-") or _is_placeholder(arguments[0]):
            return
        name = arguments[0].replace("-", "_")
        if name not in console_commands():
            raise WrongCommand(f"line {command.line}: align has no command {arguments[0]}")
        if name == "init":
            self.written.append(Path("recipes"))
        elif (RECIPES / f"{name}.py").is_file() and " ".join((name, *arguments[1:2])) not in console_commands():
            self._recipe(name, arguments[1:], command)

    def _recipe(self, name: str, arguments: list[str], command: Command) -> None:
        if name == "rounds" and arguments[:1] and arguments[0] in READING:  # CONFIG, then a stage, a row or --delete
            arguments = [*arguments[1:2], *(word for word in arguments[2:] if re.match(r"[\w.]+=", word))]
        try:
            recipe = recipe_class(RECIPES, name)
            if "--help" in arguments:
                help_text(recipe, name, "".join(word for word in arguments if word != "--help"))
                return
            config, given_settings = split_arguments(arguments, recipe) if arguments else (None, [])
            overrides = [word for word in given_settings if not _is_placeholder(word)]
            if len(overrides) < len(given_settings) and config is None:
                return
            if not arguments or (config and _is_placeholder(config) and not (ROOT / config).is_file()):
                outputs = {
                    key for key, each in recipe.model_fields.items() if OUTPUT in f"{each.metadata}{each.annotation}"
                }
                self.written += [
                    Path(word.partition("=")[2]) for word in overrides if word.partition("=")[0] in outputs
                ]
                return
            loaded = load_config(recipe, ROOT / config if config else None, overrides)
        except ConfigError as error:
            raise WrongCommand(f"line {command.line}: {error}") from None
        given = {override.partition("=")[0] for override in overrides}
        for key, path in paths_of(loaded, INPUT).items():
            on_the_page = any(key == one or key.startswith(f"{one}.") or one.startswith(f"{key}.") for one in given)
            if not command.is_example and not self._is_there(path, on_the_page):
                raise WrongCommand(f"line {command.line}: {key} reads {path}, which no command before it writes")
        self.written += paths_of(loaded, OUTPUT).values()

    def _is_there(self, path: Path, on_the_page: bool) -> bool:
        """Whether something is at a path that a command reads: files of the user are, those below runs/ are made."""
        made = [*self.written, *(() if on_the_page else self.shipped)]
        return path.parts[0] != "runs" or any(_touches(path, one) for one in made)

    def _make(self, arguments: list[str], command: Command) -> None:
        targets = set(re.findall(r"^([a-z][\w-]*)(?:\s[^:=\n]*)?:(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
        for word in arguments:
            if "=" in word or word.startswith("-") or _is_placeholder(word):
                continue
            if word not in targets:
                raise WrongCommand(f"line {command.line}: the Makefile has no target {word}")
            self.written.append(Path("runs", word))

    def _pip(self, arguments: list[str], command: Command) -> None:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for word in arguments:
            named = re.fullmatch(r"(?:\.|align[\w-]*)\[([\w,-]+)\]", word)
            unknown = set(named[1].split(",")) - extras.keys() if named else set()
            if unknown:
                raise WrongCommand(f"line {command.line}: pyproject.toml has no extra {min(unknown)}")

    def _docker(self, arguments: list[str], command: Command) -> None:
        known = set(re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
        for flag, value in pairwise(arguments):
            if flag == "--build-arg" and value.partition("=")[0] not in known:
                raise WrongCommand(f"line {command.line}: the Dockerfile has no argument {value}")

    def _cp(self, arguments: list[str], command: Command) -> None:
        *sources, target = [word for word in arguments if not word.startswith("-")]
        self._ls(sources, command)
        self.written.append(Path(target))

    def _ls(self, arguments: list[str], command: Command) -> None:
        for word in (word for word in arguments if not word.startswith("-") and not _is_placeholder(word)):
            path = Path(word)
            if not (ROOT / path).exists() and not any(_touches(path, one) for one in self.written):
                raise WrongCommand(f"line {command.line}: there is no {path}, and no command before it writes it")

    _cat = _head = _ls


def _touches(path: Path, other: Path) -> bool:
    return path.is_relative_to(other) or other.is_relative_to(path)


def written_by_shipped_configs() -> frozenset[Path]:
    """Every output of a shipped config, and of the stages of shipped rounds. The working folder is the checkout."""
    found: set[Path] = set()
    for config in sorted((RECIPES / "configs").rglob("*.yaml")):
        name = FOLDERS.get(config.parent.name, config.parent.name)
        loaded: list[Section] = [load_config(recipe_class(RECIPES, name), config)]
        if isinstance(loaded[0], RoundsConfig):
            loaded += [stage.config for stage in load_stages(loaded[0], RECIPES)]
        found |= {path for one in loaded for path in paths_of(one, OUTPUT).values()}
    return frozenset(found)
