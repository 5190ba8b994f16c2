"""Compare what several models know: tables and plots of their answers about the same held-out facts.

python recipes/compare_knowledge.py recipes/configs/compare_knowledge/default.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from align.config import Recipe, main
from align.settings import InputPath, OutputPath


class CompareKnowledgeRecipe(Recipe):
    """Compares evaluations by `recipes/run_eval.py` on one file of questions, made with `factuality.confidence`."""

    evaluations: dict[str, InputPath | tuple[InputPath, ...]] = Field(min_length=1)
    """Name -> factuality.json, or the files of several runs with different seeds. The untrained model comes first."""
    dev: InputPath | None = None
    """factuality.json of the untrained model on the dev entities. With it, abstaining below a threshold on the
    model's score is compared as well."""
    probed: InputPath | None = None
    """map.json of the probe, for the plot of what is known."""
    heldout_probe: InputPath | None = None
    """answers.jsonl of a probe of the held-out questions by the untrained model, made for this comparison and never
    trained on. With it, a table shows what happened to the facts that the model knew consistently."""
    score: Literal["propensity", "answer_mean", "answer_sum"] = "answer_mean"
    """The score that the threshold is on."""
    known_kept: float = Field(0.85, gt=0, le=1)
    """Ratio of the dev facts known by the untrained model that the threshold must keep."""
    transfer_relations: tuple[str, ...] = ()
    """Kinds of facts that no stage trained on. They are shown separately as well."""
    output: OutputPath
    """The folder of knowledge.md, risk_coverage.svg and knowledge_map.svg."""


def run(recipe: CompareKnowledgeRecipe) -> Path:
    """Write the files, print the tables, and return the folder."""
    from eval.reports.knowledge import compare, read_json, read_knowledge, write

    comparison = compare(
        {
            name: [read_json(path) for path in (paths if isinstance(paths, tuple) else (paths,))]
            for name, paths in recipe.evaluations.items()
        },
        dev=None if recipe.dev is None else read_json(recipe.dev),
        probed=None if recipe.probed is None else read_json(recipe.probed),
        heldout_knowledge=None if recipe.heldout_probe is None else read_knowledge(recipe.heldout_probe),
        score=recipe.score,
        known_kept=recipe.known_kept,
        transfer_relations=recipe.transfer_relations,
    )
    written = write(comparison, recipe.output)
    print(comparison.markdown)
    return written


if __name__ == "__main__":
    main(CompareKnowledgeRecipe, run)
