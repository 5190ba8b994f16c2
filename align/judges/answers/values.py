"""Does a text contain a value that a function returned: numbers compared as numbers, all else as words?

For facts about the world, with accents, articles and codes, see `rules.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal


def holds(text: str, answers: Iterable[str]) -> bool:
    """Whether a text contains one of the answers.

    Numbers are compared as numbers: "1,234.50" contains 1234.5, and 26 is not in "126", "-26" or "26.9". Any other
    answer has to occur as whole words; case and spacing are ignored.
    """
    return any(_holds_one(text, answer) for answer in answers)


# A minus counts as a sign if no word or number precedes it: "10-5" does not have -5, "is -5" does. Digits in a name
# ("v2") or a version ("1.2.3") are not numbers. `digits` may have commas, which `_numbers` reads: "1,234.5" or "1,2,3".
_NUMBER = re.compile(r"(?<![\w.])(?P<sign>[-\u2212]?)(?P<digits>\d+(?:,\d+)*(?:\.\d+)?|\.\d+)(?!\.?\d)")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def _holds_one(text: str, answer: str) -> bool:
    is_number = _NUMBER.fullmatch(answer.strip()) is not None
    if is_number and len(numbers := _numbers(answer)) == 1:
        return numbers[0] in _numbers(text)
    words = re.escape(_plain(answer))
    return bool(words) and re.search(rf"(?<!\w){words}(?!\w)", _plain(text)) is not None


def _numbers(text: str) -> list[Decimal]:
    found = []
    for match in _NUMBER.finditer(text):
        grouped = _GROUPED.fullmatch(match["digits"]) is not None
        # Commas that do not group thousands separate the entries of a list: "1,2,3" is 1, 2 and 3.
        digits = [match["digits"].replace(",", "")] if grouped else match["digits"].split(",")
        sign = "-" if match["sign"] else ""
        found += [Decimal(sign + digits[0]), *map(Decimal, digits[1:])]
    return found


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
