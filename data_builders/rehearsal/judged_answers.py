"""Preference rows out of answers that people marked: definitely correct, possibly correct, definitely incorrect.

`judged_pairs` ranks the answers to a question, best first, for `builder.py`. `build` makes the data of the proof that
preferences work (docs/results/preferences.md): pairs graded by their marks, with edits and without, of which length
alone tells nothing, and a part of the questions held out.
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
from align.text import normalize
from data_builders.packaged import NQ_OPEN, JudgedQuestion, judged_answers, provenance
from data_builders.preferences.report import bias_text, length_bias
from data_builders.row_set import Counted, part_of, shuffled

DEFINITELY: Level = "significantly better"
"""A definitely correct answer over a definitely incorrect one."""
POSSIBLY: Level = "better"
"""A possibly correct answer over a definitely incorrect one."""
BOTH_RIGHT: Level = "slightly better"
"""A definitely correct answer over a possibly correct one."""


Length = tuple[int, int]
"""How much longer, in characters and in words, each in steps of a doubling."""


class JudgedConfig(Section):
    """Ranked rows from the NQ-open answers that people judged."""

    pairs_per_question: int = Field(2, ge=1)
    """At most so many rows from one question, with different wrong answers."""
    levels: tuple[Level, ...] = (DEFINITELY, POSSIBLY)
    """Which rows are made: definitely correct over incorrect, possibly correct over incorrect."""
    limit: int | None = Field(None, gt=0)
    """Rows to train on."""
    heldout_limit: int | None = Field(None, gt=0)
    """Rows held out."""


class JudgedAnswersConfig(Section):
    """Graded pairs from the NQ-open answers that people judged, and a part of the questions held out."""

    parts: int = Field(3, ge=2)
    """The questions are cut into so many parts of about one size."""
    heldout_part: int = Field(0, ge=0)
    """Which of them is held out, counted from 0. Runs that hold out each in turn measure every question once."""
    pairs_per_question: int = Field(12, ge=1)
    """At most so many rows to train on from one question, drawn from all pairs of a right and a wrong answer."""
    heldout_pairs_per_question: int = Field(4, ge=1)
    """At most so many rows of a level held out from one question."""
    seed: int = 0
    """The cut into parts, which answers meet, and which rows go where one length is too frequent."""

    @model_validator(mode="after")
    def _the_part_is_there(self) -> Self:
        if self.heldout_part >= self.parts:
            raise ValueError(f"heldout_part is {self.heldout_part}, and the {self.parts} parts are counted from 0")
        return self


def build(config: JudgedAnswersConfig, output: Path) -> Path:
    """Write `preferences.with_edits`, `preferences.without_edits` and `preferences.heldout` (.jsonl) into `output`.

    The first two hold the same chosen and rejected answers; the second lacks the edits. Held-out rows are pairs of all
    three levels. No answer that stands in a held-out row, edits included, stands in a row to train on.
    """
    parts: list[list[JudgedQuestion]] = [[] for _ in range(config.parts)]
    shares = [1 / config.parts] * (config.parts - 1)
    for question in judged_answers():
        parts[part_of(normalize(question.question), shares, config.seed)].append(question)
    asked = parts.pop(config.heldout_part)

    others = [question for part in parts for question in part]
    heldout = _rows_of(asked, heldout_rows, config.heldout_pairs_per_question, config.seed)
    train = _rows_of(others, training_rows, config.pairs_per_question, config.seed)
    known = {text for row in heldout.rows for text in _normalized(row)}
    train.drop_where(lambda row: not known.isdisjoint(_normalized(row)), "holds a held-out answer")
    for part in (heldout, train):
        balance_lengths(part, config.seed)
    plain = Counted(without_edit(row) for row in train.rows)
    plain.dropped.update(train.dropped)

    log = logger("data_builders")
    for name, part in {"with_edits": train, "without_edits": plain, "heldout": heldout}.items():
        bias = length_bias(part.rows)
        notes = {"provenance": provenance((NQ_OPEN,)), "length_bias": bias}
        part.write(output / f"preferences.{name}.jsonl", config=dump(config), notes=notes)
        log.info("%-14s %s\n%s", name, part.summary(), bias_text(bias))
    return output


def training_rows(question: JudgedQuestion, most: int, seed: int) -> list[PreferenceRow]:
    """Right over wrong answers. A possibly correct answer has a definitely correct one as its edit, where there is one.

    Nobody edited these answers: the edit is another system's answer that people marked higher.
    """
    answers = _drawn(question, seed)
    if answers.possible:
        return _pairs(question, answers.possible, answers.wrong, POSSIBLY, most, seed, answers.definite)
    return _pairs(question, answers.definite, answers.wrong, DEFINITELY, most, seed)


def heldout_rows(question: JudgedQuestion, most: int, seed: int) -> list[PreferenceRow]:
    """Pairs of all levels: every two kinds of answers that the question has."""
    definite, possible, wrong = _drawn(question, seed)
    return [
        *_pairs(question, definite, wrong, DEFINITELY, most, seed),
        *_pairs(question, possible, wrong, POSSIBLY, most, seed),
        *_pairs(question, definite, possible, BOTH_RIGHT, most, seed),
    ]


def balance_lengths(found: Counted[PreferenceRow], seed: int) -> None:
    """Drop rows, level by level, until chosen is longer as often as shorter and by as much, in characters and in words.

    So a rule that looks at lengths alone ranks about half of the pairs. How often is not enough: where chosen is longer
    by more than it is shorter elsewhere, a score that grows with length is paid. An edit is not looked at.
    """
    alike: dict[tuple[str, Length], list[PreferenceRow]] = defaultdict(list)
    for row in found.rows:
        alike[row.level or "", _longer(row)].append(row)
    surplus: set[str] = set()
    for (level, (characters, words)), rows in alike.items():
        opposite = alike.get((level, (-characters, -words)), [])
        surplus.update(row.id for row in shuffled(rows, seed)[len(opposite) :])
    found.drop_where(lambda row: row.id in surplus, "length balance")


def without_edit(row: PreferenceRow) -> PreferenceRow:
    """The row with its chosen and rejected completion alone."""
    if len(row.completions) == 2:
        return row
    return row.model_copy(update={"id": row_id(row.id, "without edit"), "completions": row.completions[-2:]})


def judged_pairs(questions: Sequence[JudgedQuestion], config: JudgedConfig, seed: int) -> Counted[PreferenceRow]:
    """Rows that rank definitely correct over possibly correct over definitely incorrect answers to one question.

    Three completions where the question has all three kinds, else two. A wrong answer that says the same as a right
    one, or holds it, is no rejected answer. A question without both sides counts as one row dropped.
    """
    found: Counted[PreferenceRow] = Counted()
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
    """The answers to one question, in a drawn order, no two of different marks similar.

    All in small letters but the first: "fewer capitals win" would rank 55% of the pairs, since systems differ in them.
    """

    definite: list[str]
    possible: list[str]
    wrong: list[str]


def _drawn(question: JudgedQuestion, seed: int) -> _Answers:
    draw = random.Random(row_id(seed, question.question))
    marked = (question.definitely_correct, question.possibly_correct, question.definitely_incorrect)
    kept: list[list[str]] = []
    for answers in marked:
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
) -> Counted[PreferenceRow]:
    found: Counted[PreferenceRow] = Counted()
    for question in questions:
        rows = rows_of(question, most, seed)
        found.rows.extend(rows)
        if not rows:
            found.drop("question without answers of two marks")
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
        completions=tuple(_said(_as_sentence(answer)) for answer in ranked),
        level=level,
    )


def _as_sentence(answer: str) -> str:
    """Systems differ in capitals and full stops; answers of one shape leave only what they say to tell them apart."""
    answer = answer.strip().rstrip(".")
    return f"{answer[:1].upper()}{answer[1:]}."


def _similar(one: str, other: str) -> bool:
    """Whether two answers say the same, or one holds all the words of the other."""
    words, others = set(normalize(one).split()), set(normalize(other).split())
    return not words or not others or words <= others or others <= words


def _said(text: str) -> Messages:
    return (Message(role="assistant", content=text),)


def _normalized(row: PreferenceRow) -> set[str]:
    return {normalize(message.content) for completion in row.completions for message in completion}


def _longer(row: PreferenceRow) -> Length:
    """By how much chosen is longer than rejected, or shorter (below 0), in characters and in words."""
    (chosen,), (rejected,) = row.completions[-2:]
    measured = [(len(text.content), len(text.content.split())) for text in (chosen, rejected)]
    characters, words = (_doublings(one - other) for one, other in zip(*measured, strict=True))
    return characters, words


def _doublings(difference: int) -> int:
    """0 for no difference, 1 for one or two, 2 for three to six, 3 for seven to fourteen, with its sign."""
    size = (abs(difference) + 1).bit_length() - 1
    return size if difference > 0 else -size
