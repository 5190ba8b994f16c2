"""Calculator: arithmetic, algebra, calculus and units by sympy and pint, or Wolfram Alpha's API, one interface.

A query never becomes Python that runs: it is parsed with `ast`, and only numbers, named functions, operators and
symbols are built into sympy objects (sympy's own `parse_expr` would evaluate code). Numbers are limited in size while
the expression is built, and everything runs in a process with a time and a memory limit.

The tool is called `wolfram_alpha`, Llama's name for it, whichever engine answers.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any, Protocol

from align.tools.limited_process import LimitedProcess
from align.tools.registry import Tool, tool_of
from align.tools.results import ToolFailure, library
from align.tools.web import Service

WOLFRAM = Service(
    "Wolfram Alpha", "https://www.wolframalpha.com/api/v1/llm-api", "WOLFRAM_APP_ID", "Authorization", "Bearer "
)

MAX_QUERY_CHARACTERS = 500
MAX_DIGITS = 1000
"""Of any number, on the way as well as in the end."""
MAX_DEPTH = 40

_FILLER = re.compile(r"^(?:what\s+is|what's|calculate|compute|evaluate|convert|find)\s+(?:the\s+)?", re.IGNORECASE)
_CONVERT = re.compile(r"^(?P<quantity>.+)\s+(?:in|to|into)\s+(?P<unit>\S.*)$", re.IGNORECASE)
_NUMBER_AND_UNIT = re.compile(
    r"^(?P<number>[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?P<unit>[^\d\s+*/^-].*)$"
)
_QUANTITY = re.compile(r"^[A-Za-zµΩ_ */0-9.()+-]+$")
_DEGREES = re.compile(
    r"(?:°|\bdeg(?:rees?)?\b)\s*(?P<mark>fahrenheit|celsius|[FC])\b|\b(?P<word>fahrenheit|celsius)\b", re.IGNORECASE
)
_UNIT = re.compile(r"^[A-Za-zµΩ°_ *0-9/^().-]+$")
_PERCENT_OF = re.compile(r"(\d+(?:\.\d+)?)\s*%\s*of\s+", re.IGNORECASE)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%(?!\s*[\w(])")
_THOUSANDS = re.compile(r"(?<![\w.,])(\d{1,3})((?:,\d{3})+)(?![\w,])")
_TIMES = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(?=[A-Za-z(])(?![eE][-+]?\d)")
_SYMBOL = re.compile(r"^[A-Za-z](?:_?\d{1,2})?$")
_COMMANDS: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"^solve\s+(?P<a>.+)\s+for\s+(?P<b>\w+)$", re.IGNORECASE), "solve"),
    (re.compile(r"^solve\s+(?P<a>.+)$", re.IGNORECASE), "solve"),
    (
        re.compile(
            r"^(?:derivative|differentiate)\s+(?:of\s+)?(?P<a>.+?)(?:\s+(?:with respect to|wrt)\s+(?P<b>\w+))?$",
            re.IGNORECASE,
        ),
        "diff",
    ),
    (re.compile(r"^d/d(?P<b>[a-z])\s*(?P<a>.+)$", re.IGNORECASE), "diff"),
    (
        re.compile(
            r"^(?:integral|integrate)\s+(?:of\s+)?(?P<a>.+?)(?:\s+d(?P<b>[a-z]))?\s+from\s+(?P<c>.+?)\s+to\s+(?P<d>.+)$",
            re.IGNORECASE,
        ),
        "integrate",
    ),
    (re.compile(r"^(?:integral|integrate)\s+(?:of\s+)?(?P<a>.+?)(?:\s+d(?P<b>[a-z]))?$", re.IGNORECASE), "integrate"),
    (
        re.compile(
            r"^limit\s+(?:of\s+)?(?P<a>.+)\s+as\s+(?P<b>\w+)\s*(?:->|→|approaches|goes to)\s*(?P<c>.+)$", re.IGNORECASE
        ),
        "limit",
    ),
    (re.compile(r"^(?P<what>simplify|factor|expand)\s+(?P<a>.+)$", re.IGNORECASE), "rewrite"),
]


class Calculator(Protocol):
    identity: str

    def answer(self, query: str) -> str:
        """The answer as text. Raises ToolFailure."""
        ...


class EmbeddedCalculator:
    """sympy and pint in a bounded process."""

    def __init__(self, *, timeout_seconds: float = 5.0, memory_bytes: int = 2 << 30) -> None:
        for module in ("sympy", "pint"):  # a missing library is reported before the first call
            library(module)
        self._limited = LimitedProcess(
            "align.tools.calculator:evaluate",
            timeout_seconds=timeout_seconds,
            memory_bytes=memory_bytes,
            first_call=("3 miles in km",),
        )
        self.identity = f"wolfram_alpha@sympy-{version('sympy')}+pint-{version('pint')}"

    def answer(self, query: str) -> str:
        return self._limited(query)


class WolframAlpha:
    """Wolfram Alpha's API for language models; the key comes from WOLFRAM_APP_ID."""

    def __init__(self, service: Service = WOLFRAM) -> None:
        service.check_key()
        self.service = service
        self.identity = "wolfram_alpha@wolfram"

    def answer(self, query: str) -> str:
        answer = self.service.get({"input": query}, accepted=(400, 501))
        if answer.status != 200:  # 501: it does not understand, and says what it would; 400: no input
            raise ToolFailure("refused", answer.text.strip() or "the query is not understood")
        return answer.text


