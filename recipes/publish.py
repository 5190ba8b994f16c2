"""Push a finished checkpoint to the Hugging Face Hub with its card, or print what would go.

    python recipes/publish.py recipes/configs/publish/default.yaml checkpoint=runs/rehearsal/round-2/average

The token is read from the environment variable HF_TOKEN.
"""

from __future__ import annotations

from pydantic import Field

from align.config import Recipe, main
from align.settings import HubConfig, InputPath


class PublishRecipe(Recipe):
    """A checkpoint, what its card says, and where it goes."""

    checkpoint: InputPath
    """The finished checkpoint."""
    hub: HubConfig
    base_model: str = Field("", pattern=r"^$|^[\w.-]+/[\w.-]+$")
    """The Hub name of the model that training began from. Empty: found by following the checkpoint's manifest."""
    license: str = ""
    """The Hub's identifier of the model's licence, such as apache-2.0 or llama3.1. Empty: the strictest licence of base
    model and data, `other` where several apply, `unknown` where one is not known. A permissive licence over a base or
    data with a stricter one is refused."""
    languages: tuple[str, ...] = ()
    """Languages that it was trained on, as ISO 639 codes such as en."""
    licences: dict[str, str] = Field(default_factory=dict)
    """Source of rows -> the Hub's identifier of its licence, for your own data."""
    data: tuple[InputPath, ...] = ()
    """Further files of rows, or folders of them, that it was made from. The files that its manifest names, and those of
    an average's members, are listed without this."""
    evaluations: tuple[InputPath, ...] = ()
    """JSON files that recipes/run_eval.py wrote."""
    command: str = ""
    """The command that made it, for the card."""


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
