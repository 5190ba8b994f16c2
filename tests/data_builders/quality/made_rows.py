"""Rows with planted defects, for the tests of the quality pipeline."""

from __future__ import annotations

import random
from collections.abc import Sequence

from align.rows import Message, SFTRow

_DRAW = random.Random(0)
WORDS = ["".join(_DRAW.choices("abcdefghijklmnoprstuvwz", k=_DRAW.randint(3, 8))) for _ in range(3000)]


def dialog(name: str, prompt: str, answer: str, source: str = "made") -> SFTRow:
    messages = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    return SFTRow(id=name, source=source, messages=messages)


def sentence(draw: random.Random, words: int) -> str:
    """Random words as a sentence."""
    return " ".join(draw.choices(WORDS, k=words)).capitalize() + "."


def random_rows(count: int, seed: int, words: tuple[int, int] = (20, 60)) -> list[SFTRow]:
    """Rows that share nothing. words: of a prompt, and of an answer."""
    draw = random.Random(seed)
    return [dialog(f"row-{seed}-{n}", sentence(draw, words[0]), sentence(draw, words[1])) for n in range(count)]


def with_changed_words(text: str, draw: random.Random, every: int) -> str:
    """The text with one word in `every` replaced, at random places. Of its 3-grams, three go for each such word."""
    words = text.split()
    for place in draw.sample(range(len(words)), round(len(words) / every)):
        words[place] = draw.choice(WORDS)
    return " ".join(words)


def near_duplicate(row: SFTRow, name: str, draw: random.Random, every: int) -> SFTRow:
    prompt, answer = (with_changed_words(message.content, draw, every) for message in row.messages)
    return dialog(name, prompt, answer)


def shuffled(rows: Sequence[SFTRow], seed: int) -> list[SFTRow]:
    return random.Random(seed).sample(list(rows), len(rows))
