"""Evaluate a model, a reward model or both; every answer and score with 95% intervals, as JSON.

python recipes/run_eval.py recipes/configs/run_eval/rehearsal.yaml model.path=runs/rehearsal/round-1/average
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from align.config import Recipe, Section, main
from align.settings import ModelConfig, OutputPath, SamplingConfig
from eval.bfcl import BFCLConfig
from eval.factuality import FactualityConfig
from eval.reward_accuracy import RewardAccuracyConfig
from eval.tool_dialogs import ToolDialogsEvalConfig
from eval.tool_use import ToolUseConfig

NAMED = ("factuality", "tool_use", "tool_dialogs", "bfcl", "reward_accuracy")
"""The evaluations, in the order in which they run."""


class EvalSamplingConfig(SamplingConfig):
    """How the evaluated model answers: greedily, unless set otherwise."""

    temperature: float = Field(0.0, ge=0)
    """0 takes the likeliest token each time."""


class RunEvalRecipe(Recipe):
    """One section for each evaluation to run. One that was made from the same inputs is not run again."""

    model: ModelConfig | None = None
    reward_model: ModelConfig | None = None
    factuality: FactualityConfig | None = None
    tool_use: ToolUseConfig | None = None
    tool_dialogs: ToolDialogsEvalConfig | None = None
    bfcl: BFCLConfig | None = None
    reward_accuracy: RewardAccuracyConfig | None = None
    sampling: EvalSamplingConfig = EvalSamplingConfig()
    token_budget: int = Field(4096, gt=0)
    """Tokens that the reward model, or the model whose answers are scored, reads at one time."""
    limit: int | None = Field(None, gt=0)
    """At most so many rows in each evaluation, the same ones every time; None for all."""
    output_dir: OutputPath
    """`<name>.json` for each evaluation."""

    @model_validator(mode="after")
    def _has_what_it_evaluates(self) -> Self:
        if not self.sections:
            raise ValueError(f"expected an evaluation ({', '.join(NAMED)}), found none")
        asked = [name for name in self.sections if name != "reward_accuracy"]
        if self.model is None and asked:
            raise ValueError(f"expected a model for {' and '.join(asked)}, found none")
        if self.reward_model is None and self.reward_accuracy:
            raise ValueError("expected a reward_model for reward_accuracy, found none")
        return self

    @property
    def sections(self) -> dict[str, Section]:
        named: dict[str, Section | None] = {name: getattr(self, name) for name in NAMED}
        return {name: section for name, section in named.items() if section is not None}

    def code_modules(self) -> tuple[str, ...]:
        return ("eval.runner", *(type(section).__module__ for section in self.sections.values()))


def run(recipe: RunEvalRecipe) -> Path:
    """Evaluate, print the scores, and return the folder of the results."""
    from align.files import sole_writer

    with sole_writer(recipe.output_dir, "output_dir"):
        return _run(recipe)


def _run(recipe: RunEvalRecipe) -> Path:
    from align.precision import resolved
    from eval.catalog import run_evaluations
    from eval.runner import table

    recipe = resolved(recipe, recipe.output_dir)
    results = run_evaluations(
        recipe.sections,
        model=recipe.model,
        reward_model=recipe.reward_model,
        sampling=recipe.sampling,
        token_budget=recipe.token_budget,
        limit=recipe.limit,
        output_dir=recipe.output_dir,
    )
    print(table(results))
    return recipe.output_dir


if __name__ == "__main__":
    main(RunEvalRecipe, run)
