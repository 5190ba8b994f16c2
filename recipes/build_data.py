"""Build the rows that training and evaluation read, with one builder.

python recipes/build_data.py recipes/configs/data/rehearsal.yaml
python recipes/build_data.py recipes/configs/data/preferences.yaml preferences.path=my_pairs.jsonl
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from align.config import Recipe, main
from align.settings import OutputPath
from data_builders.knowledge_probe import builder as knowledge_probe
from data_builders.knowledge_probe.config import KnowledgeProbeConfig
from data_builders.preferences import builder as preferences
from data_builders.preferences.builder import PreferencesConfig
from data_builders.quality import mix
from data_builders.quality.mix import SFTMixConfig
from data_builders.questions import from_documents, from_facts
from data_builders.questions.from_documents import DocumentQuestionsConfig
from data_builders.questions.from_facts import QuestionSplitsConfig
from data_builders.rehearsal import builder as rehearsal
from data_builders.rehearsal import judged_answers
from data_builders.rehearsal.builder import SplitsConfig
from data_builders.rehearsal.judged_answers import JudgedAnswersConfig
from data_builders.tool_use import imported, templates, trajectories
from data_builders.tool_use.imported import ToolUseConfig
from data_builders.tool_use.templates import ToolTemplatesConfig
from data_builders.tool_use.trajectories import TrajectoriesConfig

BUILDERS: dict[str, Callable[[Any, Path], Path]] = {
    "splits": rehearsal.build,
    "question_splits": from_facts.build,
    "preferences": preferences.build,
    "judged_answers": judged_answers.build,
    "tool_use": imported.build,
    "tool_templates": templates.build,
    "tool_trajectories": trajectories.build,
    "document_questions": from_documents.build,
    "knowledge_probe": knowledge_probe.build,
    "sft_mix": mix.build,
}


class BuildDataRecipe(Recipe):
    """Exactly one builder section, and the folder that it fills."""

    splits: SplitsConfig | None = None
    question_splits: QuestionSplitsConfig | None = None
    preferences: PreferencesConfig | None = None
    judged_answers: JudgedAnswersConfig | None = None
    tool_use: ToolUseConfig | None = None
    tool_templates: ToolTemplatesConfig | None = None
    tool_trajectories: TrajectoriesConfig | None = None
    document_questions: DocumentQuestionsConfig | None = None
    knowledge_probe: KnowledgeProbeConfig | None = None
    sft_mix: SFTMixConfig | None = None
    output: OutputPath
    """The folder that the files are written into, each with its manifest."""

    @model_validator(mode="after")
    def _has_one_builder(self) -> Self:
        given = [name for name in BUILDERS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"expected exactly one builder section ({', '.join(BUILDERS)}), found {found}")
        return self

    @property
    def builder(self) -> str:
        """The name of the one section that is given."""
        return next(name for name in BUILDERS if getattr(self, name) is not None)

    def code_modules(self) -> tuple[str, ...]:
        return BUILDERS[self.builder].__module__, type(getattr(self, self.builder)).__module__


def run(recipe: BuildDataRecipe) -> Path:
    """Build, and return the folder."""
    from align.files import sole_writer

    with sole_writer(recipe.output, "output"):
        return _run(recipe)


def _run(recipe: BuildDataRecipe) -> Path:
    from align.precision import resolved

    recipe = resolved(recipe, recipe.output)
    return BUILDERS[recipe.builder](getattr(recipe, recipe.builder), recipe.output)


if __name__ == "__main__":
    main(BuildDataRecipe, run)
