"""Word problems generated from templates, with answers that are computed from the numbers in their text.

`templates.yaml` has the templates that come with the project, and says how to write one. Whole templates are held out,
and of the other templates some combinations of numbers: two questions, whether a model solves a kind of problem that it
was not trained on, and whether it solves a known kind with new numbers.
"""

from __future__ import annotations

import ast
import math
import operator
import random
import string
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from align.config import Section, checked_values, joined
from align.errors import ConfigError
from align.files import fingerprint_of
from align.rows import MathsProblemRow
from align.settings import InputPath
from align.splits import part_of
from align.strict_yaml import Key, read_yaml
from data_builders.maths.problems import problem_row
from data_builders.row_set import RowSet
from data_builders.tool_use.names import FIRST_NAMES

GENERATED = "word-problems"
NEW_TEMPLATE = f"{GENERATED}/new-template"
NEW_NUMBERS = f"{GENERATED}/new-numbers"
PACKAGED = Path(__file__).with_name("templates.yaml")
MIN_NUMBER = 2
"""The smallest number in a text: 1 would need the singular."""
MAX_DRAWS = 200
"""Draws of numbers until they fit a template. One that never fits is an error."""

_WORDS = ("name", "other", "things", "more")
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


class GeneratedConfig(Section):
    """Word problems generated from templates, with whole numbers."""

    templates: InputPath | None = None
    """A YAML file with your own templates. null: those of data_builders/maths/templates.yaml, which shows the form."""
    steps: tuple[int, ...] = Field((1, 2, 3), min_length=1)
    """Use templates with these numbers of steps. A step is one operation."""
    max_number: int = Field(100, ge=4)
    """The largest number in a problem, its answer and intermediate results included."""
    heldout_templates: float = Field(0.25, ge=0, lt=1)
    """Ratio of the templates of each number of steps to hold out, from 0 to 1."""
    heldout_numbers: float = Field(0.2, ge=0, lt=1)
    """Ratio of the combinations of numbers of each other template to hold out, from 0 to 1."""
    limit: int = Field(400, gt=0)
    """Number of problems in each round, spread evenly over the templates. Templates with few different combinations of
    numbers may give fewer."""
    heldout_limit: int = Field(200, gt=0)
    """Number of held-out problems: half of them from held-out templates, half with held-out numbers."""

    examples: int = Field(0, ge=0)
    """Number of worked examples, written to `maths.examples.jsonl` as SFT rows: problems of templates that are trained
    on, with a solution computed from the template. For `steering_examples` of rejection sampling."""


class TemplateEntry(Section):
    """A template as the YAML file has it."""

    text: str
    """The problem. `{a}` is a number, `{name}` and `{other}` are people, `{things}` and `{more}` kinds of things."""
    answer: str
    """An expression of the numbers in the text."""
    things: tuple[str, ...] = ()
    """Kinds of things, in the plural, instead of those of the whole file."""


class TemplateFile(Section):
    """A YAML file of templates."""

    things: tuple[str, ...] = Field(min_length=2)
    """Kinds of things, in the plural."""
    templates: dict[str, TemplateEntry] = Field(min_length=1)
    """Name -> template."""


class Template(NamedTuple):
    """A template whose answer can be computed."""

    name: str
    text: str
    answer: ast.expr
    numbers: tuple[str, ...]
    """The names of the numbers, in alphabetical order."""
    things: tuple[str, ...]

    @property
    def steps(self) -> int:
        return sum(isinstance(node, ast.BinOp) for node in ast.walk(self.answer))


def read_templates(path: Path = PACKAGED) -> list[Template]:
    """The templates of a YAML file. Raises ConfigError naming file and line of each mistake."""
    values, lines = read_yaml(path)
    where = {key: f"{path}:{line}" for key, line in lines.items()}
    file = checked_values(TemplateFile, values, path, where, lines)
    mistakes: list[ConfigError] = []
    found = []
    for name, entry in file.templates.items():
        key: Key = ("templates", name)
        try:
            found.append(_template(name, entry, file.things))
        except ValueError as error:
            how = "Name the same numbers in text and answer, and use + - * / and parentheses"
            mistakes.append(ConfigError(f"{where.get(key, path)}: templates.{name}", str(error), how))
    if mistakes:
        raise joined(mistakes)
    return found


