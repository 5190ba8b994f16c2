"""The plan of a run: which stages, in which order, with which settings; checked whole before anything starts.

A stage is one recipe run as a process of its own. Stages meet through files: what a stage reads and makes is found by
the InputPath and OutputPath marks in its recipe's config. A round is planned again when it starts, because its stages
read the best model so far, and data that arrived since. `names.py` fills in names in braces, `inputs.py` finds paths
that do not fit or are not there yet, `best.py` chooses. Running the plan is `driver.py`. No torch here.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from align.config import Recipe, dump, joined, load_config
from align.errors import ConfigError
from align.precision import AUTO
from align.precision import overrides as precision_overrides
from align.rounds.best import BestConfig, Choice, choose, rule_mistakes
from align.rounds.extras import missing_libraries
from align.rounds.inputs import path_mistakes
from align.rounds.launchers import LauncherConfig, LocalNeeds, allocation, local_needs
from align.rounds.names import NAMES, Names, as_yaml, fill
from align.rounds.restarts import RestartsConfig
from align.rounds.stage import Stage, within
from align.rounds.stage_configs import StageConfig, StagesFile, combined
from align.settings import INPUT, OUTPUT, InputPath, OutputPath, paths_of


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
    best: BestConfig
    """How {best}, the best model so far, is chosen: the name of a stage of a round, whose newest model is taken, or a
    rule over evaluations on a development split."""
    experts: dict[str, BestConfig] = Field(default_factory=dict)
    """Name -> another rule, whose model is {best:NAME}: such as the best model for calling tools, which samples the
    candidates of prompts with tools (Llama 3, section 4.2.2)."""
    how_to_make: dict[str, str] = Field(default_factory=dict)
    """Path, or a pattern of paths with `*` -> how these files are made, for the message of a round that waits for them.
    The text may hold {round}."""
    stages: Path | None = None
    """A file with stages that several files of rounds share, such as recipes/stages/llama3.yaml. `once`, `each_round`
    and `after` then change them, by name, and add further ones. None: they hold all stages."""
    variables: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    """Further names in braces, for `config`, `launch` and `set` of the stages. A value may hold names itself."""
    once: tuple[StageConfig, ...] = ()
    """Before the rounds."""
    each_round: tuple[StageConfig, ...] = ()
    """In every round."""
    after: tuple[StageConfig, ...] = ()
    """After the last round."""
    launcher: LauncherConfig = LauncherConfig()
    """Where stages run, and how many at a time; by default as processes on this machine, one after the other."""
    restarts: RestartsConfig = RestartsConfig()
    """How often a stage that failed is started again, by cause."""
    stop_seconds: float = Field(120, gt=0)
    """How long a stage may take to save and leave after Ctrl-C or SIGTERM before it is killed."""
    changed_code: Literal["remake", "keep"] = "remake"
    """remake: a finished stage whose code changed is made again: the files that its recipe imports, comments aside, and
    the versions of the libraries that compute its result. keep: it is left as it is, also if the new code has settings
    that it was made without, at their defaults; a stage that was interrupted goes on, and the log says what changed.
    For a fix or an upgrade that is known not to touch the result."""

    @model_validator(mode="after")
    def _names_hold_together(self) -> Self:
        parts = self.all_stages
        each_round, once, after = (
            {stage.name for stage in part} for part in (parts.each_round, parts.once, parts.after)
        )
        if not each_round:
            raise ValueError("each_round has no stage")
        if shared := once & after:
            raise ValueError(f"once and after have both a stage named {min(shared)}")
        for name, rule in self.rules.items():
            for each in (rule.stage, rule.evaluation):
                if each is not None and each not in each_round:
                    raise ValueError(f"{name} names {each}, which is no stage of each_round")
            if rule.start_evaluation is not None and rule.start_evaluation not in once:
                raise ValueError(f"{name} names {rule.start_evaluation}, which is no stage of once")
        text = json.dumps([dump(parts), self.variables])
        for name in self.variables:
            if name in NAMES:
                raise ValueError(f"variables has {name}, which is a name already")
            if f"{{{name}}}" not in text:
                raise ValueError(f"variables has {name}, which no stage uses")
        return self

    @cached_property
    def all_stages(self) -> StagesFile:
        """The stages of this file and of the shared one, complete and in order."""
        return combined(StagesFile(once=self.once, each_round=self.each_round, after=self.after), self.stages)

    @property
    def rules(self) -> dict[str, BestConfig]:
        """Every rule by its name in braces: `best`, `best:tools`."""
        return {"best": self.best, **{f"best:{name}": rule for name, rule in self.experts.items()}}

    def choices(self, rounds: int) -> dict[str, Choice]:
        """Name of a rule -> the best model after `rounds` rounds, by the evaluations that are on disk."""
        return {name: choose(rule, self.run_dir, self.start, rounds) for name, rule in self.rules.items()}

    def chosen_by(self, rounds: int) -> set[str]:
        """Labels of the stages of a round, and of those before the rounds, without which `choices` is not final."""
        found: set[str] = set()
        for rule in self.rules.values():
            if rule.evaluation is not None:
                found |= {f"round-{rounds}/{rule.evaluation}", *filter(None, [rule.start_evaluation])}
        return found


def plan(config: RoundsConfig, recipes: Path) -> list[Stage]:
    """Every stage of the run in order, each with its config loaded and what it reads and writes checked.

    Data from outside must be there for the stages before the rounds and for the first round; that of later rounds may
    arrive later (`missing_inputs`). Where {best} is not known yet, each round counts as better than those before.

    recipes: the folder of the recipe scripts.
    Raises ConfigError with one line for each mistake, in whichever stages they are.
    """
    stages = load_stages(config, recipes)
    mistakes = [*path_mistakes(stages, config.run_dir, config.how_to_make), *missing_libraries(stages)]
    by_label = {stage.label: stage for stage in stages}
    for name, rule in config.rules.items():
        mistakes += rule_mistakes(rule, name.replace("best:", "experts."), by_label, config.run_dir)
    if mistakes:
        raise joined(mistakes)
    return stages


def load_stages(config: RoundsConfig, recipes: Path) -> list[Stage]:
    """The stages with their configs, without a look at the disk for what they read. Raises as `plan`."""
    everything = [*_before(config)]
    for number in range(1, config.rounds + 1):
        everything += _of_round(config, number)
    return _loaded([*everything, *_after(config, config.rounds)], config, recipes)


def labels(config: RoundsConfig) -> list[str]:
    """The labels of all stages in order, from the names in the config alone: no stage's own config is read."""
    rounds, parts = range(1, config.rounds + 1), config.all_stages
    in_rounds = [(number, stage) for number in rounds for stage in parts.each_round if number >= stage.first_round]
    once, after = ([stage.name for stage in stages] for stages in (parts.once, parts.after))
    return [*once, *(f"round-{number}/{stage.name}" for number, stage in in_rounds), *after]


