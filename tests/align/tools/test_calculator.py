"""The calculator against values known from elsewhere, and what must end quickly in an error."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest

from align.rows import ToolCall
from align.tools.calculator import EmbeddedCalculator, calculator_tool
from align.tools.limited_process import LimitedProcess
from align.tools.registry import Registry
from align.tools.results import ToolFailure


@pytest.fixture(scope="module")
def calculator() -> Iterator[EmbeddedCalculator]:
    engine = EmbeddedCalculator()
    yield engine
    engine._limited.close()


KNOWN = {
    "2 + 2 * 3": "8",
    "What is 15% of 240?": "36",
    "0.1 + 0.2": "0.3",
    "1/3": "1/3 ≈ 0.333333333333333",
    "1/8": "1/8 = 0.125",
    "1,234 + 6": "1240",
    "7 mod 3": "1",
    "-2^2": "-4",
    "5!": str(math.factorial(5)),
    "(2+3)!": str(math.factorial(5)),
    "binomial(10, 3)": str(math.comb(10, 3)),
    "2^200": str(2**200),
    "sin(pi/6)": "1/2 = 0.5",
    "2x + 3x": "5*x",
    "log(100, 10)": "2",
    "solve x^2 - 4 = 0": "x = -2 or x = 2",
    "x + y = 3, x - y = 1": "x = 2, y = 1",
    "solve a*x = 3 for x": "x = 3/a",
    "x^2 = -1": "x = -I or x = I",
    "2 + 2 = 5": "False",
    "derivative of x^3": "3*x**2",
    "d/dt t^2 + 3t": "2*t + 3",
    "integrate x^2": "x**3/3 + constant",
    "integral of x^2 from 0 to 1": "1/3 ≈ 0.333333333333333",
    "limit of sin(x)/x as x -> 0": "1",
    "factor x^2 - 1": "(x - 1)*(x + 1)",
    "factor 360": "2**3 * 3**2 * 5",
    "3 miles in km": "4.828032 kilometer",
    "15 in to cm": "38.1 centimeter",
    "convert 72 degrees Fahrenheit to Celsius": "22.2222222222 degree Celsius",
    "60 mph in m/s": "26.8224 meter / second",
    "100 km / (2 h) in m/s": "13.8888888889 meter / second",
}


@pytest.mark.slow
def test_answers_are_the_known_values(calculator: EmbeddedCalculator) -> None:
    assert {query: calculator.answer(query) for query in KNOWN} == KNOWN


REFUSED = {
    "9**9**9": "size",
    "9^(9^9)": "size",
    "factorial(10**9)": "size",
    "(2^900)!": "size",
    "1e999999999": "size",
    "9" * 600: "size",
    "exp(exp(exp(10)))": "size",
    "1/0": "refused",
    "tan(pi/2)": "refused",
    "__import__('os').system('true')": "refused",
    "(1).__class__.__bases__": "refused",
    "open('x')": "refused",
    "[1 for i in x]": "refused",
    "lambda: 1": "refused",
    "3 miles in kg": "refused",
    "5 foo in km": "refused",
    "the capital of France": "refused",
    "x + y": None,
    "derivative of x*y": "refused",
    "": "refused",
    "(" * 100 + "1" + ")" * 100: None,
    "-" * 100 + "1": "size",
}


@pytest.mark.slow
def test_what_is_too_large_or_no_calculation_is_refused_at_once(calculator: EmbeddedCalculator) -> None:
    calculator.answer("1")  # the process has started
    began = time.monotonic()
    kinds: dict[str, str | None] = {}
    for query in REFUSED:
        try:
            calculator.answer(query)
            kinds[query] = None
        except ToolFailure as failure:
            kinds[query] = failure.kind
    assert kinds == REFUSED
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_a_calculation_without_end_is_stopped_and_the_next_one_is_answered() -> None:
    engine = EmbeddedCalculator(timeout_seconds=1.0)
    tools = Registry([calculator_tool(engine)])
    result = tools.call(ToolCall(name="wolfram_alpha", arguments={"query": "expand (x+y+z+1)^400"}))
    assert (result.error, result.text) == ("time-out", "Error: took longer than 1 seconds")
    assert tools.call(ToolCall(name="wolfram_alpha", arguments={"query": "2+2"})).text == "4"
    engine._limited.close()


@pytest.mark.slow
def test_a_call_that_takes_too_much_memory_is_an_error() -> None:
    limited = LimitedProcess("operator:mul", timeout_seconds=5, memory_bytes=256 << 20)
    with pytest.raises(ToolFailure, match="memory") as raised:
        limited("x", 1 << 30)
    assert raised.value.kind == "memory"
    assert limited("x", 3) == "xxx"
    limited.close()
