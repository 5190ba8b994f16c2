"""Preference rows from answers that people judged: definitely correct, possibly correct or definitely incorrect.

`judged_pairs` makes the rows of the rehearsal. `build` makes the data of the experiment in
docs/results/preferences.md, which measures whether edited responses help a reward model: the same pairs with and
without edits, and a part of the questions held out. There, chosen responses are as often longer as shorter, so that a
reward model cannot score by length.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from align.config import Section, dump
from align.reporting import logger
from align.rows import Level, Message, Messages, PreferenceRow, row_id
from align.splits import part_of
from align.text import normalize
from data_builders.packaged import NQ_OPEN, JudgedQuestion, judged_answers, provenance
from data_builders.preferences.report import bias_text, length_bias
from data_builders.row_set import RowSet, shuffled

DEFINITELY: Level = "significantly better"
"""A definitely correct answer over a definitely incorrect one."""
POSSIBLY: Level = "better"
"""A possibly correct answer over a definitely incorrect one."""
BOTH_RIGHT: Level = "slightly better"
"""A definitely correct answer over a possibly correct one."""


Length = tuple[int, int]
"""How much longer chosen is than rejected, in characters and in words, each as returned by `_doublings`."""


class JudgedConfig(Section):
    """Preference rows from the NQ-open answers that people judged."""

    pairs_per_question: int = Field(2, ge=1)
    """Maximum number of rows from one question, with different wrong answers."""
    levels: tuple[Level, ...] = (DEFINITELY, POSSIBLY)
    """Levels of the rows: `significantly better` is definitely correct over incorrect, `better` is possibly correct
    over incorrect."""
    limit: int | None = Field(None, gt=0)
    """Maximum number of training rows. null: no limit."""
    heldout_limit: int | None = Field(None, gt=0)
    """Maximum number of held-out rows. null: no limit."""


class JudgedAnswersConfig(Section):
    """Demo preference pairs with levels, from NQ-open answers that people judged; for `make preferences`."""

    parts: int = Field(3, ge=2)
    """Number of parts of about equal size into which the questions are split."""
    heldout_part: int = Field(0, ge=0)
    """The part to hold out, counted from 0. Run once for each part to evaluate on every question."""
    pairs_per_question: int = Field(12, ge=1)
    """Maximum number of training rows from one question, chosen from all pairs of a right and a wrong answer."""
    heldout_pairs_per_question: int = Field(4, ge=1)
    """Maximum number of held-out rows of each level from one question."""
    seed: int = 0
    """Seed of the split, of the pairing of answers, and of the rows that are dropped to balance lengths."""

    @model_validator(mode="after")
    def _the_part_is_there(self) -> Self:
        if self.heldout_part >= self.parts:
            most = self.parts - 1
            raise ValueError(f"heldout_part must be from 0 to {most} for {self.parts} parts, found {self.heldout_part}")
        return self


def build(config: JudgedAnswersConfig, output: Path) -> Path:
    """Write `preferences.with_edits`, `preferences.without_edits` and `preferences.heldout` (.jsonl) into `output`.

    The first two files have the same chosen and rejected answers; the second one has no edits. Held-out rows are pairs
    of all three levels. No answer of a held-out row, edits included, is in a training row.
    """
    parts: list[list[JudgedQuestion]] = [[] for _ in range(config.parts)]
    ratios = [1 / config.parts] * (config.parts - 1)
    for question in judged_answers():
        parts[part_of(normalize(question.question), ratios, config.seed)].append(question)
    heldout_questions = parts.pop(config.heldout_part)

    others = [question for part in parts for question in part]
    heldout = _rows_of(heldout_questions, heldout_rows, config.heldout_pairs_per_question, config.seed)
    train = _rows_of(others, training_rows, config.pairs_per_question, config.seed)
    known = {text for row in heldout.rows for text in _normalized(row)}
    train.drop_where(lambda row: not known.isdisjoint(_normalized(row)), "contains a held-out answer")
    for part in (heldout, train):
        balance_lengths(part, config.seed)
    plain = RowSet(without_edit(row) for row in train.rows)
    plain.dropped.update(train.dropped)

    log = logger("data_builders")
    for name, part in {"with_edits": train, "without_edits": plain, "heldout": heldout}.items():
        bias = length_bias(part.rows)
        notes = {"provenance": provenance((NQ_OPEN,)), "length_bias": bias}
        part.write(output / f"preferences.{name}.jsonl", config=dump(config), notes=notes)
        log.info("%-14s %s\n%s", name, part.summary(), bias_text(bias))
    return output


def training_rows(question: JudgedQuestion, most: int, seed: int) -> list[PreferenceRow]:
    """Pair right with wrong answers. If the right one is possibly correct, a definitely correct one is used as its
    edit.

    So the edits are not edits by a person, but answers of another system that people judged higher.
    """
    answers = _shuffled_answers(question, seed)
    if answers.possible:
        return _pairs(question, answers.possible, answers.wrong, POSSIBLY, most, seed, answers.definite)
    return _pairs(question, answers.definite, answers.wrong, DEFINITELY, most, seed)


def heldout_rows(question: JudgedQuestion, most: int, seed: int) -> list[PreferenceRow]:
    """Make pairs of all levels, from every two kinds of answers that the question has."""
    definite, possible, wrong = _shuffled_answers(question, seed)
    return [
        *_pairs(question, definite, wrong, DEFINITELY, most, seed),
        *_pairs(question, possible, wrong, POSSIBLY, most, seed),
        *_pairs(question, definite, possible, BOTH_RIGHT, most, seed),
    ]


def balance_lengths(found: RowSet[PreferenceRow], seed: int) -> None:
    """Drop rows of each level until chosen is longer as often as it is shorter, by as much, in characters and in words.

    A rule that looks at the lengths only then ranks about half of the pairs correctly. The amount has to be balanced
    too: if chosen were longer by more than it is shorter in other rows, a reward that grows with length would gain from
    it. Edits are not considered.

    Rows are grouped by how much longer chosen is. Example: 10 rows where chosen is 3 to 6 characters longer and 7 rows
    where it is 3 to 6 characters shorter: 3 of the 10 are dropped.
    """
    by_length: dict[tuple[str, Length], list[PreferenceRow]] = defaultdict(list)
    for row in found.rows:
        by_length[row.level or "", _longer(row)].append(row)
    surplus: set[str] = set()
    for (level, (characters, words)), rows in by_length.items():
        opposite = by_length.get((level, (-characters, -words)), [])
        surplus.update(row.id for row in shuffled(rows, seed)[len(opposite) :])
    found.drop_where(lambda row: row.id in surplus, "length balance")


def without_edit(row: PreferenceRow) -> PreferenceRow:
    """Return the row with only its chosen and rejected completion."""
    if len(row.completions) == 2:
        return row
    return row.model_copy(update={"id": row_id(row.id, "without edit"), "completions": row.completions[-2:]})


def judged_pairs(questions: Sequence[JudgedQuestion], config: JudgedConfig, seed: int) -> RowSet[PreferenceRow]:
    """Rank definitely correct over possibly correct over definitely incorrect answers to each question.

    A row has three completions if the question has all three kinds of answers, else two. A wrong answer that is similar
    to a right one is not used. A question without a right or without a wrong answer counts as one dropped row.
    """
    found: RowSet[PreferenceRow] = RowSet()
    for question in questions:
        level = DEFINITELY if question.definitely_correct else POSSIBLY
        right = question.definitely_correct + question.possibly_correct
        wrong = [answer for answer in question.definitely_incorrect if not any(_similar(answer, one) for one in right)]
        if not right or not question.definitely_incorrect:
            found.drop("no right and wrong answer")
        elif not wrong:
            found.drop("similar answers")
        elif level not in config.levels:
            found.drop("level not kept")
        else:
            found.rows.extend(_ranked(question, wrong, level, config.pairs_per_question, seed))
    found.drop_duplicates()
    return found


class _Answers(NamedTuple):
    """The answers to one question in a random order, without answers that are similar to one that was judged higher.

    All letters except the first are lower-case, because the systems that wrote the answers differ in capitalization:
    "fewer capitals win" would rank 55% of the pairs correctly.
    """

    definite: list[str]
    possible: list[str]
    wrong: list[str]


def _shuffled_answers(question: JudgedQuestion, seed: int) -> _Answers:
    draw = random.Random(row_id(seed, question.question))
    kinds = (question.definitely_correct, question.possibly_correct, question.definitely_incorrect)
    kept: list[list[str]] = []
    for answers in kinds:
        better = [answer for kind in kept for answer in kind]
        sentences = list(dict.fromkeys(_as_sentence(answer.lower()) for answer in answers))
        kept.append([one for one in sentences if not any(_similar(one, other) for other in better)])
        draw.shuffle(kept[-1])
    return _Answers(*kept)


def _rows_of(
    questions: Iterable[JudgedQuestion],
    rows_of: Callable[[JudgedQuestion, int, int], list[PreferenceRow]],
    most: int,
    seed: int,
) -> RowSet[PreferenceRow]:
    found: RowSet[PreferenceRow] = RowSet()
    for question in questions:
        rows = rows_of(question, most, seed)
        found.rows.extend(rows)
        if not rows:
            found.drop("question without answers of two kinds")
    return found


def _pairs(
    question: JudgedQuestion,
    better: Sequence[str],
    worse: Sequence[str],
    level: Level,
    most: int,
    seed: int,
    edits: Sequence[str] = (),
) -> list[PreferenceRow]:
    pairs = list(itertools.product(better, worse))
    random.Random(row_id(seed, question.question, level)).shuffle(pairs)
    rows = []
    for number, ranked in enumerate(pairs[:most]):
        edit = edits[number % len(edits) :][:1] if edits else []
        rows.append(_row(question, [*edit, *ranked], level))
    return rows


def _ranked(question: JudgedQuestion, wrong: list[str], level: Level, most: int, seed: int) -> list[PreferenceRow]:
    draw = random.Random(row_id(seed, question.question))
    best = list(question.definitely_correct or question.possibly_correct)
    middle = list(question.possibly_correct) if question.definitely_correct else []
    for answers in (best, middle, wrong):
        draw.shuffle(answers)
    middle = [answer for answer in middle if not any(_similar(answer, one) for one in best)]
    rows = []
    for number, rejected in enumerate(wrong[:most]):
        ranked = [best[number % len(best)], *middle[number : number + 1], rejected]
        rows.append(_row(question, ranked, level))
    return rows


def _row(question: JudgedQuestion, ranked: Sequence[str], level: Level) -> PreferenceRow:
    return PreferenceRow(
        id=row_id(NQ_OPEN, question.question, *ranked),
        source=NQ_OPEN,
        prompt=(Message(role="user", content=question.question),),
        completions=tuple(_assistant(_as_sentence(answer)) for answer in ranked),
        level=level,
    )


def _as_sentence(answer: str) -> str:
    """Give all answers one form: a capital first letter and a full stop, so that only their content differs."""
    answer = answer.strip().rstrip(".")
    return f"{answer[:1].upper()}{answer[1:]}."


def _similar(one: str, other: str) -> bool:
    """Return whether one answer contains all words of the other, after normalization."""
    words, others = set(normalize(one).split()), set(normalize(other).split())
    return not words or not others or words <= others or others <= words


def _assistant(text: str) -> Messages:
    return (Message(role="assistant", content=text),)


def _normalized(row: PreferenceRow) -> set[str]:
    return {normalize(message.content) for completion in row.completions for message in completion}


def _longer(row: PreferenceRow) -> Length:
    """Return how much longer chosen is than rejected, in characters and in words; negative if it is shorter."""
    (chosen,), (rejected,) = row.completions[-2:]
    measured = [(len(text.content), len(text.content.split())) for text in (chosen, rejected)]
    characters, words = (_doublings(one - other) for one, other in zip(*measured, strict=True))
    return characters, words


def _doublings(difference: int) -> int:
    """Put a difference into a group: 0 for none, 1 for 1 to 2, 2 for 3 to 6, 3 for 7 to 14, with its sign."""
    size = (abs(difference) + 1).bit_length() - 1
    return size if difference > 0 else -size
