"""Ratios, equations, digits, numerals, sequences, primes, matrices and counting."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from fractions import Fraction
from typing import Literal


def simplify_ratio(terms: list[int]) -> str:
    """Bring a ratio into its lowest terms, written like 2:3:5.

    Args:
        terms: The numbers of the ratio, in order; positive.
    """
    if not terms or min(terms) < 1:
        raise ValueError("terms takes positive whole numbers")
    return ":".join(str(term // math.gcd(*terms)) for term in terms)


def split_in_ratio(amount: float, ratio: str) -> list[float]:
    """Divide an amount into parts that stand in a given ratio.

    Args:
        amount: What is divided.
        ratio: The ratio, such as 2:3 or 1:4:5.
    """
    parts = ratio.split(":")
    if len(parts) < 2 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"ratio {ratio!r} is not understood; write whole numbers with colons, such as 2:3")
    whole_ratio = sum(int(part) for part in parts)
    return [round(amount * int(part) / whole_ratio, 4) for part in parts]


def solve_for_x(equation: str) -> float:
    """Solve a linear equation in x.

    Args:
        equation: The equation as text, such as "3x + 5 = 20" or "2x - 1 = x + 7".
    """
    sides = equation.replace(" ", "").split("=")
    if len(sides) != 2 or not all(re.fullmatch(r"([+-]?(\d+x?|x))+", side) for side in sides):
        raise ValueError("equation takes two sides of terms in x and whole numbers, such as 3x + 5 = 20")
    slope = rest = 0
    for sign, side in zip((1, -1), sides, strict=True):
        for term in re.findall(r"[+-]?(?:\d+x?|x)", side):
            if term.endswith("x"):
                slope += sign * int(term[:-1] + "1" if term[:-1] in ("", "+", "-") else term[:-1])
            else:
                rest += sign * int(term)
    return round(-rest / slope, 4)


def progression_term(
    start: float, step: float, position: int, kind: Literal["arithmetic", "geometric"] = "arithmetic"
) -> float:
    """The term at a position of an arithmetic or geometric sequence.

    Args:
        start: First term.
        step: What is added (arithmetic) or multiplied by (geometric) each time.
        position: Which term is wanted; the first one is 1.
        kind: Kind of sequence. Default is "arithmetic".
    """
    return round(start * step ** (position - 1) if kind == "geometric" else start + step * (position - 1), 4)


def digit_report(number: int, report: Literal["sum", "product", "root", "count"] = "sum") -> int:
    """Say something about the digits of a whole number.

    Args:
        number: The number to look at.
        report: The digits' sum, product, repeated sum ("root") or their count.
    """
    digits = [int(digit) for digit in str(abs(number))]
    root = 1 + (abs(number) - 1) % 9 if number else 0
    return {"sum": sum(digits), "product": math.prod(digits), "root": root, "count": len(digits)}[report]


def rewrite_in_base(numeral: str, from_base: int, to_base: int = 10) -> str:
    """Write a number in another base.

    Args:
        numeral: Digits of the number, such as 1011 or ff.
        from_base: Base in which it is written, from 2 to 16.
        to_base: Base that is wanted, from 2 to 16. Default is 10.
    """
    if not (2 <= from_base <= 16 and 2 <= to_base <= 16):
        raise ValueError("from_base and to_base take whole numbers from 2 to 16")
    value, digits = int(numeral, from_base), ""
    while value:
        value, digit = divmod(value, to_base)
        digits = "0123456789abcdef"[digit] + digits
    return digits or "0"


def read_roman(roman: str) -> int:
    """The number that a Roman numeral stands for.

    Args:
        roman: Roman numeral in capitals, e.g. XIV.
    """
    if not re.fullmatch(r"M*(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})", roman) or not roman:
        raise ValueError(f"roman {roman!r} is no Roman numeral; use the capitals I, V, X, L, C, D, M")
    values = [dict(zip("IVXLCDM", (1, 5, 10, 50, 100, 500, 1000), strict=True))[letter] for letter in roman]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))


def prime_pieces(value: int) -> str:
    """Break a number into primes, written like 2^3 * 5.

    Args:
        value: Whole number from 2 on.
    """
    if value < 2:
        raise ValueError("value must be at least 2")
    pieces: Counter[int] = Counter()
    prime = 2
    while value > 1:
        if prime * prime > value:
            prime = value
        while value % prime == 0:
            pieces[prime] += 1
            value //= prime
        prime += 1
    return " * ".join(f"{prime}^{power}" if power > 1 else str(prime) for prime, power in pieces.items())


def letter_arrangements(word: str, keep_first: bool = False) -> int:
    """In how many different orders the letters of a word can be written.

    Args:
        word: The word; capitals do not matter.
        keep_first: Whether the first letter must stay in front. Default is false.
    """
    letters = word.lower()[1:] if keep_first else word.lower()
    return math.factorial(len(letters)) // math.prod(math.factorial(count) for count in Counter(letters).values())


def team_choices(candidates: int, team_size: int, with_captain: bool = False) -> int:
    """Count the different teams that can be picked from a group.

    Args:
        candidates: Number of people to pick from.
        team_size: Number of people in the team.
        with_captain: Whether one member of the team is also named captain.
    """
    if not 0 < team_size <= candidates:
        raise ValueError("team_size must lie between 1 and candidates")
    return math.comb(candidates, team_size) * (team_size if with_captain else 1)


def add_fractions(fractions: list[str]) -> str:
    """Add fractions exactly.

    Args:
        fractions: Fractions written like "3/4".
    """
    return str(sum((Fraction(text) for text in fractions), Fraction()))


def part_of_amount(fraction: str, total: float) -> float:
    """Take a fraction of an amount.

    Args:
        fraction: Fraction such as 3/8; may be larger than one.
        total: The amount of which it is taken.
    """
    return round(float(Fraction(fraction) * Fraction(str(total))), 4)


def matrix_by_vector(top_row: list[float], bottom_row: list[float], vector: list[float]) -> list[float]:
    """Multiply a matrix of two rows by a column vector.

    Args:
        top_row: First row of the matrix.
        bottom_row: Second row of the matrix, as long as the first.
        vector: Numbers of the vector, one for each column.
    """
    if not len(top_row) == len(bottom_row) == len(vector):
        raise ValueError("top_row, bottom_row and vector must have the same length")
    return [round(sum(a * b for a, b in zip(row, vector, strict=True)), 4) for row in (top_row, bottom_row)]


def _equation(rng: random.Random) -> str:
    """A linear equation in x, such as 3x + 12 = 25x - 4."""
    slope, shift, right = rng.randint(2, 19), rng.randint(1, 60), rng.randint(1, 99)
    other = f"{rng.randint(20, 30)}x {rng.choice('+-')} {right}" if rng.random() < 0.4 else str(right)
    return f"{slope}x {rng.choice('+-')} {shift} = {other}"
