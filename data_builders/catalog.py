"""The builders of `recipes/build_data.py` by name. A builder is imported only when it is asked for.

So a bare install builds preference data without the libraries that other builders need, and a stage of the rounds is
made again only when the code of its own builder changed.

To add a builder, write a module with a config class and a function `build(config, output) -> Path`, and add an entry
to `BUILDERS`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from align.config import Section


class Builder(NamedTuple):
    """Where a builder is, and what it is for."""

    config: str
    """"module:Class" of its settings. The function `build` is in the same module."""
    summary: str
    """One line for `--help`."""
    last_file: str = ""
    """The file that is written last, if several processes can share the work: `build` then takes `workers` (see
    `align/sampling/workers.py`). Empty if the builder works in one process."""


class Build(Protocol):
    """Write the builder's files into a folder, and return the folder.

    workers: the processes that share the work; given to builders with a `last_file` only.
    """

    def __call__(self, config: Section, output: Path, /, **workers: Any) -> Path: ...


BUILDERS = {
    "preferences": Builder(
        "data_builders.preferences.builder:PreferencesConfig",
        "Your own comparisons, ratings or scores: checked, settled, and split into training and held-out pairs.",
    ),
    "quality": Builder(
        "data_builders.quality.builder:QualityConfig",
        "Rows through cleaning rules, duplicates and decontamination, with the reason for every dropped row.",
        last_file="decisions.parquet.manifest.json",
    ),
    "sft_mix": Builder(
        "data_builders.quality.mix:SFTMixConfig", "Several sources of dialogs, mixed into one file by weight."
    ),
    "tool_use": Builder(
        "data_builders.tool_use.imported:ImportedDialogsConfig",
        "Dialogs with tool calls from elsewhere, checked against the tools' schemas.",
    ),
    "tool_templates": Builder(
        "data_builders.tool_use.templates:ToolTemplatesConfig",
        "Dialogs with tool calls made from typed functions and task templates, and executed. Needs no model.",
    ),
    "tool_trajectories": Builder(
        "data_builders.tool_use.trajectories:TrajectoriesConfig",
        "Dialogs that a model writes while its tool calls are executed.",
        last_file="records.jsonl.manifest.json",
    ),
    "document_questions": Builder(
        "data_builders.questions.from_documents:DocumentQuestionsConfig",
        "Questions about your documents, written by a model or imported from a set of questions.",
    ),
    "question_splits": Builder(
        "data_builders.questions.from_facts:QuestionSplitsConfig",
        "Questions about countries, elements and cities, split by entity into training, dev and held-out files.",
    ),
    "knowledge_probe": Builder(
        "data_builders.knowledge_probe.builder:KnowledgeProbeConfig",
        "What a model knows: its answers to questions, and rows that teach it to refuse where it does not know.",
        last_file="map.json",
    ),
    "maths": Builder(
        "data_builders.maths.builder:MathsConfig",
        "Problems of mathematics with checked answers: ASDiv, generated word problems, or your own.",
    ),
    "instructions": Builder(
        "data_builders.instructions.builder:InstructionsConfig",
        "Prompts with instructions that a rule can check, and held-out kinds of instruction. Needs no model.",
    ),
    "weak_prompts": Builder(
        "data_builders.quality.weak_prompts:WeakPromptsConfig",
        "Prompts that the model of a former round did worst on, by its candidates or its knowledge probe.",
    ),
    "judged_answers": Builder(
        "data_builders.rehearsal.judged_answers:JudgedAnswersConfig",
        "Demo data: graded pairs from answers to NQ-open questions that people judged.",
    ),
    "rehearsal": Builder(
        "data_builders.rehearsal.builder:RehearsalConfig", "Demo data: all the rows that `make rehearsal` reads."
    ),
}


def config_class(name: str) -> type[Section]:
    """The class of a builder's settings."""
    module, _, member = BUILDERS[name].config.partition(":")
    found: type[Section] = getattr(import_module(module), member)
    return found


def uses_model(section: Section) -> bool:
    """Whether a builder that shares its work loads a model, for which each process takes a GPU of its own.

    section: the builder's settings. They decide if their class has a property `uses_model`; otherwise it does.
    """
    return bool(getattr(section, "uses_model", True))


def build_function(name: str) -> Build:
    """The function that runs a builder."""
    build: Build = import_module(BUILDERS[name].config.partition(":")[0]).build
    return build