def _template(name: str, entry: TemplateEntry, things: tuple[str, ...]) -> Template:
    """A template of the file. Raises ValueError for an answer or a text that cannot be used."""
    try:
        answer = ast.parse(entry.answer, mode="eval").body
    except SyntaxError:
        raise ValueError(f"answer: expected an expression such as a + b, found {entry.answer!r}") from None
    numbers = tuple(sorted({node.id for node in ast.walk(answer) if isinstance(node, ast.Name)}))
    value_of(answer, dict.fromkeys(numbers, 1))  # refuses what is not arithmetic
    try:
        slots = {slot for _, slot, _, _ in string.Formatter().parse(entry.text) if slot is not None}
    except ValueError as error:
        raise ValueError(f"text: is not a template ({error})") from None
    named = slots - set(_WORDS)
    if named != set(numbers) or not numbers:
        raise ValueError(f"text names the numbers {sorted(named)}, and answer names {list(numbers)}")
    return Template(name, entry.text, answer, numbers, entry.things or things)


def value_of(expression: ast.expr, numbers: Mapping[str, int], most: int | None = None) -> Fraction | None:
    """The value of an expression; None if it, or a part of it, is not a whole number from 1 to `most`.

    Raises ValueError for anything other than names, whole numbers and the four operations.
    """
    if isinstance(expression, ast.Name):
        return Fraction(numbers[expression.id])
    if isinstance(expression, ast.Constant) and type(expression.value) is int:
        return Fraction(expression.value)
    if not isinstance(expression, ast.BinOp) or type(expression.op) not in _OPERATORS:
        raise ValueError(f"answer: expected + - * / of names and numbers, found {ast.unparse(expression)!r}")
    left, right = (value_of(side, numbers, most) for side in (expression.left, expression.right))
    if left is None or right is None:
        return None
    value = _OPERATORS[type(expression.op)](left, right)
    return value if value.denominator == 1 and value >= 1 and (most is None or value <= most) else None


class GeneratedParts(NamedTuple):
    """Generated problems, split by template and by numbers."""

    heldout: RowSet[MathsProblemRow]
    rounds: list[RowSet[MathsProblemRow]]
    examples: list[WorkedExample]


class WorkedExample(NamedTuple):
    """A problem with its solution."""

    problem: MathsProblemRow
    solution: str


def generated_parts(config: GeneratedConfig, rounds: int, seed: int) -> GeneratedParts:
    """Held-out problems, and the problems of each round. No numbers of a template are in two parts."""
    templates = [each for each in read_templates(config.templates or PACKAGED) if each.steps in config.steps]
    if not templates:
        what = f"no template has {' or '.join(map(str, config.steps))} steps"
        raise ConfigError("maths.generated.steps", what, "Name other numbers of steps")
    held = heldout_templates(templates, config.heldout_templates, seed)
    known = [each for each in templates if each.name not in held]
    if not known:
        how = "Lower heldout_templates, or use more templates"
        raise ConfigError("maths.generated.heldout_templates", "leaves no template to train on", how)
    half = math.ceil(config.heldout_limit / 2) if held and config.heldout_numbers else config.heldout_limit
    (heldout,) = _drawn([each for each in templates if each.name in held], (half,), (1.0,), config.max_number, seed)
    shares = (config.heldout_numbers, *[(1 - config.heldout_numbers) / rounds] * rounds)
    limits = (half if config.heldout_numbers else 0, *[config.limit] * rounds)
    new_numbers, *parts = _drawn(known, limits, shares[:-1], config.max_number, seed)
    for source, part in ((NEW_TEMPLATE, heldout), (NEW_NUMBERS, new_numbers)):
        part.rows = [row.model_copy(update={"source": source}) for row in part.rows]
    heldout.add(new_numbers)
    examples = _examples(known, config.examples, shares[:-1], config.max_number, seed)
    shown = {example.problem.id for example in examples}
    for part in parts:
        part.drop_where(lambda row: row.id in shown, "is a worked example")
    return GeneratedParts(heldout, parts, examples)


def heldout_templates(templates: Sequence[Template], ratio: float, seed: int) -> set[str]:
    """The names of the templates to hold out: `ratio` of those of each number of steps, and one at least if above 0."""
    held = set()
    for steps in {each.steps for each in templates}:
        names = [each.name for each in templates if each.steps == steps]
        names.sort(key=lambda name: fingerprint_of(seed, name))
        held.update(names[: max(1, round(ratio * len(names))) if ratio and len(names) > 1 else 0])
    return held


