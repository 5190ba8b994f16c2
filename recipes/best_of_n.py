"""Choose k for rejection sampling: the best-of-n curve of scored candidates, as a table and a plot.

python recipes/best_of_n.py recipes/configs/best_of_n/rehearsal.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from align.config import Recipe, main
from align.rows import Candidate
from align.settings import InputPath, ModelConfig, OutputPath

if TYPE_CHECKING:
    from align.sampling.work_units import Units


class BestOfNRecipe(Recipe):
    """Measures on existing candidates what each further candidate brought. Nothing is sampled."""

    candidates: InputPath
    """candidates.jsonl of recipes/rejection_sample.py."""
    heldout_judge: ModelConfig | None = None
    """A second reward model, trained on other preferences than the one that scored the candidates. It scores them as
    well and selects nothing. An alarm shows where the reward model's score still rises and this one's does not."""
    token_budget: int = Field(4096, gt=0)
    """Tokens in one forward pass of the held-out judge."""
    unit_size: int = Field(32, gt=0)
    """Prompts in one unit of the held-out judge's work. A crash loses at most one unit."""
    min_gain: float = Field(0.1, gt=0)
    """The suggested k is the smallest one beyond which every doubling gains less than this, in the units of the score:
    for a reward model log-odds, where 0.1 means that the better candidate wins with 52.5%."""
    output_dir: OutputPath
    """The folder of best_of_n.json, best_of_n.md and the plots, and of the held-out judge's scores."""


def run(recipe: BestOfNRecipe) -> Path:
    """Measure, print the table, and return the JSON file."""
    from align.files import sole_writer
    from align.sampling.workers import require_one_process

    require_one_process("best_of_n")
    if recipe.heldout_judge is not None:
        from align.models.preflight import require_inputs

        require_inputs(recipe)
    with sole_writer(recipe.output_dir, "output_dir"):
        return _run(recipe)


def _run(recipe: BestOfNRecipe) -> Path:
    from align.jsonl import stream_rows
    from align.sampling.scoring import units_by_prompt
    from eval.best_of_n import best_of_n
    from eval.reports.best_of_n import terminal_table, write_best_of_n

    candidates = units_by_prompt(lambda: stream_rows(recipe.candidates, Candidate), recipe.unit_size)
    found = best_of_n(candidates.rows(), _heldout_scores(recipe, candidates), min_gain=recipe.min_gain)
    written = write_best_of_n(found, recipe.output_dir)
    print(f"{terminal_table(found)}\n\nwritten       {written}")
    return written


def _heldout_scores(recipe: BestOfNRecipe, candidates: Units[Candidate]) -> dict[str, float] | None:
    """Candidate id -> score of the held-out judge."""
    if recipe.heldout_judge is None:
        return None
    from align.judges.reward_model import RewardModelJudge
    from align.precision import resolved
    from align.sampling.scoring import score_candidates

    judge_config = resolved(recipe, recipe.output_dir).heldout_judge
    assert judge_config is not None
    judge = RewardModelJudge.from_settings(judge_config, recipe.token_budget)
    scored = score_candidates(
        candidates, judge, folder=recipe.output_dir / "heldout_scores", unit_size=recipe.unit_size
    )
    return {candidate.id: candidate.score for candidate in scored.rows() if candidate.score is not None}


if __name__ == "__main__":
    main(BestOfNRecipe, run)
