"""Run all stages in rounds: reward model, rejection sampling, SFT, DPO, averaging and evaluation.

    python recipes/rounds.py recipes/configs/rounds/rehearsal.yaml
    python recipes/rounds.py status recipes/configs/rounds/rehearsal.yaml      # also: plan, why, trace, gc

If it is stopped or killed, the same command continues where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path

from align.config import main
from align.rounds.commands import answered
from align.rounds.plan import RoundsConfig


class RoundsRecipe(RoundsConfig):
    """Stages in rounds, each in its own process (Llama 3, section 4.1.6). A stage that is up to date is not run again.

    Commands that read a run, such as `rounds.py status CONFIG.yaml`: status, plan (what the next start would do),
    why (what changed since a stage was made), trace (what a checkpoint or a row was made from) and gc (what can be
    deleted).
    """


def run(recipe: RoundsRecipe) -> Path:
    """Run every stage that is not up to date, and return the run's folder."""
    from align.rounds.driver import run_rounds

    return run_rounds(recipe, recipes=Path(__file__).parent)


if __name__ == "__main__" and not answered(sys.argv[1:], Path(__file__).parent):
    main(RoundsRecipe, run)
