"""The rows of an earlier evaluation, which a new one is compared with question by question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.errors import RowError
from eval.runner import read_result


def rows_of_baseline(
    baseline: Path, asked: Mapping[str, Mapping[str, Any]], things: str
) -> dict[str, Mapping[str, Any]]:
    """Row id -> the row of the evaluation in the file `baseline`.

    asked: row id -> columns that the baseline's row must have too, such as its prompt and what is expected.
    things: what the rows are, for the message.
    Raises RowError if one of the ids is missing, or if its row had other columns then: ids that a user gives, such as
    numbers, do not show that a question has changed.
    """
    found = {row["id"]: row for row in read_result(baseline).get("rows", ())}
    missing = [one for one in asked if one not in found]
    if missing:
        what = f"has no verdict for {len(missing)} of {len(asked)} {things}, the first of them {missing[0]}"
        raise RowError(baseline, what, f"Evaluate the starting model on the same {things} and the same limit")
    for name, columns in asked.items():
        for column, now in columns.items():
            then = found[name].get(column, now)
            if then != now:
                what = f"was made from other {things}: {column} of {name} was {then!r} there, and is {now!r} now"
                raise RowError(baseline, what, f"Evaluate the starting model on the same {things}")
    return found
