"""Generated problems: their answers follow from their texts, and held-out templates and numbers are in no round."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest

from align.errors import ConfigError
from align.rows import MathsProblemRow
from align.text import ngram_similarity
from data_builders.maths.generated import (
    NEW_NUMBERS,
    NEW_TEMPLATE,
    PACKAGED,
    GeneratedConfig,
    GeneratedParts,
    generated_parts,
    read_templates,
)
from data_builders.maths.problems import without_numbers

TEMPLATES = {each.name: each for each in read_templates()}


@pytest.fixture(scope="module")
def parts() -> GeneratedParts:
    return generated_parts(GeneratedConfig(limit=200, heldout_limit=120, max_number=60), 2, seed=0)


def numbers_of(row: MathsProblemRow) -> dict[str, int]:
    """The numbers of a problem, read back from its text by the place that they have in the template."""
    pattern = re.escape(TEMPLATES[row.template].text)
    names = TEMPLATES[row.template].numbers
    for name in names:
        pattern = pattern.replace(re.escape(f"{{{name}}}"), rf"(?P<{name}>\d+)", 1)
    pattern = re.sub(r"\\{\w+\\}", r"[\\w ]+", pattern)
    found = re.fullmatch(pattern, row.prompt[0].content, re.IGNORECASE)
    assert found, row.prompt[0].content
    return {name: int(found[name]) for name in names}


def answer_of(row: MathsProblemRow) -> str:
    answer: str = row.required()["maths"]["answer"]
    return answer


def test_answers_are_what_python_computes_from_the_numbers_in_the_text(parts: GeneratedParts) -> None:
    form = re.compile(r"^  (\w+):\n.*?^    answer: (.+?)$", re.MULTILINE | re.DOTALL)
    expressions = dict(form.findall(PACKAGED.read_text()))
    rows = [row for part in (parts.heldout, *parts.rounds) for row in part.rows]
    assert len(rows) > 450
    assert {row.template for row in rows} == TEMPLATES.keys() == expressions.keys()
    for row in rows:
        numbers = numbers_of(row)
        assert eval(expressions[row.template], {}, numbers) == int(answer_of(row)), row.prompt[0].content
        assert min(numbers.values()) >= 2
        assert max(*numbers.values(), int(answer_of(row))) <= 60


def test_no_numbers_of_a_template_are_in_two_parts_and_no_held_out_template_is_in_a_round(
    parts: GeneratedParts,
) -> None:
    by_part = [
        {(row.template, *sorted(numbers_of(row).values())) for row in part.rows}
        for part in (parts.heldout, *parts.rounds)
    ]
    assert all(not one & other for one, other in combinations(by_part, 2))
    held = {row.template for row in parts.heldout.rows if row.source == NEW_TEMPLATE}
    trained = {row.template for part in parts.rounds for row in part.rows}
    assert held
    assert not held & trained
    assert {row.template for row in parts.heldout.rows if row.source == NEW_NUMBERS} <= trained
    assert {TEMPLATES[name].steps for name in held} == {1, 2, 3}  # of each number of steps, some are held out


def test_rounds_have_as_many_problems_as_asked_for_and_the_same_ones_each_time(parts: GeneratedParts) -> None:
    assert [len(part.rows) for part in parts.rounds] == [200, 200]
    assert [row.source for row in parts.heldout.rows].count(NEW_TEMPLATE) == 60
    assert [row.source for row in parts.heldout.rows].count(NEW_NUMBERS) == 60
    config = GeneratedConfig(limit=8, heldout_limit=4, steps=(3,))
    assert generated_parts(config, 1, 5).rounds[0].rows == generated_parts(config, 1, 5).rounds[0].rows
    assert generated_parts(config, 1, 5).rounds[0].rows != generated_parts(config, 1, 6).rounds[0].rows


def test_worked_examples_have_different_operations_and_lines_that_are_true(parts: GeneratedParts) -> None:
    config = GeneratedConfig(limit=200, heldout_limit=120, max_number=60, examples=40)
    found = generated_parts(config, 2, seed=0)
    assert len(found.examples) == 40
    signs = [re.findall(r" ([-+*/]) ", example.solution) for example in found.examples[:4]]
    assert sorted(signs) == [["*"], ["+"], ["-"], ["/"]]
    asked = {row.id for part in (found.heldout, *found.rounds) for row in part.rows}
    held = {row.template for row in found.heldout.rows if row.source == NEW_TEMPLATE}
    for example in found.examples:
        *steps, last = example.solution.split("\n")
        assert all(eval(left) == int(right) for left, _, right in (step.partition("=") for step in steps))
        assert last == f"Answer: {answer_of(example.problem)}"
        assert len(steps) == TEMPLATES[example.problem.template].steps
        assert example.problem.id not in asked
        assert example.problem.template not in held
    assert found.heldout.rows == parts.heldout.rows


def test_no_two_templates_are_near_duplicates() -> None:
    texts = {name: without_numbers(re.sub(r"\{[a-d]\}", "5", each.text)) for name, each in TEMPLATES.items()}
    near = [(one, other) for one, other in combinations(texts, 2) if ngram_similarity(texts[one], texts[other]) > 0.6]
    assert near == []


@pytest.mark.parametrize(
    "entry, message",
    [
        ('{text: "{a} and {b}", answer: a + }', "mine.yaml:3: templates.sum: answer: expected an expression such as a"),
        ('{text: "{a} and {b}", answer: a + c}', "text names the numbers ['a', 'b'], and answer names ['a', 'c']"),
        ('{text: "{a} and {b}", answer: a ** b}', "expected + - * / of names and numbers, found 'a ** b'"),
        ('{text: "{a} and {b", answer: a + b}', "text: is not a template"),
        ('{text: "{a}", result: a}', "mine.yaml:3: templates.sum.result: is not a setting"),
    ],
)
def test_a_mistake_in_a_template_is_named_by_file_and_line(tmp_path: Path, entry: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"things: [pens, cups]\ntemplates:\n  sum: {entry}\n")
    with pytest.raises(ConfigError) as caught:
        read_templates(path)
    assert message in str(caught.value)


def test_numbers_that_cannot_fit_are_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('things: [pens, cups]\ntemplates:\n  area: {text: "{a} by {b} by {c}", answer: a * b * c}\n')
    with pytest.raises(ConfigError, match="no numbers from 2 to 4 were found for the template area"):
        generated_parts(GeneratedConfig(templates=path, max_number=4, heldout_templates=0), 1, 0)
    with pytest.raises(ConfigError, match="no template has 1 steps"):
        generated_parts(GeneratedConfig(templates=path, steps=(1,)), 1, 0)
