"""Make questions about facts (countries, elements, cities), split by entity into training, dev and held-out questions.

It writes `questions.train`, `questions.dev` and `questions.heldout`, each with a manifest. All questions about an
entity, in all wordings and languages, are on the same side of the split. `heldout_relations` are asked about held-out
entities only. The rehearsal uses `question_parts` too, with one training part for each round.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, field_validator, model_validator

from align.config import Section, dump
from align.files import fingerprint_of
from align.records import identities_of
from align.reporting import logger
from align.rows import QuestionRow
from align.settings import BadRows, InputSource
from align.splits import part_of
from align.text import normalize
from data_builders import packaged
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.questions.facts.catalog import all_questions
from data_builders.questions.facts.fact import FIRST_RELATIONS, QuestionOptions
from data_builders.questions.facts.wordings import Language, Relation
from data_builders.row_set import RowSet


class QuestionsConfig(Section):
    """Demo questions about countries, chemical elements and cities."""

    relations: tuple[Relation, ...] = FIRST_RELATIONS
    """Kinds of facts to ask for. `currency`, `language`, `area`, `border` and those of cities require the package of
    GeoNames."""
    heldout_relations: tuple[Relation, ...] = ()
    """Kinds of facts that are asked about held-out entities only, so that they never occur in training."""
    languages: tuple[Language, ...] = Field(("en",), min_length=1)
    """Languages of the questions. Capitals and continents of states are asked in all of them, other facts in
    English."""
    language_weights: dict[Language, float] = Field(default_factory=dict)
    """Language -> how likely its questions are to be chosen by `per_fact`, relative to a language with weight 1. A
    language that is not named has weight 1."""
    wordings: int = Field(1, ge=1, le=3)
    """Number of wordings for each kind of fact and language."""
    cities_of_one_country: int = Field(20, gt=0)
    """Maximum number of cities of one country, the largest first. With few, most of them are well known."""
    per_fact: int | None = Field(None, gt=0)
    """Maximum number of questions about one fact, chosen from its wordings and languages. null: all of them."""
    evaluation_per_fact: int | None = Field(None, gt=0)
    """The same for held-out and dev questions, which do not need several wordings. null: `per_fact`."""
    heldout_ratio: float = Field(0.25, ge=0, lt=1)
    """Ratio of the entities to hold out, from 0 to 1. No question about them is used for training."""
    dev_ratio: float = Field(0.0, ge=0, lt=1)
    """Ratio of the entities for choosing settings such as thresholds; they are neither trained on nor reported."""
    limits: dict[Relation, int] = Field(default_factory=dict)
    """Relation -> maximum number of questions in each training part; 0 leaves it out. A relation that is not named has
    no limit."""
    dev_limits: dict[Relation, int] = Field(default_factory=dict)
    """The same for dev questions."""
    heldout_limits: dict[Relation, int] = Field(default_factory=dict)
    """The same for held-out questions."""
    limit: int | None = Field(None, gt=0)
    """Maximum number of questions in each training part. null: no limit."""
    dev_limit: int | None = Field(None, gt=0)
    """Maximum number of dev questions. null: no limit."""
    heldout_limit: int | None = Field(None, gt=0)
    """Maximum number of held-out questions. null: no limit."""

    @field_validator("language_weights")
    @classmethod
    def _weights_are_above_0(cls, weights: dict[Language, float]) -> dict[Language, float]:
        for language, weight in weights.items():
            if weight <= 0:
                raise ValueError(
                    f"expected a weight above 0 for {language}, found {weight}. Or remove it from languages"
                )
        return weights

    @model_validator(mode="after")
    def _shares_leave_something_to_train_on(self) -> QuestionsConfig:
        if self.heldout_ratio + self.dev_ratio >= 1:
            both = f"{self.heldout_ratio} and {self.dev_ratio}"
            raise ValueError(f"heldout_ratio and dev_ratio must be below 1 together, found {both}")
        return self


class QuestionSplitsConfig(QuestionsConfig, BadRows):
    """Demo questions about facts (countries, elements, cities), split into training, dev and held-out questions."""

    evaluation: tuple[InputSource, ...] = ()
    """Further evaluation sets. Training questions that are in one of them are dropped and counted."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    seed: int = 0
    """Seed of the split and of the choice of questions."""


