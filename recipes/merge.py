"""Make a LoRA run's adapter and its base one whole checkpoint.

python recipes/merge.py recipes/configs/merge/llama3.1-8b.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from align.config import Recipe, main
from align.settings import HubConfig, InputPath, OutputPath


class MergeRecipe(Recipe):
    """Base plus adapter as whole weights, written only when they compute what base and adapter compute."""

    adapter: InputPath
    """The adapter's folder, as a LoRA run or peft leaves it. Its base is loaded unquantized."""
    output_dir: OutputPath
    """Where the whole checkpoint is written."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """The type of the merged weights; None for the base's own. bfloat16 loses a small adapter, and is refused then."""
    chat: Literal["auto", "chatml", "llama3"] = "auto"
    """The chat protocol that the prompts are written in; auto looks at the tokenizer's control tokens."""
    prompts: tuple[str, ...] = Field(
        (
            "What is the capital of France, and which river runs through it?",
            "Write a short poem about a lighthouse in winter.",
            "def mean(numbers):\n    total = 0\nFinish this function.",
            "A train leaves at 9:40 and arrives at 13:05. How long does it take? Answer in one line.",
        ),
        min_length=1,
    )
    """What a user says; outputs before and after are compared at every token of these."""
    hub: HubConfig | None = None


def run(recipe: MergeRecipe) -> Path:
    """Merge, prove it, and return the folder of the whole checkpoint."""
    from align.models.merging import merge_adapter

    checkpoint = merge_adapter(
        recipe.adapter, recipe.output_dir, prompts=recipe.prompts, dtype=recipe.dtype, chat=recipe.chat
    )
    if recipe.hub is not None:
        from align.publish.hub import publish

        publish(checkpoint, recipe.hub)
    return checkpoint


if __name__ == "__main__":
    main(MergeRecipe, run)
