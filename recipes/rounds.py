"""Run the whole recipe in rounds: reward model, rejection sampling, SFT, DPO, averaging, evaluation, and again.

    python recipes/rounds.py recipes/configs/rounds/rehearsal.yaml

Stopped or killed at any moment, the same command goes on where it was.
"""

from __future__ import annotations

from pathlib import Path

from align.config import main
from align.rounds.plan import RoundsConfig


class RoundsRecipe(RoundsConfig):
    """Stages in rounds, each a process of its own (Llama 3, section 4.1.6). What still holds is not run again."""


def run(recipe: RoundsRecipe) -> Path:
    """Run every stage that does not hold yet, and return the run's folder."""
    from align.rounds.driver import run_rounds

    return run_rounds(recipe, recipes=Path(__file__).parent)


if __name__ == "__main__":
    main(RoundsRecipe, run)
