"""The table of words gives the ids of the tokenizer, for every text and every tokenizer."""

from __future__ import annotations

import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from align.chat import load_protocol, words
from align.chat.words import PATTERNS, WordTable, cuts_at_spaces

PARTS = [
    *["the", "cat", "Straße", "naïve", "e\u0301", "\u0301", "東京", "सब", "🙂", "👩\u200d🔬", "ſ", "Ǆ"],
    *["'s", "'S", "'ſ", "'ll", "don't", "7", "1234", "٣٤", "½", "_", "-", "--", "(", ".", ",", "!?", "</s>", "\\n"],
    *[" ", " ", " ", " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\v", "\f"],
    *["\xa0", "\x85", "\x1c", "\x1f", "\x7f", "\0", "\u2028", "\u3000", "\u200b", "\ufeff"],
]
"""Of what texts are made here: letters, marks, digits, punctuation, white space, and what looks like white space."""


def texts(seed: int, count: int = 400) -> list[str]:
    rng = random.Random(seed)
    return ["", " ", *("".join(rng.choices(PARTS, k=rng.randint(1, 30))) for _ in range(count))]


def level(**settings: bool) -> pre_tokenizers.ByteLevel:
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **settings})


def split(pattern: str, **settings: Any) -> pre_tokenizers.PreTokenizer:
    first = pre_tokenizers.Split(Regex(pattern), **{"behavior": "isolated", **settings})
    return pre_tokenizers.Sequence([first, level(use_regex=False)])


@pytest.fixture(scope="module")
def trained() -> str:
    """A BPE that would join any words: it was trained on whole texts. A wrong cut gives other ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = level(use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts(seed=0), trainer)
    return tokenizer.to_str()


def made(trained: str, pre_tokenizer: Any, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer.from_str(trained)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


def expected(tokenizer: Tokenizer, some: list[str]) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in some]


LLAMA3, QWEN2 = sorted(PATTERNS, key=len, reverse=True)
CUT = {
    "gpt2": (level(), None),
    "llama3": (split(LLAMA3), None),
    "qwen2": (split(QWEN2), normalizers.NFC()),
    "smollm2": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level()]), None),
}
WHOLE = {
    "no pre-tokenizer": (level(use_regex=False), None),
    "space in front": (level(add_prefix_space=True), None),
    "words over spaces": (split(r"[\w ]+|\W"), None),
    "joined to the one before": (split(LLAMA3, behavior="merged_with_previous"), None),
    "what does not match": (split(LLAMA3, invert=True), None),
    "bytes first": (pre_tokenizers.Sequence([level(use_regex=False), split(LLAMA3)]), None),
    "lower case": (level(), normalizers.Lowercase()),
}


@pytest.mark.parametrize("name", [*CUT, *WHOLE])
@pytest.mark.parametrize("most_tokens", [50, words.MOST_TOKENS])
def test_ids_are_those_of_the_tokenizer(
    trained: str, name: str, most_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "MOST_TOKENS", most_tokens)
    tokenizer = made(trained, *(CUT | WHOLE)[name])
    table = WordTable(tokenizer)
    assert table.is_used == (name in CUT)
    for seed in range(1, 5):
        some = texts(seed)
        assert [ids.tolist() for ids in table.ids(some)] == expected(tokenizer, some)
    assert table.ids([]) == []


def test_a_tokenizer_that_may_join_words_is_not_cut(trained: str) -> None:
    added = made(trained, level())
    added.add_tokens(["the cat"])
    assert not cuts_at_spaces(added)
    random_merges = made(trained, level())
    random_merges.model.dropout = 0.1
    assert not cuts_at_spaces(random_merges)
    other_model = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    assert not cuts_at_spaces(other_model)
    other_model.pre_tokenizer = level()
    assert not cuts_at_spaces(other_model)
    assert not cuts_at_spaces(made(trained, pre_tokenizers.Sequence([])))


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_the_tokenizers_of_our_protocols_are_cut(name: str, request: pytest.FixtureRequest) -> None:
    protocol = load_protocol(request.getfixturevalue(f"{name}_tokenizer"))
    assert protocol._words.is_used


class Counting:
    """A tokenizer that counts the texts that it is given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.given = tokenizer, []

    def encode_batch_fast(self, some: list[str], **settings: Any) -> list[Any]:
        self.given += some
        return self.tokenizer.encode_batch_fast(some, **settings)


def test_each_word_is_encoded_once(trained: str) -> None:
    table = WordTable(made(trained, level()))
    counting: Any = Counting(table.tokenizer)
    table.tokenizer = counting
    table.ids(["the cat, the cat", "the cat"])
    assert counting.given == ["the", " cat,", " the", " cat"]
    (ids,) = table.ids(["cat the cat"])
    assert counting.given[4:] == ["cat"]
    assert ids.tolist() == expected(counting.tokenizer, ["cat the cat"])[0]


def test_another_process_and_other_threads_get_the_same_ids(trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST_TOKENS", 200)
    tokenizer = made(trained, level())
    table = pickle.loads(pickle.dumps(WordTable(tokenizer)))
    parts = [texts(seed, count=40) for seed in range(20)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(table.ids, parts))
    assert [[ids.tolist() for ids in part] for part in found] == [expected(tokenizer, part) for part in parts]
