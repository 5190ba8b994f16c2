"""Finds texts that repeat evaluation examples: whole, in part, inside other text, or with one word changed.

What is compared are words after `align.text.normalize`, as numbers (`align/ngrams.py`). A text is contaminated if it

    has a whole prompt         a message, or all of them, equals a prompt
    overlaps                   at least half of the words of an example are in 8-grams that the text has too: the test
                               of the paper on Llama 3 (section 5.1.4) and of Singh et al. 2024 (arXiv:2411.03923)
    contains                   a short example (5 to 15 words) is in it, word by word
    is a part                  a user message of at least 5 words is a part of an example, and at least half of it if
                               the example is short
    differs in one word        a user message of 6 to 15 words is an example with another word in one place
    has an answer              at least 80% of the words of an example's answer of 16 or more words, in 8-grams; shorter
                               answers, and those of several examples, are often polite phrases

What differs must not be what is asked. "What is the capital of Spain" is not a repeat of the same question about Chad,
so a changed word does not count if one of the two is a name (capitalized, not at the beginning), a number, or a word of
a script without capitals; and a row that overlaps an example is another problem if it has as many numbers, but not the
same ones.

8-grams that more than five examples share are left out on both sides: they are the instructions of a benchmark or a
template, and not what is asked. For the same reason a place in which more than five examples differ, such as the
country in "what is the capital of *", is no changed word but the slot of a template.

The index is a handful of arrays. It is saved to one file and mapped into memory by each process that reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import align.ngrams
import align.text
from align.files import fingerprint, fingerprint_of, whole_file
from align.ngrams import (
    NGrams,
    Postings,
    WordHashes,
    covered_words,
    ngrams_of,
    postings_of,
    wildcard_hashes,
    word_hashes,
)
from align.text import normalize, words_of

NGRAM_WORDS = 8
_MADE_FROM = "made_from"

_SHORT_NGRAM_WORDS = 5
_ONE_WORD_FROM = 6
_MOST_EXAMPLES = 5
_PART_RATIO = 0.8
_ANSWER_RATIO = 0.8


class Example(NamedTuple):
    """One evaluation example."""

    id: str
    prompts: tuple[str, ...]
    """What is asked: each text by itself."""
    answers: tuple[str, ...] = ()
    keys: frozenset[str] = frozenset()
    """Keys of its whole prompt and of its distinctive messages (`data_builders.row_contents.message_keys`)."""
    accepted: frozenset[str] = frozenset()
    """All accepted answers of a question, normalized; empty if unknown."""


class CheckedText(NamedTuple):
    """One message of a row that is looked up."""

    row: int
    text: str
    is_user: bool
    """Whether it may itself be a part of an example, or an example with one word changed."""


class Match(NamedTuple):
    """An example that a row repeats."""

    how: str
    """Such as "overlaps an evaluation prompt"."""
    example: str
    ratio: float
    """Of the example's words, or for a part of the message's, how many agree; from 0 to 1."""


class EvaluationIndex:
    """The texts of evaluation examples, to be looked up for many rows at once."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], strings: Mapping[str, pa.Array]) -> None:
        """See `of` and `load`. arrays: of numbers. strings: all `texts`, the examples' `ids`, and their `keys`."""
        self._arrays, self._strings = arrays, strings
        self._texts, self._ids = strings["texts"], strings["ids"]
        self._words = WordHashes(arrays["words"], arrays["starts"])
        self._is_answer, self._owners = arrays["is_answer"].view(bool), arrays["owners"]
        self._countable = arrays["countable"]
        self._long, self._short, self._slots = (
            Postings(*(arrays[f"{name}_{part}"] for part in Postings.PARTS)) for name in ("long", "short", "slots")
        )

    @classmethod
    def of(cls, examples: Iterable[Example]) -> EvaluationIndex:
        """The index of examples. A text that several of them have counts once, for the first."""
        ids: list[str] = []
        keys: dict[str, int] = {}
        found: dict[str, tuple[str, int, bool]] = {}
        repeated: set[str] = set()
        for example in examples:
            for texts, is_answer in ((example.prompts, False), (example.answers, True)):
                for text in texts:
                    key = normalize(text)
                    if is_answer and key in found:  # "You're welcome!" answers many prompts
                        repeated.add(key)
                    found.setdefault(key, (text, len(ids), is_answer))
            for key in sorted(example.keys):
                keys.setdefault(key, len(ids))
            ids.append(example.id)
        found = {key: value for key, value in found.items() if not (value[2] and key in repeated)}
        words = word_hashes(found)
        answers = np.array([is_answer for *_, is_answer in found.values()], bool)
        lengths = words.lengths
        is_long = lengths >= 2 * NGRAM_WORDS
        is_short = (lengths >= _SHORT_NGRAM_WORDS) & ~is_long & ~answers
        slots = np.flatnonzero(is_short & (lengths >= _ONE_WORD_FROM))
        postings = {
            "long": postings_of(_of_texts(ngrams_of(words, NGRAM_WORDS), is_long), _MOST_EXAMPLES),
            "short": postings_of(_of_texts(ngrams_of(words, _SHORT_NGRAM_WORDS), is_short)),
            "slots": postings_of(_wildcards(words, slots), _MOST_EXAMPLES),
        }
        countable = np.zeros(len(lengths), np.int64)
        numbers, counts = covered_words(postings["long"].texts, postings["long"].places, NGRAM_WORDS)
        countable[numbers] = counts
        arrays: dict[str, NDArray[Any]] = {
            "words": words.hashes,
            "starts": words.starts,
            "is_answer": answers.view(np.uint8),
            "owners": np.array([owner for _, owner, _ in found.values()], np.int64),
            "countable": countable,
            "key_owners": np.array(list(keys.values()), np.int64),
        }
        for name, each in postings.items():
            arrays |= {f"{name}_{part}": getattr(each, part) for part in Postings.PARTS}
        strings = {"texts": [text for text, *_ in found.values()], "ids": ids, "keys": list(keys)}
        return cls(arrays, {name: pa.array(values, pa.string()) for name, values in strings.items()})

    @property
    def keys(self) -> dict[str, str]:
        """Key of a whole prompt or of a distinctive message -> the id of its example."""
        owners = self._ids.take(pa.array(self._arrays["key_owners"]))
        return dict(zip(self._strings["keys"].to_pylist(), owners.to_pylist(), strict=True))

    def matches(self, texts: Sequence[CheckedText], min_ratio: float = 0.5) -> dict[int, Match]:
        """Row -> the first example that one of its texts repeats.

        min_ratio: of the words of a long example that must be in shared 8-grams, from 0 to 1.
        """
        words = word_hashes(each.text for each in texts)
        rows = np.array([each.row for each in texts], np.int64)
        is_user = np.array([each.is_user for each in texts], bool)
        found: dict[int, Match] = {}
        for row, match in (
            *self._overlaps(words, texts, min_ratio),
            *self._contained(words, rows, is_user, min_ratio),
            *self._with_one_word_changed(words, texts),
        ):
            found.setdefault(row, match)
        return found

    def save(self, path: Path, made_from: str) -> None:
        """Write the index to one Arrow file, whole or not at all.

        made_from: a fingerprint of the examples; the file has it together with that of the code.
        """
        columns = {name: pa.array(values) for name, values in self._arrays.items()} | dict(self._strings)
        rows = {
            name: pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values)
            for name, values in columns.items()
        }
        table = pa.table(rows).replace_schema_metadata({_MADE_FROM: _with_code(made_from)})
        with whole_file(path, "wb") as handle, pa.ipc.new_file(handle, table.schema) as writer:
            writer.write_table(table)

    @classmethod
    def load(cls, path: Path, made_from: str) -> EvaluationIndex | None:
        """Read what `save` has written; None if there is nothing, or if it was made from something else.

        Everything stays in the file's pages, which all processes share.
        """
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (OSError, pa.ArrowInvalid):  # not there, or damaged
            return None
        if (table.schema.metadata or {}).get(_MADE_FROM.encode()) != _with_code(made_from).encode():
            return None
        columns = {name: table.column(name)[0].values for name in table.column_names}
        strings = {name: columns.pop(name) for name in ("texts", "ids", "keys")}
        return cls({name: values.to_numpy() for name, values in columns.items()}, strings)

    def _overlaps(
        self, words: WordHashes, texts: Sequence[CheckedText], min_ratio: float
    ) -> Iterator[tuple[int, Match]]:
        """Long examples of which a row has enough words in shared 8-grams, and user messages that are parts of one."""
        ngrams = ngrams_of(words, NGRAM_WORDS)
        asked, there = self._long.find(ngrams.hashes)
        messages, examples = ngrams.texts[asked], self._long.texts[there]
        count = len(self._countable)
        rows = np.array([each.row for each in texts], np.int64)[messages]
        groups, covered = covered_words(rows * count + examples, self._long.places[there], NGRAM_WORDS)
        for group, words_covered in zip(groups.tolist(), covered.tolist(), strict=True):
            row, example = divmod(group, count)
            ratio = words_covered / self._countable[example]
            if ratio < (_ANSWER_RATIO if self._is_answer[example] else min_ratio):
                continue
            text = "\n".join(texts[place].text for place in np.unique(messages[rows == row]))
            if not self._has_other_numbers(example, text):
                yield row, self._match("overlaps", example, ratio)
        of_user = np.array([each.is_user for each in texts], bool)[messages] & ~self._is_answer[examples]
        groups, covered = covered_words(
            messages[of_user] * count + examples[of_user], ngrams.places[asked[of_user]], NGRAM_WORDS
        )
        for group, words_covered in zip(groups.tolist(), covered.tolist(), strict=True):
            message, example = divmod(group, count)
            ratio = words_covered / len(words.of(message))
            if ratio >= _PART_RATIO and not self._has_other_numbers(example, texts[message].text):
                yield texts[message].row, self._match("is a part of", example, ratio)

    def _has_other_numbers(self, example: int, text: str) -> bool:
        """Whether a text has as many numbers as an example, or more, but not all of its numbers."""
        numbers = Counter(word for word in words_of(self._texts[example].as_py()) if _has_digit(word))
        there = Counter(word for word in words_of(text) if _has_digit(word))
        return there.total() >= numbers.total() and not numbers <= there

    def _contained(
        self, words: WordHashes, rows: NDArray[np.int64], is_user: NDArray[np.bool_], min_ratio: float
    ) -> Iterator[tuple[int, Match]]:
        """Short examples that are in a text word by word, and user messages that are in a short example."""
        ngrams = ngrams_of(words, _SHORT_NGRAM_WORDS)
        asked, there = self._short.find(ngrams.hashes)
        at_a_beginning = (ngrams.places[asked] == 0) | (self._short.places[there] == 0)
        asked, there = asked[at_a_beginning], there[at_a_beginning]
        for message, place, example, example_place in zip(
            *(values.tolist() for values in (ngrams.texts[asked], ngrams.places[asked])),
            *(values.tolist() for values in (self._short.texts[there], self._short.places[there])),
            strict=True,
        ):
            text, whole = words.of(message), self._words.of(example)
            if not example_place and np.array_equal(text[place : place + len(whole)], whole):
                yield int(rows[message]), self._match("contains", example, 1.0)
            elif not place and is_user[message]:
                is_part = np.array_equal(whole[example_place : example_place + len(text)], text)
                if is_part and len(text) >= min_ratio * len(whole):
                    yield int(rows[message]), self._match("is a part of", example, len(text) / len(whole))

    def _with_one_word_changed(self, words: WordHashes, texts: Sequence[CheckedText]) -> Iterator[tuple[int, Match]]:
        """User messages that are a short example but for one word, unless that word is what is asked."""
        is_user = np.array([each.is_user for each in texts], bool)
        lengths = words.lengths
        messages = np.flatnonzero(is_user & (lengths >= _ONE_WORD_FROM) & (lengths < 2 * NGRAM_WORDS))
        wildcards = _wildcards(words, messages)
        asked, there = self._slots.find(wildcards.hashes)
        for message, example, place in zip(
            wildcards.texts[asked].tolist(),
            self._slots.texts[there].tolist(),
            wildcards.places[asked].tolist(),
            strict=True,
        ):
            text = texts[message].text
            if not (_may_be_asked(text, place) or _may_be_asked(self._texts[example].as_py(), place)):
                length = len(words.of(message))
                yield texts[message].row, self._match("is one word from", example, (length - 1) / length)

    def _match(self, how: str, example: int, ratio: float) -> Match:
        kind = "answer" if self._is_answer[example] else "prompt"
        return Match(f"{how} an evaluation {kind}", self._ids[int(self._owners[example])].as_py(), float(ratio))


