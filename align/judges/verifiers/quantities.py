"""Numbers with a unit in the final answer of a mathematical text: what they state, and whether two are equal.

A number is read only if all that is around it is known to leave its value alone. "5 km", "5 apples in total" and
"$5" state a number; "5 x", "5 or 6", "5 feet 6 inches" and "5 more than 37" do not, and are refused: a wrong answer
that passes does more harm than an unusual right one that does not.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

MAX_CHARACTERS = 200
"""A longer final answer is not read."""

# A number, with an optional currency before it:
#   `whole`       "12" of "12 3/4"
#   `digits`      "1,234.5" or ".5", and the numerator of a fraction
#   `below`       the denominator of a fraction, "4" of "3/4"
# A minus counts if no letter, digit, dot or bracket precedes it: "10-5" has the numbers 10 and 5. Before a space it
# counts only at the start: "- 5" is -5, and "Total - 5" has a dash.
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d|,\d)|\d+)(?:\.\d+)?|\.\d+"
NUMBER = re.compile(
    rf"(?<![\w.)])(?P<sign>(?:\A[-+]|[-+](?!\s))?)(?P<currency>[$€£]?)\s?(?:(?P<whole>\d+)\s+(?=\d+/\d))?"
    rf"(?P<digits>{_DIGITS})(?:\s?/\s?(?P<below>\d+))?(?!\d)(?:\s?(?P<percent>%))?"
)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SHORT_UNITS = {
    **{name: name for name in ("nm", "mm", "cm", "m", "km", "mg", "g", "kg", "ml", "l", "ms", "s", "h", "min", "ft")},
    **{"mi": "mi", "lb": "lb", "metre": "m", "meter": "m", "kilometer": "km", "kilometre": "km", "centimeter": "cm"},
    **{"centimetre": "cm", "millimeter": "mm", "millimetre": "mm", "gram": "g", "kilogram": "kg", "milligram": "mg"},
    **{"liter": "l", "litre": "l", "milliliter": "ml", "millilitre": "ml", "second": "s", "sec": "s", "minute": "min"},
    **{"hour": "h", "hr": "h", "day": "day", "week": "week", "month": "month", "year": "year", "foot": "ft"},
    **{"feet": "ft", "inch": "in", "inche": "in", "mile": "mi", "pound": "lb", "kph": "km/h", "mph": "mi/h"},
    **{"degree": "degree", "radian": "rad", "rad": "rad", "yard": "yd", "yd": "yd", "ounce": "oz", "oz": "oz"},
    **{"ton": "ton", "tonne": "t", "unit": "unit", "kb": "kb", "mb": "mb", "gb": "gb", "tb": "tb"},
    **{"$": "dollar", "dollar": "dollar", "cent": "cent", "€": "euro", "euro": "euro", "£": "£"},
}
"""Units that are distinguished. Other words behind a number, such as "apples", are ignored."""

# A unit of measurement behind a number: "km", " cm^2", " m/s^2", " (hours)", "-hour".
_MEASURE = re.compile(
    r"[ \t-]?\(?(?P<unit>[^\W\d_]+|[$€£])(?: ?\^\(?(?P<power>[23])\)?)?"
    r"(?: ?/ ?(?P<per>[^\W\d_]+)(?:\^\(?(?P<per_power>[23])\)?)?)?\)?(?![\w^*/(])"
)
_SPELLED = [
    (re.compile(r"\bsq(?:uare|\.)? ([^\W\d_]+)"), r"\1^2"),
    (re.compile(r"\bcubic ([^\W\d_]+)"), r"\1^3"),
    (re.compile(r"(?<=[^\W\d_]) squared\b"), "^2"),
    (re.compile(r"(?<=[^\W\d_]) cubed\b"), "^3"),
    (re.compile(r"(?<=[^\W\d_]) per (?!cent)"), "/"),
]
# Words behind a number: each after a space or a hyphen, of two letters or more, without digits and operators.
_PLAIN_WORDS = re.compile(r"(?:(?:[ \t]+\(?|-)(?:a[ \t]+)?[^\W\d_]{2,}(?:['’]s?)?)*\)?")
_SHORT_WORDS = frozenset(
    (
        *("of", "in", "on", "at", "as", "is", "an", "am", "pm", "it", "he", "we", "us", "up", "so", "for", "now"),
        *("ago", "any", "lot", "most", "cost", "film", "best", "boy", "box", "yrs", "pts", "hrs"),
    )
)
"""Words that look like products of variables to `_is_product`, and are none."""
_VARIABLES = "(?:a?(?:sin|cos|tan)|sec|csc|cot|log|ln|exp)[a-z]?|alpha|beta|gamma|delta|theta|lambda|mu|phi"
_NUMBER_WORDS = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|half|halves|thirds?|quarters?|fourths|"
    "fifths|sixths|eighths|tenths|dozens?|(?:hundred|thousand|million|billion|trillion)(?:th)?s?"
)
_CALCULATION = (
    "than|or|not|minus|plus|times|squared|cubed|factorial|mod|modulo|pi|sqrt|a?(?:sin|cos|tan)|log|ln|exp|abs|"
    "wrong|incorrect|false|if|unless|else|otherwise|depending"
)
"""Words that make a number a part of a calculation, a comparison or a choice, before it and behind it."""
_NOT_FIRST = re.compile(r"\W*(?:and|to|over|by|divided|multiplied|choose)\b", re.IGNORECASE)
"""The same as the first word behind a number; later, as in "apples left over", they say nothing of it."""
_NOT_BEFORE = (
    "negative|least|most|maximum|minimum|exceeds|exceeding|below|above|under|over|between|either|neither|square|cube|"
    "root|twice|thrice|double|triple|divided|multiplied|logarithm|up[ ]to"
)
_WORDS_BEHIND = re.compile(rf"\b(?:{_CALCULATION}|{_NUMBER_WORDS}|{_VARIABLES})\b", re.IGNORECASE)
# "two thirds of 42", "five 42" and "six or 42" are more than 42; "The two numbers sum to 42" is not.
_WORDS_BEFORE = re.compile(
    rf"\b(?:{_CALCULATION}|{_NOT_BEFORE}|(?:{_NUMBER_WORDS})(?=[ -]*(?:\Z|(?:of|to|and|in|by|over|a)\b)))\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"\b(?:not|never|cannot|\w+n['’]t)\b", re.IGNORECASE)
_CLAUSE_BEGINS = re.compile(
    r"[,.;:=\d]|\b(?:is|are|was|were|be|equals|makes|gives|has|have|gets?|leaves)\b", re.IGNORECASE
)
_OPERAND = r"(?:(?<![^\W\d_])[^\W\d_]|\d[^\W\d_]+|[\d)\]}])[ \t]*"
"""A number, a variable, a product such as "2xy", or a bracket; no word."""
# What makes the number behind it a part of more. The operand of an operator is on the same line: "\n* 42" is a bullet.
_PART_OF_MORE = re.compile(
    rf"""(?:[\w)\]}}][ \t]*\*?[+*/^<>≤≥≠±√]|[<>≤≥≠±√]|[<>!]=  # 3 * 5, 2**5, is > 5
    |{_OPERAND}-|(?:=|\bis)[ \t]*-                        # x - 5, x = - 5; but "Total - 5" states 5
    |\bx|\w\(|\\[A-Za-z]+\{{?|\w_\w+|\blog\d+           # 2 x 5, f(5), \geq 5, log_2 8, log2 8
    |\d[)\]]?[ ]?%?(?:[,;]|,?[ ](?:and|or|to))            # 4, 5 and 4 or 5
    |\b(?i:steps?|equations?|figure|table)               # Step 1
    )[ \t(]*\Z|\d[ ]\(?\Z                                 # 2^(5), 1 000, 5 (6)
    |\d:\Z|\d[ \t]+:[ \t]*\Z                              # 3:4 and 3 : 4; but "Step 3: 5" states 5""",
    re.VERBOSE,
)
# The rest of a sentence behind a comma, if it is words only: "42 people, including John".
_ASIDE = re.compile(r"[,;](?:[ \t,;]+(?:[^\W\d_]{2,}|[aAI])(?:['’][^\W\d_]+)?)+\Z")
_MEASURE_BEFORE = re.compile(r"\d[ \t-]?([^\W\d_]+|['\u2032]),?[ \t]*(?:and[ \t]*)?\Z")
_OPERAND_BEFORE = re.compile(rf"{_OPERAND}\Z")


class Quantity(NamedTuple):
    value: Fraction
    percent: bool
    unit: str
    """One of the values of _SHORT_UNITS; empty for none, and for words that are not units of measurement."""


def quantity_of(text: str) -> Quantity | None:
    """A text that is one number with an optional unit: "$1,234.50", "3/4 of an hour", "12 %". None for other texts."""
    found = NUMBER.match(text)
    return None if found is None else quantity_from(found, without_marks(text[found.end() :]))


def without_marks(behind: str) -> str:
    """What is behind a number without the marks at its end.

    "..." and "!" stay: 0.333... is not 0.333, and 5! is a factorial.
    """
    return behind if re.search(r"\.\.[\W_]*\Z", behind[-20:]) else behind.rstrip(" \t.,;:\"'”’`*")


def same_quantity(given: Quantity, expected: Quantity, tolerance: float) -> bool:
    """Whether two quantities are equal.

    A percent sign on one side only may be left out or written out: 50% equals 50 ("what percent?") and 0.5. On both
    sides, the numbers count: 50% is not 0.5%. Units of measurement count if both sides have one.
    """
    if given.unit and expected.unit and given.unit != expected.unit:
        return False
    readings = [given.value]
    if given.percent and not expected.percent:
        readings.append(given.value / 100)
    elif expected.percent and not given.percent:
        readings.append(given.value * 100)
    allowed = Fraction(str(tolerance)) * abs(expected.value)
    return any(abs(value - expected.value) <= allowed for value in readings)


def quantity_from(found: re.Match[str], behind: str) -> Quantity | None:
    """The value of a number with all that is behind it; None if that makes it something other than a quantity."""
    if len(behind) > MAX_CHARACTERS:
        return None
    if len(found.group()) > MAX_CHARACTERS:  # Python refuses to read integers of more than 4300 digits
        return None
    if found["below"] is not None and int(found["below"]) == 0:
        return None
    value = Fraction(found["digits"].replace(",", "")) / int(found["below"] or 1) + int(found["whole"] or 0)
    scale = re.match(r"[ \t]+([a-z]+?)s?(?![\w'’])", behind, re.IGNORECASE)
    if scale is not None and scale[1].casefold() in _SCALES:
        value *= _SCALES[scale[1].casefold()]
        behind = behind[scale.end() :]
    per_cent = re.match(r"[ \t]*per[ \t]?cent(?!\w)", behind, re.IGNORECASE)
    if per_cent is not None:
        behind = behind[per_cent.end() :]
    unit = _unit_of(behind)
    if unit is None:
        return None
    if found["currency"]:
        unit = _SHORT_UNITS[found["currency"]]
    sign = -1 if found["sign"] == "-" else 1
    return Quantity(sign * value, bool(found["percent"] or per_cent), unit)


def _unit_of(behind: str) -> str | None:
    """The unit of measurement behind a number: "h" of " hours in total", "cm^2", "m/s".

    Empty if nothing or other words follow, such as " apples". None for all that may be a part of a calculation or of
    a longer quantity: "x^2", " xy", " sqrt(5)", " hours 15 minutes", " or 6", " more than that", " dozen".
    """
    unit, rest = _measure(_without_aside(behind))
    if not _PLAIN_WORDS.fullmatch(rest) or _NOT_FIRST.match(rest) or _WORDS_BEHIND.search(rest):
        return None
    first = re.search(r"[^\W\d_]{2,}", rest)
    return None if first is not None and _is_product(first[0].casefold()) else unit


def _without_aside(behind: str) -> str:
    """What is behind a number up to a comma, unless other values may follow it: "5 apples, or six"."""
    found = _ASIDE.search(behind)
    return behind if found is None or _WORDS_BEHIND.search(found.group()) else behind[: found.start()]


def _measure(behind: str) -> tuple[str, str]:
    """The unit of measurement at the start of what is behind a number, and the rest; ("", behind) for none."""
    spelled = behind
    for pattern, sign in _SPELLED:
        spelled = pattern.sub(sign, spelled)
    found = _MEASURE.match(spelled)
    if found is None or not _unit_name(found["unit"]) or (found["per"] and not _unit_name(found["per"])):
        return "", behind
    if found.start("unit") == 0 and len(found["unit"]) == 1 and found["unit"].isalpha():
        return "", behind  # "5m" may be five times m; "5 m" and "5km" have units
    unit = _unit_name(found["unit"]) + (f"^{found['power']}" if found["power"] else "")
    if found["per"]:
        unit += f"/{_unit_name(found['per'])}" + (f"^{found['per_power']}" if found["per_power"] else "")
    return unit, spelled[found.end() :]


def _unit_name(word: str) -> str:
    """The short name of a unit of measurement; empty for other words. "H" is no hour, and "L" is a liter."""
    name = word if len(word) == 1 and word != "L" else word.casefold()
    return _SHORT_UNITS.get(name) or (_SHORT_UNITS.get(name.removesuffix("s"), "") if len(name) > 2 else "")


def _is_product(word: str) -> bool:
    """Whether a word may be a product of variables, which are written in the order of the alphabet: xy, abc.

    "of", "for" and "men" are none. "fly" is refused with "xy": few short words are in this order.
    """
    if word in _SHORT_WORDS:
        return False
    if len(word) <= 2:
        return True
    return len(word) <= 4 and (sorted(set(word)) == list(word) or not re.search("[aeiou]", word))


def is_part_of_more(text: str, found: re.Match[str]) -> bool:
    """Whether what is before a number makes it a part of a calculation, a comparison, a list or a longer quantity.

    "3 * 5", "greater than 5", "the root of 16", "4 or 5", "5 feet 6 inches". See `_unit_of` for what is behind it.
    """
    start = found.end() - len(found.group().lstrip())
    before = text[max(0, start - MAX_CHARACTERS) : start].rpartition("\n")[2]
    if _PART_OF_MORE.search(before) or (found["sign"] and _OPERAND_BEFORE.search(before)):
        return True
    if _NEGATION.search(re.split(r"[.,;:]", before)[-1]) or _is_list_marker(text, found, before):
        return True
    measure = _MEASURE_BEFORE.search(before)
    if measure is not None and (measure[1] in "'′" or _unit_name(measure[1]) or _WORDS_BEFORE.fullmatch(measure[1])):
        return True
    return _WORDS_BEFORE.search(_CLAUSE_BEGINS.split(before)[-1]) is not None


def _is_list_marker(text: str, found: re.Match[str], before: str) -> bool:
    """Whether a number begins an item of a list: the 2 of "1. Add.\\n2. Divide."."""
    if before.strip() or not found["digits"].isdigit() or not re.match(r"[.)][ \t]+\S", text[found.end() :][:20]):
        return False
    number = int(found["digits"])
    return number == 1 or re.search(rf"^[ \t]*{number - 1}[.)][ \t]", text, re.MULTILINE) is not None