def calculator_tool(engine: Calculator) -> Tool:
    """The tool `wolfram_alpha`."""

    def wolfram_alpha(query: str) -> str:
        """Compute: arithmetic, equations, derivatives, integrals and unit conversions.

        Args:
            query: What to compute, such as `solve x^2 - 4 = 0` or `3 miles in km`.
        """
        return engine.answer(query)

    return tool_of(wolfram_alpha, identity=engine.identity)


def evaluate(query: str) -> str:
    """The embedded engine: one query to its answer. Unbounded in time; `EmbeddedCalculator` bounds it.

    Exact where it can be: `1/3` gives `1/3 ≈ 0.333333333333333`; with a decimal in the query the answer is one. A
    conversion gives 12 significant digits at most. Without units, angles are in radians.
    """
    if len(query) > MAX_QUERY_CHARACTERS:
        raise ToolFailure("size", f"the query has {len(query)} characters, more than {MAX_QUERY_CHARACTERS}")
    text = _FILLER.sub("", query.strip().rstrip("?").strip()).replace("−", "-").replace("×", "*").replace("÷", "/")
    if not text:
        raise ToolFailure("refused", "the query is empty")
    for pattern, command in _COMMANDS:
        if match := pattern.match(text):
            return _command(command, match.groupdict())
    if match := _CONVERT.match(text):
        return _converted(match["quantity"], match["unit"])
    if "=" in text:
        return _solved(text, None)
    return _shown(expression_of(text))


def _command(command: str, parts: dict[str, str | None]) -> str:
    sympy = library("sympy")
    subject = parts["a"] or ""
    if command == "solve":
        return _solved(subject, parts.get("b"))
    expression = expression_of(subject)
    if command == "rewrite":
        rewrite = {"simplify": sympy.simplify, "factor": sympy.factor, "expand": sympy.expand}
        if str(parts["what"]).lower() == "factor" and expression.is_Integer:
            return _factored(expression)
        return _shown(rewrite[str(parts["what"]).lower()](expression))
    variable = _variable(expression, parts.get("b"))
    if command == "diff":
        return _shown(sympy.diff(expression, variable))
    if command == "limit":
        return _shown(sympy.limit(expression, variable, expression_of(parts["c"] or "")))
    if parts.get("c") is None:
        found = sympy.integrate(expression, variable)
        if found.has(sympy.Integral):
            raise ToolFailure("refused", "no antiderivative was found in closed form")
        return f"{_shown(found)} + constant"
    found = sympy.integrate(expression, (variable, expression_of(str(parts["c"])), expression_of(parts["d"] or "")))
    return _shown(found.evalf(12) if found.has(sympy.Integral) else found)


def _factored(number: Any) -> str:
    factors = library("sympy").factorint(number)
    return " * ".join(f"{prime}**{power}" if power > 1 else str(prime) for prime, power in factors.items())


def _solved(text: str, name: str | None) -> str:
    """`x = ...` for an equation or several apart by commas; an expression alone is taken to equal 0."""
    sympy = library("sympy")
    equations = []
    for part in re.split(r"\s*(?:,|;|\band\b)\s*", text):
        sides = re.split(r"==?", part)
        if len(sides) > 2:
            raise ToolFailure("refused", f"{part!r} has more than one equals sign")
        left, right = expression_of(sides[0]), expression_of(sides[1]) if len(sides) == 2 else sympy.Integer(0)
        equations.append(left - right)
    unknowns = sorted(set().union(*(equation.free_symbols for equation in equations)), key=str)
    if not unknowns:
        return str(all(sympy.simplify(equation) == 0 for equation in equations))
    if name is not None:
        unknowns = [_variable(sum(equations), name)]
    if len(equations) == 1 and len(unknowns) > 1:
        raise ToolFailure("refused", f"which to solve for: {', '.join(map(str, unknowns))}? Write: solve ... for x")
    solutions = sympy.solve(equations, unknowns, dict=True)
    if not solutions:
        return "no solution"
    return " or ".join(", ".join(f"{key} = {_shown(value)}" for key, value in found.items()) for found in solutions)


