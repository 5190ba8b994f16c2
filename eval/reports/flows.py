"""How many rows went into each data file of a run, how many were dropped and why, and how many were kept, by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from align.rounds.ledger import StageRecord
from align.rounds.results import counts_of, dropped_of
from eval.reports.columns import column_of, made_by


class RowCounts(NamedTuple):
    """The counts of one file's manifest."""

    read: int | None
    """Rows that went in; None if the manifest does not say."""
    kept: int | None
    copies: int
    """Rows among the kept ones that repeat others, because their source has a weight above 1."""
    dropped: Mapping[str, int]
    """Reason -> rows."""


@dataclass(frozen=True)
class Flow:
    """One data file of one stage, which each round may make again."""

    stage: str
    file: str
    counts: Mapping[str, RowCounts]
    """Column -> counts."""


def flows_of(records: Sequence[StageRecord]) -> tuple[Flow, ...]:
    """The files in the order in which the run made them first."""
    found: dict[tuple[str, str], dict[str, RowCounts]] = {}
    for record in records:
        for made in made_by(record):
            for file, counts in counts_of(made).items():
                if not counts:  # a file next to the rows, such as the dropped ones, which those of the rows count
                    continue
                found.setdefault((record.name, file), {})[column_of(record)] = _row_counts(counts)
    return tuple(Flow(stage, file, counts) for (stage, file), counts in found.items())


def _row_counts(counts: Mapping[str, Any]) -> RowCounts:
    return RowCounts(
        read=_number(counts.get("read")),
        kept=_number(counts.get("rows")),
        copies=_number(counts.get("copies")) or 0,
        dropped=dropped_of(counts),
    )


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None
