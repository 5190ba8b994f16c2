"""Build all demo data for `make rehearsal`, which runs the whole recipe on a small model.

It writes `preferences`, `preferences.heldout`, `tools`, `tools.heldout`, `questions.heldout`, with tools.pairs
`tools.preferences`, with a dev_ratio `questions.dev`, with heldout_limits `prompts.heldout`, and for each round
`questions.round-N` and `prompts.round-N`, each as JSONL with a manifest.
The rows of `preferences` are divided among the rounds by their column `round`.

The data is split by entity, function or question before any row is made, so held-out data is never used for training,
probing or sampling. Training rows that match a held-out or evaluation prompt word for word are dropped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from align.config import Section, dump
from align.records import identities_of
from align.reporting import logger
from align.rows import Message, Messages, PreferenceRow, PromptRow, row_id
from align.settings import BadRows, InputSource
from align.splits import part_of, prompt_identity
from align.text import normalize
from data_builders import packaged
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.questions.from_facts import QuestionsConfig, finish_training_part, question_parts
from data_builders.rehearsal.general_pairs import GeneralConfig, general_pairs
from data_builders.rehearsal.judged_answers import JudgedConfig, judged_pairs
from data_builders.row_set import RowSet, characters
from data_builders.tool_use.imported import ImportedDialogsConfig, tool_rows
from data_builders.tool_use.imported_pairs import imported_pairs, kind_of

PromptSource = Literal["nq-open", "llamafactory/alpaca_en_demo", "llamafactory/dpo_en_demo"]


class PromptsConfig(Section):
    """Prompts for rejection sampling and for win rates."""

    limits: dict[PromptSource, int] = Field(default_factory=dict)
    """Source -> maximum number of prompts in each round; 0 leaves the source out. A source that is not named has no
    limit."""
    heldout_limits: dict[PromptSource, int] = Field(default_factory=dict)
    """Source -> maximum number of held-out prompts, for win rates. A source that is not named has none."""
    max_characters: int = Field(400, gt=0)
    """Maximum length of a prompt in characters. Longer prompts are dropped and counted."""


class RehearsalConfig(BadRows):
    """Demo data of the rehearsal: packaged preferences, tool dialogs, questions and prompts, split for training."""

    heldout_ratio: float = Field(0.2, ge=0, lt=1)
    """Ratio of the questions and prompts of preference rows to hold out, from 0 to 1."""
    rounds: int = Field(2, ge=1)
    """Number of rounds. Questions, prompts and preferences are split into one part per round."""
    judged: JudgedConfig = JudgedConfig()
    """Preference rows from answers that people judged."""
    general: GeneralConfig = GeneralConfig()
    """Preference rows from general demo pairs."""
    tools: ImportedDialogsConfig = ImportedDialogsConfig()
    """SFT rows from demo dialogs with tools."""
    questions: QuestionsConfig = QuestionsConfig()
    """Questions about facts, for the knowledge probe and for evaluation."""
    prompts: PromptsConfig = PromptsConfig()
    """Prompts for rejection sampling and for win rates."""
    evaluation: tuple[InputSource, ...] = ()
    """Further evaluation sets. Training rows whose prompt is in one of them are dropped and counted."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    seed: int = 0
    """Seed of all splits and of the order of the rows."""


def build(config: RehearsalConfig, output: Path) -> Path:
    """Write all files into the folder `output` and return it."""
    heldout_preferences, preferences = _preferences(config)
    tools, heldout_tools = tool_rows(packaged.tool_dialogs(), config.tools, config.seed)
    heldout_questions, dev_questions, questions = question_parts(config.questions, config.rounds, config.seed)
    evaluation = Decontamination.of(config.evaluation, config.decontamination, config.bad_rows)
    heldout_prompts = _heldout_prompts(config)
    for heldout in (heldout_preferences, heldout_tools, heldout_questions, dev_questions, heldout_prompts):
        evaluation.add_prompts(heldout.rows)

    preferences.drop_matches(evaluation)
    _limit_preferences(preferences, config.judged.limit, config.general.limit, config.seed)
    preferences.rows = [_of_a_round(row, config) for row in preferences.rows]
    tools.drop_matches(evaluation)
    tool_pairs = imported_pairs(tools.rows, config.tools.pairs, config.seed)
    tools.limit_each(kind_of, config.tools.limits, config.seed)
    files: dict[str, RowSet[Any]] = {
        "preferences": preferences,
        "preferences.heldout": heldout_preferences,
        "tools": tools,
        "tools.heldout": heldout_tools,
        "questions.heldout": heldout_questions,
    }
    if config.tools.pairs:
        files["tools.preferences"] = tool_pairs
    if config.questions.dev_ratio:
        files["questions.dev"] = dev_questions
    if config.prompts.heldout_limits:
        files["prompts.heldout"] = heldout_prompts
    for number, part in enumerate(questions, start=1):
        finish_training_part(part, config.questions, evaluation, config.seed)
        files[f"questions.round-{number}"] = part
    for number, prompts in enumerate(_prompts(config, evaluation), start=1):
        files[f"prompts.round-{number}"] = prompts
    return _write(files, config, output)


