"""Questions that a few lines of Python answer. The lines are run in the real sandbox; their output is the answer.

`dialog.py` makes the dialog. The questions are beyond mental arithmetic, so that running code is the right reply.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from string import Template

from align.tools.interpreter import DialogSession, interpreter_tool
from align.tools.sandbox.session import Sandbox
from data_builders.tool_use.dialogs.renaming import Offered
from data_builders.tool_use.dialogs.samplers import Sampler, Value, date, one_of, several, whole
from data_builders.tool_use.dialogs.task import Task
from data_builders.tool_use.names import CITIES, FIRST_NAMES


@dataclass(frozen=True)
class Program:
    """A question with the lines that answer it."""

    name: str
    arguments: Mapping[str, Sampler]
    queries: tuple[str, ...]
    """What a user says; `{argument}` is the drawn value as people say it."""
    code: str
    """Python, whose only output is the answer; `$argument` is the drawn value."""
    answers: tuple[str, ...]
    """`{result}`, and the arguments."""

    def drawn(self, rng: random.Random) -> dict[str, Value]:
        return {name: sample(rng) for name, sample in self.arguments.items()}

    def lines(self, drawn: Mapping[str, Value]) -> str:
        return Template(self.code).substitute({name: repr(value.value) for name, value in drawn.items()})


@contextmanager
def interpreter() -> Iterator[Offered]:
    """`code_interpreter` over a sandboxed process of its own. Raises SandboxError if it cannot be started."""
    with DialogSession(Sandbox()) as session:
        tool = interpreter_tool(session)
        yield Offered(Task(tool.function, {}, (), ()), tool, {"code": "code"})


def result_of(text: str) -> str:
    """The output of a run: its printed lines, or the value of its last expression."""
    found = re.search(r"\[(stdout|value)\](.*)\[/\1\]", text, re.DOTALL)
    return found[2] if found else ""


RUNNING = ("", "", "", "I compute it.", "A few lines of Python tell.", "Let me run this.")
"""What the assistant says with the call."""

_NUMBERS = several(whole(-50, 400), 6, 10)
_NAMES = several(one_of(*FIRST_NAMES), 5, 8)

PROGRAMS: tuple[Program, ...] = (
    Program(
        "sum_of_primes",
        {"n": whole(60, 900)},
        ("What is the sum of all primes below {n}?", "Add up the prime numbers smaller than {n}.",
         "Sum the primes less than {n}."),
        "limit = $n\n"
        "primes = [n for n in range(2, limit) if all(n % d for d in range(2, int(n**0.5) + 1))]\n"
        "print(sum(primes))",
        ("The primes below {n} add up to {result}.", "The sum is {result}."),
    ),
    Program(
        "digits_of_power",
        {"base": whole(3, 19), "exponent": whole(20, 60)},
        ("What is the sum of the digits of {base} to the power of {exponent}?", "Add the digits of {base}^{exponent}.",
         "Compute {base}**{exponent} and tell me the sum of its digits."),
        "sum(int(digit) for digit in str($base ** $exponent))",
        ("The digits of {base}^{exponent} add up to {result}.", "That sum of digits is {result}."),
    ),
    Program(
        "fibonacci",
        {"n": whole(25, 90)},
        ("What is Fibonacci number {n}, if the first two are 1 and 1?",
         "Starting 1, 1: which Fibonacci number is at place {n}?",
         "Give me entry {n} of the Fibonacci sequence 1, 1, 2, 3, ..."),
        "a, b = 1, 1\nfor _ in range($n - 1):\n    a, b = b, a + b\nprint(a)",
        ("It is {result}.", "Fibonacci number {n} is {result}."),
    ),
    Program(
        "multiples",
        {"first": one_of(3, 4, 7), "second": one_of(5, 11, 13), "n": whole(300, 5000)},
        ("How many numbers from 1 to {n} are divisible by {first} or {second}?",
         "Count the multiples of {first} or {second} up to and including {n}.",
         "Of the numbers 1 to {n}, how many can be divided by {first} or by {second}?"),
        "sum(1 for n in range(1, $n + 1) if n % $first == 0 or n % $second == 0)",
        ("There are {result} such numbers.", "{result} of them."),
    ),
    Program(
        "common_multiple",
        {"numbers": several(whole(6, 40), 3, 5)},
        ("What is the least common multiple of {numbers}?", "Find the smallest number that {numbers} all divide.",
         "LCM of {numbers}, please."),
        "import math\n\nnumbers = $numbers\nprint(math.lcm(*numbers))",
        ("The least common multiple is {result}.", "It is {result}."),
    ),
    Program(
        "deviation",
        {"numbers": _NUMBERS},
        ("What is the population standard deviation of {numbers}, to three places?",
         "Compute the standard deviation (population) of these numbers, rounded to 3 places: {numbers}.",
         "Numbers: {numbers}. How large is their population standard deviation, with three decimals?"),
        'import statistics\n\nprint(f"{statistics.pstdev($numbers):.3f}")',
        ("The standard deviation is {result}.", "It comes to {result}."),
    ),
    Program(
        "median",
        {"numbers": _NUMBERS},
        ("What is the median of {numbers}?", "Find the median of these: {numbers}.",
         "Here are some values: {numbers}. Which is their median?"),
        "import statistics\n\nstatistics.median($numbers)",
        ("The median is {result}.", "{result} is the median."),
    ),
    Program(
        "sorted_names",
        {"names": _NAMES},
        ("Sort these names by length, and those of one length by alphabet: {names}.",
         "Put {names} in order of length, then of the alphabet.",
         "Order the names {names}: shorter ones first, and alphabetically where they are equally long."),
        'names = $names\nprint(", ".join(sorted(names, key=lambda name: (len(name), name))))',
        ("In order: {result}.", "{result}"),
    ),
    Program(
        "backwards",
        {"text": one_of(*CITIES)},
        ('Write "{text}" backwards.', 'What is "{text}" spelled from the end?', 'Reverse the text "{text}".'),
        "print($text[::-1])",
        ('Backwards it is "{result}".', "{result}"),
    ),
    Program(
        "days_between",
        {"start": date("1990-01-01", "2010-12-31"), "end": date("2015-01-01", "2025-12-31")},
        ("How many days are there from {start} to {end}?", "Count the days between {start} and {end}.",
         "How many days passed from {start} until {end}?"),
        "from datetime import date\n\n"
        "print((date.fromisoformat($end) - date.fromisoformat($start)).days)",
        ("There are {result} days between them.", "{result} days."),
    ),
    Program(
        "weekday",
        {"day": date("1950-01-01", "2049-12-31")},
        ("Which day of the week is {day}?", "What weekday falls on {day}?", "Tell me the day of the week of {day}."),
        'from datetime import date\n\nprint(f"{date.fromisoformat($day):%A}")',
        ("It is a {result}.", "{day} is a {result}."),
    ),
    Program(
        "years_to_double",
        {"rate": one_of(*((rate, f"{rate}%") for rate in (1.5, 2.4, 3.1, 4.2, 5.5, 6.8, 7.9)))},
        ("After how many full years has money doubled at {rate} a year?",
         "With {rate} interest each year, how many years until a sum is at least twice as much?",
         "Interest is {rate} a year and is left in the account. In how many years does the balance double?"),
        "balance, years = 1.0, 0\nwhile balance < 2:\n    balance *= 1 + $rate / 100\n    years += 1\nprint(years)",
        ("It takes {result} years.", "After {result} years."),
    ),
    Program(
        "collatz",
        {"n": whole(27, 999)},
        ("How many Collatz steps lead from {n} to 1?",
         "Starting from {n}: halve even numbers, else triple and add one. After how many steps is it 1?",
         "Count the steps of the Collatz sequence of {n} until it reaches 1."),
        "n, steps = $n, 0\nwhile n != 1:\n    n = n // 2 if n % 2 == 0 else 3 * n + 1\n    steps += 1\nprint(steps)",
        ("It takes {result} steps.", "From {n} it takes {result} steps to reach 1."),
    ),
    Program(
        "binary",
        {"n": whole(200, 9999)},
        ("Write {n} in binary.", "What is {n} as a binary number?", "Convert {n} to base 2."),
        'print(f"{$n:b}")',
        ("{n} is {result} in binary.", "{result}"),
    ),
)  # fmt: skip
