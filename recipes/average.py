"""Average checkpoints of one architecture into one.

python recipes/average.py recipes/configs/average/llama3.1-8b.yaml
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from align.config import Recipe, main
from align.settings import HubConfig, InputPath, OutputPath


class AverageRecipe(Recipe):
    """The weighted mean of checkpoints, in float32 (Llama 3, section 4.1.5)."""

    checkpoints: tuple[InputPath, ...] = Field(min_length=1)
    """Folders with model*.safetensors. Config and tokenizer are the first one's."""
    weights: tuple[float, ...] | None = None
    """One share for each checkpoint, adding up to 1; None for equal shares (the paper does not say which)."""
    output_dir: OutputPath
    """Where the mean is written."""
    hub: HubConfig | None = None


def run(recipe: AverageRecipe) -> Path:
    """Average, and return the folder of the mean."""
    from align.models.averaging import average_checkpoints

    checkpoint = average_checkpoints(recipe.checkpoints, recipe.output_dir, recipe.weights)
    if recipe.hub is not None:
        from align.publish.hub import publish

        publish(checkpoint, recipe.hub)
    return checkpoint


if __name__ == "__main__":
    main(AverageRecipe, run)
