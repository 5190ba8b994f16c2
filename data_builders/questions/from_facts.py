"""Questions about facts, cut by entity before anything else: to train on, to choose thresholds with, to hold out.

Writes `questions.train`, `questions.dev` and `questions.heldout`, each with its manifest. All that is asked of one
entity, in whatever wording and language, stands on one side; `heldout_relations` are asked of held-out entities only.
`data_builders/rehearsal/builder.py` cuts the questions of a rehearsal with the same function, one part to train on for
each round.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, field_validator, model_validator

from align.config import Section, dump
from align.files import fingerprint_of
from align.records import identities_of
from align.reporting import logger
from align.rows import QuestionRow
from align.settings import BadRows, InputSource
from align.text import normalize
from data_builders import packaged
from data_builders.questions.facts.catalog import all_questions
from data_builders.questions.facts.fact import FIRST_RELATIONS, Asking
from data_builders.questions.facts.wordings import Language, Relation
from data_builders.row_set import Counted, evaluation_keys, part_of, prompt_keys


class QuestionsConfig(Section):
    """Questions about countries, elements and cities, to probe with and to hold out."""

    relations: tuple[Relation, ...] = FIRST_RELATIONS
    """What is asked. Some need GeoNames' package: `currency`, `language`, `area`, `border`, and those of cities."""
    heldout_relations: tuple[Relation, ...] = ()
    """Asked of held-out entities only: kinds of fact that nothing is ever trained on."""
    languages: tuple[Language, ...] = Field(("en",), min_length=1)
    """Capitals and continents of states are asked in each of them, the rest in English."""
    language_weights: dict[Language, float] = Field(default_factory=dict)
    """How much likelier than the others' a language's questions are drawn by `per_fact`; 1 where it is not named."""
    wordings: int = Field(1, ge=1, le=3)
    """Wordings of each kind of fact in each language: the first so many."""
    cities_of_one_country: int = Field(20, gt=0)
    """Cities are the largest of each country: few are better known, many leave more to ask."""
    per_fact: int | None = Field(None, gt=0)
    """Questions kept of one fact, drawn from its wordings and languages; None for all of them."""
    evaluation_per_fact: int | None = Field(None, gt=0)
    """The same of facts that are held out or for dev: more wordings to train on need not be more to measure with. None
    for `per_fact`."""
    heldout_share: float = Field(0.25, ge=0, lt=1)
    """Share of the entities held out: nothing that is asked of them is ever trained on."""
    dev_share: float = Field(0.0, ge=0, lt=1)
    """Share of the entities that settings such as thresholds are chosen with: neither trained on nor reported."""
    limits: dict[Relation, int] = Field(default_factory=dict)
    """Questions in each part to train on, by what is asked; one that is not named has no limit, 0 leaves it out."""
    dev_limits: dict[Relation, int] = Field(default_factory=dict)
    """Questions of the dev entities, by what is asked."""
    heldout_limits: dict[Relation, int] = Field(default_factory=dict)
    """Questions held out, by what is asked."""
    limit: int | None = Field(None, gt=0)
    """Questions in each part to train on."""
    dev_limit: int | None = Field(None, gt=0)
    """Questions of the dev entities."""
    heldout_limit: int | None = Field(None, gt=0)
    """Questions held out."""

    @field_validator("language_weights")
    @classmethod
    def _weights_are_above_0(cls, weights: dict[Language, float]) -> dict[Language, float]:
        for language, weight in weights.items():
            if weight <= 0:
                raise ValueError(f"wanted a weight above 0 for {language}, found {weight}; leave it out of languages")
        return weights

    @model_validator(mode="after")
    def _shares_leave_something_to_train_on(self) -> QuestionsConfig:
        if self.heldout_share + self.dev_share >= 1:
            both = f"{self.heldout_share} and {self.dev_share}"
            raise ValueError(f"wanted heldout_share and dev_share below 1 together, found {both}")
        return self


class QuestionSplitsConfig(QuestionsConfig, BadRows):
    """Questions alone, in one part to train on."""

    evaluation: tuple[InputSource, ...] = ()
    """JSONL of further evaluation prompts, of any kind of row. Matching training rows are dropped, and counted."""
    seed: int = 0
    """Every cut and shuffle."""


