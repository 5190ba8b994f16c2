"""Finds duplicates among all rows: first those with the same content, then those with nearly the same words.

Near duplicates share at least 70% of their word n-grams (Jaccard). To compare all pairs of a million rows is out of
reach, so pairs are proposed by MinHash (Broder 1997) and locality-sensitive hashing (Indyk and Motwani 1998), and each
proposed pair is compared by the n-grams themselves:

    MinHash     125 numbers for each row; two rows agree in each of them with a probability equal to their Jaccard s
    bands       25 bands of 5 numbers; a pair is proposed if it agrees in all 5 numbers of a band
    recall      1 - (1 - s^5)^25:  s = 0.5: 0.55   0.6: 0.87   0.7: 0.990   0.8: 0.99995
    check       the Jaccard of the two sets of n-grams, so no row is dropped for a chance agreement

A row is dropped if it is similar to an earlier row that is kept, and that row is named. So every dropped row is similar
to the row that stays for it, which is not so with clusters: of a chain a ~ b ~ c, c is kept if it is not similar to a.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from align.ngrams import WordHashes, jaccard, shingle_sets, word_hashes
from align.optional import library
from align.rows import Row
from data_builders.quality.pipeline import first_of_each, number_of
from data_builders.quality.settings import DuplicatesConfig
from data_builders.quality.shards import ShardFiles
from data_builders.quality.steps import Choice, Examined, ExaminedRows, Step
from data_builders.quality.texts import calls_of, target_texts, texts_of
from data_builders.row_contents import content_key

BANDS, ROWS_OF_BAND = 25, 5
_HASHES = 128  # 125 are used; R-MinHash computes powers of two fastest
_SEED = 42
_MANY_ROWS = 100_000
"""With more rows, each band is a unit of work of its own, which processes share."""
_NEIGHBORS = 64
"""In a group of rows with the same band, a row is compared with the first 64 rows and with the 64 before it. Only
groups of more than 128 rows are cut by this: copies of one row all meet the first of them, and rows that share a band
by chance meet their duplicates in other bands."""


class ExactDuplicates(Step):
    """Drops rows with the content of an earlier row."""

    name = "exact duplicates"

    def examine(self, rows: Sequence[Row]) -> Examined:
        """Keep 64 bits of the content's key."""
        keys = [int(content_key(row)[:16], 16) for row in rows]
        return Examined({}, {"key": pa.array(keys, pa.uint64())})

    def choose(self, data: ExaminedRows) -> list[Choice]:
        """Keep the first row of each key."""
        numbers = np.flatnonzero(data.kept)
        keys = data.numbers("key")[numbers]
        order = np.argsort(keys, kind="stable")
        firsts = first_of_each(keys[order])
        again = firsts != np.arange(len(order))
        return [Choice("exact duplicate", numbers[order[again]], numbers[order[firsts[again]]])]


class NearDuplicates(Step):
    """Drops rows that are similar to an earlier row that is kept."""

    name = "near duplicates"

    def __init__(self, config: DuplicatesConfig) -> None:
        self._config = config
        self._rensa = library("rensa", "quality", "quality.duplicates.near")
        self._cut = 0

    def settings(self) -> dict[str, Any]:
        return self._config.model_dump(exclude={"exact"})

    def examine(self, rows: Sequence[Row]) -> Examined:
        """Keep the n-grams of the row and of its answer, what must be equal, and one hash for each band."""
        size = self._config.ngram_words
        shingles, starts = shingle_sets(_words([texts_of(row) for row in rows]), size)
        targets, target_starts = shingle_sets(_words([target_texts(row) for row in rows]), size)
        digests = self._rensa.RMinHash.digest_matrix_from_flat_token_hashes(
            shingles, starts.astype(np.uint64), _HASHES, _SEED
        )
        values = np.array(digests.to_rows() if rows else [], np.uint64).reshape(len(rows), _HASHES)
        columns: dict[str, pa.Array] = {
            "shingles": _lists(shingles, starts),
            "targets": _lists(targets, target_starts),
            "exactly": pa.array([number_of(repr((row.tools, calls_of(row)))) for row in rows], pa.uint64()),
        }
        for band in range(BANDS):
            part = values[:, band * ROWS_OF_BAND : (band + 1) * ROWS_OF_BAND]
            columns[f"band-{band:02}"] = pa.array(_band_hashes(part))
        return Examined({}, columns)

    def choose(self, data: ExaminedRows) -> list[Choice]:
        """Propose pairs band by band, compare them shard by shard, and drop the later row of each similar pair whose
        earlier row is kept.
        """
        groups = np.array_split(np.arange(BANDS), BANDS if len(data.kept) > _MANY_ROWS else 1)
        proposed = data.units("bands", len(groups))
        proposed.complete(lambda unit: self._proposed(data, groups[unit]), "near duplicates: candidates")
        compared = data.units("compared", data.shards)
        compared.complete(lambda shard: self._compared(data, proposed, shard), "near duplicates: compared")
        kept = data.kept.copy()
        numbers, causes, details = [], [], []
        for shard in range(data.shards):
            table = compared.table(shard)
            columns = (table.column(name).to_pylist() for name in ("later", "earlier", "similarity"))
            for later, earlier, similarity in zip(*columns, strict=True):  # sorted by later, then by earlier
                if kept[later] and kept[earlier]:
                    kept[later] = False
                    numbers.append(later)
                    causes.append(earlier)
                    details.append(f"similarity {similarity:.2f}")
        self._cut = sum(int(proposed.table(unit).schema.metadata[b"cut"]) for unit in range(proposed.count))
        return [Choice("near duplicate", np.array(numbers, np.int64), np.array(causes, np.int64), details)]

    def notes(self) -> dict[str, Any]:
        return {
            "bands": BANDS,
            "hashes_of_a_band": ROWS_OF_BAND,
            "recall_at_similarity": round(recall(self._config.similarity), 4),
            "groups_over_128_rows": self._cut,
        }

    def _proposed(self, data: ExaminedRows, bands: Sequence[int] | NDArray[np.int64]) -> pa.Table:
        """Pairs of rows that agree in one of the bands, sorted by the later row."""
        numbers = np.flatnonzero(data.kept)
        pairs, cut = [np.zeros((0, 2), np.int64)], 0
        for band in bands:
            hashes = data.numbers(f"band-{band:02}")[numbers]
            order = np.argsort(hashes, kind="stable")
            later, earlier, more = pairs_of_groups(hashes[order], numbers[order], _NEIGHBORS)
            pairs.append(np.stack([later, earlier], axis=1))
            cut += more
        found = np.unique(np.concatenate(pairs), axis=0)
        return pa.table({"later": found[:, 0], "earlier": found[:, 1]}).replace_schema_metadata({"cut": str(cut)})

    def _compared(self, data: ExaminedRows, proposed: ShardFiles, shard: int) -> pa.Table:
        """The similar pairs among the proposed ones whose later row is in a shard."""
        first, end = data.starts[shard], data.starts[shard + 1]
        found = [np.zeros((0, 2), np.int64)]
        for unit in range(proposed.count):
            later, earlier = (proposed.column(unit, name).to_numpy() for name in ("later", "earlier"))
            low, high = np.searchsorted(later, [first, end])
            found.append(np.stack([later[low:high], earlier[low:high]], axis=1))
        pairs = np.unique(np.concatenate(found), axis=0)
        sets = _Sets(data)
        rows = []
        for later, earlier in pairs.tolist():
            similarity = self._similarity(sets, later, earlier)
            if similarity is not None:
                rows.append((later, earlier, similarity))
        columns = zip(*rows, strict=True) if rows else ((), (), ())
        kinds = (("later", pa.int64()), ("earlier", pa.int64()), ("similarity", pa.float64()))
        return pa.table({name: pa.array(values, kind) for (name, kind), values in zip(kinds, columns, strict=True)})

    def _similarity(self, sets: _Sets, one: int, other: int) -> float | None:
        """The Jaccard of two rows; None if they are not near duplicates."""
        if sets.value("exactly", one) != sets.value("exactly", other):
            return None
        similarity = jaccard(sets.of("shingles", one), sets.of("shingles", other))
        if similarity < self._config.similarity:
            return None
        targets = jaccard(sets.of("targets", one), sets.of("targets", other))
        return similarity if targets >= self._config.target_similarity else None


