"""Push a finished checkpoint to the Hugging Face Hub with its card, or print what would go.

    python recipes/publish.py recipes/configs/publish/default.yaml checkpoint=runs/rehearsal/round-2/average

The token is read from the environment variable HF_TOKEN.
"""

from __future__ import annotations

from align.config import Recipe, main
from align.settings import HubConfig, InputPath


class PublishRecipe(Recipe):
    """A checkpoint, what its card says, and where it goes."""

    checkpoint: InputPath
    """The finished checkpoint."""
    hub: HubConfig
    base_model: str = ""
    """The Hub name of the model that training began from, for the card."""
    license: str = ""
    """The Hub's identifier of the licence, such as apache-2.0 or llama3.1, for the card."""
    data: tuple[InputPath, ...] = ()
    """Files of rows, or folders of them, that it was trained on: their manifests are told in the card."""
    evaluations: tuple[InputPath, ...] = ()
    """JSON files that recipes/run_eval.py wrote."""
    command: str = ""
    """The command that made it, for the card."""


def run(recipe: PublishRecipe) -> bool:
    """Push or print. Returns whether the checkpoint stands on the Hub."""
    from align.publish.hub import upload
    from align.rounds.results import card_facts

    title = recipe.hub.repo.rpartition("/")[2]
    facts = card_facts(title, recipe.base_model, recipe.license, recipe.data, recipe.evaluations, recipe.command)
    return upload(recipe.checkpoint, recipe.hub, facts)


if __name__ == "__main__":
    main(PublishRecipe, run)
