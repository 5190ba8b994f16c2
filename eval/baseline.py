"""The rows of an earlier evaluation, which a new one is compared with question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.errors import RowError
from eval.runner import read_result


def rows_of_baseline(baseline: Path, ids: Sequence[str], things: str) -> dict[str, Mapping[str, Any]]:
    """Row id -> the row of the evaluation in the file `baseline`. Raises RowError if one of the ids is missing.

    things: what the rows are, for the message.
    """
    found = {row["id"]: row for row in read_result(baseline).get("rows", ())}
    missing = [one for one in ids if one not in found]
    if missing:
        what = f"has no verdict for {len(missing)} of {len(ids)} {things}, the first of them {missing[0]}"
        raise RowError(baseline, what, f"Evaluate the starting model on the same {things} and the same limit")
    return found
