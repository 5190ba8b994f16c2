"""Collect comparisons of two completions from people, on a local web page.

Llama 3's preference data was collected in this way (The Llama 3 Herd of Models, section 4.2.1).

python recipes/annotate.py recipes/configs/annotate/default.yaml
python recipes/annotate.py recipes/configs/annotate/default.yaml export=runs/my/ratings.jsonl
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from align.config import Recipe, main
from align.settings import ModelConfig, OutputPath, SamplingConfig
from data_builders.annotation.settings import RatingConfig, ServerConfig, TasksConfig, ToolTurnsConfig


class AnnotateRecipe(Recipe):
    """A page on which raters compare completions. After a crash, the same command continues with all judgements."""

    tasks: TasksConfig
    models: dict[str, ModelConfig] = Field(default_factory=dict)
    """Name -> model that answers while raters work. All are in memory at once, in sampling.dtype. Without models only
    ready comparisons are shown. One model refines answers. Of two or more, two are chosen at random each time; they
    answer prompts and continue dialogs (Llama 3, section 4.2.1: two responses from two different models)."""
    sampling: SamplingConfig = SamplingConfig()
    """How the models answer."""
    rating: RatingConfig = RatingConfig()
    tools: ToolTurnsConfig | None = None
    """Tools for dialogs that are compared message by message: the calls of the chosen message are made, and the models
    continue with the results. Requires two models."""
    server: ServerConfig = ServerConfig()
    database: OutputPath
    """The SQLite file of the judgements. Each is saved before the page confirms it."""
    export: OutputPath | None = None
    """Write the judgements to this JSONL file, which the builder `preferences` reads, and exit. The page may run
    meanwhile."""

    @model_validator(mode="after")
    def _prompts_have_two_models(self) -> Self:
        if self.tasks.prompts and len(self.models) < 2:
            raise ValueError(f"tasks.prompts requires two models to answer, found {len(self.models)}")
        if self.tools is not None and (len(self.models) < 2 or self.rating.max_turns == 1):
            raise ValueError("tools require two models and rating.max_turns above 1, so that dialogs continue")
        return self


def run(recipe: AnnotateRecipe) -> Path:
    """Serve the page until it is interrupted, or export; return the database or the exported file."""
    from data_builders.annotation.store import Store

    if recipe.export is not None:
        from data_builders.annotation.export import export

        return export(recipe.database, recipe.export, recipe)
    from data_builders.annotation.server import Server
    from data_builders.annotation.tasks import read_tasks

    tasks = read_tasks(recipe.tasks, recipe.rating.seed)
    server = Server(recipe.server)  # before any model: a port that is in use is reported at once
    multi_turn, runs_tools = len(recipe.models) > 1, recipe.tools is not None
    store = Store(recipe.database, recipe.rating, multi_turn=multi_turn, runs_tools=runs_tools)
    store.add(tasks)
    answers = None
    if recipe.models:
        from align.precision import resolved
        from data_builders.annotation.answers import Answers, load_models

        answers = Answers(load_models(recipe.models, resolved(recipe).sampling), store, recipe.rating)
    tools = None
    if recipe.tools is not None:
        from data_builders.annotation.tool_turns import ToolTurns

        tools = ToolTurns(recipe.tools, store)
        tools.check(tasks)
    server.run(store, answers, tools)
    return recipe.database


if __name__ == "__main__":
    main(AnnotateRecipe, run)