@cache
def _with_code(made_from: str) -> str:
    """The fingerprint together with one of the code that makes an index from examples."""
    files = (str(align.text.__file__), str(align.ngrams.__file__), __file__)
    return fingerprint_of(made_from, *map(fingerprint, files))


def _has_digit(word: str) -> bool:
    return any(character.isdigit() for character in word)


def _may_be_asked(text: str, place: int) -> bool:
    """Whether a word of a text is a number, a name, or in a script without capitals, where names cannot be seen."""
    words = words_of(text, fold_case=False)
    if place >= len(words):
        return False
    first = words[place][0]
    is_name = first.isupper() and place > 0
    return is_name or _has_digit(words[place]) or (first.isalpha() and first.lower() == first.upper())


def _of_texts(ngrams: NGrams, chosen: NDArray[np.bool_]) -> NGrams:
    inside = chosen[ngrams.texts]
    return NGrams(ngrams.hashes[inside], ngrams.texts[inside], ngrams.places[inside])


def _wildcards(words: WordHashes, texts: NDArray[np.int64]) -> NGrams:
    """The wildcard numbers of some texts, as if they were n-grams; the place is that of the changed word."""
    hashes = [wildcard_hashes(words.of(int(text))) for text in texts]
    lengths = np.array([len(each) for each in hashes], np.int64)
    places = [np.arange(length) for length in lengths]
    return NGrams(
        np.concatenate([np.zeros(0, np.uint64), *hashes]),
        np.repeat(texts, lengths),
        np.concatenate([np.zeros(0, np.int64), *places]),
    )
