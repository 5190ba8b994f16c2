"""The files of rows that rejection sampling writes, one unit of candidates after another: memory holds one unit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any

from align.rows import Candidate, Row
from align.sampling.selection import Selection

Choice = Callable[[Sequence[Candidate]], Selection[Any]]
"""Chooses rows among the candidates of a unit."""


class RowFile:
    """An open file of rows, and what its manifest counts."""

    def __init__(self, handle: IO[str]) -> None:
        self._handle = handle
        self.sources, self.dropped, self.repeats = Counter[str](), Counter[str](), Counter[str]()

    def add(self, rows: Iterable[Row]) -> None:
        """Write rows at the end of the file."""
        for row in rows:
            self._handle.write(row.json_line())
            self.sources[row.source] += 1


def write_units(
    units: Iterable[Sequence[Candidate]],
    candidates: RowFile,
    chosen: Sequence[tuple[RowFile, Choice]],
    counted: Sequence[Callable[[Sequence[Candidate]], None]],
    without_repeats: Callable[[Sequence[Any], Counter[str]], Sequence[Any]],
) -> None:
    """Write the candidates, and the rows that are chosen among them.

    chosen: files, and how their rows are chosen.
    counted: called with each unit.
    without_repeats: leaves out rows that repeat an example of an evaluation, and counts them by reason.
    """
    for unit in units:
        candidates.add(unit)
        for count in counted:
            count(unit)
        for file, choose in chosen:
            found = choose(unit)
            file.dropped.update(found.dropped)
            file.add(without_repeats(found.rows, file.repeats))
