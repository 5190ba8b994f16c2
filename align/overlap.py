"""What makes two texts the same: normalization and exact keys. N-grams for near matches belong here too.

Used to drop duplicates, and training rows that repeat an evaluation prompt. Whether an answer is right is another
question: see `align/judges/rules.py`.
"""

from __future__ import annotations

import re
import unicodedata

from align.files import fingerprint_of

# 5*3 is not 5/3 and 1.5 is not 1 5, but a full stop or a hyphen between words tells nothing apart.
_ARITHMETIC = re.compile(r"(?<=\d)[.,](?=\d)|(?<=\d)\s?[-*/%]|[-*/%](?=\s?\d)")


def normalize(text: str) -> str:
    """Text without what does not tell two texts apart: width forms, case, punctuation, spacing.

    Letters, accents, marks, digits and symbols of every script are kept, and the signs of arithmetic beside a digit.
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    arithmetic = {place for match in _ARITHMETIC.finditer(folded) for place in range(*match.span())}
    kept = (
        character if place in arithmetic or unicodedata.category(character)[0] in "LMNS" else " "
        for place, character in enumerate(folded)
    )
    return " ".join("".join(kept).split())


def exact_key(*texts: str) -> str:
    """A key that is the same for texts that are the same after `normalize`: 64 hex digits of BLAKE3."""
    return fingerprint_of(*map(normalize, texts))
