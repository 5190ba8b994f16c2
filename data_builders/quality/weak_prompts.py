"""Choose the prompts on which the model of a former round was weak, to sample or compare their answers again.

Llama 3 (section 4.2.1) makes the prompts harder in each round, where the model lags. Here the former round says where
that is: the scores and verifiers of its candidates, or the verdicts of its knowledge probe.
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from align.config import dump
from align.errors import RowError
from align.jsonl import Drops, stream_rows
from align.records import inputs_of, records_of
from align.reporting import logger
from align.rows import Candidate, PromptRow, QuestionRow, VerifiedPromptRow
from align.settings import InputPath, InputSource, InputSources, Reading
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.row_set import RowSet, read_row_set

Knowledge = Literal["known", "unknown", "unsure", "uninformative"]

Strength = tuple[bool, float]
"""Of a prompt: whether a candidate is finished and passed its verifiers, and the best score among those."""


class WeakPromptsConfig(Reading):
    """Choose prompts by the candidates or by the probe of a former round: those that its model did worst on."""

    prompts: InputSources
    """Prompts of the former round. The chosen ones are kept whole, with their column `verify`, under their ids."""
    candidates: InputPath | None = None
    """The candidates.jsonl of rejection sampling on these prompts. Weakest first: prompts of which no finished
    candidate passed its verifiers, then by the score of the best one."""
    probe: InputPath | None = None
    """The answers.jsonl of a knowledge probe on these questions. Chosen are those with a verdict in `knowledge`."""
    knowledge: tuple[Knowledge, ...] = ("unsure",)
    """Verdicts of the probe. unsure: some answers are right, so that the model can learn from its own."""
    ratio: float = Field(0.25, gt=0, le=1)
    """The ratio of the prompts of each source that is chosen by candidates. Sources are ranked apart, because scores of
    different kinds of prompts are no measure of weakness."""
    limit: int | None = Field(None, gt=0)
    """Maximum number of prompts, chosen at random among the chosen ones. null: no limit."""
    evaluation: tuple[InputSource, ...] = ()
    """Evaluation sets. Prompts that are in one of them are dropped and counted."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    seed: int = 0
    """Seed of `limit`, and of the order of the prompts."""

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if (self.candidates is None) == (self.probe is None):
            raise ValueError("expected either candidates or probe, which say where the model is weak")
        return self


def build(config: WeakPromptsConfig, output: Path) -> Path:
    """Write `prompts.jsonl` into the folder `output` and return the folder."""
    if config.candidates is not None:
        chosen: RowSet[PromptRow] = _by_candidates(config, config.candidates)
    else:
        assert config.probe is not None
        chosen = _by_probe(config, config.probe)
    chosen.drop_matches(Decontamination.of(config.evaluation, config.decontamination, config.bad_rows))
    chosen.limit(config.limit, config.seed)
    chosen.shuffle(config.seed)
    chosen.write(output / "prompts.jsonl", config=dump(config), inputs=inputs_of(config))
    logger("data_builders").info("%-20s %s", "weak prompts", chosen.summary())
    return output


def _by_candidates(config: WeakPromptsConfig, path: Path) -> RowSet[PromptRow]:
    prompts = read_row_set(config.prompts, VerifiedPromptRow, config, config.seed)
    strengths: dict[str, Strength] = {}
    for candidate in stream_rows(path, Candidate, reading=config, drops=Drops()):
        usable = candidate.finished and not candidate.failed
        strength = (usable, -math.inf if candidate.score is None else candidate.score)
        strengths[candidate.prompt_id] = max(strength, strengths.get(candidate.prompt_id, strength))
    found: RowSet[PromptRow] = RowSet()
    found.dropped.update(prompts.dropped)
    by_source: dict[str, list[VerifiedPromptRow]] = defaultdict(list)
    for row in prompts.rows:
        if row.id in strengths:
            by_source[row.source].append(row)
        else:
            found.drop("no candidates")
    for rows in by_source.values():
        weakest = sorted(rows, key=lambda row: (strengths[row.id], row.id))
        most = math.ceil(config.ratio * len(rows))
        found.rows += weakest[:most]
        found.drop("not among the weakest of its source", len(rows) - most)
    return found


def _by_probe(config: WeakPromptsConfig, path: Path) -> RowSet[PromptRow]:
    questions = read_row_set(config.prompts, QuestionRow, config, config.seed)
    known: dict[str, str] = {}
    for where, record in records_of(path):
        if isinstance(record, RowError):
            raise record
        if not {"id", "knowledge"} <= record.keys():
            raise RowError(where, "has no id and knowledge", "Name the answers.jsonl of a knowledge probe")
        known[record["id"]] = record["knowledge"]
    found: RowSet[PromptRow] = RowSet()
    found.dropped.update(questions.dropped)
    for row in questions.rows:
        verdict = known.get(row.id)
        if verdict in config.knowledge:
            found.keep(row)
        else:
            found.drop("not probed" if verdict is None else f"knowledge: {verdict}")
    return found