def _variable(expression: Any, name: str | None) -> Any:
    symbols = sorted(expression.free_symbols, key=str)
    if name is not None:
        return library("sympy").Symbol(name)
    if len(symbols) > 1:
        raise ToolFailure("refused", f"the expression has several variables: {', '.join(map(str, symbols))}. Say which")
    return symbols[0] if symbols else library("sympy").Symbol("x")


def _converted(quantity: str, unit: str) -> str:
    pint = library("pint")
    units = _units()
    try:
        target = units.parse_units(_unit_text(unit))
        match = _NUMBER_AND_UNIT.match(quantity.strip())
        if match is not None and "/ " not in quantity and "*" not in quantity:  # degrees have a zero of their own
            number = float(match["number"].replace(",", ""))
            given = units.Quantity(number, units.parse_units(_unit_text(match["unit"])))
        elif _QUANTITY.match(quantity):
            given = units.parse_expression(quantity)  # pint's own parser, which runs no Python
        else:
            raise ToolFailure("refused", f"{quantity!r} is not a number with a unit")
        found = given.to(target)
    except pint.errors.UndefinedUnitError as error:
        raise ToolFailure("refused", str(error)) from None
    except pint.errors.DimensionalityError as error:
        raise ToolFailure("refused", f"{error}") from None
    except (pint.errors.PintError, ValueError, TypeError, AttributeError, SyntaxError):
        raise ToolFailure("refused", f"{quantity!r} cannot be had in {unit!r}") from None
    return f"{found.magnitude:.12g} {found.units}".replace("_", " ")


@cache
def _units() -> Any:
    return library("pint").UnitRegistry(cache_folder=None)


def _unit_text(text: str) -> str:
    text = _DEGREES.sub(lambda match: "deg" + (match["mark"] or match["word"])[0].upper(), text.strip())
    if not _UNIT.match(text) or len(text) > 60 or re.search(r"\d{3}", text):
        raise ToolFailure("refused", f"{text[:60]!r} is not a unit")
    return re.sub(r"\bper\b", "/", text)


