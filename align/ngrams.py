"""N-grams of words as 64-bit numbers in arrays: near duplicates and contamination are found by comparing numbers.

Words are those of `align.text.words_of`, so case, punctuation and spacing do not count. Two different n-grams get the
same number with a probability of 5e-20; between a text of 300 words and ten million n-grams that is 2e-10.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from align.text import words_of

_MOST_KNOWN_WORDS = 200_000
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it modulo 2**64 loses nothing
_SHIFT = np.uint64(29)


class WordHashes(NamedTuple):
    """The words of several texts as numbers, one text after the other.

    "a b c" and "d e": hashes [h(a), h(b), h(c), h(d), h(e)], starts [0, 3, 5].
    """

    hashes: NDArray[np.uint64]  # [words]
    starts: NDArray[np.int64]  # [texts + 1]; text t has the words starts[t] to starts[t + 1]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Words of each text."""
        return np.diff(self.starts)

    def of(self, text: int) -> NDArray[np.uint64]:
        """The words of one text."""
        return self.hashes[self.starts[text] : self.starts[text + 1]]


class NGrams(NamedTuple):
    """The n-grams of several texts, in their order. All arrays are [n-grams]."""

    hashes: NDArray[np.uint64]
    texts: NDArray[np.int64]
    """Which text the n-gram is of."""
    places: NDArray[np.int64]
    """Its first word, counted from the beginning of its text."""


class _KnownWords(dict[str, int]):
    """Word -> number. Most words of a text were seen before, and a look-up costs a tenth of hashing."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _MOST_KNOWN_WORDS:
            self.clear()
        digest = blake3(word.encode("utf-8", "surrogatepass")).digest(length=8)
        self[word] = number = int.from_bytes(digest, "little")
        return number


_known = _KnownWords()


def word_hashes(texts: Iterable[str]) -> WordHashes:
    """The words of each text as numbers."""
    flat: list[int] = []
    starts = [0]
    for text in texts:
        flat.extend(map(_known.__getitem__, words_of(text)))
        starts.append(len(flat))
    return WordHashes(np.array(flat, np.uint64), np.array(starts, np.int64))


def ngrams_of(words: WordHashes, size: int, *, short_texts: bool = False) -> NGrams:
    """All sequences of `size` words inside each text.

    short_texts: a text with fewer words, but at least one, counts as one n-gram, as in `align.text.word_ngrams`;
        otherwise it has none.

    "a b c d" and "x y" with size 3: abc and bcd of text 0; with short_texts also xy of text 1.
    """
    lengths = words.lengths
    counts = np.maximum(lengths - size + 1, 0)
    texts = np.repeat(np.arange(len(lengths)), counts)
    places = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    firsts = words.starts[:-1][texts] + places
    columns = (words.hashes[firsts + step] for step in range(size))
    found = NGrams(_combined(columns, size, len(firsts)), texts, places)
    if not short_texts:
        return found
    short = np.flatnonzero((lengths > 0) & (lengths < size))
    if not len(short):
        return found
    hashes = np.array([sequence_hash(words.of(int(text))) for text in short], np.uint64)
    joined = NGrams(
        np.concatenate([found.hashes, hashes]),
        np.concatenate([found.texts, short]),
        np.concatenate([found.places, np.zeros(len(short), np.int64)]),
    )
    order = np.argsort(joined.texts, kind="stable")
    return NGrams(joined.hashes[order], joined.texts[order], joined.places[order])


def sequence_hash(words: NDArray[np.uint64]) -> np.uint64:
    """The number of one sequence of words: the same as that of an n-gram with these words."""
    return np.uint64(_combined((words[place : place + 1] for place in range(len(words))), len(words), 1)[0])


def wildcard_hashes(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """For each word, the number of the sequence with any word in its place. Returns [words].

    Two different sequences of the same length share one of these numbers exactly if they differ in a single word.
    """
    count = len(words)
    columns = np.repeat(words[None, :], count, axis=0)
    np.fill_diagonal(columns, 0)
    places = np.arange(1, count + 1, dtype=np.uint64)  # the place of the wildcard is a part of the number
    return _combined([*columns.T, places], count + 1, count)


def shingle_sets(texts: Sequence[str], size: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The set of n-grams of each text: (numbers, sorted inside each text and without repeats; starts [texts + 1])."""
    return sets_of(ngrams_of(word_hashes(texts), size, short_texts=True), len(texts))


