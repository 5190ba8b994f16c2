"""Push a finished checkpoint or rows to the Hub with a card, or print what would be pushed.

    python recipes/publish.py recipes/configs/publish/default.yaml checkpoint=runs/rehearsal/round-2/average
    python recipes/publish.py recipes/configs/publish/rows.yaml rows=runs/rehearsal/data

The token is read from the environment variable HF_TOKEN.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from align.config import Recipe, main
from align.settings import HubConfig, InputPath


class PublishRecipe(Recipe):
    """A checkpoint or a data set, what its card cannot know, and the repository it goes to."""

    checkpoint: InputPath | None = None
    """The finished checkpoint. Either this or rows."""
    rows: InputPath | None = None
    """A JSONL file of rows, or a folder with several that have manifests: they become a data set on the Hub. Names of
    raters in them are replaced by numbers."""
    hub: HubConfig
    data: tuple[InputPath, ...] = ()
    """Of a checkpoint: further files of training rows, or folders of them. Those to which its manifest leads are listed
    without this setting."""
    evaluations: tuple[InputPath, ...] = ()
    """Of a checkpoint: JSON files written by recipes/run_eval.py. Those in a folder next to the checkpoint are found
    without this setting."""
    command: str = ""
    """The command that made it, for the card."""

    @model_validator(mode="after")
    def _one_thing_is_published(self) -> Self:
        if (self.checkpoint is None) == (self.rows is None):
            raise ValueError("expected either checkpoint or rows, found " + ("none" if self.rows is None else "both"))
        if self.rows is not None and (self.data or self.evaluations):
            raise ValueError("rows are published without data and evaluations, which are of a checkpoint; remove them")
        return self


def run(recipe: PublishRecipe) -> bool:
    """Push or print. Returns whether it is on the Hub."""
    from align.publish.hub import upload, upload_rows

    if recipe.rows is not None:
        return upload_rows(recipe.rows, recipe.hub, command=recipe.command)
    assert recipe.checkpoint is not None
    return upload(
        recipe.checkpoint, recipe.hub, data=recipe.data, evaluations=recipe.evaluations, command=recipe.command
    )


if __name__ == "__main__":
    main(PublishRecipe, run)
