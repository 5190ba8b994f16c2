"""Read data sets of questions with their answers: BoolQ, which has a passage for each question, and NQ-open."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from align.errors import RowError, UnusableRow
from align.formats.columns import Columns
from align.jsonl import Drops, usable
from align.judges.answers.rules import normalize_answer, states
from align.records import Record, SourceLike, records_of
from align.rows import Message, Messages, QuestionRow, row_id
from data_builders.row_set import RowSet

BadRowsAre = Literal["stop", "drop"]

BOOLQ = "boolq"
NQ_OPEN = "nq-open"

_BOOLQ_COLUMNS = ("question", "passage", "answer", "title")
_OPEN_COLUMNS = (
    *("question", "answer", "def_correct_predictions"),
    # the other judgements of EfficientQA: possibly correct, incorrect, and the union of two columns that are read
    *("poss_correct_predictions", "def_incorrect_predictions", "answer_and_def_correct_predictions"),
)

_SIDES = {"true": "yes", "false": "no", "yes": "yes", "no": "no"}


def boolq_questions(paths: Sequence[SourceLike], bad_rows: BadRowsAre = "stop") -> RowSet[QuestionRow]:
    """Read yes-or-no questions with the passage that answers them: `question`, `passage`, `answer`, `title`.

    The prompt asks to answer yes or no, because the rules that judge answers understand nothing else. Raises RowError
    for a record with other columns.
    """

    def read(record: Record, where: str) -> QuestionRow:
        _refuse_other_columns(record, where, _BOOLQ_COLUMNS)
        answer = record.get("answer")
        side = _SIDES.get(str(answer).strip().casefold())
        if side is None:
            raise RowError(f"{where}: answer", f"expected true or false, found {answer!r}", "Use the format of BoolQ")
        question, passage = _text(record, "question", where), _text(record, "passage", where)
        return QuestionRow(
            id=row_id(BOOLQ, question, passage),
            source=BOOLQ,
            prompt=_user(f"{as_question(question)} Answer yes or no."),
            entity=str(record.get("title") or question),
            relation="yes-or-no",
            answers=(side,),
            reference=passage,
            topic=BOOLQ,
        )

    return _counted(paths, read, bad_rows)


def open_questions(paths: Sequence[SourceLike], bad_rows: BadRowsAre = "stop") -> RowSet[QuestionRow]:
    """Read questions with accepted answers, without a passage: `question` and `answer` (a text or a list of texts).

    Answers that people judged to be definitely correct (EfficientQA) are accepted too.
    """

    def read(record: Record, where: str) -> QuestionRow:
        _refuse_other_columns(record, where, _OPEN_COLUMNS)
        question = _text(record, "question", where)
        given = record.get("answer")
        texts = [given] if isinstance(given, str) else [*(given or ()), *(record.get("def_correct_predictions") or ())]
        answers = tuple(dict.fromkeys(text for text in map(unescaped, map(str, texts)) if normalize_answer(text)))
        if not answers:
            raise UnusableRow(f"{where}: answer", "contains no answer", "Add an answer", "no accepted answer")
        if any(states(question, [answer]) for answer in answers):
            reason = "answer is in the question"
            raise UnusableRow(f"{where}: answer", "is in the question", "Reword the question", reason)
        return QuestionRow(
            id=row_id(NQ_OPEN, question),
            source=NQ_OPEN,
            prompt=_user(as_question(question)),
            entity=question,
            relation="open",
            answers=answers,
            topic=NQ_OPEN,
        )

    return _counted(paths, read, bad_rows)


def as_question(text: str) -> str:
    """Turn a search query into a question: "who wrote faust" becomes "Who wrote faust?"."""
    text = text.strip()
    return text[:1].upper() + text[1:].rstrip(" ?.!") + "?"


def unescaped(text: str) -> str:
    r"""Resolve escape sequences that a file contains literally, such as `\\u00f4` and `\"`."""
    text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match.group(1), 16)), text)
    return re.sub(r"\\+\"", '"', text).strip()


def _user(text: str) -> Messages:
    return (Message(role="user", content=text),)


def _counted(
    paths: Sequence[SourceLike], read: Callable[[Record, str], QuestionRow], bad_rows: BadRowsAre
) -> RowSet[QuestionRow]:
    drops = Drops()
    found = RowSet(usable(records_of(paths), read, bad_rows, drops))
    found.dropped.update(drops.reasons)
    return found


def _refuse_other_columns(record: Record, where: str, known: Sequence[str]) -> None:
    columns = Columns(record, where)
    columns.read.update((*known, "id", "source"))
    columns.refuse_unread(known)


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{where}: {key}", f"expected a text, found {value!r}", f"Add {key} to the record")
    return value.strip()
