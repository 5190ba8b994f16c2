"""The rows that a builder is about to write, together with the number of rows it dropped for each reason.

Every builder collects its rows in a `RowSet`, so that all of them remove duplicates, remove rows that appear in an
evaluation set, apply limits and report counts in the same way. The counts always add up:

    rows read = rows kept - copies + rows dropped

For example, 100 rows are read, 10 of them are duplicates, and the rest is repeated twice: 180 rows are kept, 90 of them
are copies, 10 are dropped, and 180 - 90 + 10 = 100.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from align.jsonl import Drops, Sources, read_rows, write_rows
from align.manifest import write_data_manifest
from align.rows import Message, Row
from align.settings import Reading
from data_builders.row_contents import content_key

if TYPE_CHECKING:
    from data_builders.quality.decontamination import Decontamination

R = TypeVar("R", bound=Row)


class RowSet(Generic[R]):
    """The rows kept so far, and how many rows were dropped for each reason."""

    def __init__(self, rows: Iterable[R] = ()) -> None:
        self.rows: list[R] = list(rows)
        self.dropped: Counter[str] = Counter()
        self.copies = 0
        """Rows that `apply_weight` added as repetitions of other rows; they were not read from any source."""

    def keep(self, row: R) -> None:
        self.rows.append(row)

    def drop(self, reason: str, count: int = 1) -> None:
        if count:
            self.dropped[reason] += count

    def add(self, other: RowSet[R]) -> None:
        self.rows.extend(other.rows)
        self.dropped.update(other.dropped)
        self.copies += other.copies

    def drop_where(self, test: Callable[[R], bool], reason: str) -> None:
        kept = [row for row in self.rows if not test(row)]
        self.drop(reason, len(self.rows) - len(kept))
        self.rows = kept

    def drop_duplicates(self) -> None:
        """Keep the first of several rows with the same content (messages, roles, calls and tools)."""
        first: dict[str, R] = {}
        for row in self.rows:
            first.setdefault(content_key(row), row)
        self.drop("duplicate", len(self.rows) - len(first))
        self.rows = list(first.values())

    def drop_matches(self, evaluation: Decontamination, as_asked: Callable[[R], R] | None = None) -> None:
        """Drop rows that repeat an example of an evaluation set, see `data_builders/quality/decontamination.py`.

        as_asked: makes of a row what it will be in the file, if that is not the row itself; both are compared.
        """
        drops = evaluation.drops(self.rows)
        if as_asked is not None:
            drops = {**evaluation.drops([as_asked(row) for row in self.rows]), **drops}
        self.dropped.update(drop.reason for drop in drops.values())
        self.rows = [row for place, row in enumerate(self.rows) if place not in drops]

    def limit(self, most: int | None, seed: int, reason: str = "over the limit") -> None:
        """Keep at most `most` rows, chosen by a seeded shuffle that does not depend on their current order."""
        if most is not None and len(self.rows) > most:
            surplus = {row.id for row in shuffled(self.rows, seed)[most:]}
            self.drop_where(lambda row: row.id in surplus, reason)

    def limit_each(self, kind_of: Callable[[R], str], limits: Mapping[Any, int | None], seed: int) -> None:
        """Apply `limit` separately to the rows of each kind. A kind that `limits` does not name has no limit."""
        for kind, most in limits.items():
            of_kind = RowSet(row for row in self.rows if kind_of(row) == kind)
            of_kind.limit(most, seed)
            kept = {row.id for row in of_kind.rows}
            self.rows = [row for row in self.rows if row.id in kept or kind_of(row) != kind]
            self.dropped.update(of_kind.dropped)

    def apply_weight(self, weight: float, seed: int) -> None:
        """Repeat the rows `weight` times; a weight below 1 keeps only that part of them.

        With weight 2.5, every row is there twice and a seeded half of the rows a third time; with 0.5, a seeded half is
        kept. A copy gets its own id: the row's id followed by `.1`, `.2` and so on.
        """
        whole = int(weight)
        order = shuffled(self.rows, seed)
        extra = order[: round((weight - whole) * len(order))]
        if whole == 0:
            self.drop("down-weighted", len(order) - len(extra))
            self.rows = extra
            return
        copies = [_copy(row, number) for number in range(1, whole) for row in order]
        copies += [_copy(row, whole) for row in extra]
        self.rows = order + copies
        self.copies += len(copies)

    def shuffle(self, seed: int) -> None:
        self.rows = shuffled(self.rows, seed)

    @property
    def counts(self) -> dict[str, Any]:
        """The counts for the manifest.

        Example: `{"read": 531, "rows": 512, "dropped": {"duplicate": 19}, "sources": {"nq-open": 512}}`.
        """
        return {
            "read": len(self.rows) - self.copies + self.dropped.total(),
            "rows": len(self.rows),
            **({"copies": self.copies} if self.copies else {}),
            "dropped": dict(sorted(self.dropped.items())),
            "sources": dict(sorted(Counter(row.source for row in self.rows).items())),
        }

    def summary(self) -> str:
        """The counts as a line of the log: `512 rows (31 dropped: 19 duplicate, 12 over the limit)`."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        return f"{len(self.rows)} rows" + (f" ({self.dropped.total()} dropped: {reasons})" if reasons else "")

    def write(
        self,
        path: Path,
        *,
        config: dict[str, Any],
        inputs: Iterable[Path] | Mapping[str, str] = (),
        notes: dict[str, Any] | None = None,
    ) -> Path:
        """Write the rows as JSONL to `path`, and their manifest next to it."""
        write_rows(path, self.rows)
        write_data_manifest(path, config=config, inputs=inputs, counts=self.counts, notes=notes)
        return path


def shuffled(rows: Iterable[R], seed: int) -> list[R]:
    """Shuffle the rows into an order that depends only on their ids and the seed."""
    ordered = sorted(rows, key=lambda row: row.id)
    random.Random(seed).shuffle(ordered)
    return ordered


def _copy(row: R, number: int) -> R:
    return row.model_copy(update={"id": f"{row.id}.{number}", "made_from": (row.id,)})


def read_row_set(sources: Sources, kind: type[R], reading: Reading, seed: int = 0) -> RowSet[R]:
    """Read the rows of one or more sources. Bad rows and exact repeats that were dropped are counted."""
    drops = Drops()
    found = RowSet(read_rows(sources, kind, reading, drops=drops, seed=seed))
    found.dropped.update(drops.reasons)
    return found


def characters(messages: Iterable[Message], tools: str = "") -> int:
    """Count the characters of a dialog: its texts, its calls, and the definitions of the offered functions."""
    return len(tools) + sum(
        len(message.content) + sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
        for message in messages
    )