class _Sets:
    """Columns of single rows, out of the mapped files of their shards, which stay open while this exists."""

    def __init__(self, data: ExaminedRows) -> None:
        self._data = data
        self._columns: dict[tuple[str, int], pa.Array] = {}

    def value(self, name: str, number: int) -> Any:
        column, place = self._place(name, number)
        return column[place].as_py()

    def of(self, name: str, number: int) -> NDArray[np.uint64]:
        column, place = self._place(name, number)
        values: NDArray[np.uint64] = column[place].values.to_numpy()
        return values

    def _place(self, name: str, number: int) -> tuple[pa.Array, int]:
        shard = self._data.shard_of(number)
        if (name, shard) not in self._columns:
            self._columns[name, shard] = self._data.column(name, shard)
        return self._columns[name, shard], number - int(self._data.starts[shard])


def recall(similarity: float) -> float:
    """The probability that a pair with this Jaccard is proposed: 1 - (1 - s^r)^b with r numbers in each of b bands."""
    return 1 - (1 - similarity**ROWS_OF_BAND) ** BANDS


def pairs_of_groups(
    hashes: NDArray[np.uint64], numbers: NDArray[np.int64], neighbors: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Pairs (later, earlier) of rows with the same hash, and the number of groups that are too large for all pairs.

    hashes: sorted; numbers: the rows, ascending inside each hash. A row is paired with the first `neighbors` rows of
    its group and with the `neighbors` rows before it.

    Hashes [3, 3, 3, 8] of the rows [0, 4, 9, 5] give (4, 0), (9, 0), (9, 4).
    """
    firsts = first_of_each(hashes)
    places = np.arange(len(hashes))
    later, earlier = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for step in range(1, neighbors + 1):
        near = places[places - step >= firsts]
        if not len(near):
            break
        later.append(numbers[near])
        earlier.append(numbers[near - step])
    far = places[places - firsts > neighbors]
    for step in range(neighbors):
        partner = firsts[far] + step
        usable = far - partner > neighbors
        later.append(numbers[far[usable]])
        earlier.append(numbers[partner[usable]])
    sizes = np.unique(firsts, return_counts=True)[1]
    return np.concatenate(later), np.concatenate(earlier), int((sizes > 2 * neighbors).sum())


def _words(texts: Sequence[Sequence[str]]) -> WordHashes:
    """The words of each row, one text of the row after the other."""
    words = word_hashes(text for row in texts for text in row)
    ends = np.cumsum([0, *map(len, texts)])
    return WordHashes(words.hashes, words.starts[ends])


def _band_hashes(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One number for the 32-bit hashes of a band, [rows, hashes] -> [rows]."""
    found = np.zeros(len(values), np.uint64)
    for column in values.T:
        found = (found ^ column) * np.uint64(0x9E3779B97F4A7C15)
        found ^= found >> np.uint64(32)
    return found


def _lists(values: NDArray[np.uint64], starts: NDArray[np.int64]) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(starts), pa.array(values))