def expression_of(text: str) -> Any:
    """Text to a sympy expression, node by node from a whitelist."""
    source = _PERCENT_OF.sub(r"(\1/100)*", text.strip())
    source = _PERCENT.sub(r"(\1/100)", source)
    source = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), source) if "(" not in source else source
    source = source.replace("^", "**").replace("π", "pi").replace("∞", "oo").replace("√", "sqrt")
    source = re.sub(r"\bmod\b", "%", source)
    source = re.sub(r"\b(\w+)\s*!(?!=)", r"factorial(\1)", source)
    source = re.sub(r"\)\s*!(?!=)", ").factorial", source)
    source = _TIMES.sub(r"\1*", source)
    try:
        tree = ast.parse(source.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ToolFailure("refused", f"{text!r} is not an expression that can be read") from None
    return _built(tree.body, source, 0)


def _built(node: ast.expr, source: str, depth: int) -> Any:
    sympy = library("sympy")
    if depth > MAX_DEPTH:
        raise ToolFailure("size", "the expression is nested too deeply")
    match node:
        case ast.Constant(value=bool() | complex()):
            pass
        case ast.Constant(value=int(value)):
            return _bounded_number(sympy.Integer(value))
        case ast.Constant(value=float()):
            # Exactly, from its digits, so that 0.1 + 0.2 is 0.3. The float marks that the answer is to be a decimal.
            return _decimal(ast.get_source_segment(source, node) or "")
        case ast.Name(id=name):
            return _named(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_built(operand, source, depth + 1)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _built(operand, source, depth + 1)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            pair = _built(left, source, depth + 1), _built(right, source, depth + 1)
            return _bounded_number(_OPERATORS[type(operator)](*pair))
        case ast.Attribute(value=value, attr="factorial"):
            return _factorial(_built(value, source, depth + 1))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            function, counts = _functions().get(name, (None, ()))
            if function is None:
                raise ToolFailure("refused", f"no function is called {name!r}. Known: {', '.join(_functions())}")
            if len(arguments) not in counts:
                raise ToolFailure("refused", f"{name} takes {' or '.join(map(str, counts))} arguments")
            return _bounded_number(function(*(_built(argument, source, depth + 1) for argument in arguments)))
    raise ToolFailure("refused", f"{(ast.get_source_segment(source, node) or source)[:80]!r} is nothing to calculate")


def _decimal(digits: str) -> Any:
    sympy = library("sympy")
    if len(digits) > MAX_DIGITS or abs(_exponent(digits)) > MAX_DIGITS:
        raise ToolFailure("size", f"a number has more than {MAX_DIGITS} digits")
    return sympy.Float(digits, max(30, len(digits)))


def _exponent(digits: str) -> int:
    _, _, exponent = digits.lower().partition("e")
    return int(exponent or 0) if len(exponent) < 8 else MAX_DIGITS + 1


def _named(name: str) -> Any:
    sympy = library("sympy")
    constants = {"pi": sympy.pi, "e": sympy.E, "E": sympy.E, "i": sympy.I, "oo": sympy.oo, "infinity": sympy.oo}
    if name in constants:
        return constants[name]
    if not _SYMBOL.match(name):
        raise ToolFailure("refused", f"{name!r} is neither a constant nor a variable of one letter")
    return sympy.Symbol(name)


def _power(base: Any, exponent: Any) -> Any:
    """`**`, asked first how many digits it will have."""
    if base.is_number and exponent.is_number:
        size = abs(base.evalf(15)) if base != 0 else 1
        digits = abs(float(abs(exponent.evalf(15)))) * abs(math.log10(max(float(size), 1e-300)))
        if not digits <= MAX_DIGITS:
            raise ToolFailure("size", f"the result has more than {MAX_DIGITS} digits")
    elif exponent.is_number and not abs(exponent) <= 1000:
        raise ToolFailure("size", "the exponent is above 1000")
    return library("sympy").Pow(base, exponent)


def _factorial(number: Any) -> Any:
    if number.is_number and not abs(number) <= 450:  # 450! has 1001 digits
        raise ToolFailure("size", f"the result has more than {MAX_DIGITS} digits")
    return library("sympy").factorial(number)


def _binomial(total: Any, chosen: Any) -> Any:
    if not (total.is_number and chosen.is_number and abs(total) <= 3000 and abs(chosen) <= 3000):
        raise ToolFailure("size", "binomial takes two numbers up to 3000")
    return library("sympy").binomial(total, chosen)


def _modulo(left: Any, right: Any) -> Any:
    if right == 0:
        raise ToolFailure("refused", "division by zero")
    return library("sympy").Mod(left, right)


def _quotient(left: Any, right: Any) -> Any:
    if right == 0:
        raise ToolFailure("refused", "division by zero")
    return left / right


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: _quotient,
    ast.Mod: _modulo,
    ast.FloorDiv: lambda left, right: library("sympy").floor(_quotient(left, right)),
    ast.Pow: _power,
}


@cache
def _functions() -> dict[str, tuple[Callable[..., Any], tuple[int, ...]]]:
    """Name -> function and how many arguments it may take."""
    sympy = library("sympy")
    one = ("sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "floor", "erf", "sign")
    functions: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
        name: (getattr(sympy, name), (1,)) for name in one
    }
    return functions | {
        "exp": (lambda power: _power(sympy.E, power), (1,)),
        "cbrt": (lambda number: sympy.real_root(number, 3), (1,)),
        "log": (sympy.log, (1, 2)),
        "ln": (sympy.log, (1,)),
        "log10": (lambda number: sympy.log(number, 10), (1,)),
        "log2": (lambda number: sympy.log(number, 2), (1,)),
        "abs": (sympy.Abs, (1,)),
        "ceil": (sympy.ceiling, (1,)),
        "round": (lambda number: sympy.floor(number + sympy.Rational(1, 2)), (1,)),
        "factorial": (_factorial, (1,)),
        "binomial": (_binomial, (2,)),
        "gcd": (sympy.gcd, (2,)),
        "lcm": (sympy.lcm, (2,)),
        "max": (sympy.Max, (2, 3, 4)),
        "min": (sympy.Min, (2, 3, 4)),
    }


def _bounded_number(value: Any) -> Any:
    """The value, unless it is a rational number with too many digits, or no number at all."""
    sympy = library("sympy")
    if value.is_Rational and max(abs(value.p), value.q).bit_length() > MAX_DIGITS * math.log2(10):
        raise ToolFailure("size", f"a number has more than {MAX_DIGITS} digits")
    if value in (sympy.nan, sympy.zoo):
        raise ToolFailure("refused", "the result is undefined")
    return value


def _shown(value: Any) -> str:
    """As text: exact, and what it is about where that is not plain."""
    _bounded_number(value)
    if value.has(library("sympy").Float):
        return _digits(value, 12) if value.is_number else str(value.evalf(12))
    text = str(value)
    if value.is_number and value.is_real and not value.is_Integer and value.is_finite:
        digits = _digits(value, 15)
        exact = value.is_Rational and library("sympy").Rational(digits) == value
        return f"{text} {'=' if exact else '≈'} {digits}"
    return text


def _digits(value: Any, digits: int) -> str:
    found = value.evalf(digits)
    return f"{float(found):.{digits}g}" if found.is_real and 1e-300 < abs(found) < 1e300 else str(found)