def _preferences(config: RehearsalConfig) -> tuple[RowSet[PreferenceRow], RowSet[PreferenceRow]]:
    """Return held-out rows and training rows. Questions and prompts are split first, and become pairs afterwards."""
    ratios, seed = (config.heldout_ratio,), config.seed
    questions: tuple[list[packaged.JudgedQuestion], ...] = ([], [])
    for question in packaged.judged_answers():
        questions[part_of(normalize(question.question), ratios, seed)].append(question)
    pairs: tuple[list[packaged.AnswerPair], ...] = ([], [])
    for pair in packaged.general_pairs():
        pairs[part_of(prompt_identity(pair.prompt), ratios, seed)].append(pair)
    parts = []
    for part_questions, part_pairs in zip(questions, pairs, strict=True):
        part = judged_pairs(part_questions, config.judged, seed)
        part.add(general_pairs(part_pairs, config.general.max_characters))
        parts.append(part)
    heldout, train = parts
    _limit_preferences(heldout, config.judged.heldout_limit, config.general.heldout_limit, seed)
    return heldout, train


def _limit_preferences(part: RowSet[PreferenceRow], judged: int | None, general: int | None, seed: int) -> None:
    part.limit_each(lambda row: row.source, {packaged.NQ_OPEN: judged, packaged.GENERAL: general}, seed)


def _of_a_round(row: PreferenceRow, config: RehearsalConfig) -> PreferenceRow:
    """The row as if it had been collected in one of the rounds, all rows of a prompt in the same one."""
    number = part_of(f"round {prompt_identity(row.prompt)}", [1 / config.rounds] * (config.rounds - 1), config.seed)
    return row.model_copy(update={"round": number + 1})


def _prompts(config: RehearsalConfig, evaluation: Decontamination) -> list[RowSet[PromptRow]]:
    """Return one part per round. Prompts of held-out preference rows are dropped as held out."""
    parts: list[RowSet[PromptRow]] = [RowSet() for _ in range(config.rounds)]
    for row in _all_prompts():
        place = f"round {prompt_identity(row.prompt)}"
        part = parts[part_of(place, [1 / config.rounds] * (config.rounds - 1), config.seed)]
        if _is_held_out(row, config):
            part.drop("held out")
        else:
            part.keep(row)
    for part in parts:
        _drop_repeats_and_long(part, config)
        part.drop_matches(evaluation)
        part.limit_each(lambda row: row.source, config.prompts.limits, config.seed)
        part.shuffle(config.seed)
    return parts


def _heldout_prompts(config: RehearsalConfig) -> RowSet[PromptRow]:
    """Return prompts that no round samples."""
    limits = config.prompts.heldout_limits
    part = RowSet(row for row in _all_prompts() if row.source in limits and _is_held_out(row, config))
    _drop_repeats_and_long(part, config)
    part.limit_each(lambda row: row.source, limits, config.seed)
    part.shuffle(config.seed)
    return part


def _is_held_out(row: PromptRow, config: RehearsalConfig) -> bool:
    return part_of(prompt_identity(row.prompt), (config.heldout_ratio,), config.seed) == 0


def _drop_repeats_and_long(part: RowSet[PromptRow], config: RehearsalConfig) -> None:
    part.drop_duplicates()
    part.drop_where(lambda row: characters(row.prompt) > config.prompts.max_characters, "over max_characters")


def _all_prompts() -> list[PromptRow]:
    found: list[tuple[PromptSource, Messages]] = [
        ("nq-open", (Message(role="user", content=question.question),)) for question in packaged.judged_answers()
    ]
    found += [
        ("llamafactory/alpaca_en_demo", (Message(role="user", content=text),)) for text in packaged.instructions()
    ]
    found += [("llamafactory/dpo_en_demo", pair.prompt) for pair in packaged.general_pairs()]
    return [
        PromptRow(id=row_id("prompt", source, *_contents(prompt)), source=source, prompt=prompt)
        for source, prompt in found
    ]


def _contents(prompt: Messages) -> list[str]:
    return [f"{message.role}: {message.content}" for message in prompt]


def _write(files: dict[str, RowSet[Any]], config: RehearsalConfig, output: Path) -> Path:
    log = logger("data_builders")
    notes = {"provenance": packaged.provenance(tuple(packaged.PACKAGES))}
    for name, part in files.items():
        part.write(output / f"{name}.jsonl", config=dump(config), inputs=identities_of(config.evaluation), notes=notes)
        log.info("%-20s %s", name, part.summary())
    return output
