"""The plan of a run: which stages, in which order, with which settings; checked whole before anything starts.

A stage is one recipe run as a process of its own. Stages meet through files: what a stage reads and makes is found by
the InputPath and OutputPath marks in its recipe's config. Running the plan is `align/rounds/driver.py`. No torch here.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import shlex
import string
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from align.config import Recipe, Section, dump, joined, load_config, parse_yaml, section_of
from align.errors import ConfigError
from align.files import fingerprint_of, matching
from align.harmless import changes_no_result
from align.hub_names import is_hub_name, similar_path
from align.precision import AUTO
from align.precision import overrides as precision_overrides
from align.rounds.libraries import library_versions
from align.rounds.packaged import PINS, packaged_data
from align.settings import INPUT, OUTPUT, HubConfig, InputPath, OutputPath, Source, paths_of, unused_backends
from align.source_code import code_of, libraries_of


class StageConfig(Section):
    """One stage: a recipe, its YAML, and what is set on top of it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    """What the stage is called: in the ledger, the log and the report. By habit also the folder that it writes."""
    recipe: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Which script of recipes/ it runs, without .py."""
    config: Path
    """The YAML that the recipe reads."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted key -> value, laid over the YAML as key=value on the recipe's command line. Texts may hold
    {run}, {start}, {best}; in a round, and after the rounds for the last one, also {round} and {round_dir}; a list item
    with {every_round} becomes one item for each round up to this one. {best} is the best checkpoint so far: `start` at
    first, then what the `best` stage of the last finished round made."""
    launch: Path | None = None
    """An accelerate config: the recipe runs under `accelerate launch --config_file` of it. None: one plain process."""
    launch_rounds: tuple[int, ...] | None = None
    """The rounds in which `launch` holds; None for all."""
    show: bool = False
    """Show on the terminal all that the stage prints, not only its progress."""


class RoundsConfig(Recipe):
    """Stages that run once before the rounds, in each round, and once after them."""

    run_dir: OutputPath
    """Where the whole run is kept: ledger, logs, a folder a round."""
    start: InputPath
    """The starting checkpoint: a Hugging Face folder, or a name on the Hub."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What every stage computes in, as its training.precision and dtypes, unless its YAML or `set` says so itself. auto
    is decided once for the run, as training.precision says, and kept in the run's folder."""
    rounds: int = Field(6, gt=0)
    """Passes of the loop. Llama 3 made 6 (section 4.1)."""
    best: str
    """The stage of a round whose folder, `{round_dir}/<name>`, holds the round's model: {best} of the next round."""
    once: tuple[StageConfig, ...] = ()
    """Before the rounds."""
    each_round: tuple[StageConfig, ...] = Field(min_length=1)
    """In every round."""
    after: tuple[StageConfig, ...] = ()
    """After the last round."""
    stop_seconds: float = Field(120, gt=0)
    """How long a stage may take to save and leave after Ctrl-C or SIGTERM before it is killed."""
    changed_code: Literal["remake", "keep"] = "remake"
    """remake: a finished stage whose code changed is made again: the files that its recipe imports, comments aside, and
    the versions of the libraries that compute its result. keep: it is left as it is, a stage that was interrupted goes
    on, and the log says what changed; for a fix or an upgrade that is known not to touch the result."""

    @model_validator(mode="after")
    def _names_hold_together(self) -> Self:
        for part in ("once", "each_round", "after"):
            names = [stage.name for stage in getattr(self, part)]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{part} has two stages named {twice[0]}")
        shared = {stage.name for stage in self.once} & {stage.name for stage in self.after}
        if shared:
            raise ValueError(f"once and after have both a stage named {min(shared)}")
        if self.best not in [stage.name for stage in self.each_round]:
            raise ValueError(f"best names {self.best}, which is no stage of each_round")
        return self


