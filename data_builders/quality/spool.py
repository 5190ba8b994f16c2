"""Rows in a temporary file, read in any order: for builders that mix more rows than memory holds."""

from __future__ import annotations

import mmap
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self

from align.rows import Row


class Spool:
    """Rows in a temporary file, from which they are read by their numbers."""

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `__exit__`; it has no name that a killed run could leave
        self._starts = array("Q", [0])
        self._sources: list[str] = []
        self._first: list[int] = []  # the first row of each entry of _sources
        self._mapped: mmap.mmap | None = None
        self.ids: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._mapped is not None:
            self._mapped.close()
        self._file.close()

    def add(self, source: str, rows: Sequence[Row]) -> None:
        """Add rows of a named source. All rows of a source are added before those of the next."""
        if self._sources[-1:] != [source]:
            self._sources.append(source)
            self._first.append(len(self.ids))
        for row in rows:
            text = row.model_dump_json(exclude_defaults=True).encode("utf-8", "surrogatepass")
            self._file.write(text)
            self._starts.append(self._starts[-1] + len(text))
            self.ids.append(row.id)

    def numbers(self, source: str) -> range:
        """The rows of a named source."""
        if source not in self._sources:
            return range(0)
        place = self._sources.index(source)
        ends = [*self._first[1:], len(self.ids)]
        return range(self._first[place], ends[place])

    def source(self, number: int) -> str:
        """The named source of a row."""
        return self._sources[bisect_right(self._first, number) - 1]

    def text(self, number: int) -> str:
        """The JSON text of a row."""
        if self._mapped is None:
            self._file.flush()
            self._mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._mapped[self._starts[number] : self._starts[number + 1]].decode("utf-8", "surrogatepass")