class QuestionParts(NamedTuple):
    """Questions cut by entity. What the sources could not give is counted with the held-out ones."""

    heldout: Counted[QuestionRow]
    dev: Counted[QuestionRow]
    rounds: list[Counted[QuestionRow]]


def build(config: QuestionSplitsConfig, output: Path) -> Path:
    """Write the three files into the folder `output`, and return it. Without a dev_share there is no dev file."""
    heldout, dev, (train,) = question_parts(config, 1, config.seed)
    keys = evaluation_keys(config.evaluation, config.bad_rows).union(*map(prompt_keys, (*heldout.rows, *dev.rows)))
    finish_training_part(train, config, keys, config.seed)
    log = logger("data_builders")
    named = sorted({row.source for part in (heldout, dev, train) for row in part.rows})
    notes = {"provenance": packaged.provenance(tuple(named))}
    for name, part in (("train", train), ("dev", dev), ("heldout", heldout)):
        if name != "dev" or config.dev_share:
            path = output / f"questions.{name}.jsonl"
            part.write(path, config=dump(config), inputs=identities_of(config.evaluation), notes=notes)
            log.info("%-20s %s", f"questions.{name}", part.summary())
    return output


def question_parts(config: QuestionsConfig, rounds: int, seed: int) -> QuestionParts:
    """Held out, dev, and one part for each round. The parts to train on still want `finish_training_part`."""
    held, dev = config.heldout_share, config.dev_share
    shares = (held, dev, *[(1 - held - dev) / rounds] * (rounds - 1))
    parts: list[Counted[QuestionRow]] = [Counted() for _ in range(rounds + 2)]
    relations = {*config.relations, *config.heldout_relations}
    asking = Asking(relations, config.languages, config.wordings, config.cities_of_one_country)
    found = all_questions(asking)
    parts[0].dropped.update(found.dropped)
    for row in found.rows:
        place = part_of(normalize(row.entity), shares, seed)
        if place != 0 and row.relation in config.heldout_relations:
            parts[place].drop("relation is held out")
        else:
            parts[place].keep(row)
    for place, part in enumerate(parts):
        of_evaluation = config.evaluation_per_fact if place < 2 else None
        _keep_per_fact(part, of_evaluation or config.per_fact, config, seed)
    for part, limits, limit in (
        (parts[0], config.heldout_limits, config.heldout_limit),
        (parts[1], config.dev_limits, config.dev_limit),
    ):
        part.limit_each(lambda row: row.relation, limits, seed)
        part.limit(limit, seed)
    return QuestionParts(parts[0], parts[1], parts[2:])


def finish_training_part(part: Counted[QuestionRow], config: QuestionsConfig, evaluation: set[str], seed: int) -> None:
    """Drop what an evaluation asks, then cut to the limits."""
    part.drop_matches(evaluation)
    part.limit_each(lambda row: row.relation, config.limits, seed)
    part.limit(config.limit, seed)


def _keep_per_fact(found: Counted[QuestionRow], per_fact: int | None, config: QuestionsConfig, seed: int) -> None:
    """A weighted draw by a hash of each question, so that what is kept of one fact does not depend on the others.

    Source: Efraimidis and Spirakis 2006, Information Processing Letters 97: weighted random sampling by keys.
    """
    if per_fact is None:
        return
    weights = {str(language): weight for language, weight in config.language_weights.items()}

    def draw(row: QuestionRow) -> float:
        uniform = (int(fingerprint_of(seed, row.id)[:12], 16) + 1) / 16**12
        return -math.log(uniform) / weights.get(row.language, 1.0)

    taken: Counter[tuple[str, str, str]] = Counter()
    surplus = set()
    for row in sorted(found.rows, key=draw):
        fact = (row.source, row.entity, row.relation)
        taken[fact] += 1
        if taken[fact] > per_fact:
            surplus.add(row.id)
    found.drop_where(lambda row: row.id in surplus, "over per_fact")
