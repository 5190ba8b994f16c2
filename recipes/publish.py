"""Push a finished checkpoint to the Hub with its model card, or print what would be pushed.

    python recipes/publish.py recipes/configs/publish/default.yaml checkpoint=runs/rehearsal/round-2/average

The token is read from the environment variable HF_TOKEN.
"""

from __future__ import annotations

from pydantic import Field

from align.config import Recipe, main
from align.settings import HubConfig, InputPath


class PublishRecipe(Recipe):
    """A checkpoint, what its model card says, and the repository it goes to."""

    checkpoint: InputPath
    """The finished checkpoint."""
    hub: HubConfig
    base_model: str = Field("", pattern=r"^$|^[\w.-]+/[\w.-]+$")
    """The Hub name of the model that training began from. Empty: found by following the checkpoint's manifest."""
    license: str = ""
    """The Hub's identifier of the model's licence, such as apache-2.0 or llama3.1. Empty: the strictest licence of base
    model and data; `other` if several apply, `unknown` if one is not known. A licence that is more permissive than that
    of the base model or the data is refused."""
    languages: tuple[str, ...] = ()
    """Languages of the training data, as ISO 639 codes such as en."""
    licences: dict[str, str] = Field(default_factory=dict)
    """Source of rows -> the Hub's identifier of its licence, for your own data."""
    data: tuple[InputPath, ...] = ()
    """Further files of training rows, or folders of them. The files named in the checkpoint's manifest, and in those of
    an average's members, are listed without this setting."""
    evaluations: tuple[InputPath, ...] = ()
    """JSON files written by recipes/run_eval.py."""
    command: str = ""
    """The command that made the checkpoint, for the model card."""


def run(recipe: PublishRecipe) -> bool:
    """Push or print. Returns whether the checkpoint is on the Hub."""
    from align.manifest import verify_folder
    from align.publish.facts import card_facts
    from align.publish.hub import upload

    facts = card_facts(
        recipe.checkpoint,
        verify_folder(recipe.checkpoint),
        recipe.hub.repo,
        base_model=recipe.base_model,
        license_id=recipe.license,
        data=recipe.data,
        evaluations=recipe.evaluations,
        command=recipe.command,
        languages=recipe.languages,
        licences=recipe.licences,
    )
    return upload(recipe.checkpoint, recipe.hub, facts)


if __name__ == "__main__":
    main(PublishRecipe, run)