@dataclass(frozen=True)
class Stage:
    """One stage of one round, with its config loaded."""

    name: str
    round: int | None
    """1, 2, ...; None before and after the rounds."""
    recipe: str
    command: tuple[str, ...]
    config: Section = field(repr=False)
    launch: Path | None = None
    show: bool = False
    inputs: dict[str, Path] = field(default_factory=dict)
    """Dotted key -> what it reads."""
    outputs: dict[str, Path] = field(default_factory=dict)
    """Dotted key -> what it makes."""
    code_starts: tuple[str | Path, ...] = ()
    """The recipe's script, or the modules that the recipe names for this config: where its code begins."""

    @property
    def label(self) -> str:
        return self.name if self.round is None else f"round-{self.round}/{self.name}"

    @property
    def shell(self) -> str:
        """The command as a person would type it."""
        return shlex.join(["python" if part == sys.executable else part for part in self.command])

    def source_of(self, name: str) -> Source | None:
        """The source of records whose path is the input `name`; None for a path that is no `Source`."""
        value: Any = self.config
        for part in name.split(".")[:-1]:
            value = _child(value, part)
        return value if isinstance(value, Source) else None

    def code(self) -> dict[str, str]:
        """What the stage's result is computed with: file -> hash of its source files and of the packaged data that they
        read, and `library/<name>` -> version of the libraries that they import.

        Libraries that only align/assets.py imports do not count: it makes packaged data, which count by content.
        """
        if not self.code_starts:
            return {}
        without = unused_backends(self.config)
        found = code_of(*self.code_starts, without=without)
        imported = libraries_of(*self.code_starts, without=without)
        modules = {module for file, names in imported.items() if file != PINS for module in names}
        return found | packaged_data(found) | library_versions(modules, dump(self.config), self.launch)

    def key(self, input_fingerprints: dict[str, str], launch_fingerprint: str, code: dict[str, str]) -> str:
        """BLAKE3 of all that decides what the stage makes.

        Paths are not part of it: what is read counts by content, and where a result is put does not change it. Neither
        are settings of training that change no result, such as `report_to`: a stage that was stopped is resumed with
        other ones, and a finished stage is not made again.
        """
        values = dump(self.config)
        if self.outputs:  # where a result is pushed as well does not change it
            for name, setting in type(self.config).model_fields.items():
                if section_of(setting.annotation) is HubConfig:
                    del values[name]
        for dotted in (*self.inputs, *self.outputs):
            _blank(values, dotted.split("."))
        values = _deciding(values)
        return fingerprint_of(
            self.label,
            self.recipe,
            json.dumps(code, sort_keys=True),
            json.dumps(values, sort_keys=True),
            json.dumps(input_fingerprints, sort_keys=True),
            launch_fingerprint,
        )


def plan(config: RoundsConfig, recipes: Path) -> list[Stage]:
    """Every stage of the run in order, each with its config loaded and what it reads and writes checked.

    recipes: the folder of the recipe scripts.
    Raises ConfigError with one line for each mistake, in whichever stages they are.
    """
    stages = load_stages(config, recipes)
    misplaced = list(_path_mistakes(stages, config.run_dir))
    if misplaced:
        raise joined(misplaced)
    return stages


def load_stages(config: RoundsConfig, recipes: Path) -> list[Stage]:
    """The stages with their configs, without a look at the disk for what they read. Raises as `plan`."""
    stages: list[Stage] = []
    mistakes: dict[str, ConfigError] = {}  # by message: the same mistake occurs in every round
    for stage_config, round_number, names in _unrolled(config):
        try:
            stages.append(_stage(stage_config, round_number, names, recipes, config.precision))
        except ConfigError as error:
            located = ConfigError(f"stage {stage_config.name}: {error.where}", error.what, error.how)
            mistakes.setdefault(str(located), located)
    if mistakes:
        raise joined(list(mistakes.values()))
    return stages


def recipe_class(recipes: Path, name: str) -> type[Recipe]:
    """The config class of `<recipes>/<name>.py`: the one subclass of Recipe that the module defines."""
    path = recipes / f"{name}.py"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in recipes.glob("*.py")))
        raise ConfigError(f"recipe {name}", f"there is no {path.name} in the folder of this recipe", f"Known: {known}")
    module_name = f"_recipe_{name}"
    module = sys.modules.get(module_name)
    if module is None or getattr(module, "__file__", None) != str(path):
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # pydantic looks annotations up in the module of the class
        spec.loader.exec_module(module)
    classes = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Recipe) and member.__module__ == module_name
    ]
    assert len(classes) == 1, f"{path} defines {len(classes)} subclasses of Recipe; expected one"
    return classes[0]