class QuestionParts(NamedTuple):
    """Questions split by entity. Facts that could not be asked about are counted with the held-out questions."""

    heldout: RowSet[QuestionRow]
    dev: RowSet[QuestionRow]
    rounds: list[RowSet[QuestionRow]]


def build(config: QuestionSplitsConfig, output: Path) -> Path:
    """Write the three files into the folder `output` and return it. If `dev_ratio` is 0, there is no dev file."""
    heldout, dev, (train,) = question_parts(config, 1, config.seed)
    evaluation = Decontamination.of(config.evaluation, config.decontamination, config.bad_rows)
    evaluation.add_prompts((*heldout.rows, *dev.rows))
    finish_training_part(train, config, evaluation, config.seed)
    log = logger("data_builders")
    named = sorted({row.source for part in (heldout, dev, train) for row in part.rows})
    notes = {"provenance": packaged.provenance(tuple(named))}
    for name, part in (("train", train), ("dev", dev), ("heldout", heldout)):
        if name != "dev" or config.dev_ratio:
            path = output / f"questions.{name}.jsonl"
            part.write(path, config=dump(config), inputs=identities_of(config.evaluation), notes=notes)
            log.info("%-20s %s", f"questions.{name}", part.summary())
    return output


def question_parts(config: QuestionsConfig, rounds: int, seed: int) -> QuestionParts:
    """Return held-out questions, dev questions, and one training part for each round.

    The caller has to call `finish_training_part` on the training parts.
    """
    held, dev = config.heldout_ratio, config.dev_ratio
    ratios = (held, dev, *[(1 - held - dev) / rounds] * (rounds - 1))
    parts: list[RowSet[QuestionRow]] = [RowSet() for _ in range(rounds + 2)]
    relations = {*config.relations, *config.heldout_relations}
    asking = QuestionOptions(relations, config.languages, config.wordings, config.cities_of_one_country)
    found = all_questions(asking)
    parts[0].dropped.update(found.dropped)
    for row in found.rows:
        place = part_of(normalize(row.entity), ratios, seed)
        if place != 0 and row.relation in config.heldout_relations:
            parts[place].drop("relation is held out")
        else:
            parts[place].keep(row)
    for place, part in enumerate(parts):
        of_evaluation = config.evaluation_per_fact if place < 2 else None
        _keep_per_fact(part, of_evaluation or config.per_fact, config.language_weights, seed)
    for part, limits, limit in (
        (parts[0], config.heldout_limits, config.heldout_limit),
        (parts[1], config.dev_limits, config.dev_limit),
    ):
        part.limit_each(lambda row: row.relation, limits, seed)
        part.limit(limit, seed)
    return QuestionParts(parts[0], parts[1], parts[2:])


def finish_training_part(
    part: RowSet[QuestionRow], config: QuestionsConfig, evaluation: Decontamination, seed: int
) -> None:
    """Drop questions that are in an evaluation set, then apply the limits."""
    part.drop_matches(evaluation)
    part.limit_each(lambda row: row.relation, config.limits, seed)
    part.limit(config.limit, seed)


def _keep_per_fact(
    found: RowSet[QuestionRow], per_fact: int | None, language_weights: Mapping[Language, float], seed: int
) -> None:
    """Keep at most `per_fact` questions about each fact, chosen at random with the weights of their languages.

    Every question gets the key -ln(u) / weight, where u is a number from 0 to 1 computed from the question's hash, and
    the questions with the smallest keys are kept. So the choice for one fact does not depend on the others. Example:
    u = 0.5 gives the key 0.69 with weight 1, and 0.23 with weight 3, which is kept more often.

    Source: Efraimidis and Spirakis 2006, Information Processing Letters 97: weighted random sampling by keys.
    """
    if per_fact is None:
        return
    weights = {str(language): weight for language, weight in language_weights.items()}

    def key(row: QuestionRow) -> float:
        uniform = (int(fingerprint_of(seed, row.id)[:12], 16) + 1) / 16**12
        return -math.log(uniform) / weights.get(row.language, 1.0)

    taken: Counter[tuple[str, str, str]] = Counter()
    surplus = set()
    for row in sorted(found.rows, key=key):
        fact = (row.source, row.entity, row.relation)
        taken[fact] += 1
        if taken[fact] > per_fact:
            surplus.add(row.id)
    found.drop_where(lambda row: row.id in surplus, "over per_fact")
