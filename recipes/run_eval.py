"""Evaluate a model, a reward model or both; every answer and score with 95% intervals, as JSON.

python recipes/run_eval.py recipes/configs/run_eval/rehearsal.yaml model.path=runs/rehearsal/round-1/average
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from align.config import main
from align.settings import ModelConfig, OutputPath
from eval.catalog import (
    EVALUATIONS,
    EvalAlarmsConfig,
    EvalSamplingConfig,
    EvaluatingRecipe,
    missing_subject,
    run_evaluations,
)


class RunEvalRecipe(EvaluatingRecipe):
    """One section for each evaluation to run. An evaluation with unchanged inputs and settings is not run again."""

    model: ModelConfig | None = None
    """What the evaluations of a model ask."""
    reward_model: ModelConfig | None = None
    """What the evaluations of a reward model score with."""
    sampling: EvalSamplingConfig = EvalSamplingConfig()
    token_budget: int = Field(4096, gt=0)
    """Tokens in one forward pass of the reward model, or of the model whose answers are scored."""
    limit: int | None = Field(None, gt=0)
    """Evaluate at most this many rows in each evaluation, the same ones every time; None for all."""
    alarms: EvalAlarmsConfig = EvalAlarmsConfig()
    """Answers that repeat each other, are nearly empty, break off, or become shorter from round to round."""
    development: bool = False
    """Whether the rows are development rows, by which models are chosen. The report of the rounds leaves the results
    out: the score of the best of several models is higher than that model's score on other rows."""
    output_dir: OutputPath
    """`<name>.json` for each evaluation."""

    @model_validator(mode="after")
    def _has_what_it_evaluates(self) -> Self:
        if not self.sections:
            raise ValueError(f"expected an evaluation ({', '.join(EVALUATIONS)}), found none")
        if missing := missing_subject(self.sections, {"model": self.model, "reward_model": self.reward_model}):
            raise ValueError(missing)
        return self


def run(recipe: RunEvalRecipe) -> Path:
    """Evaluate, print the scores, and return the folder of the results."""
    from align.files import sole_writer
    from align.models.preflight import require_inputs
    from align.sampling.workers import require_one_process

    require_one_process("run_eval")
    require_inputs(recipe)
    with sole_writer(recipe.output_dir, "output_dir"):
        return _run(recipe)


def _run(recipe: RunEvalRecipe) -> Path:
    from align.precision import resolved
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
        alarms=recipe.alarms,
    )
    print(table(results))
    return recipe.output_dir


if __name__ == "__main__":
    main(RunEvalRecipe, run)
