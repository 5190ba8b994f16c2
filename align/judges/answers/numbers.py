"""Does a text state a number that is close to an expected one, in any of the usual notations?

"1,234,567", "1.234.567", "1 234 567", "1.23 million" and "1,23 Millionen" are all read. If a mark may either group
thousands or begin decimals ("1.234"), both readings count: 1.234 and 1234 are so far apart that at most one of them can
be close to the expected number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_GROUP = r"[,.' \u00a0\u202f\u2009]"
# `sign`: a minus that follows no letter, digit or mark, so that "10-5" is not minus five.
# `digits`: a first group of one to three digits and then groups of exactly three ("1,234", "12 345 678,9"), or else a
#     plain number ("1234", "0.5").
# `scale`: the word behind the number, which may be in _SCALES ("1.2 million", "3-Millionen").
_NUMBER = re.compile(
    rf"(?<![\w.,])(?P<sign>[-\u2212]?)(?P<digits>\d{{1,3}}(?:{_GROUP}\d{{3}})+(?!\d)(?:[.,]\d+)?|\d+(?:[.,]\d+)?)"
    r"(?:[ \u00a0\u202f-]?(?P<scale>[^\W\d_]+))?",
)
_SCALES = {
    **dict.fromkeys(("thousand", "tausend", "mille", "mil", "mila"), 1e3),
    **dict.fromkeys(("million", "millions", "mio", "millionen", "millón", "millones", "milione", "milioni"), 1e6),
    **dict.fromkeys(("milhão", "milhões"), 1e6),
    **dict.fromkeys(("billion", "billions", "bn", "milliarde", "milliarden", "milliard", "milliards", "mrd"), 1e9),
    **dict.fromkeys(("miliardo", "miliardi", "bilhão", "bilhões"), 1e9),
}
"""Word behind a number -> its factor. "billion" is read as in English, as 10^9."""


def states_number(text: str, answer: str, tolerance: float) -> bool:
    """Whether the text has a number that differs from the answer by at most `tolerance` times the answer.

    answer: a text for which `is_number` is true.
    """
    expected = float(answer.replace(",", ""))
    said = (value for found in _NUMBER.finditer(text) for value in _readings(found))
    return any(abs(value - expected) <= tolerance * abs(expected) for value in said)


def is_number(answer: str) -> bool:
    """Whether an accepted answer is a number in English notation: 1234.5 or 1,234.5."""
    return re.fullmatch(r"[-+]?\d[\d,]*(?:\.\d+)?", answer) is not None


def _readings(found: re.Match[str]) -> Iterator[float]:
    """The values that a written number may have.

    The last kind of mark may begin the decimals, and all other marks group thousands:
        1,234,567       the last mark occurs twice, so it groups: 1234567
        1.234,5         decimals after the comma: 1234.5
        1,234           three decimals and one kind of mark, so both readings: 1.234 and 1234
        2.5 million     2500000
    """
    digits = re.sub(r"[' \u00a0\u202f\u2009]", "", found["digits"])
    sign = -1.0 if found["sign"] else 1.0
    scale = _SCALES.get((found["scale"] or "").casefold(), 1.0)
    marks = sorted({mark for mark in ",." if mark in digits}, key=digits.rfind)
    grouped = digits.replace(",", "").replace(".", "")
    if not marks or digits.count(marks[-1]) > 1:  # all marks group thousands
        yield sign * float(grouped) * scale
        return
    whole, _, decimals = digits.rpartition(marks[-1])
    yield sign * float(whole.replace(",", "").replace(".", "") + "." + decimals) * scale
    if len(decimals) == 3 and len(marks) == 1:
        yield sign * float(grouped) * scale
