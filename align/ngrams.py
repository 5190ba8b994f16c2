"""N-grams of words as 64-bit numbers in arrays: near duplicates and contamination are found by comparing numbers.

Words are those of `align.text.words_of`, so case, punctuation and spacing do not count. Two different n-grams get the
same number with a probability of 5e-20; between a text of 300 words and ten million n-grams that is 2e-10.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from align.text import spaced

_BLOCK_BYTES = 2**18
"""Words are hashed in blocks of this many bytes, whose intermediate numbers fit into a cache of the processor."""
_BASE = 0xD6E8FEB86659FD93  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 2**64)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it modulo 2**64 loses nothing
_SHIFT = np.uint64(29)
_SPACE = 32


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


def word_hashes(texts: Iterable[str]) -> WordHashes:
    """The words of each text as numbers.

    A word with the bytes b0, b1, b2 has the number b0 + b1 P + b2 P^2 modulo 2**64, mixed (Karp and Rabin 1987): a sum,
    so the numbers of all words of a block are differences of one running sum.
    """
    hashes, counts = [np.zeros(0, np.uint64)], [np.zeros(1, np.int64)]
    for block in _blocks(spaced(text).encode("utf-8", "surrogatepass") for text in texts):
        found, words = _hashed(block)
        hashes.append(found)
        counts.append(words)
    return WordHashes(np.concatenate(hashes), np.cumsum(np.concatenate(counts)))


def _blocks(texts: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The texts in lists of some _BLOCK_BYTES bytes."""
    block: list[bytes] = []
    size = 0
    for text in texts:
        block.append(text)
        size += len(text)
        if size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _hashed(texts: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The numbers of all words of some texts, and how many words each text has.

    The texts "ab c" and "d" are joined to "ab c d": words begin at the bytes 0, 3 and 5, and end at 2, 4 and 6.
    With s[i] the sum of byte[j] P^j over all j < i, the word from byte 0 to 2 is s[2] - s[0], and the one from 3 to 4
    is (s[4] - s[3]) / P^3, as if it began at byte 0.
    """
    content = np.frombuffer(b" ".join(texts), np.uint8)
    powers, inverses = _powers(len(content))
    sums = np.zeros(len(content) + 1, np.uint64)
    np.cumsum(content * powers[: len(content)], out=sums[1:])
    is_word = np.zeros(len(content) + 2, np.int8)
    is_word[1:-1] = content != _SPACE
    edges = np.diff(is_word)
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    found = (sums[ends] - sums[begins]) * inverses[begins]
    found ^= found >> _SHIFT
    found *= _MULTIPLIER
    limits = np.cumsum([0, *(len(text) + 1 for text in texts)])
    return found, np.diff(np.searchsorted(begins, limits))


@lru_cache(maxsize=1)
def _table(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    powers: NDArray[np.uint64] = np.cumprod(np.array([1] + [_BASE] * (count - 1), np.uint64), dtype=np.uint64)
    inverses: NDArray[np.uint64] = np.cumprod(np.array([1] + [_INVERSE] * (count - 1), np.uint64), dtype=np.uint64)
    return powers, inverses


def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """P^0, P^1 ... and P^0, P^-1 ... modulo 2**64, at least `count` of each."""
    size = 2 * _BLOCK_BYTES
    while size < count:  # one long text
        size *= 2
    return _table(size)


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


def shingle_sets(words: WordHashes, size: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The set of n-grams of each text: (numbers, sorted inside each text and without repeats; starts [texts + 1])."""
    return sets_of(ngrams_of(words, size, short_texts=True), len(words.lengths))


def sets_of(ngrams: NGrams, texts: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The set of n-grams of each of `texts` texts, as `shingle_sets` returns them."""
    hashes = ngrams.hashes.copy()
    limits = np.cumsum([0, *np.bincount(ngrams.texts, minlength=texts)])
    for start, end in pairwise(limits.tolist()):
        hashes[start:end].sort()
    is_new = np.ones(len(hashes), bool)
    is_new[1:] = (hashes[1:] != hashes[:-1]) | (ngrams.texts[1:] != ngrams.texts[:-1])
    starts = np.concatenate([[0], np.cumsum(np.bincount(ngrams.texts[is_new], minlength=texts))])
    return hashes[is_new], starts.astype(np.int64)


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
        # Most n-grams that are looked up are not there. One look into a table of the first bits of all numbers says so
        # for most of them, at a tenth of the time of a search.
        bits = min(max(len(hashes).bit_length() + 4, 8), 26)
        self._shift = np.uint64(64 - bits)
        self._may_be_there = np.zeros(2**bits, bool)
        self._may_be_there[hashes >> self._shift] = True

    def find(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All agreements: (places in `hashes`, places in the postings), each [agreements]."""
        if not len(self.hashes):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        possible = np.flatnonzero(self._may_be_there[hashes >> self._shift])
        lows = np.searchsorted(self.hashes, hashes[possible], side="left")
        is_there = self.hashes[np.minimum(lows, len(self.hashes) - 1)] == hashes[possible]
        found, lows = possible[is_there], lows[is_there]
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
