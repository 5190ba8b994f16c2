"""Merge a LoRA adapter into its base model, as one checkpoint.

python recipes/merge.py recipes/configs/merge/llama3.1-8b.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from align.config import Recipe, main
from align.settings import ChatName, HubConfig, InputPath, OutputPath


class MergeRecipe(Recipe):
    """Base plus adapter as whole weights. They are written only if they give the same outputs as base and adapter."""

    adapter: InputPath
    """The adapter's folder, as a LoRA run or peft writes it. Its base is loaded unquantized."""
    output_dir: OutputPath
    """Where the whole checkpoint is written."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """The type of the merged weights; null for the type of the base. If bfloat16 would round the adapter away, the
    merge is refused."""
    chat: ChatName = "auto"
    """The chat protocol of the prompts; auto decides by the control tokens of the tokenizer."""
    prompts: tuple[str, ...] = Field(
        (
            "What is the capital of France, and which river runs through it?",
            "Write a short poem about a lighthouse in winter.",
            "def mean(numbers):\n    total = 0\nFinish this function.",
            "A train leaves at 9:40 and arrives at 13:05. How long does it take? Answer in one line.",
        ),
        min_length=1,
    )
    """User messages; outputs before and after the merge are compared at every token of them."""
    hub: HubConfig | None = None


def run(recipe: MergeRecipe) -> Path:
    """Merge, compare the outputs, and return the folder of the whole checkpoint."""
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