def within(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or lies inside it, as names; links are not followed."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


Names = dict[str, Any]


def _unrolled(config: RoundsConfig) -> Iterator[tuple[StageConfig, int | None, Names]]:
    run, start = str(config.run_dir), str(config.start)

    def round_dir(number: int) -> str:
        return f"{run}/round-{number}"

    everywhere = {"run": run, "start": start}
    for stage in config.once:
        yield stage, None, {**everywhere, "best": start}
    for number in range(1, config.rounds + 1):
        names = {
            **everywhere,
            "best": start if number == 1 else f"{round_dir(number - 1)}/{config.best}",
            "round": number,
            "round_dir": round_dir(number),
            "every_round": [round_dir(earlier) for earlier in range(1, number + 1)],
        }
        for stage in config.each_round:
            yield stage, number, names
    last = {
        **everywhere,
        "best": f"{round_dir(config.rounds)}/{config.best}",
        "round": config.rounds,
        "round_dir": round_dir(config.rounds),
        "every_round": [round_dir(number) for number in range(1, config.rounds + 1)],
    }
    for stage in config.after:
        yield stage, None, last


def _stage(config: StageConfig, round_number: int | None, names: Names, recipes: Path, precision: str) -> Stage:
    cls = recipe_class(recipes, config.recipe)
    overrides = [f"{key}={_as_yaml(_expanded(value, names, f'set.{key}'))}" for key, value in config.set.items()]
    loaded = load_config(cls, config.config, overrides)
    if precision != AUTO and (left_open := precision_overrides(loaded, precision)):
        overrides += left_open
        loaded = load_config(cls, config.config, overrides)
    launch = config.launch
    if launch is not None and config.launch_rounds is not None and round_number not in config.launch_rounds:
        launch = None
    if launch is not None and not launch.is_file():
        raise ConfigError(
            "launch", f"there is no file {launch}", "Name an accelerate config, such as those in recipes/launch"
        )
    script = recipes / f"{config.recipe}.py"
    if within(script, Path.cwd()):
        script = Path(os.path.relpath(script))
    start = [sys.executable]
    if launch is not None:
        start += ["-m", "accelerate.commands.launch", "--config_file", str(launch)]
    return Stage(
        name=config.name,
        round=round_number,
        recipe=config.recipe,
        command=(*start, str(script), str(config.config), *overrides),
        config=loaded,
        launch=launch,
        show=config.show,
        inputs=paths_of(loaded, INPUT),
        outputs=paths_of(loaded, OUTPUT),
        code_starts=loaded.code_modules() or (recipes / f"{config.recipe}.py",),
    )


def _expanded(value: Any, names: Names, where: str) -> Any:
    """`value` with the names in braces filled in, through lists and mappings. "{round}" alone is a number."""
    if value == "{round}" and "round" in names:
        return names["round"]
    if isinstance(value, str):
        return _filled(value, names, where)
    if isinstance(value, list | tuple):
        out: list[Any] = []
        for item in value:
            if isinstance(item, str) and "{every_round}" in item and "every_round" in names:
                out.extend(_filled(item, {**names, "every_round": folder}, where) for folder in names["every_round"])
            else:
                out.append(_expanded(item, names, where))
        return out
    if isinstance(value, dict):
        return {key: _expanded(inner, names, where) for key, inner in value.items()}
    return value


def _filled(text: str, names: Names, where: str) -> str:
    try:
        named = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ConfigError(
            where, f"{text!r} has a brace too many or too few ({error})", "Write {{ for a brace"
        ) from None
    for name in named:
        if name not in names:
            raise ConfigError(where, f"{{{name}}} is not known here", f"Known: {', '.join(f'{{{n}}}' for n in names)}")
        if isinstance(names[name], list):
            raise ConfigError(where, f"{{{name}}} is allowed only in a list", f"Write a list: [{text!r}]")
    return text.format(**names)


def _as_yaml(value: Any) -> str:
    """A value as the right-hand side of key=value, so that reading it gives the same value back."""
    if isinstance(value, str) and value == value.strip() and re.fullmatch(r"[\w./-]+", value):
        try:
            if parse_yaml(f"value: {value}", value)[0] == {"value": value}:
                return value
        except (ConfigError, ValueError):
            pass  # such as 2024-13-45, which is no date: quoted below
    return json.dumps(value, ensure_ascii=False)


def _deciding(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config without the settings that change no result."""
    return {
        name: _deciding(value, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in values.items()
        if not changes_no_result(f"{prefix}{name}")
    }


def _blank(values: Any, key: Sequence[str]) -> None:
    for part in key[:-1]:
        values = values[int(part)] if isinstance(values, list) else values[part]
    if isinstance(values, list):
        values[int(key[-1])] = None
    else:
        values[key[-1]] = None


def _child(value: Any, part: str) -> Any:
    """The value under one part of a dotted key: of a section, a mapping or a list."""
    if isinstance(value, Section):
        return getattr(value, part)
    return value[int(part)] if isinstance(value, list | tuple) else value[part]


def _path_mistakes(stages: Sequence[Stage], run_dir: Path) -> Iterator[ConfigError]:
    made: list[tuple[Stage, Path]] = []
    reported = set()
    for stage in stages:
        where = f"stage {stage.label}"
        for key, path in stage.inputs.items():
            if path in reported:
                continue
            if within(path, run_dir):
                known = within(run_dir, path) or any(within(path, out) or within(out, path) for _, out in made)
                if not known:
                    reported.add(path)
                    how = "Name a file of an earlier stage, or move the stage after the one that makes it"
                    yield ConfigError(f"{where}: {key}", f"reads {path}, which no stage before it makes", how)
            elif not matching(path) and not is_hub_name(path):
                reported.add(path)
                how = "Run `make assets` first" if ".assets" in path.parts else "Name a file or folder that exists"
                how = f"Did you mean {similar}?" if (similar := similar_path(path)) else how
                yield ConfigError(f"{where}: {key}", f"there is no {path}", how)
        for key, path in stage.outputs.items():
            if not within(path, run_dir) or within(run_dir, path):
                how = f"Set it to a path under {run_dir}, such as {{run}} or {{round_dir}} with a name behind"
                yield ConfigError(f"{where}: {key}", f"writes {path}, which is not inside the run's folder", how)
            for other, out in made:
                if other is not stage and (within(path, out) or within(out, path)):
                    how = "Give each stage a folder of its own"
                    yield ConfigError(f"{where}: {key}", f"writes {path}, where stage {other.label} writes {out}", how)
        made.extend((stage, path) for path in stage.outputs.values())
