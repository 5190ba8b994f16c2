"""Balances over-used openings and phrases: their share is lowered, and they are not deleted altogether.

"I'm sorry" is a fine beginning of one answer and a bad one of every tenth. Llama 3 (section 4.2.3) finds such phrases
and balances their share in the data. Openings are found by counting the first words of all answers; phrases that may be
anywhere in an answer are listed in the settings and counted.

Which rows stay is decided by a hash of their ids, so it depends neither on their order nor on the number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from align.rows import Row
from align.text import normalize
from data_builders.quality.pipeline import number_of
from data_builders.quality.settings import BalanceConfig
from data_builders.quality.steps import Choice, Examined, ExaminedRows, Step
from data_builders.quality.texts import final_answer

_ENOUGH_WORDS = 8
"""Shorter answers have no opening: of many "Yes." none is over-used."""


class Balance(Step):
    """Drops rows until no opening and no phrase is in more than its ratio of the rows."""

    name = "balance"

    def __init__(self, config: BalanceConfig) -> None:
        self._config = config
        self._phrases = tuple(dict.fromkeys(f" {normalize(phrase)} " for phrase in config.phrases if phrase.strip()))
        self._shares: dict[str, dict[str, float]] = {}

    def settings(self) -> dict[str, Any]:
        return self._config.model_dump(mode="json")

    def examine(self, rows: Sequence[Row]) -> Examined:
        """Keep the opening, the phrases as bits, and a random number that depends on the row's id."""
        openings, found, draws = [], [], []
        for row in rows:
            text = normalize(final_answer(row))
            words = text.split(" ", self._config.opening_words)
            is_long = text.count(" ") >= _ENOUGH_WORDS - 1
            openings.append(" ".join(words[: self._config.opening_words]) if is_long else "")
            padded = f" {text} "
            found.append(sum(1 << number for number, phrase in enumerate(self._phrases) if phrase in padded))
            draws.append(number_of(f"{self._config.seed} {row.id}"))
        return Examined(
            {},
            {
                "opening": pa.array([number_of(opening) if opening else 0 for opening in openings], pa.uint64()),
                "opening_text": pa.array(openings, pa.string()),
                "phrases": pa.array(found, pa.uint64()),
                "draw": pa.array(draws, pa.uint64()),
            },
        )

    def choose(self, data: ExaminedRows) -> list[Choice]:
        """Drop the rows with the highest draws of each opening and phrase, until all shares are within their limits.

        A row that is dropped for one phrase lowers the number of all rows, and so the limits of the others: they are
        counted again until nothing changes.
        """
        kept, draws = data.kept.copy(), data.numbers("draw")
        members = self._members(data)
        before = int(kept.sum())
        counts = {name: int(kept[rows].sum()) for name, (rows, _) in members.items()}
        dropped: dict[str, list[NDArray[np.int64]]] = {}
        is_changed = True
        while is_changed:
            is_changed = False
            for name, (rows, ratio) in members.items():
                there = rows[kept[rows]]
                allowed = self._allowed(len(there), int(kept.sum()), ratio)
                if len(there) > allowed:
                    surplus = there[np.argsort(draws[there], kind="stable")][allowed:]
                    kept[surplus] = False
                    dropped.setdefault(name, []).append(surplus)
                    is_changed = True
        after = int(kept.sum())
        self._shares = {
            name: {"before": counts[name] / before, "after": int(kept[members[name][0]].sum()) / max(after, 1)}
            for name in dropped
        }
        return [Choice(name, np.sort(np.concatenate(parts))) for name, parts in dropped.items()]

    def notes(self) -> dict[str, Any]:
        """The share of the rows that had each over-used opening or phrase, before and after."""
        return self._shares

    def _allowed(self, count: int, total: int, ratio: float) -> int:
        """How many of `count` rows may stay, where `total - count` rows are without: 5% of 1000 rows, of which 200 have
        the phrase, are 42 rows, since 42 of 842 are 5%.
        """
        return max(int(ratio * (total - count) / (1 - ratio)), min(count, self._config.min_rows))

    def _members(self, data: ExaminedRows) -> dict[str, tuple[NDArray[np.int64], float]]:
        """What may be over-used -> the kept rows that have it, and its highest ratio. The most frequent first."""
        total = int(data.kept.sum())
        found: list[tuple[str, NDArray[np.int64], float]] = []
        hashes = np.where(data.kept, data.numbers("opening"), 0).astype(np.uint64)
        values, firsts, counts = np.unique(hashes, return_index=True, return_counts=True)
        for value, first, count in zip(values, firsts, counts, strict=True):
            if value and count > max(self._config.min_rows, self._config.max_opening_ratio * total):
                shard = data.shard_of(int(first))
                text = data.column("opening_text", shard)[int(first) - int(data.starts[shard])].as_py()
                rows = np.flatnonzero(hashes == value)
                found.append((f"over-used opening: {text}", rows, self._config.max_opening_ratio))
        bits = np.where(data.kept, data.numbers("phrases"), 0).astype(np.uint64)
        for number, phrase in enumerate(self._phrases):
            rows = np.flatnonzero(bits >> np.uint64(number) & np.uint64(1))
            if len(rows):
                found.append((f"over-used phrase: {phrase.strip()}", rows, self._config.max_phrase_ratio))
        found.sort(key=lambda each: (-len(each[1]), each[0]))
        return {name: (rows, ratio) for name, rows, ratio in found}
