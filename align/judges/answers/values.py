"""Whether a text says a value: numbers as numbers, anything else as words.

Facts about the world, with accents, articles and codes, are `rules.py`; here stands what a function returned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal


def holds(text: str, answers: Iterable[str]) -> bool:
    """Whether a text holds one of the answers.

    A number is compared as one: "1,234.50" holds 1234.5, and 26 is neither in "126" nor in "-26" or "26.9". Any other
    answer stands there as whole words, case and spacing aside.
    """
    return any(_holds_one(text, answer) for answer in answers)


# A sign is one where no word or number stands before it: "10-5" is no minus five. Not in a name (v2) or a version.
_NUMBER = re.compile(r"(?<![\w.])(?P<sign>[-\u2212]?)(?P<digits>\d+(?:,\d+)*(?:\.\d+)?|\.\d+)(?!\.?\d)")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def _holds_one(text: str, answer: str) -> bool:
    wanted = _NUMBER.fullmatch(answer.strip())
    if wanted is not None and len(numbers := _numbers(answer)) == 1:
        return numbers[0] in _numbers(text)
    words = re.escape(_plain(answer))
    return bool(words) and re.search(rf"(?<!\w){words}(?!\w)", _plain(text)) is not None


def _numbers(text: str) -> list[Decimal]:
    found = []
    for match in _NUMBER.finditer(text):
        grouped = _GROUPED.fullmatch(match["digits"]) is not None
        # Commas that group no thousands divide a list: "1,2,3".
        digits = [match["digits"].replace(",", "")] if grouped else match["digits"].split(",")
        sign = "-" if match["sign"] else ""
        found += [Decimal(sign + digits[0]), *map(Decimal, digits[1:])]
    return found


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