def stages_before(config: RoundsConfig, recipes: Path) -> list[Stage]:
    """The stages before the rounds."""
    return _loaded(_before(config), config, recipes)


def stages_of_round(config: RoundsConfig, recipes: Path, number: int) -> list[Stage]:
    """The stages of a round. {best} is chosen by the evaluations of the rounds before it that are on disk."""
    return _loaded(_of_round(config, number), config, recipes)


def stages_after(config: RoundsConfig, recipes: Path, last: int) -> list[Stage]:
    """The stages after the rounds, of which `last` was the last one."""
    return _loaded(_after(config, last), config, recipes)


Unloaded = tuple[StageConfig, int | None, Names]
"""A stage, its round, and the names that its settings may hold."""


def _loaded(unloaded: Iterable[Unloaded], config: RoundsConfig, recipes: Path) -> list[Stage]:
    stages: list[Stage] = []
    mistakes: dict[str, ConfigError] = {}  # by message: the same mistake occurs in every round
    for stage_config, round_number, names in unloaded:
        try:
            stages.append(_stage(stage_config, round_number, names, recipes, config))
        except ConfigError as error:
            located = ConfigError(f"stage {stage_config.name}: {error.where}", error.what, error.how)
            mistakes.setdefault(str(located), located)
    if mistakes:
        raise joined(list(mistakes.values()))
    return stages


