"""Encode the rows of a training run before GPUs are held, into the folder where the run finds them.

python recipes/encode.py recipes/configs/sft/llama3.1-8b.yaml
python recipes/encode.py recipes/configs/encode/llama3.1-8b.yaml

The first argument may be the config of the run, or a YAML file with `config`, as for every recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from align.config import Recipe, main
from align.settings import InputPath
from align.strict_yaml import read_yaml


class EncodeRecipe(Recipe):
    """Token ids and masks of the rows that a run of recipes/sft.py, dpo.py or reward.py trains on and evaluates. No GPU
    is used and no weight is read: of the model, its tokenizer and config.json are enough. The run then encodes nothing,
    as long as rows, tokenizer and settings are the same."""

    argument: ClassVar[str] = "config"

    @classmethod
    def is_argument(cls, word: str) -> bool:
        """A YAML file is the config of the run if it has its sections."""
        return Path(word).is_file() and not {"model", "training"}.isdisjoint(read_yaml(Path(word))[0])

    config: InputPath
    """The YAML of the training run."""
    recipe: str | None = None
    """The recipe that reads it: sft, dpo or reward. None: the name of the folder that it is in."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings over those of the config, the same as in the run: `set.data.path=rows.jsonl`."""


def run(recipe: EncodeRecipe) -> Path:
    """Encode the rows, and return the output folder of the run."""
    from align.config import load_config
    from align.errors import ConfigError
    from align.models.exactness import require_rows_within
    from align.models.loading import load_tokenizer_for
    from align.models.support import require_trainable
    from align.records import require_sources
    from align.reporting import logger
    from align.rounds.names import overrides_of
    from align.rounds.plan import recipe_class
    from align.trainers.data import STAGES, discard_temporary, holds_saved, trees_of_run
    from align.trainers.output import claim_output, release_output

    stage = recipe.recipe or recipe.config.parent.name
    if stage not in STAGES:
        what = f"{stage} is no recipe that trains"
        raise ConfigError(recipe.config, what, f"Set recipe to the one that reads it: {', '.join(STAGES)}")
    config_class = recipe_class(Path(__file__).parent, stage)
    trained: Any = load_config(config_class, recipe.config, list(overrides_of(recipe.set)))
    require_sources(trained)
    output: Path = trained.training.output_dir
    claim_output(output, trained.model.path)
    try:
        if holds_saved(output):
            logger("recipes").info("%s holds what a run has saved: it goes on with its own rows", output)
            return output
        limit = require_trainable(trained.model, scorer=stage == "reward")
        _, protocol = load_tokenizer_for(trained.model)
        require_rows_within(limit, *trees_of_run(stage, trained, protocol))
    finally:
        discard_temporary(output)
        release_output(output)
    return output


if __name__ == "__main__":
    main(EncodeRecipe, run)
