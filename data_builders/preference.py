"""Preference rows: system answers that people judged, general pairs, and pairs that a user brings.

A row keeps how much better chosen is. The trainers drop the weak levels themselves, so nothing is lost here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from align.config import Section, dump
from align.jsonl import iterate_rows
from align.overlap import normalize
from align.rows import Level, Message, Messages, PreferenceRow, row_id
from align.settings import InputPath
from data_builders.counted import Counted, characters, evaluation_keys, part_of, prompt_keys
from data_builders.sources import GENERAL, NQ_OPEN, Comparison, JudgedQuestion

DEFINITELY: Level = "significantly better"
"""A definitely correct answer over a definitely incorrect one."""
POSSIBLY: Level = "slightly better"
"""A possibly correct answer over a definitely incorrect one."""


class JudgedConfig(Section):
    """Pairs from the NQ-open answers that people judged."""

    pairs_per_question: int = Field(2, ge=1)
    """At most so many rows from one question, with different wrong answers."""
    levels: tuple[Level, ...] = (DEFINITELY, POSSIBLY)
    """Which rows are made: definitely correct over incorrect, possibly correct over incorrect."""
    limit: int | None = Field(None, gt=0)
    """Rows to train on."""
    heldout_limit: int | None = Field(None, gt=0)
    """Rows held out."""


class GeneralConfig(Section):
    """The general pairs of the demo set; who chose is not documented."""

    max_characters: int = Field(4000, gt=0)
    """A row with more in prompt, chosen and rejected together is dropped, and counted."""
    limit: int | None = Field(None, gt=0)
    """Rows to train on."""
    heldout_limit: int | None = Field(None, gt=0)
    """Rows held out."""


class PreferencesConfig(Section):
    """A user's own pairs: checked, deduplicated, and cut into rows to train on and rows held out."""

    path: InputPath | tuple[InputPath, ...]
    """JSONL of pairs: ours, or the prompt/chosen/rejected form that other toolkits write."""
    heldout_share: float = Field(0.1, ge=0, lt=1)
    """Share of the prompts held out. A prompt is on one side only, with all its pairs."""
    max_characters: int | None = Field(None, gt=0)
    """A row with more in its prompt and completions together is dropped, and counted; None for no limit."""
    limit: int | None = Field(None, gt=0)
    """Rows to train on, taken by a seeded shuffle."""
    evaluation: tuple[InputPath, ...] = ()
    """JSONL of evaluation prompts, of any kind of row. Rows to train on that match one are dropped, and counted."""
    seed: int = 0
    """The cut and the shuffle."""


def build(config: PreferencesConfig, output: Path) -> Path:
    """Write `preferences.jsonl` and `preferences.heldout.jsonl` into the folder `output`."""
    paths = [config.path] if isinstance(config.path, Path) else list(config.path)
    train: Counted[PreferenceRow] = Counted()
    heldout: Counted[PreferenceRow] = Counted()
    for path in paths:
        for row in iterate_rows(path, PreferenceRow):
            side = part_of(prompt_identity(row.prompt), (config.heldout_share,), config.seed)
            (train if side else heldout).keep(row)
    for part in (train, heldout):
        drop_unusable(part, config.max_characters)
    evaluation = evaluation_keys(config.evaluation).union(*map(prompt_keys, heldout.rows))
    train.drop_matches(evaluation)
    train.limit(config.limit, config.seed)
    for name, part in (("preferences", train), ("preferences.heldout", heldout)):
        if part.rows or name == "preferences":
            part.write(output / f"{name}.jsonl", config=dump(config), inputs=[*paths, *config.evaluation])
    return output


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
            found.drop("level not wanted")
        else:
            found.rows.extend(_ranked(question, wrong, level, config.pairs_per_question, seed))
    found.drop_duplicates()
    return found


def general_pairs(comparisons: Sequence[Comparison], max_characters: int) -> Counted[PreferenceRow]:
    found: Counted[PreferenceRow] = Counted()
    for pair in comparisons:
        completions = (_said(pair.chosen), _said(pair.rejected))
        identity = row_id(GENERAL, *(message.content for message in pair.prompt), pair.chosen, pair.rejected)
        found.keep(PreferenceRow(id=identity, source=GENERAL, prompt=pair.prompt, completions=completions))
    drop_unusable(found, max_characters)
    return found


def drop_unusable(found: Counted[PreferenceRow], max_characters: int | None) -> None:
    """Drop duplicates, rows whose completions say the same, and rows over the length."""
    found.drop_duplicates()
    found.drop_where(lambda row: _says(row.chosen) == _says(row.rejected), "similar answers")
    if max_characters is not None:
        found.drop_where(lambda row: _length(row) > max_characters, "over max_characters")


def prompt_identity(prompt: Messages) -> str:
    """What cuts apart by prompt: the first user message, so that the turns of one dialog stay together."""
    users = [message.content for message in prompt if message.role == "user"]
    return normalize(users[0] if users else prompt[0].content)


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
        rows.append(
            PreferenceRow(
                id=row_id(NQ_OPEN, question.question, *ranked),
                source=NQ_OPEN,
                prompt=(Message(role="user", content=question.question),),
                completions=tuple(_said(_as_sentence(answer)) for answer in ranked),
                level=level,
            )
        )
    return rows


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


def _says(completion: Messages) -> list[tuple[str, str]]:
    return [
        (normalize(message.content), " ".join(f"{call.name}{call.arguments}" for call in message.tool_calls))
        for message in completion
    ]


def _length(row: PreferenceRow) -> int:
    return characters(row.prompt, row.tools) + sum(map(characters, row.completions))
