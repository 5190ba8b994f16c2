"""Write the report of a run of rounds: a table in the terminal, Markdown and one self-contained page.

python recipes/report.py recipes/configs/report/default.yaml run_dir=runs/rehearsal
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from align.config import Recipe, main
from align.settings import InputPath, OutputPath


class ReportRecipe(Recipe):
    """The results of a run of rounds, as a page to read."""

    run_dir: InputPath
    """The folder of a run, made by recipes/rounds.py."""
    html: OutputPath
    """Where the HTML page is written."""
    markdown: OutputPath
    """Where the same report is written as Markdown."""
    samples: int = Field(12, ge=0)
    """For each evaluation, this many questions with the answers before and after."""


def run(recipe: ReportRecipe) -> Path:
    """Write both files, print the table, and return the page."""
    from align.files import write_text
    from eval.reports.page import page
    from eval.reports.rounds import markdown, read_report, text_table

    report = read_report(recipe.run_dir, recipe.samples)
    write_text(recipe.html, page(report))
    write_text(recipe.markdown, markdown(report))
    print(f"{text_table(report)}\nreport        {recipe.html}")
    return recipe.html


if __name__ == "__main__":
    main(ReportRecipe, run)
