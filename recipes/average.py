"""Average checkpoints of one architecture into one, with weights given or chosen by an evaluation.

python recipes/average.py recipes/configs/average/llama3.1-8b.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from align.config import Section, main
from align.config_values import usable_path
from align.settings import HubConfig, InputPath, OutputPath
from eval.average_search import SearchConfig, average_by_search, contradiction
from eval.catalog import EvaluatingRecipe


class MemberConfig(Section):
    """A checkpoint and its weight in the mean."""

    path: InputPath
    """A folder with a whole model, or a name on the Hub. The mean takes config and tokenizer of the first member. All
    members may be LoRA adapters over one base: the mean is then an adapter, whose rank is the sum of theirs."""
    weight: float | None = Field(None, gt=0, le=1)
    """Weight in the mean. The weights of all members must add up to 1. Without any, all weights are equal (the Llama 3
    paper does not give its weights)."""


class AverageRecipe(EvaluatingRecipe):
    """The weighted mean of checkpoints, summed in float64 (Llama 3, section 4.1.5).

    A member is a path, or a path and a weight: `checkpoints: [{path: runs/dpo, weight: 0.75}, {path: runs/sft, weight:
    0.25}]`. With the section `search` and an evaluation the weights are chosen by its scores.
    """

    checkpoints: tuple[MemberConfig, ...] = Field(min_length=1)
    """What is averaged: paths for equal weights, or entries with a path and a weight each."""
    search: SearchConfig | None = None
    """Choose the weights. None: they are given, or equal."""
    output_dir: OutputPath
    """Where the mean is written: a folder that does not exist, is empty, or contains an earlier mean."""
    hub: HubConfig | None = None

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _a_path_is_a_member(cls, members: Any) -> Any:
        if not isinstance(members, list | tuple):
            return members
        return tuple({"path": usable_path(str(each))} if isinstance(each, str | Path) else each for each in members)

    @model_validator(mode="after")
    def _weights_add_up(self) -> Self:
        weights = [member.weight for member in self.checkpoints]
        given = [weight for weight in weights if weight is not None]
        if given and len(given) < len(weights):
            bare = next(member.path for member in self.checkpoints if member.weight is None)
            raise ValueError(f"checkpoints: {bare} has no weight, and others have one; give one to each or to none")
        if given and abs(sum(given) - 1) > 1e-6:
            raise ValueError(f"checkpoints: the weights {given} add up to {sum(given):g}; expected 1")
        if given and self.search is not None:
            raise ValueError("checkpoints have weights, and search would choose others; remove one of them")
        return self

    @model_validator(mode="after")
    def _the_search_has_its_evaluations(self) -> Self:
        if self.search is None:
            if self.sections:
                raise ValueError(f"{' and '.join(self.sections)}: evaluations are read by search, which is missing")
            return self
        if found := contradiction(self.search, self.sections, len(self.checkpoints)):
            raise ValueError(found)
        return self

    def code_modules(self) -> tuple[str, ...]:
        searching = ("eval.average_search", *super().code_modules()) if self.search else ()
        return ("align.models.averaging", *searching)


def run(recipe: AverageRecipe) -> Path:
    """Average, and return the folder of the mean."""
    from align.models.averaging import average_checkpoints

    paths = [member.path for member in recipe.checkpoints]
    if recipe.search is not None:
        from align.models.preflight import require_inputs
        from align.sampling.workers import require_one_process

        require_one_process("average")
        require_inputs(recipe, {f"checkpoints.{place}.path": path for place, path in enumerate(paths)})
        checkpoint = average_by_search(paths, recipe.output_dir, recipe.search, recipe.sections)
    else:
        weights = [member.weight for member in recipe.checkpoints if member.weight is not None]
        checkpoint = average_checkpoints(paths, recipe.output_dir, weights or None)
    if recipe.hub is not None:
        from align.publish.hub import publish

        publish(checkpoint, recipe.hub)
    return checkpoint


if __name__ == "__main__":
    main(AverageRecipe, run)
