"""Ratios, equations, digits, numerals, sequences, primes, matrices and counting."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from fractions import Fraction
from typing import Literal

from data_builders.tool_use.dialogs.samplers import Sampler, Value, decimal, one_of, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task


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


def _equation() -> Sampler:
    def sample(rng: random.Random) -> Value:
        slope, shift, right = rng.randint(2, 19), rng.randint(1, 60), rng.randint(1, 99)
        other = f"{rng.randint(20, 30)}x {rng.choice('+-')} {right}" if rng.random() < 0.4 else str(right)
        text = f"{slope}x {rng.choice('+-')} {shift} = {other}"
        return Value(text, text)

    return sample


FRACTIONS = one_of(*(f"{top}/{bottom}" for bottom in (5, 7, 8, 9, 11, 12) for top in (1, 2, 3, 4)))
KINDS = one_of("arithmetic", "geometric")
RATIOS = one_of("2:3", "1:4", "3:5", "5:7", "1:2:3", "2:3:5", "1:1:4", "4:9", "7:2:1", "3:8", "2:2:5", "6:11")
NUMERALS = one_of("1101", "10011", "110110", "1010101", "11111", "100100", "111001", "10110100", "1110111", "101110")
ROMANS = one_of("XLIV", "CXCIX", "MCMLXXXIV", "DCXLVIII", "MMXXI", "CDXC", "CCXLVI", "DLV", "CLIII", "MMMCD", "XCIX")
WORDS = one_of(
    "banana", "lantern", "Mississippi", "pepper", "rooster", "balloon", "kayak", "teapot", "saddle", "cheese"
)
ROW = several(whole(-9, 15), 3, 3)

TASKS = (
    Task(
        simplify_ratio,
        arguments={"terms": several(one_of(*range(6, 121, 6)), 2, 4)},
        queries=(
            "Simplify the ratio of the numbers {terms}.",
            "My recipe mixes {terms} grams of its ingredients, in this order. What is the ratio in lowest terms?",
            "lowest terms for {terms}",
            "Could you reduce the ratio {terms} as far as possible?",
        ),
        answers=("In lowest terms the ratio is {result}.", "It simplifies to {result}."),
        names=("reduce_ratio", "ratio_in_lowest_terms", "shorten_ratio"),
        parameters={"terms": ("numbers", "quantities")},
    ),
    Task(
        split_in_ratio,
        arguments={"amount": decimal(50, 5000, 2), "ratio": RATIOS},
        queries=(
            "Divide {amount} in the ratio {ratio}.",
            "We share a prize of {amount} dollars {ratio}. What does each of us get?",
            "amount: {amount} / ratio: {ratio} / the parts?",
            "How do I split {amount} ml of syrup so that the portions stand {ratio} to each other?",
        ),
        answers=("The parts are {result}.", "Split that way you get {result}."),
        names=("share_by_ratio", "proportional_split", "divide_by_ratio"),
        parameters={"amount": ("quantity", "to_divide"), "ratio": ("proportions", "split")},
        slips={"ratio": (("2 to 3", "2:3"), ("one to four", "1:4"), ("3-5", "3:5"))},
    ),
    Task(
        solve_for_x,
        arguments={"equation": _equation()},
        queries=(
            "Solve {equation} for x.",
            "What is x if {equation}?",
            "My daughter's homework says {equation} and we get different answers. Which x is right?",
            "x = ? when {equation}",
        ),
        answers=("x = {result}", "The solution is x = {result}."),
        names=("linear_equation_root", "find_unknown", "solve_linear"),
        parameters={"equation": ("expression", "formula")},
    ),
    Task(
        progression_term,
        arguments={"start": whole(1, 60), "step": whole(2, 9), "position": whole(4, 12), "kind": KINDS},
        queries=(
            "A sequence starts at {start} and grows by {step} each time. What is term number {position}?",
            "Which number stands at position {position} of the {kind} sequence that begins with {start}, step {step}?",
            Query("Start with {start} and keep multiplying by {step}. Give me term {position}.", {"kind": "geometric"}),
            "{kind} sequence, first: {start}, step: {step}, wanted: term {position}",
        ),
        answers=("Term asked for: {result}.", "It is {result}."),
        names=("sequence_term", "nth_in_sequence", "term_at"),
        parameters={
            "start": ("first_term", "a1"),
            "step": ("change",),
            "position": ("n", "index"),
            "kind": ("type_of",),
        },
    ),
    Task(
        digit_report,
        arguments={"number": whole(100, 9_999_999), "report": one_of("sum", "product", "count")},
        queries=(
            "What do the digits of {number} add up to?",
            "Give me the {report} of the digits of {number}.",
            Query("Find the digital root of {number}.", {"report": "root"}),
            "digits of {number}: {report}?",
        ),
        answers=("For its digits I get {result}.", "The answer is {result}."),
        names=("analyze_digits", "digits_of", "digit_facts"),
        parameters={"number": ("n", "integer"), "report": ("operation", "wanted")},
    ),
    Task(
        rewrite_in_base,
        arguments={"numeral": NUMERALS, "from_base": one_of(2, 3, 8, 9, 16), "to_base": one_of(4, 5, 6, 7, 12)},
        queries=(
            "Write {numeral}, which is in base {from_base}, in base {to_base}.",
            "What number is {numeral} from base {from_base} in our usual notation?",
            "base {from_base} -> base {to_base}: {numeral}",
            "An old puzzle shows {numeral} and says it's base {from_base}. Turn that into base {to_base} for me.",
        ),
        answers=("It is written {result}.", "That gives {result}."),
        names=("change_base", "base_conversion", "to_other_base"),
        parameters={"numeral": ("digits", "written"), "from_base": ("source_base",), "to_base": ("target_base",)},
    ),
    Task(
        read_roman,
        arguments={"roman": ROMANS},
        queries=(
            "Which number is {roman}?",
            "The cornerstone of our town hall bears the letters {roman}. What does that mean?",
            "{roman} in ordinary digits, please",
            "Decode the Roman numeral {roman}.",
        ),
        answers=("It stands for {result}.", "That is {result}."),
        names=("roman_to_integer", "decode_roman_numeral", "parse_roman"),
        parameters={"roman": ("numeral", "letters")},
    ),
    Task(
        prime_pieces,
        arguments={"value": whole(12, 5000)},
        queries=(
            "Break {value} into primes.",
            "Which primes multiply to {value}?",
            "prime factorization of {value}?",
            "I have {value} tiles and wonder into which prime numbers that can be decomposed.",
        ),
        answers=("The factorization is {result}.", "In primes: {result}."),
        names=("factor_into_primes", "prime_decomposition", "factorize_number"),
        parameters={"value": ("n", "to_factor")},
    ),
    Task(
        letter_arrangements,
        arguments={"word": WORDS},
        queries=(
            "In how many ways can the letters of {word} be arranged?",
            Query("How many orders of the letters in {word} keep the first letter in front?", {"keep_first": True}),
            "count the distinct letter orders: {word}",
            "We play with wooden letters that spell {word}. How many different rows can be laid?",
        ),
        answers=("There are {result} arrangements.", "The letters can be ordered in {result} ways."),
        names=("count_anagrams", "word_permutations", "orders_of_letters"),
        parameters={"word": ("text", "letters"), "keep_first": ("fix_first_letter",)},
    ),
    Task(
        team_choices,
        arguments={"candidates": whole(9, 30), "team_size": whole(2, 8)},
        queries=(
            "How many teams of {team_size} can be picked from {candidates} people?",
            Query("{candidates} players, a team of {team_size} with a captain: possibilities?", {"with_captain": True}),
            "Our club has {candidates} members and sends {team_size} to the tournament. Number of choices?",
            "pick {team_size} out of {candidates}",
        ),
        answers=("There are {result} possible teams.", "You can choose in {result} ways."),
        names=("count_teams", "selection_count", "possible_teams"),
        parameters={"candidates": ("group_size", "pool"), "team_size": ("members", "k"), "with_captain": ("captain",)},
    ),
    Task(
        add_fractions,
        arguments={"fractions": several(FRACTIONS, 2, 4)},
        queries=(
            "Add the fractions {fractions}.",
            "What do {fractions} make together?",
            "I drank {fractions} of a liter during the day. What is that in all, as a fraction?",
            "Sum, exact: {fractions}",
        ),
        answers=("The sum is {result}.", "Together they make {result}."),
        names=("sum_of_fractions", "fraction_total", "exact_fraction_sum"),
        parameters={"fractions": ("terms", "addends")},
    ),
    Task(
        part_of_amount,
        arguments={"fraction": FRACTIONS, "total": whole(20, 9000)},
        queries=(
            "What is {fraction} of {total}?",
            "Take {fraction} of {total} for me.",
            "The estate is worth {total} and I inherit {fraction} of it. How much is mine?",
            "fraction {fraction}, total {total}",
        ),
        answers=("It is {result}.", "That part amounts to {result}."),
        names=("fraction_of", "take_fraction", "fractional_part_of"),
        parameters={"fraction": ("share", "part"), "total": ("of_amount",)},
    ),
    Task(
        matrix_by_vector,
        arguments={"top_row": ROW, "bottom_row": ROW, "vector": ROW},
        queries=(
            "Multiply the matrix with rows {top_row} (top) and {bottom_row} (bottom) by the vector {vector}.",
            "first row: {top_row}; second row: {bottom_row}; vector: {vector}; product?",
            "My matrix has {top_row} above {bottom_row}. What does it do to the vector {vector}?",
            "Apply to the vector {vector} the matrix whose upper row is {top_row} and whose lower row is {bottom_row}.",
        ),
        answers=("The product is {result}.", "You get the vector {result}."),
        names=("apply_matrix", "matrix_vector_product", "transform_vector"),
        parameters={"top_row": ("row1", "first_row"), "bottom_row": ("row2", "second_row"), "vector": ("v", "column")},
    ),
)

CHAINS = (
    Chain(
        simplify_ratio,
        split_in_ratio,
        feeds="ratio",
        queries=(
            "Partners paid in {terms} dollars. Divide a profit of {amount} in that ratio, in lowest terms.",
            "Reduce the ratio {terms} and split {amount} by it.",
            "Simplest ratio of {terms}, then share out {amount} accordingly, please.",
        ),
        between=("The ratio in lowest terms is {given}.", "It reduces to {given}; now the split."),
        answers=("The shares are {result}.", "Split {given}, the parts are {result}."),
    ),
    Chain(
        add_fractions,
        part_of_amount,
        feeds="fraction",
        queries=(
            "I have spent {fractions} of my budget of {total}. How much is that in total?",
            "Add {fractions} and take that share of {total}.",
            "My cousins own {fractions} of a fund worth {total}. What is their joint part worth?",
        ),
        between=("Together that is {given}.", "The fractions add up to {given}. Now that share of the amount."),
        answers=("That comes to {result}.", "{given} of it is {result}."),
    ),
    Chain(
        read_roman,
        prime_pieces,
        feeds="value",
        queries=(
            "Factor the number {roman} into primes.",
            "Which primes make up the Roman numeral {roman}?",
            "The clock says {roman}. Read it and break it into prime factors.",
        ),
        between=("The numeral is {given}.", "That reads {given}, which I now factor."),
        answers=("Its factorization is {result}.", "{given} = {result}"),
    ),
    Chain(
        letter_arrangements,
        digit_report,
        feeds="number",
        queries=(
            "Count the arrangements of the letters of {word}; what is the {report} of that number's digits?",
            "How many ways to order the letters in {word}, and what do the digits of that count add up to?",
            Query("Digital root of the number of letter orders of {word}, please.", {"report": "root"}),
        ),
        between=("There are {given} arrangements.", "The letters can be ordered in {given} ways."),
        answers=("For the digits of {given} the answer is {result}.", "The result is {result}."),
    ),
    Chain(
        solve_for_x,
        part_of_amount,
        feeds="total",
        queries=(
            "Find x in {equation}, then give me {fraction} of it.",
            "If {equation}, what is {fraction} of x?",
            "Solve {equation}. I need {fraction} of the solution.",
        ),
        between=("The solution is x = {given}.", "x is {given}; now the fraction of it."),
        answers=("That is {result}.", "The part asked for is {result}."),
    ),
)
