"""Collect comparisons in a round: two models answer each prompt, and raters compare the answers.

The Llama 3 Herd of Models, section 4.2.1. The page is that of `recipes/annotate.py`; here its models, its end and its
rows are part of a run.

python recipes/collect.py recipes/configs/collect/default.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from align.config import Recipe, main
from align.settings import InputSource, InputSources, ModelConfig, OutputPath, Reading, SamplingConfig
from data_builders.annotation.settings import RatingConfig, ScriptedRaterConfig, ServerConfig, ToolTurnsConfig
from data_builders.quality.settings import DecontaminationConfig

ModelName = Annotated[str, StringConstraints(pattern=r"^[\w.-]+$")]


class CollectRecipe(Recipe, Reading):
    """A page on which raters compare answers of several models, until a batch is complete. It can be killed at any
    time: the same command continues with all answers and judgements. The file `finish` in output_dir ends it early."""

    prompts: InputSources
    """Prompts: a file, a Hub dataset, or a list of them. A prompt may offer functions in its column `tools`."""
    limit: int | None = Field(None, ge=1)
    """Number of prompts, drawn at random. None for all."""
    evaluation: tuple[InputSource, ...] = ()
    """Evaluation sets. Prompts and rows that repeat one of their examples are dropped and counted."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    models: dict[ModelName, ModelConfig] = Field(min_length=2)
    """Name -> model. Two different ones are drawn for each prompt and turn, such as checkpoints of the last round that
    were trained in different ways. Raters do not see which."""
    sampling: SamplingConfig = SamplingConfig()
    """How the models answer. An answer that reaches the length limit is not compared."""
    samples: int = Field(1, ge=1)
    """Answers sampled from a model for each prompt, of which one that did not reach the length limit is drawn."""
    unit_size: int = Field(32, gt=0)
    """Prompts in one unit of work. A crash loses at most one unit of answers."""
    rating: RatingConfig = RatingConfig()
    """Who judges, and how often. With max_turns above 1 the models stay in memory, because dialogs continue."""
    comparisons: int | None = Field(None, ge=1)
    """The batch is complete when this number of prompts has the judgements of rating.raters_per_pair raters. None for
    all prompts."""
    tools: ToolTurnsConfig | None = None
    """Tools for dialogs that are compared message by message: the calls of the chosen message are made, and the models
    continue with the results. Requires rating.max_turns above 1."""
    scripted_rater: ScriptedRaterConfig | None = None
    """Judge by a program, without people or next to them."""
    server: ServerConfig = ServerConfig()
    round: int | None = Field(None, ge=0)
    """The round of post-training, which is written into the rows."""
    batch: str = ""
    """Name of the batch, such as a week, which is written into the rows."""
    majority: float = Field(0.5, ge=0.5, le=1)
    """Ratio of a comparison's judgements, ties included, that must prefer the same answer; more than half is always
    required."""
    heldout_ratio: float = Field(0.0, ge=0, lt=1)
    """Ratio of the prompts whose rows go to preferences.heldout.jsonl."""
    judgements: Path
    """The SQLite file of the judgements, outside of output_dir: when a stage of a run is made again, its output folder
    is deleted, and the work of people must not be."""
    output_dir: OutputPath
    """The folder of ratings.jsonl (all judgements), preferences.jsonl (rows) and the answers of the models."""

    @model_validator(mode="after")
    def _judgements_are_kept(self) -> Self:
        if self.judgements.resolve().is_relative_to(self.output_dir.resolve()):
            raise ValueError("judgements is inside output_dir, which is deleted when the stage is made again")
        if self.tools is not None and self.rating.max_turns == 1:
            raise ValueError("tools require rating.max_turns above 1: each message after results of tools is a turn")
        return self


def run(recipe: CollectRecipe) -> Path:
    """Let models answer, serve the page until the batch is complete, and return the folder of the rows."""
    from align.files import sole_writer
    from align.models.preflight import require_inputs
    from align.sampling.workers import require_one_process

    require_one_process("collect")
    require_inputs(recipe)
    with sole_writer(recipe.output_dir, "output_dir"):
        return _run(recipe)


def _run(recipe: CollectRecipe) -> Path:
    from align.jsonl import Drops
    from align.precision import resolved
    from align.publish.names import shown_path
    from data_builders.annotation.answers import Answers, load_models
    from data_builders.annotation.collection import (
        Answering,
        BatchRules,
        answer_prompts,
        choose_prompts,
        serve,
        write_batch,
    )
    from data_builders.annotation.scripted_rater import ScriptedRater
    from data_builders.annotation.server import Server
    from data_builders.annotation.settings import TasksConfig
    from data_builders.annotation.store import Store
    from data_builders.annotation.tasks import read_tasks
    from data_builders.annotation.tool_turns import ToolTurns
    from data_builders.quality.decontamination import Decontamination

    recipe = resolved(recipe, recipe.output_dir)
    seed, folder = recipe.rating.seed, recipe.output_dir
    server = Server(recipe.server)  # before any model: a port that is in use is reported at once
    evaluation = Decontamination.of(recipe.evaluation, recipe.decontamination, recipe.bad_rows)
    prompts = choose_prompts(recipe.prompts, recipe, evaluation, recipe.limit, seed)
    continues = recipe.rating.max_turns > 1
    store = Store(
        recipe.judgements,
        recipe.rating,
        multi_turn=continues,
        runs_tools=recipe.tools is not None,
        enough=recipe.comparisons,
    )
    tools = None if recipe.tools is None else ToolTurns(recipe.tools, store)
    if tools is not None:
        tools.check(prompts)
    answering = Answering(recipe.models, recipe.sampling, recipe.samples, recipe.unit_size, recipe.round, seed)
    files = answer_prompts(prompts, answering, folder)
    drops = Drops()
    store.renew(read_tasks(TasksConfig(candidates=dict(files), batch=recipe.batch, round=recipe.round), seed, drops))
    scripted = None if recipe.scripted_rater is None else ScriptedRater(recipe.scripted_rater)
    answers = Answers(load_models(recipe.models, recipe.sampling), store, recipe.rating) if continues else None
    serve(server, store, folder, answers=answers, tools=tools, scripted=scripted)
    names = {name: shown_path(model.path) for name, model in recipe.models.items()}
    rules = BatchRules(recipe.majority, recipe.heldout_ratio, seed, recipe.evaluation, recipe.decontamination)
    return write_batch(recipe.judgements, folder, recipe, rules, names, drops.reasons)


if __name__ == "__main__":
    main(CollectRecipe, run)
