"""Train a reward model on ranked completions.

accelerate launch --config_file recipes/launch/zero3.yaml recipes/reward.py recipes/configs/reward/llama3.1-8b.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import model_validator

from align.config import Recipe, main
from align.settings import (
    HubConfig,
    ModelConfig,
    PreferenceDataConfig,
    RewardConfig,
    TrainingConfig,
    check_validation,
)


class RewardRecipe(Recipe):
    """Pairwise ranking of two or three completions of a prompt, without a margin by default (Llama 3, 4.1.2)."""

    model: ModelConfig
    data: PreferenceDataConfig
    reward: RewardConfig = RewardConfig()
    training: TrainingConfig
    hub: HubConfig | None = None

    @model_validator(mode="after")
    def _validation_is_possible(self) -> Self:
        check_validation("reward", self.data, self.training)
        return self

    @model_validator(mode="after")
    def _margins_are_of_levels_that_are_kept(self) -> Self:
        unread = sorted(self.reward.margins.keys() - set(self.data.levels))
        if unread:
            kept = ", ".join(self.data.levels)
            raise ValueError(f"reward.margins has {unread[0]!r}, and data.levels keeps these only: {kept}")
        return self


def run(recipe: RewardRecipe) -> Path:
    """Train, and return the folder of the finished model."""
    from align.models.preflight import require_inputs

    require_inputs(recipe)
    from align.models.exactness import require_rows_within
    from align.models.loading import load_reward_model, load_tokenizer_for
    from align.models.support import require_trainable
    from align.precision import resolved
    from align.trainers.arguments import training_arguments
    from align.trainers.data import trees_of_run
    from align.trainers.reward import RewardTrainer
    from align.trainers.rollbacks import fit_with_rollbacks

    arguments = training_arguments(recipe.training, recipe.model)  # before any model: ZeRO-3 shards while it loads
    recipe = resolved(recipe, recipe.training.output_dir)
    limit = require_trainable(recipe.model, scorer=True, sequence_parallel=recipe.training.sequence_parallel)
    _, protocol = load_tokenizer_for(recipe.model)
    trees, eval_trees = trees_of_run("reward", recipe, protocol)
    require_rows_within(limit, trees, eval_trees)

    def trainer() -> RewardTrainer:
        return RewardTrainer(
            load_reward_model(recipe.model, recipe.training.precision, recipe.training.seed, fresh_head=True),
            arguments,
            trees,
            protocol,
            start=recipe.model,
            training=recipe.training,
            token_budget=recipe.data.token_budget,
            recipe=recipe,
            eval_trees=eval_trees,
            reward=recipe.reward,
        )

    checkpoint = fit_with_rollbacks(trainer)
    if recipe.hub is not None and arguments.process_index == 0:
        from align.publish.hub import publish

        publish(checkpoint, recipe.hub)
    return checkpoint


if __name__ == "__main__":
    main(RewardRecipe, run)
