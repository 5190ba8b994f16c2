r"""Verifies the final answer of a mathematical text: it equals the reference answer.

The final answer is, in this order:

    \boxed{...}                  the last one
    #### 42                      the last line that begins so (GSM8K)
    The answer is 42 apples.     the rest of the last such sentence; "Answer: 42" too
    ... which makes 42.          the last number of the text

Numbers are compared exactly, as fractions: 1,234.50 equals 1234.5, 3/4 equals 0.75, and 0.33 is not 1/3. Other answers
are compared as expressions by sympy, with limits on time, memory and size; no text is ever evaluated as Python. Known
limits, by design: English notation only (1.234 is not 1234), units are not converted (2 m is not 200 cm), and lists,
sets and intervals are equal only if they are written the same way.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Literal, NamedTuple

from pydantic import Field

from align.judges.verifiers.quantities import (
    MAX_CHARACTERS,
    NUMBER,
    is_part_of_more,
    quantity_from,
    quantity_of,
    same_quantity,
    without_marks,
)
from align.judges.verifiers.verifier import Failure, Verifier, final_text
from align.rows import Frozen, Messages
from align.tools.limited_process import LimitedProcess
from align.tools.results import ToolFailure, library

TIMEOUT_SECONDS = 5.0
MEMORY_BYTES = 2 << 30


class MathsEntry(Frozen):
    """What a prompt requires of the answer."""

    answer: str = Field(min_length=1, max_length=MAX_CHARACTERS, pattern=r"\S")
    r"""The reference answer: `42`, `3/4`, `12.5%`, `\frac{\sqrt{2}}{2}`, `x^2 - 1`."""
    tolerance: float = Field(0.0, ge=0, lt=1)
    """Numbers within this share of the reference are equal to it: 0.01 accepts 99 to 101 for 100."""


class MathsVerifier(Verifier[MathsEntry]):
    """Checks the last message of a completion."""

    entry = MathsEntry

    def __init__(self) -> None:
        library("sympy")  # a missing library is reported before anything is sampled

    def failure(self, completion: Messages, entry: MathsEntry, tools: str = "") -> Failure | None:
        """See `Verifier.failure`. Reasons: "no answer", "answer too long", "wrong answer", "comparison too slow"."""
        found = final_answer(final_text(completion))
        if found is None:
            return Failure("no answer")
        # "The answer is 42, because 6 * 7 = 42." is no expression; it states its first number.
        equal = found.kind == "sentence" and _first_number_equals(found.text, entry)
        if not equal and len(found.text) > MAX_CHARACTERS:
            return Failure("answer too long", f"{len(found.text)} characters, at most {MAX_CHARACTERS} are read")
        if not equal:
            try:
                equal = same_answer(found.text, entry.answer, entry.tolerance)
            except ToolFailure as failure:  # otherwise one of the two is not an expression that can be read
                if failure.kind in ("time-out", "memory"):
                    return Failure("comparison too slow", f"{found.text!r} and {entry.answer!r}: {failure}")
        return None if equal else Failure("wrong answer", f"found {found.text!r}, expected {entry.answer!r}")


class FinalAnswer(NamedTuple):
    """The final answer of a text, and how it was marked."""

    text: str
    kind: Literal["boxed", "sentence", "number"]


_ANSWER_IS = re.compile(
    r"\banswer(?:\s+(?:is|equals|=)(?:\s*:)?|\s*[:=])\**\s*(?=(?P<rest>[^\n]{0,1000}))", re.IGNORECASE
)
_GSM8K = re.compile(r"^####[ \t]*(?P<rest>\S[^\n]*)$", re.MULTILINE)
# A sentence ends at a mark that a space or the end of the text follows: "3.5 km. Done." ends after "km".
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")

_CLAUSE_ENDS = re.compile(r"[.,;:!?](?=[\s\"'”’)]|$)|\n")
_POWER_OF_A_UNIT = re.compile(r"\A[ \t]*[^\W\d_]+(?: ?/ ?[^\W\d_]+)? ?\^\(?\Z")
_REASON = re.compile(r"[,;]?\s+\(?(?:because|since|as|which|where|so|given)\b", re.IGNORECASE)


def final_answer(text: str) -> FinalAnswer | None:
    """The final answer of a text, or None if there is none. See the top of this file."""
    boxed = _last_boxed(text)
    if boxed is not None:
        return FinalAnswer(boxed.strip(), "boxed") if boxed.strip() else None
    marked = list(_GSM8K.finditer(text))
    if marked:
        return FinalAnswer(marked[-1]["rest"].strip(), "sentence")
    for found in reversed(list(_ANSWER_IS.finditer(text))):
        sentence = _SENTENCE_END.split(found["rest"].strip(), maxsplit=1)[0].strip().strip("*").strip()
        if sentence and not re.match(r"not\b", sentence, re.IGNORECASE):
            return FinalAnswer(sentence, "sentence")
    plain = plain_notation(text)
    numbers = list(NUMBER.finditer(plain))
    if not numbers:
        return None
    last = numbers[-1]
    if len(numbers) > 1 and _POWER_OF_A_UNIT.search(plain[numbers[-2].end() : last.start()]):
        last = numbers[-2]  # "42 cm^2" states 42
    if len(last.group()) > MAX_CHARACTERS:
        return FinalAnswer(last.group().strip(), "number")
    end = _CLAUSE_ENDS.search(plain, last.end())
    behind = _stated_behind(plain[last.end() : end.start() if end else len(plain)])
    asked = end is not None and end.group() == "?"
    if asked or is_part_of_more(plain, last) or quantity_from(last, behind) is None:
        return FinalAnswer(_line_around(plain, last), "number")
    return FinalAnswer(f"{last.group()}{behind}".strip(), "number")


def _stated_behind(behind: str) -> str:
    """What is behind a number, up to a reason: " apples" of " apples, because 6 * 7 = 42"."""
    found = _REASON.search(behind, 0, MAX_CHARACTERS)
    return without_marks(behind if found is None else behind[: found.start()])


def _line_around(text: str, found: re.Match[str]) -> str:
    """The line of a number that is a part of more; not all of it if it is long, and then no expression either."""
    begin = text.rfind("\n", 0, found.start()) + 1
    line = text[begin:].split("\n", 1)[0].strip()
    return line if len(line) <= MAX_CHARACTERS else f"… {line[-MAX_CHARACTERS // 2 :]}"


def same_answer(given: str, expected: str, tolerance: float = 0.0) -> bool:
    """Whether two answers are equal: as numbers, as texts, or as expressions.

    Raises ToolFailure if they are expressions that cannot be read or that take too long to compare.
    """
    left, right = _core(plain_notation(given)), _core(plain_notation(expected))
    if "=" in left and "=" not in right and not _SEVERAL.search(left):
        left = left.rpartition("=")[2].strip()  # "5 + 3 = 8" states 8
    one, other = quantity_of(left), quantity_of(right)
    if one is not None and other is not None:
        return same_quantity(one, other, tolerance)
    if re.sub(r"\s+", "", left).casefold() == re.sub(r"\s+", "", right).casefold():
        return bool(left)
    if not all(map(_may_be_expression, (left, right))):
        return False
    return _comparer()(left, right, tolerance) == "equal"


# Several statements, or one that is no equation: "x = 5 or x = 6", "a = 1, b = 2", "x >= 5".
_SEVERAL = re.compile(r"[<>≤≥≠!;|]|,(?!\d{3})|\b(?:or|and|not)\b", re.IGNORECASE)


_FUNCTIONS = frozenset(("pi", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "log", "ln", "exp", "abs"))


def _may_be_expression(text: str) -> bool:
    """Whether a text has no words other than names of functions and constants: prose is not given to sympy."""
    return bool(text) and set(re.findall(r"[^\W\d_]{2,}", text)) <= _FUNCTIONS


def same_expression(left: str, right: str, tolerance: float = 0.0) -> str:
    """ "equal" or "different": two expressions in the calculator's notation. Unlimited in time; see `same_answer`.

    tolerance: for two numbers, relative to the right one.
    Raises ToolFailure for what is not an expression, or is too large.
    """
    from align.tools.calculator import expression_of

    sympy = library("sympy")

    def exact(text: str) -> object:
        # 0.5 is read as a decimal of 30 digits or more; as a fraction it equals 1/2 exactly.
        found = expression_of(text)
        return found.xreplace({number: sympy.Rational(str(number)) for number in found.atoms(sympy.Float)})

    one, other = exact(left), exact(right)
    difference = one - other  # type: ignore[operator]
    if difference.is_number and tolerance:
        size = abs(sympy.N(difference, 30))
        return "equal" if bool(size <= tolerance * abs(sympy.N(other, 30))) else "different"
    return "equal" if sympy.simplify(difference) == 0 else "different"


def plain_notation(text: str) -> str:
    r"""LaTeX and typographic signs in the calculator's notation.

    "$\frac{3}{4}$" becomes "3/4", "\frac{x}{2}" becomes "((x)/(2))"; "2\sqrt{3}" becomes "2sqrt(3)"; "1½"
    becomes "1 1/2"; "\$5\text{ km}" becomes "$5 km"; "12{,}345" becomes "12,345".
    """
    text = re.sub(r"(?<=\d)(?=[¼½¾⅐-⅞])", " ", text)
    text = text.replace("²", "^2").replace("³", "^3")  # NFKC would make "x2" of the first
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/")
    text = text.translate(dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212"), "-"))
    text = text.translate({ord("×"): "*", ord("·"): "*", ord("÷"): "/"})
    # $...$ and \(...\) around a formula; a lone $ is the currency
    text = re.sub(r"(?<!\\)\$([^$\n]*[^$\s\\])(?<!\\)\$", r"\1", text)
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    for _ in range(8):  # nested fractions, from the inside out
        text, count = _FRACTION.subn(_fraction, text)
        text, roots = _ROOT.subn(r"sqrt(\1)", text)
        text, powers = _POWER.subn(r"^(\1)", text)
        if not count + roots + powers:
            break
    text = re.sub(r"\)\s*\(", ")*(", text)
    return re.sub(r"[ \t]+", " ", text).strip()


_LATEX = [
    (re.compile(r"(?<=[\d,])\\[,!](?=\d{3})"), ""),
    (re.compile(r"<<[^<>\n]*>>"), ""),  # GSM8K's calculator: 3 * 4 = <<3*4=12>>12
    (re.compile(r"(?<!\\)\\(?=[ \t])|(?<=\S)~(?=\S)"), " "),
    (re.compile(r"\\[()\[\]]"), ""),
    (re.compile(r"\\(?:left|right|displaystyle|,|;|:|!|quad)(?![A-Za-z])"), " "),
    (re.compile(r"(?<=\d)\s*\{,\}\s*(?=\d)"), ","),
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\sqrt\s*(\d)"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:cdot|times)(?![A-Za-z])"), "*"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\\(pi|sin|cos|tan|log|ln|exp)(?![A-Za-z])"), r"\1"),
    (re.compile(r"\^\s*\{?\\circ\}?|\\degree|°"), " degrees"),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(])"), ""),  # bold in Markdown, not a power
]
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_ROOT = re.compile(r"\\sqrt\s*\{([^{}]*)\}")
_POWER = re.compile(r"\^\s*\{([^{}]*)\}")


def _fraction(found: re.Match[str]) -> str:
    above, below = found[1].strip(), found[2].strip()
    if above.isdigit() and below.isdigit():
        mixed = found.start() > 0 and found.string[found.start() - 1].isdigit()  # 1\frac{3}{4}
        return f"{' ' * mixed}{above}/{below}"
    return f"(({above})/({below}))"


def _core(text: str) -> str:
    """An answer without the name of what it is the value of, and without a final mark: "x = 5." becomes "5"."""
    text = re.sub(r"(?<!\.)\.\Z", "", text.strip()).strip()
    return re.sub(r"^[A-Za-z]\s*=\s*", "", text)


def _last_boxed(text: str) -> str | None:
    r"""What is inside the last \boxed{...}, with its inner braces; None without one, and "" if it is never closed."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    begin = text.index("{", start) + 1
    depth = 1
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place]
    return ""


def _first_number_equals(sentence: str, entry: MathsEntry) -> bool:
    """Whether the number that a sentence states equals the reference, which is a number too.

    "42, because 6 * 7 = 42" states 42. "5 or 6", "greater than 5" and "5 more than 37" state no number.
    """
    plain = plain_notation(sentence)
    expected = quantity_of(_core(plain_notation(entry.answer)))
    found = NUMBER.search(plain)
    if expected is None or found is None or is_part_of_more(plain, found):
        return False
    quantity = quantity_from(found, _stated_behind(plain[found.end() :]))
    return quantity is not None and same_quantity(quantity, expected, entry.tolerance)


@cache
def _comparer() -> LimitedProcess:
    """Compares expressions in a process of its own, because simplification can take without end."""
    return LimitedProcess(
        "align.judges.verifiers.maths:same_expression",
        timeout_seconds=TIMEOUT_SECONDS,
        memory_bytes=MEMORY_BYTES,
        first_call=("x", "x"),
    )
