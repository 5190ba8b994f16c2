"""Write the report of a run of rounds: a table in the terminal, Markdown and one self-contained page.

python recipes/report.py recipes/configs/report/default.yaml run_dir=runs/rehearsal
python recipes/report.py recipes/configs/report/default.yaml run_dir=runs/rehearsal serve=true  # while the run goes on
"""

from __future__ import annotations

import contextlib
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
    samples: int = Field(200, ge=0)
    """For each evaluation, this many questions with the answers before and after. Markdown has the first 12 of them."""
    serve: bool = False
    """Show the page at http://127.0.0.1:PORT, made again while the run goes on, until Ctrl-C. No file is written. Not
    for a stage of rounds, which would not end."""
    port: int = Field(8766, ge=0, le=65535)
    """The port of `serve`; 0 takes a free one."""
    refresh_seconds: float = Field(5, gt=0)
    """How often the page of `serve` asks whether there is something new."""

    def libraries(self) -> dict[str, str]:
        return {"jinja2": "", "vl_convert": ""}


def run(recipe: ReportRecipe) -> Path:
    """Write both files, print the table, and return the page."""
    from align.files import write_text
    from eval.reports.page import page
    from eval.reports.rounds import read_report
    from eval.reports.text import markdown, text_table

    if recipe.serve:
        return _serve(recipe)
    report = read_report(recipe.run_dir, recipe.samples)
    write_text(recipe.html, page(report))
    write_text(recipe.markdown, markdown(report))
    print(f"{text_table(report)}\nreport        {recipe.html}")
    return recipe.html


def _serve(recipe: ReportRecipe) -> Path:
    from eval.reports.live import LiveReport, LiveServer

    with LiveServer(LiveReport(recipe.run_dir, recipe.samples, recipe.refresh_seconds), recipe.port) as server:
        print(f"report        {server.address} (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return recipe.html


if __name__ == "__main__":
    main(ReportRecipe, run)