def sets_of(ngrams: NGrams, texts: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The set of n-grams of each of `texts` texts, as `shingle_sets` returns them."""
    ends = np.cumsum(np.bincount(ngrams.texts, minlength=texts))
    sets = [np.unique(part) for part in np.split(ngrams.hashes, ends[:-1])]
    starts = np.concatenate([[0], np.cumsum([len(each) for each in sets])])
    return np.concatenate([np.zeros(0, np.uint64), *sets]), starts.astype(np.int64)


def jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    """Shared numbers of two sets over all numbers of both, from 0 to 1; two empty sets are the same: 1.

    one, other: sorted, without repeats.
    """
    if not len(one) and not len(other):
        return 1.0
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


class Postings:
    """N-grams of known texts, and where they are, to be looked up for many n-grams at once."""

    PARTS = ("hashes", "texts", "places")

    def __init__(self, hashes: NDArray[np.uint64], texts: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        """All [n-grams], sorted by `hashes`; see `postings_of`."""
        self.hashes, self.texts, self.places = hashes, texts, places

    def find(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All agreements: (places in `hashes`, places in the postings), each [agreements]."""
        if not len(self.hashes):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        lows = np.searchsorted(self.hashes, hashes, side="left")
        found = np.flatnonzero(self.hashes[np.minimum(lows, len(self.hashes) - 1)] == hashes)
        lows = lows[found]
        counts = np.searchsorted(self.hashes, hashes[found], side="right") - lows
        asked = np.repeat(found, counts)
        steps = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        return asked, np.repeat(lows, counts) + steps


def postings_of(ngrams: NGrams, most_texts: int | None = None) -> Postings:
    """The postings of n-grams, without those that are in more than `most_texts` different texts.

    Such n-grams are the instructions or the template that texts of one set share, and say nothing of any of them.
    """
    order = np.lexsort((ngrams.places, ngrams.texts, ngrams.hashes))
    hashes, texts, places = ngrams.hashes[order], ngrams.texts[order], ngrams.places[order]
    if most_texts is not None and len(hashes):
        is_new = np.ones(len(hashes), bool)
        is_new[1:] = hashes[1:] != hashes[:-1]
        is_new_text = is_new.copy()
        is_new_text[1:] |= texts[1:] != texts[:-1]
        groups = np.cumsum(is_new) - 1
        rare = np.bincount(groups, weights=is_new_text)[groups] <= most_texts
        hashes, texts, places = hashes[rare], texts[rare], places[rare]
    return Postings(hashes, texts, places)


def covered_words(
    groups: NDArray[np.int64], places: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many words the n-grams of each group cover: (groups, sorted and without repeats; words of each).

    With size 3, the places 0, 1 and 5 of one group cover the words 0 to 3 and 5 to 7: 7 words.
    """
    order = np.lexsort((places, groups))
    groups, places = groups[order], places[order]
    if not len(groups):
        return groups, places
    same = groups[1:] == groups[:-1]
    words = np.full(len(groups), size)
    words[:-1] = np.where(same, np.minimum(places[1:] - places[:-1], size), size)
    firsts = np.flatnonzero(np.concatenate([[True], ~same]))
    return groups[firsts], np.add.reduceat(words, firsts)


def _combined(columns: Iterable[NDArray[np.uint64]], size: int, count: int) -> NDArray[np.uint64]:
    """One number for each of `count` sequences of `size` numbers; the k-th of `columns` has the k-th number of each.

    The order of the numbers counts, and so does how many there are.
    """
    found = np.full(count, size, np.uint64)
    for column in columns:
        found = (found + column) * _MULTIPLIER
        found ^= found >> _SHIFT
    return found
