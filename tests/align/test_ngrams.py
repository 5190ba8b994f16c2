"""N-grams as numbers are the n-grams of `align.text`, and sets of them have the same similarity."""

from __future__ import annotations

import random

import numpy as np
import pytest

from align import ngrams
from align.ngrams import jaccard, ngrams_of, postings_of, sequence_hash, shingle_sets, wildcard_hashes, word_hashes
from align.text import word_ngrams, words_of

DRAW = random.Random(0)
TEXTS = ["", "one", "two words", "Drei kurze Wörter!", "東京は日本の首都です", "5 * 3 is not 5/3, is it?"] + [
    " ".join(DRAW.choices("abcdefg", k=DRAW.randint(0, 40))) for _ in range(60)
]


def test_two_texts_share_a_number_exactly_where_they_share_an_ngram() -> None:
    for size in (1, 3, 8):
        found = ngrams_of(word_hashes(TEXTS), size, short_texts=True)
        for text in range(len(TEXTS)):
            assert (found.texts == text).sum() == word_ngrams(TEXTS[text], size).total()
            numbers_here = set(found.hashes[found.texts == text].tolist())
            assert len(numbers_here) == len(word_ngrams(TEXTS[text], size))
            for other in range(text):
                shared = numbers_here & set(found.hashes[found.texts == other].tolist())
                assert len(shared) == len(word_ngrams(TEXTS[text], size).keys() & word_ngrams(TEXTS[other], size))


def test_the_number_of_a_word_is_its_polynomial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worked out with whole numbers of Python, byte by byte; also where a block ends after every text."""
    base, last = ngrams._BASE, 2**64 - 1
    for block in (2**18, 10):
        monkeypatch.setattr(ngrams, "_BLOCK_BYTES", block)
        found = word_hashes([*TEXTS, " ".join(TEXTS)])
        expected = []
        for word in [word for text in [*TEXTS, " ".join(TEXTS)] for word in words_of(text)]:
            number = sum(byte * pow(base, place, 2**64) for place, byte in enumerate(word.encode())) & last
            number ^= number >> int(ngrams._SHIFT)
            expected.append(number * int(ngrams._MULTIPLIER) & last)
        assert found.hashes.tolist() == expected
        assert found.lengths.tolist() == [len(words_of(text)) for text in [*TEXTS, " ".join(TEXTS)]]


@pytest.mark.slow
def test_a_text_longer_than_a_block_has_the_same_numbers_as_its_parts() -> None:
    words = ["".join(DRAW.choices("abcdefghij", k=6)) for _ in range(120_000)]
    whole, parts = word_hashes([" ".join(words)]), word_hashes(words)
    assert np.array_equal(whole.hashes, parts.hashes)
    assert len(np.unique(parts.hashes)) == len(set(words))


def test_postings_find_what_a_search_one_by_one_finds() -> None:
    found = ngrams_of(word_hashes(TEXTS), 2)
    known, asked = postings_of(found), ngrams_of(word_hashes([*TEXTS[::3], "unknown words here"]), 2).hashes
    pairs = {(one, other) for one, other in zip(*(part.tolist() for part in known.find(asked)), strict=True)}
    assert pairs == {
        (a, b) for a, x in enumerate(asked.tolist()) for b, y in enumerate(known.hashes.tolist()) if x == y
    }
    assert len(pairs) > 100
    assert all(not len(part) for part in postings_of(ngrams_of(word_hashes([]), 2)).find(asked))


def test_places_and_sequences_agree() -> None:
    words = word_hashes(TEXTS)
    found = ngrams_of(words, 4)
    assert len(found.hashes) > 500
    for number, text, place in zip(found.hashes[::7], found.texts[::7], found.places[::7], strict=True):
        assert sequence_hash(words.of(int(text))[place : place + 4]) == number


def test_jaccard_is_that_of_the_sets() -> None:
    hashes, starts = shingle_sets(word_hashes(TEXTS), 2)
    for one in range(len(TEXTS)):
        for other in range(0, len(TEXTS), 5):
            first, second = set(word_ngrams(TEXTS[one], 2)), set(word_ngrams(TEXTS[other], 2))
            expected = len(first & second) / len(first | second) if first | second else 1.0
            sets = (hashes[starts[text] : starts[text + 1]] for text in (one, other))
            assert jaccard(*sets) == expected


def test_wildcards_meet_exactly_for_one_changed_word() -> None:
    words = word_hashes(["a b c d e", "a b x d e", "a x c y e", "a b c d", "b a c d e", "a b c d e"])
    sets = [set(wildcard_hashes(words.of(text)).tolist()) for text in range(6)]
    assert [len(sets[0] & other) for other in sets] == [5, 1, 0, 0, 0, 5]
    assert np.unique(wildcard_hashes(words.of(0))).size == 5