def _before(config: RoundsConfig) -> Iterator[Unloaded]:
    names = _names(config, config.choices(0))
    yield from ((stage, None, names) for stage in config.all_stages.once)


def _of_round(config: RoundsConfig, number: int) -> Iterator[Unloaded]:
    names = _names(config, config.choices(number - 1), number)
    yield from ((stage, number, names) for stage in config.all_stages.each_round if number >= stage.first_round)


def _after(config: RoundsConfig, last: int) -> Iterator[Unloaded]:
    choices = config.choices(last)
    names = _names(config, choices, last)
    chosen = choices["best"].round
    if chosen:
        names = names.with_values(best_round_dir=_round_dir(config, chosen))
    for stage in config.all_stages.after:
        if chosen or "{best_round_dir}" not in json.dumps(stage.set):
            yield stage, None, names


def _names(config: RoundsConfig, choices: dict[str, Choice], number: int | None = None) -> Names:
    """number: the round; None before the rounds."""
    values: dict[str, Any] = {"run": str(config.run_dir), "start": str(config.start), "rounds": config.rounds}
    values |= {name: str(choice.path) for name, choice in choices.items()}
    if number is not None:
        rounds = range(1, number + 1)
        values |= {"round": number, "round_dir": _round_dir(config, number)}
        if number > 1:
            values |= {"former_round": number - 1, "former_round_dir": _round_dir(config, number - 1)}
        values |= {"every_round": [_round_dir(config, each) for each in rounds], "every_round_number": [*rounds]}
    return Names(values, config.variables)


def _round_dir(config: RoundsConfig, number: int) -> str:
    return f"{config.run_dir}/round-{number}"


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


def _stage(config: StageConfig, round_number: int | None, names: Names, recipes: Path, whole: RoundsConfig) -> Stage:
    assert config.recipe is not None
    cls = recipe_class(recipes, config.recipe)
    yaml = Path(fill(str(config.config), names, "config"))
    overrides = [f"{key}={as_yaml(fill(value, names, f'set.{key}'))}" for key, value in config.set.items()]
    loaded = load_config(cls, yaml, overrides)
    if whole.precision != AUTO and (left_open := precision_overrides(loaded, whole.precision)):
        overrides += left_open
        loaded = load_config(cls, yaml, overrides)
    launch = _launch(config, round_number, names)
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
        command=(*start, str(script), str(yaml), *overrides),
        config=loaded,
        launch=launch,
        allocation=(asked := allocation(whole.launcher, config.resources, launch)),
        local=LocalNeeds() if asked else local_needs(whole.launcher, config.resources, launch),
        show=config.show,
        inputs=paths_of(loaded, INPUT),
        outputs=paths_of(loaded, OUTPUT),
        code_starts=loaded.code_modules() or (recipes / f"{config.recipe}.py",),
    )


def _launch(config: StageConfig, round_number: int | None, names: Names) -> Path | None:
    if config.launch is None or (config.launch_rounds is not None and round_number not in config.launch_rounds):
        return None
    named = fill(str(config.launch), names, "launch")
    if named is None:  # a variable that has no value
        return None
    launch = Path(named)
    if not launch.is_file():
        how = "Name an accelerate config, such as those in recipes/launch"
        raise ConfigError("launch", f"there is no file {launch}", how)
    return launch
