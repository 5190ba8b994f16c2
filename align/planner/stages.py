"""The stages of a config, each with its plan: one of a recipe's config, or all of a file of rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from align.config import Section, load_config
from align.errors import ConfigError
from align.models.shapes import shape_of
from align.planner.launches import Launch, launch_of
from align.planner.plan import StagePlan
from align.planner.sampling import SamplingStage, ScoringStage, gpus_of, plan_sampling, plan_scoring
from align.planner.settings import MachineConfig, RowsConfig
from align.planner.training import COMPLETIONS, TrainingStage, plan_training
from align.rounds.names import overrides_of
from align.rounds.plan import RoundsConfig, load_stages, recipe_class
from align.settings import ModelConfig, SamplingConfig

_FOLDERS = {"data": "build_data"}
"""Folder of recipes/configs -> its recipe, where the names differ."""
_SAMPLED = ("model", "judge_model", "judge", "opponent", "models")
_SCORED = ("reward_model", "heldout_judge")


def plans(
    file: Path,
    recipes: Path,
    machine: MachineConfig,
    rows: RowsConfig,
    *,
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
    launch: Path | None = None,
    shape: str | Path | None = None,
) -> list[StagePlan]:
    """The plan of each stage of a config, in order. The stages of later rounds follow only where their plan differs.

    file: a recipe's YAML, or a file of rounds. recipes: the folder of the recipe scripts. recipe: the recipe's name;
        None for the name of the folder that the file is in. settings: over those of the file, in sections. launch: the
        launch file of a recipe's config; None for ZeRO-3 if there are several GPUs. shape: the shape of models that are
        not on this machine and whose path names none.
    Raises ConfigError for a config that its recipe would refuse, and where the shape of a model is not known.
    """
    name = recipe or _FOLDERS.get(file.parent.name, file.parent.name)
    if not (recipes / f"{name}.py").is_file():
        raise ConfigError(
            file, f"is in no folder of a recipe, and {name} is none", "Set recipe= to the recipe that reads it"
        )
    overrides = list(overrides_of(settings or {}))
    found: list[StagePlan] = []
    if name == "rounds":
        config = load_config(RoundsConfig, file, overrides)
        planned: dict[str, list[StagePlan]] = {}  # stage name -> its plans, without the round in the label
        for stage in load_stages(config, recipes):
            started = launch_of(stage.launch, machine, recipes.parent)
            otherwise = shape or config.start
            for plan in _of_stage(stage.name, stage.recipe, stage.config, started, machine, rows, otherwise):
                earlier = planned.setdefault(plan.label, [])
                if plan not in earlier:
                    later = replace(plan, label=f"{plan.label} (round {stage.round})")
                    found.append(later if earlier else plan)
                    earlier.append(plan)
        return found
    loaded = load_config(recipe_class(recipes, name), file, overrides)
    started = _default_launch(loaded, launch, recipes, machine)
    return list(_of_stage(file.stem, name, loaded, started, machine, rows, shape))


def _default_launch(config: Section, launch: Path | None, recipes: Path, machine: MachineConfig) -> Launch:
    model = getattr(config, "model", None)
    trains = getattr(config, "training", None) is not None
    if launch is None and trains and (machine.gpus or 1) > 1 and getattr(model, "quantization", None) is None:
        name = "zero3_cpu.yaml" if machine.device == "cpu" else "zero3.yaml"
        launch = recipes / "launch" / name
    if launch is not None:
        return launch_of(launch, machine, recipes.parent)
    return Launch(machine.gpus or 1, name="whole models", counts_gpus=machine.gpus is not None)


def _of_stage(
    label: str,
    recipe: str,
    config: Any,
    launch: Launch,
    machine: MachineConfig,
    rows: RowsConfig,
    otherwise: str | Path | None,
) -> Iterator[StagePlan]:
    if recipe in COMPLETIONS:
        shape, model = _shape(config.model.path, otherwise, "model.path")
        launch = launch.on(machine, 1, label)
        reference = recipe == "dpo" and config.dpo.loss != "simpo"
        stage = TrainingStage(
            label, recipe, shape, model, config.model, config.training, config.data, launch, reference
        )
        yield plan_training(stage, machine, rows)
        return
    models = list(_models(config, ""))
    if recipe == "average" and config.search is not None:  # every mean that is tried answers questions
        models.append(("search", Path(config.checkpoints[0].path), config.search.sampling))
    sampled_with = (how for _, _, how in models if isinstance(how, SamplingConfig))
    launch = launch.on(machine, max(map(gpus_of, sampled_with), default=1), label)
    completions = int(getattr(config, "k", 1))
    for key, path, sampling in models:
        shape, model = _shape(path, otherwise, key)
        if isinstance(sampling, SamplingConfig):
            if sampling.backend != "server":
                sampled = SamplingStage(f"{label}: {key}", recipe, shape, model, sampling, completions, launch)
                yield plan_sampling(sampled, machine, rows)
        else:
            section, budget = sampling
            scored = ScoringStage(f"{label}: {key}", recipe, shape, model, section, budget, completions, launch)
            yield plan_scoring(scored, machine, rows)
    if not models:
        yield StagePlan(label, recipe)


def _models(config: Any, prefix: str, sampling: Any = None, budget: int = 4096) -> Iterator[tuple[str, Path, Any]]:
    """(Key, path, how it is used) of every model that a config samples or scores with, in sections too.

    How: its SamplingConfig, or the section of a model that scores with the tokens of a row.
    """
    sampling = getattr(config, "sampling", sampling)
    budget = getattr(config, "token_budget", budget)
    for name in type(config).model_fields:
        value = getattr(config, name)
        key = f"{prefix}{name}"
        if name in _SCORED and isinstance(value, ModelConfig):
            yield key, value.path, (value, budget)
        elif name in _SAMPLED and value is not None:
            own = getattr(config, f"{name}_sampling", sampling)
            for each, path in _paths(value, key):
                if isinstance(own, SamplingConfig):
                    yield each, path, own
        elif isinstance(value, Section) and not isinstance(value, ModelConfig | SamplingConfig):
            yield from _models(value, f"{key}.", sampling, budget)


def _paths(value: Any, key: str) -> Iterator[tuple[str, Path]]:
    if isinstance(value, ModelConfig):
        yield key, Path(value.path)
    elif isinstance(value, Path):
        yield key, value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _paths(each, f"{key}.{name}")


def _shape(path: Path, otherwise: str | Path | None, key: str) -> tuple[str, str]:
    name, config = shape_of(path, otherwise, key=key)
    return name, str(config.to_json_string(use_diff=False))
