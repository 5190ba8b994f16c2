"""Which rows were read before: a table of hashes, in a few bytes a row."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Literal


class Seen:
    """The rows that were read, in 16 bytes for each slot of a hash table that is at most two thirds full.

    Two rows in a million collide by chance with a probability of 3e-8.
    """

    def __init__(self) -> None:
        self._keys, self._values = array("q", bytes(8 * 1024)), array("q", bytes(8 * 1024))
        self._used = 0
        self._copies: Counter[str] = Counter()

    def add(self, row_id: str, content: int, ours: bool) -> Literal["new", "repeat", "other"]:
        """new; repeat: this very row was there; other: a different row has its id.

        content: a hash of what the row says. ours: whether its record was in our own form; the id of any other record
            is made up when it is read, so its content alone is compared.
        """
        known = self._put(hash(("id", row_id)), content)
        if known is not None:
            return "repeat" if known == content else "other"
        if not ours and self._put(hash(("content", content)), content) is not None:
            return "repeat"
        return "new"

    def new_id(self, row_id: str) -> str:
        """`row_id` with `.1`, `.2` and so on behind it: the first that no row has."""
        while True:
            self._copies[row_id] += 1
            found = f"{row_id}.{self._copies[row_id]}"
            if self._put(hash(("id", found)), 0) is None:
                return found

    def _put(self, key: int, value: int) -> int | None:
        """The value that the key has had; None, and from now on `value`, where it was not there."""
        key = key or 1  # 0 marks a free slot
        size = len(self._keys)
        slot = key % size
        while (there := self._keys[slot]) != 0:
            if there == key:
                return self._values[slot]
            slot = (slot + 1) % size
        self._keys[slot], self._values[slot] = key, value
        self._used += 1
        if 3 * self._used > 2 * size:
            keys, values = self._keys, self._values
            self._keys, self._values = array("q", bytes(16 * size)), array("q", bytes(16 * size))
            self._used = 0
            for old, its in zip(keys, values, strict=True):
                if old:
                    self._put(old, its)
        return None
