"""All the data of a rehearsal from the pinned packages: every split is cut by entity, function or question first.

Writes, each with its manifest: `preferences`, `preferences.heldout`, `tools`, `tools.heldout`, `questions.heldout`, and
for each round `questions.round-N` and `prompts.round-N`. What is held out is never trained on, probed or sampled from,
and training rows that match an evaluation prompt word for word are dropped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from align.config import Section, dump
from align.records import identities_of
from align.reporting import logger
from align.rows import Message, Messages, PreferenceRow, PromptRow, row_id
from align.settings import BadRows, InputSource
from align.text import normalize
from data_builders import packaged
from data_builders.preferences.builder import GeneralConfig, general_pairs, prompt_identity
from data_builders.questions.from_facts import QuestionsConfig, finish_training_part, question_parts
from data_builders.rehearsal.judged_answers import JudgedConfig, judged_pairs
from data_builders.row_set import Counted, characters, evaluation_keys, part_of, prompt_keys
from data_builders.tool_use.imported import ToolDialogsConfig, kind_of, tool_rows

PromptSource = Literal["nq-open", "llamafactory/alpaca_en_demo", "llamafactory/dpo_en_demo"]


class PromptsConfig(Section):
    """Prompts to sample candidates for."""

    limits: dict[PromptSource, int] = Field(default_factory=dict)
    """Prompts in each round, by source; a source that is not named has no limit, 0 leaves it out."""
    max_characters: int = Field(400, gt=0)
    """A longer prompt is dropped, and counted."""


class RehearsalConfig(BadRows):
    """The packaged data, cut into what is trained on and what is held out."""

    heldout_share: float = Field(0.2, ge=0, lt=1)
    """Share of the questions and prompts behind preference rows that is held out."""
    rounds: int = Field(2, ge=1)
    """Into so many disjoint parts questions and prompts are cut: one a round."""
    judged: JudgedConfig = JudgedConfig()
    general: GeneralConfig = GeneralConfig()
    tools: ToolDialogsConfig = ToolDialogsConfig()
    questions: QuestionsConfig = QuestionsConfig()
    prompts: PromptsConfig = PromptsConfig()
    evaluation: tuple[InputSource, ...] = ()
    """JSONL of further evaluation prompts, of any kind of row. Matching training rows are dropped, and counted."""
    seed: int = 0
    """Every cut and shuffle."""


def build(config: RehearsalConfig, output: Path) -> Path:
    """Write all the files into the folder `output`, and return it."""
    heldout_preferences, preferences = _preferences(config)
    tools, heldout_tools = tool_rows(packaged.tool_dialogs(), config.tools, config.seed)
    heldout_questions, dev_questions, questions = question_parts(config.questions, config.rounds, config.seed)
    evaluation = evaluation_keys(config.evaluation, config.bad_rows)
    for heldout in (heldout_preferences.rows, heldout_tools.rows, heldout_questions.rows, dev_questions.rows):
        evaluation.update(*map(prompt_keys, heldout))

    preferences.drop_matches(evaluation)
    _limit_preferences(preferences, config.judged.limit, config.general.limit, config.seed)
    tools.drop_matches(evaluation)
    tools.limit_each(kind_of, config.tools.limits, config.seed)
    files: dict[str, Counted] = {
        "preferences": preferences,
        "preferences.heldout": heldout_preferences,
        "tools": tools,
        "tools.heldout": heldout_tools,
        "questions.heldout": heldout_questions,
    }
    if config.questions.dev_share:
        files["questions.dev"] = dev_questions
    for number, part in enumerate(questions, start=1):
        finish_training_part(part, config.questions, evaluation, config.seed)
        files[f"questions.round-{number}"] = part
    for number, prompts in enumerate(_prompts(config, evaluation), start=1):
        files[f"prompts.round-{number}"] = prompts
    return _write(files, config, output)


def _preferences(config: RehearsalConfig) -> tuple[Counted[PreferenceRow], Counted[PreferenceRow]]:
    """(held out, to train on). Questions and prompts are cut first, and become pairs after."""
    share, seed = (config.heldout_share,), config.seed
    asked: tuple[list, list] = ([], [])
    for question in packaged.judged_answers():
        asked[part_of(normalize(question.question), share, seed)].append(question)
    compared: tuple[list, list] = ([], [])
    for comparison in packaged.general_pairs():
        compared[part_of(prompt_identity(comparison.prompt), share, seed)].append(comparison)
    parts = []
    for questions, comparisons in zip(asked, compared, strict=True):
        part = judged_pairs(questions, config.judged, seed)
        part.add(general_pairs(comparisons, config.general.max_characters))
        parts.append(part)
    heldout, train = parts
    _limit_preferences(heldout, config.judged.heldout_limit, config.general.heldout_limit, seed)
    return heldout, train


def _limit_preferences(part: Counted[PreferenceRow], judged: int | None, general: int | None, seed: int) -> None:
    part.limit_each(lambda row: row.source, {packaged.NQ_OPEN: judged, packaged.GENERAL: general}, seed)


def _prompts(config: RehearsalConfig, evaluation: set[str]) -> list[Counted[PromptRow]]:
    """One part a round. Questions and prompts that preference rows hold out are left out as held out."""
    parts: list[Counted[PromptRow]] = [Counted() for _ in range(config.rounds)]
    for source, prompt in _all_prompts():
        row = PromptRow(id=row_id("prompt", source, *_contents(prompt)), source=source, prompt=prompt)
        identity = prompt_identity(prompt)
        part = parts[part_of(f"round {identity}", [1 / config.rounds] * (config.rounds - 1), config.seed)]
        if part_of(identity, (config.heldout_share,), config.seed) == 0:
            part.drop("held out")
        else:
            part.keep(row)
    for part in parts:
        part.drop_duplicates()
        part.drop_where(lambda row: characters(row.prompt) > config.prompts.max_characters, "over max_characters")
        part.drop_matches(evaluation)
        part.limit_each(lambda row: row.source, config.prompts.limits, config.seed)
        part.shuffle(config.seed)
    return parts


def _all_prompts() -> list[tuple[PromptSource, Messages]]:
    found: list[tuple[PromptSource, Messages]] = [
        ("nq-open", (Message(role="user", content=question.question),)) for question in packaged.judged_answers()
    ]
    found += [
        ("llamafactory/alpaca_en_demo", (Message(role="user", content=text),)) for text in packaged.instructions()
    ]
    found += [("llamafactory/dpo_en_demo", comparison.prompt) for comparison in packaged.general_pairs()]
    return found


def _contents(prompt: Messages) -> list[str]:
    return [f"{message.role}: {message.content}" for message in prompt]


def _write(files: dict[str, Counted], config: RehearsalConfig, output: Path) -> Path:
    log = logger("data_builders")
    notes = {"provenance": packaged.provenance(tuple(packaged.PACKAGES))}
    for name, part in files.items():
        part.write(output / f"{name}.jsonl", config=dump(config), inputs=identities_of(config.evaluation), notes=notes)
        log.info("%-20s %s", name, part.summary())
    return output
