"""Whether a text says a number that is near enough to another, however both are written.

"1,234,567", "1.234.567", "1 234 567", "1.23 million" and "1,23 Millionen" are all read. Where a mark may group
thousands or begin decimals ("1.234"), either reading counts: what is asked with a tolerance is a measure, and its two
readings lie far apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_GROUP = r"[,.' \u00a0\u202f\u2009]"
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
"""Word behind a number -> by what it multiplies. "billion" is the English one."""


def states_number(text: str, answer: str, tolerance: float) -> bool:
    """Whether the text says a number within `tolerance`, a share of the answer, of it.

    answer: one for which `is_number` holds.
    """
    wanted = float(answer.replace(",", ""))
    said = (value for found in _NUMBER.finditer(text) for value in _readings(found))
    return any(abs(value - wanted) <= tolerance * abs(wanted) for value in said)


def is_number(answer: str) -> bool:
    """Whether an accepted answer is a number as English writes it: 1234.5 or 1,234.5."""
    return re.fullmatch(r"[-+]?\d[\d,]*(?:\.\d+)?", answer) is not None


def _readings(found: re.Match[str]) -> Iterator[float]:
    """The values that a written number may have."""
    digits = re.sub(r"[' \u00a0\u202f\u2009]", "", found["digits"])
    sign = -1.0 if found["sign"] else 1.0
    scale = _SCALES.get((found["scale"] or "").casefold(), 1.0)
    marks = sorted({mark for mark in ",." if mark in digits}, key=digits.rfind)
    grouped = digits.replace(",", "").replace(".", "")
    if not marks or digits.count(marks[-1]) > 1:  # every mark groups thousands
        yield sign * float(grouped) * scale
        return
    whole, _, decimals = digits.rpartition(marks[-1])
    yield sign * float(whole.replace(",", "").replace(".", "") + "." + decimals) * scale
    if len(decimals) == 3 and len(marks) == 1:
        yield sign * float(grouped) * scale
