"""Push a finished checkpoint to the Hub with its model card, or print what would be pushed.

    python recipes/publish.py recipes/configs/publish/default.yaml checkpoint=runs/rehearsal/round-2/average

The token is read from the environment variable HF_TOKEN.
"""

from __future__ import annotations

from align.config import Recipe, main
from align.settings import HubConfig, InputPath


class PublishRecipe(Recipe):
    """A checkpoint, what its model card says, and the repository it goes to."""

    checkpoint: InputPath
    """The finished checkpoint."""
    hub: HubConfig
    data: tuple[InputPath, ...] = ()
    """Further files of training rows, or folders of them. The files named in the checkpoint's manifest, and in those of
    an average's members, are listed without this setting."""
    evaluations: tuple[InputPath, ...] = ()
    """JSON files written by recipes/run_eval.py."""
    command: str = ""
    """The command that made the checkpoint, for the model card."""


def run(recipe: PublishRecipe) -> bool:
    """Push or print. Returns whether the checkpoint is on the Hub."""
    from align.publish.hub import upload

    return upload(
        recipe.checkpoint, recipe.hub, data=recipe.data, evaluations=recipe.evaluations, command=recipe.command
    )


if __name__ == "__main__":
    main(PublishRecipe, run)
