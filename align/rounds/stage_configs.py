"""The stages that a file of rounds describes, and how it changes stages that it shares with other such files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from align.config import Recipe, Section, load_config
from align.errors import ConfigError
from align.rounds.launchers import ResourcesConfig


class StageConfig(Section):
    """One stage: a recipe, its YAML, and what is set on top of it. Texts may hold names in braces."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    """What the stage is called: in the ledger, the log and the report. By habit also the folder that it writes. With
    `stages`, the name of a stage of that file: what is given here replaces what the file says, key by key in `set`."""
    recipe: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]*$")
    """Which script of recipes/ it runs, without .py. Required, unless another stage's is taken."""
    config: Path | None = None
    """The YAML that the recipe reads. Required, unless another stage's is taken."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted key -> value, laid over the YAML as key=value on the recipe's command line. Texts may hold names in
    braces, of which docs/rounds.md has a table: {run}, {start}, {rounds}, {best}, {best:NAME}; in a round {round},
    {round_dir}, {former_round}, {former_round_dir}, and in lists {every_round} and {every_round_number}: such an item
    becomes one item for each round up to this one. {round_dir:2} and {every_round:2} leave a list item out before round
    2, and {round_dir:1-3} after round 3. After the rounds, the last one that ran counts, and {best_round_dir} is the
    folder of the round that made {best}: a stage that names it is left out while `start` is the best. `variables` are
    further names."""
    launch: Path | None = None
    """An accelerate config: the recipe runs under `accelerate launch --config_file` of it. None: one plain process."""
    launch_rounds: tuple[int, ...] | None = None
    """The rounds in which `launch` holds; None for all."""
    resources: ResourcesConfig | None = None
    """What it needs of the machine that it runs on, where this differs from `launcher`."""
    first_round: int = Field(1, gt=0)
    """A stage of a round is left out before this round, such as one that reads what the former round made."""
    show: bool = False
    """Show on the terminal all that the stage prints, not only its progress."""
    like: str | None = None
    """Another stage of the same part, which this one repeats except for what is given here: such as a second DPO run
    with another beta."""
    before: str | None = None
    """The stage of the same part before which this one runs. None: after all that are listed before it."""


class StagesFile(Recipe):
    """Stages that several files of rounds share."""

    once: tuple[StageConfig, ...] = ()
    """Before the rounds."""
    each_round: tuple[StageConfig, ...] = ()
    """In every round."""
    after: tuple[StageConfig, ...] = ()
    """After the last round."""


PARTS = ("once", "each_round", "after")


def combined(own: StagesFile, path: Path | None) -> StagesFile:
    """The stages of a file of rounds, together with those of the file that it shares with others.

    Raises ConfigError for a mistake in that file, ValueError for stages that contradict each other.
    """
    try:
        shared = StagesFile() if path is None else load_config(StagesFile, path)
    except ConfigError as error:  # `where` will be the file of rounds
        raise ConfigError(error.where, f"{error.where}: {error.what}", error.how) from None
    parts: dict[str, tuple[StageConfig, ...]] = {}
    for part in PARTS:
        for stages in (getattr(shared, part), getattr(own, part)):
            names = [stage.name for stage in stages]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{part} has two stages named {twice[0]}")
        parts[part] = tuple(_laid_over(getattr(shared, part), getattr(own, part), part))
    return StagesFile(**parts)


def _laid_over(shared: Sequence[StageConfig], own: Sequence[StageConfig], part: str) -> list[StageConfig]:
    """The shared stages with the changes of `own`, and the stages that `own` adds, each in its place."""
    found = {stage.name: stage for stage in shared}
    order = [stage.name for stage in shared]
    for stage in own:
        for key in ("like", "before"):
            other = getattr(stage, key)
            if other is not None and other not in found:
                raise ValueError(f"{part}: {stage.name}: {key} names {other}, which is no stage before it in {part}")
        if stage.name in found:
            if stage.like or stage.before:
                raise ValueError(f"{part}: {stage.name} is a shared stage, which like and before cannot change")
            found[stage.name] = _changed(found[stage.name], stage)
            continue
        order.insert(order.index(stage.before) if stage.before else len(order), stage.name)
        found[stage.name] = stage if stage.like is None else _changed(found[stage.like], stage)
    for stage in found.values():
        for key in ("recipe", "config"):
            if getattr(stage, key) is None:
                raise ValueError(f"{part}: {stage.name}: {key} is required, and no shared stage of this name has one")
    return [found[name] for name in order]


def _changed(stage: StageConfig, change: StageConfig) -> StageConfig:
    given = {key: getattr(change, key) for key in change.model_fields_set}
    return stage.model_copy(update={**given, "set": {**stage.set, **change.set}})
