"""Fine-tune a policy on dialogs.

accelerate launch --config_file recipes/launch/zero3.yaml recipes/sft.py recipes/configs/sft/llama3.1-8b.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import model_validator

from align.config import Recipe, main
from align.settings import (
    HubConfig,
    ModelConfig,
    SFTConfig,
    TrainingConfig,
    TreeDataConfig,
    check_validation,
)


class SFTRecipe(Recipe):
    """Supervised fine-tuning (SFT) on the tokens of the assistant (Llama 3, section 4.1.3)."""

    model: ModelConfig
    data: TreeDataConfig
    sft: SFTConfig = SFTConfig()
    training: TrainingConfig
    hub: HubConfig | None = None

    @model_validator(mode="after")
    def _validation_is_possible(self) -> Self:
        check_validation("sft", self.data, self.training)
        return self


def run(recipe: SFTRecipe) -> Path:
    """Train, and return the folder of the finished model."""
    from align.models.preflight import require_inputs

    require_inputs(recipe)
    from align.models.exactness import require_rows_within
    from align.models.loading import load_policy, load_tokenizer_for
    from align.models.support import require_trainable
    from align.precision import resolved
    from align.trainers.arguments import training_arguments
    from align.trainers.data import trees_of_run
    from align.trainers.rollbacks import fit_with_rollbacks
    from align.trainers.sft import SFTTrainer

    arguments = training_arguments(recipe.training, recipe.model)  # before any model: ZeRO-3 shards while it loads
    recipe = resolved(recipe, recipe.training.output_dir)
    limit = require_trainable(recipe.model, sequence_parallel=recipe.training.sequence_parallel)
    _, protocol = load_tokenizer_for(recipe.model)
    trees, eval_trees = trees_of_run("sft", recipe, protocol)
    require_rows_within(limit, trees, eval_trees)

    def trainer() -> SFTTrainer:
        return SFTTrainer(
            load_policy(recipe.model, recipe.training.precision, recipe.training.seed),
            arguments,
            trees,
            protocol,
            start=recipe.model,
            training=recipe.training,
            token_budget=recipe.data.token_budget,
            recipe=recipe,
            eval_trees=eval_trees,
        )

    checkpoint = fit_with_rollbacks(trainer)
    if recipe.hub is not None and arguments.process_index == 0:
        from align.publish.hub import publish

        publish(checkpoint, recipe.hub)
    return checkpoint


if __name__ == "__main__":
    main(SFTRecipe, run)