def _drawn(
    templates: Sequence[Template], limits: Sequence[int], ratios: Sequence[float], most: int, seed: int
) -> list[RowSet[MathsProblemRow]]:
    """Problems of each part of a split, about equally many of each template.

    limits: the number of problems in each part. ratios: as for `part_of`.

    Which part a problem is in depends on its template and its numbers, in any order: 3 + 5 and 5 + 3 are in one part.
    """
    parts: list[RowSet[MathsProblemRow]] = [RowSet() for _ in limits]
    each = [math.ceil(limit / max(1, len(templates))) for limit in limits]
    for template in templates:
        counts, known = [0] * len(parts), set()
        for draw in range(20 * sum(each) + 100):
            if counts == each:
                break
            chance = random.Random(fingerprint_of(seed, template.name, draw))
            numbers = _numbers(template, most, chance)
            key = _key(template, numbers)
            place = part_of(key, ratios, seed)
            if key in known or place >= len(parts) or counts[place] == each[place]:
                continue
            known.add(key)
            counts[place] += 1
            parts[place].keep(_problem(template, numbers, chance))
    for part, limit in zip(parts, limits, strict=True):
        part.limit(limit, seed)
    return parts


def _examples(
    templates: Sequence[Template], count: int, ratios: Sequence[float], most: int, seed: int
) -> list[WorkedExample]:
    """Worked examples whose numbers are not held out and differ; the first ones have different operations."""
    by_form: dict[str, list[Template]] = {}
    for template in sorted(templates, key=lambda each: (each.steps, fingerprint_of(seed, "example", each.name))):
        by_form.setdefault(_form(template.answer), []).append(template)
    # The first template of each form, then the second of each, and so on; then all again with other numbers.
    longest = max(map(len, by_form.values()))
    order = [own[place] for place in range(longest) for own in by_form.values() if place < len(own)]
    found: list[WorkedExample] = []
    for draw in range(100 * count):
        if len(found) == count:
            break
        template = order[len(found) % len(order)]
        chance = random.Random(fingerprint_of(seed, "example", template.name, draw))
        numbers = _numbers(template, most, chance)
        values = [*numbers.values(), value_of(template.answer, numbers)]
        # With 4 / 4 = 1, an example would not show which number is which.
        if len(set(values)) == len(values) and part_of(_key(template, numbers), ratios, seed) > 0:
            found.append(WorkedExample(_problem(template, numbers, chance), solution_of(template.answer, numbers)))
    return found


def solution_of(expression: ast.expr, numbers: Mapping[str, int]) -> str:
    """The steps of a computation and its answer. For (a + b) / c with 8, 4 and 3:

    8 + 4 = 12
    12 / 3 = 4
    Answer: 4
    """
    lines: list[str] = []

    def walk(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp):
            left, right = walk(node.left), walk(node.right)
            value = _OPERATORS[type(node.op)](Fraction(left), Fraction(right))
            lines.append(f"{left} {_SIGNS[type(node.op)]} {right} = {value}")
            return int(value)
        own = value_of(node, numbers)
        assert own is not None
        return int(own)

    answer = walk(expression)
    return "\n".join([*lines, f"Answer: {answer}"])


def _form(expression: ast.expr) -> str:
    """The operations of an expression, without the names of its numbers: "+ *"."""
    return " ".join(_SIGNS[type(node.op)] for node in ast.walk(expression) if isinstance(node, ast.BinOp))


def _key(template: Template, numbers: Mapping[str, int]) -> str:
    """By this text a problem is assigned to a part of a split; the order of the numbers does not matter."""
    return f"{template.name} {sorted(numbers.values())}"


def _numbers(template: Template, most: int, chance: random.Random) -> dict[str, int]:
    """Numbers that fit the template. Small ones are as likely as in texts: each power of two as often as the next."""
    for _ in range(MAX_DRAWS):
        logs = (chance.uniform(math.log(MIN_NUMBER), math.log(most + 1)) for _ in template.numbers)
        numbers = dict(zip(template.numbers, (min(most, int(math.exp(log))) for log in logs), strict=True))
        if value_of(template.answer, numbers, most) is not None:
            return numbers
    what = f"no numbers from {MIN_NUMBER} to {most} were found for the template {template.name}"
    raise ConfigError("maths.generated.max_number", what, "Raise it, or leave out templates with that many steps")


def _problem(template: Template, numbers: Mapping[str, int], chance: random.Random) -> MathsProblemRow:
    name, other = chance.sample(FIRST_NAMES, 2)
    things, more = chance.sample(template.things, 2)
    text = template.text.format(**numbers, name=name, other=other, things=things, more=more)
    answer = value_of(template.answer, numbers)
    assert answer is not None
    return problem_row(GENERATED, text[0].upper() + text[1:], str(answer), template=template.name)
