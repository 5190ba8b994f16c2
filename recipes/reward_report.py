"""Write a table of the reward accuracy of several runs, with intervals over questions.

python recipes/reward_report.py recipes/configs/reward_report/preferences.yaml
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from align.config import Recipe, main
from align.settings import InputPath, OutputPath


class RewardReportRecipe(Recipe):
    """Pools runs that belong together, such as several seeds, or parts of the data that were held out in turn."""

    runs: dict[str, tuple[InputPath, ...]] = Field(min_length=1)
    """Column of the table -> the files `reward_accuracy.json` of its runs."""
    output_dir: OutputPath
    """The folder of report.md and report.json."""


def run(recipe: RewardReportRecipe) -> Path:
    """Write both files, print the table, and return its file."""
    from eval.reports.reward import markdown, read_columns, write_report

    columns = read_columns(recipe.runs)
    written = write_report(columns, recipe.output_dir)
    print(markdown(columns), end="")
    return written


if __name__ == "__main__":
    main(RewardReportRecipe, run)
