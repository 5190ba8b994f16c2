"""Models side by side on the same held-out facts, as Markdown and pictures: what each answers, and what it lost.

python recipes/compare_knowledge.py recipes/configs/compare_knowledge/default.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from align.config import Recipe, main
from align.settings import InputPath, OutputPath


class CompareKnowledgeRecipe(Recipe):
    """Evaluations of `recipes/run_eval.py` on one file of questions, with `factuality.scores`."""

    evaluations: dict[str, InputPath | tuple[InputPath, ...]] = Field(min_length=1)
    """Name -> factuality.json, or those of several runs with a seed each; the untouched model first."""
    dev: InputPath | None = None
    """The untouched model's factuality.json on the dev entities: with it, a threshold on its score is compared too."""
    probed: InputPath | None = None
    """map.json of the probe."""
    heldout_probe: InputPath | None = None
    """answers.jsonl of a probe of the held-out questions by the untouched model, made to compare and never trained on:
    with it, what became of what is consistently known has a table."""
    score: Literal["propensity", "answer_mean", "answer_sum"] = "answer_mean"
    """What the threshold is on."""
    known_kept: float = Field(0.85, gt=0, le=1)
    """Share of what the untouched model knew of the dev entities that the threshold keeps."""
    transfer_relations: tuple[str, ...] = ()
    """Kinds of fact that no stage trained on: shown once more apart."""
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
