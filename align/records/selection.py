"""Which records of a source are read, by their columns `round` and `batch` (`Source.rounds`, `Source.batches`).

Preferences are collected in batches, often into one growing file. A stage that selects rows by round reads the same
rows before and after the next batch was appended, so its result is still valid.
"""

from __future__ import annotations

from typing import Any

from align.errors import RowError, UnusableRow
from align.records.text import Record, object_in
from align.settings import Source

NOT_SELECTED = "of a round or batch that is not selected"
"""Why a record is not read, in counts."""


def selection_of(source: Source) -> str:
    """What is selected, for labels and messages: `rounds 4 to 5, batch week-7`; empty for a source read whole."""
    parts = [] if source.rounds is None else [f"rounds {source.rounds}"]
    parts += [f"batch {', '.join(source.batches)}"] if source.batches else []
    return ", ".join(parts)


def _not_selected(record: Record, source: Source, where: str) -> UnusableRow | None:
    """Why the record is not read; None if it is.

    Raises RowError for a record without the column that it is selected by.
    """
    if source.rounds is not None:
        number = round_of(record.get("round"), where)
        if number is None:
            raise _missing(where, "round", "the number of the round that it was collected in")
        if number not in source.rounds:
            return _left_out(where, source, f"is of round {number}")
    if source.batches:
        batch = record.get("batch")
        if batch in (None, ""):
            raise _missing(where, "batch", "the batch that it was collected with")
        if batch not in source.batches:
            return _left_out(where, source, f"is of batch {str(batch)[:80]}")
    return None


def selected_entry(entry: bytes | Record | RowError, source: Source, where: str) -> Record | RowError:
    """The record, or the error in its place: an UnusableRow if it is not selected."""
    if isinstance(entry, RowError):
        return entry
    try:
        record = object_in(entry, where) if isinstance(entry, bytes) else entry
        return _not_selected(record, source, where) or record
    except RowError as error:
        return error


def round_of(value: Any, where: str, field: str = "round") -> int | None:
    """The number of a round, from 0 on; None for nothing. Raises RowError."""
    if value is None:
        return None
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)  # a cell of CSV is text
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        how = "Write it as a number"
        raise RowError(f"{where}: {field}", f"expected a number from 0 on, found {repr(value)[:80]}", how)
    return value


def _missing(where: str, column: str, what: str) -> RowError:
    setting = {"round": "rounds", "batch": "batches"}[column]
    how = f"Write {what} into the row, or read the source without the setting {setting}"
    return RowError(f"{where}: {column}", "expected a value, because the source is selected by it; found nothing", how)


def _left_out(where: str, source: Source, what: str) -> UnusableRow:
    return UnusableRow(where, f"{what}, and {selection_of(source)} are selected", "Nothing is to be done", NOT_SELECTED)
