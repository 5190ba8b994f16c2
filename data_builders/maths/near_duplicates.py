"""Find training problems that repeat a held-out problem with other numbers, or in nearly the same words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from align.text import word_ngrams

Ngram = tuple[str, ...]


class SimilarTexts:
    """Answers whether a text is similar to one of many, without comparing it with each of them.

    An index of n-grams finds the texts that share an n-gram with the given one, and how many:

        texts               "a b c d" (2 trigrams), "b c d e f" (3)
        asked for           "a b c d e" (3): abc is in the first, bcd in both, cde in the second
        similarity          first: 2 shared of 2 + 3 - 2 = 3, so 0.67; second: 2 of 3 + 3 - 2 = 4, so 0.5

    That is `align.text.ngram_similarity`. Texts that share nothing are never looked at.
    """

    def __init__(self, texts: Iterable[str], size: int = 3) -> None:
        self._size = size
        self._totals: list[int] = []
        self._places: dict[Ngram, list[tuple[int, int]]] = defaultdict(list)  # n-gram -> (text, how often)
        for place, text in enumerate(texts):
            ngrams = word_ngrams(text, size)
            self._totals.append(ngrams.total())
            for ngram, count in ngrams.items():
                self._places[ngram].append((place, count))

    def highest(self, text: str) -> float:
        """The similarity of the most similar text, from 0 to 1; 0 without texts."""
        ngrams = word_ngrams(text, self._size)
        shared = Counter[int]()
        for ngram, count in ngrams.items():
            for place, there in self._places.get(ngram, ()):
                shared[place] += min(count, there)
        total = ngrams.total()
        return max((both / (total + self._totals[place] - both) for place, both in shared.items()), default=0.0)
