"""A domain of a user's own: it is read, and every mistake in its YAML file is named by file and line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from align.errors import ConfigError
from data_builders.tool_use.dialogs.catalog import PACKAGED, domain_files, load_domain, load_domains
from data_builders.tool_use.dialogs.dialog import DialogSource, answer, request
from data_builders.tool_use.dialogs.dialog_kinds import make_dialog

FUNCTIONS = '''"""Prices of a shop."""

import random


def price(item: str, pieces: int = 1) -> float:
    """Price of an item.

    Args:
        item: What is bought.
        pieces: How many of it.
    """
    return 2.5 * pieces


def with_tax(net: float, country: str) -> dict:
    """Price with tax.

    Args:
        net: Price without tax.
        country: Where it is sold.
    """
    return {"gross": round(net * 1.2, 2), "tax": round(net * 0.2, 2)}


def _label(rng: random.Random, prefix: str) -> tuple[str, str]:
    number = rng.randint(1, 9)
    return f"{prefix}{number}", f"number {number}"
'''
YAML = """\
samplers:
  goods: {one_of: [pen, {value: cup, said: a cup}]}
tasks:
  price:
    arguments:
      item: goods
      pieces: {whole: [2, 9]}
    queries:
      - What does {item} cost?
      - text: "Price of two: {item}"
        fixed: {pieces: 2}
    answers: ["It costs {result}.", "{result}"]
    other_names: [item_price]
    other_parameter_names:
      item: [product]
  with_tax:
    arguments:
      net: {decimal: [1, 9]}
      country: {_label: [C]}
    queries: ["Tax on {net} in {country}?"]
    answers: ["{gross}, of which {tax} is tax."]
chains:
  - first: price
    second: with_tax
    result_to: net
    queries: ["What does {item} cost with tax in {country}?"]
    between: ["It costs {given}."]
    answers: ["With tax {gross}, without {given}."]
"""


def written(folder: Path, text: str = YAML, functions: str = FUNCTIONS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "shop.py").write_text(functions, encoding="utf-8")
    (folder / "shop.yaml").write_text(text, encoding="utf-8")
    return folder / "shop.yaml"


def refused(folder: Path, old: str, new: str) -> str:
    """The message for the YAML with a mistake in it."""
    assert YAML.count(old) == 1, "the test changes one place"
    path = written(folder, YAML.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_domain(path)
    return str(caught.value).replace(f"{folder}/", "")


def test_a_domain_is_one_plain_python_file_and_one_yaml_file(tmp_path: Path) -> None:
    written(tmp_path)
    (shop,) = load_domains(folders=[tmp_path])
    assert [task.name for task in shop.tasks] == ["price", "with_tax"]
    assert shop.tasks[0].queries[1].fixed == {"pieces": 2}
    source = DialogSource([shop], most_offered=2, renamed_ratio=0.0)
    dialogs = [make_dialog("multi-step", source, random.Random(seed)) for seed in range(20)]
    asked = {dialog.messages[-6].content for dialog in dialogs if dialog is not None}
    assert any("a cup cost with tax in number " in text for text in asked), "said as the samplers say it"
    assert any(" pen cost " in text for text in asked)
    countries = {dialog.records[1].call.parsed()["country"] for dialog in dialogs if dialog is not None}
    assert countries <= {f"C{number}" for number in range(1, 10)}
    assert len(countries) > 2


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("  price:\n", "  prize:\n", "shop.yaml:4: tasks.prize: prize is not a public function of shop.py."),
        ("  price:\n", "  _label:\n", "shop.yaml:4: tasks._label: _label is not a public function of shop.py."),
        (
            "pieces: {whole: [2, 9]}",
            "pieces: {hole: [2, 9]}",
            "shop.yaml:7: tasks.price.arguments.pieces: expected a sampler, found 'hole'. Known here: goods, whole,",
        ),
        (
            "pieces: {whole: [2, 9]}",
            "pieces: {whole: [2]}",
            "shop.yaml:7: tasks.price.arguments.pieces: whole: missing a required argument: 'high'. Write whole(low:",
        ),
        (
            "pieces: {whole: [2, 9]}",
            "pieces: {whole: [2, many]}",
            "shop.yaml:7: tasks.price.arguments.pieces: whole: high: input should be a valid integer, found 'many'.",
        ),
        (
            "pieces: {whole: [2, 9]}",
            "pieces: {whole: [9, 2]}",
            "shop.yaml:7: tasks.price.arguments.pieces: whole: 9 is above 2.",
        ),
        (
            "item: goods",
            "item: {goods: [1]}",
            "shop.yaml:6: tasks.price.arguments.item: goods is a sampler of this file and takes no arguments,",
        ),
        (
            "country: {_label: [C]}",
            "country: _label",
            "shop.yaml:19: tasks.with_tax.arguments.country: _label: missing a required argument: 'prefix'.",
        ),
        (
            "one_of: [pen, {value: cup, said: a cup}]",
            "one_of: [pen, {value: cup, spoken: a cup}]",
            "shop.yaml:2: samplers.goods: expected value and said, found",
        ),
        ("  goods:", "  city:", "shop.yaml:2: samplers.city: city is a sampler of every domain. Choose another name"),
        (
            "      pieces: {whole",
            "      price: {whole",
            "shop.yaml:7: tasks.price.arguments.price: price is not a parameter of price. Its parameters: item, pieces",
        ),
        (
            "What does {item} cost?",
            "What do {pieces} {thing} cost?",
            "shop.yaml:9: tasks.price.queries.0: {thing} is not a parameter of price. Parameters: item, pieces",
        ),
        (
            "      item: goods\n",
            "",
            "shop.yaml:8: tasks.price.queries.0: {item} has no sampler. Add item to the arguments of its task",
        ),
        (
            "What does {item} cost?",
            "What do {pieces} cost?",
            "shop.yaml:9: tasks.price.queries.0: gives no value for item, and price requires it. Name {item}",
        ),
        (
            "{pieces: 2}",
            "{item: pen}",
            "shop.yaml:11: tasks.price.queries.1.fixed.item: the text names item as well. Keep one of them",
        ),
        (
            "What does {item} cost?",
            "What does {item cost?",
            "shop.yaml:9: tasks.price.queries.0: is not a template (expected '}' before end of string).",
        ),
        (
            "What does {item} cost?",
            "What does {item!r} cost?",
            "shop.yaml:9: tasks.price.queries.0: {item!r} is not a name. Write {name};",
        ),
        (
            '"It costs {result}."',
            '"It costs {total}."',
            "shop.yaml:12: tasks.price.answers.0: {total} has no value. Values of every answer: item, result",
        ),
        (
            '"It costs {result}."',
            '"All {pieces} cost {result}."',
            "shop.yaml:12: tasks.price.answers.0: {pieces} has no value.",
        ),
        (
            "other_names: [item_price]",
            "other_names: [item price]",
            "shop.yaml:13: tasks.price.other_names.0: expected a name in snake_case, found 'item price'.",
        ),
        (
            "    other_names: [item_price]\n",
            "    other_name: [item_price]\n",
            "shop.yaml:13: tasks.price.other_name: is not a setting. Did you mean tasks.price.other_names?",
        ),
        (
            "  with_tax:\n    arguments",
            "  price:\n    arguments",
            "shop.yaml:16: tasks.price: is given twice (first in line 4).",
        ),
        (
            "    other_names: [item_price]\n",
            "    corrections: {item: [{wrong: x}]}\n",
            "corrections.item.0.right: required",
        ),
        (
            "    other_names: [item_price]\n",
            "    corrections: {pieces: [{wrong: two, right: 2}]}\n",
            "shop.yaml:13: tasks.price.corrections.pieces: no query names {pieces}, so the correction is never used.",
        ),
        (
            "    second: with_tax",
            "    second: tax",
            "shop.yaml:24: chains.0.second: tax is not a public function of shop.py.",
        ),
        (
            "    result_to: net",
            "    result_to: gross",
            "shop.yaml:25: chains.0.result_to: gross is not a parameter of with_tax. Its parameters: net, country",
        ),
        (
            "    result_to: net\n",
            "    result_to: net\n    result_key: total\n",
            "shop.yaml:26: chains.0.result_key: price returns no object: leave result_key out.",
        ),
        (
            "What does {item} cost with tax in {country}?",
            "What does {item} cost with tax?",
            "shop.yaml:26: chains.0.queries.0: gives no value for country, and price or with_tax requires it.",
        ),
        (
            "What does {item} cost with tax in {country}?",
            "What does {item} cost, {net} with tax in {country}?",
            "shop.yaml:26: chains.0.queries.0: {net} has no sampler.",
        ),
        ('"It costs {given}."', '"It costs {gross}."', "shop.yaml:27: chains.0.between.0: {gross} has no value."),
        ("  price:\n", "  price\n", "shop.yaml:5: "),
    ],
)
def test_a_mistake_is_named_by_file_line_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert message in refused(tmp_path, old, new)


def test_several_mistakes_are_reported_together_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = (
        YAML.replace("[2, 9]", "[2]")
        .replace("{tax} is tax", "{tax is tax")
        .replace('{given}."]\n    answers', '{x}."]\n    answers')
    )
    with pytest.raises(ConfigError) as caught:
        load_domain(written(tmp_path, text))
    lines = [line.split(":")[1] for line in str(caught.value).splitlines()]
    assert lines == ["7", "21", "27"]


def test_a_public_function_without_a_task_is_a_mistake(tmp_path: Path) -> None:
    functions = FUNCTIONS + '\n\ndef helper(text: str) -> str:\n    """Help."""\n    return text\n'
    with pytest.raises(
        ConfigError, match=r"shop.yaml:3: tasks: helper of shop.py has no task. Add tasks.helper, or begin"
    ):
        load_domain(written(tmp_path, functions=functions))


def test_python_that_cannot_be_read_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"shop.py:1: is not Python"):
        load_domain(written(tmp_path, functions="def price(:\n"))


def test_an_answer_that_names_no_key_of_the_result_says_which_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\{net\} has no value; known here: town, gross, result, given"):
        answer("{gross} of {net}", {"gross": 3}, {"town": "Riga"})


def test_a_key_that_the_first_result_of_a_chain_does_not_have_is_named(tmp_path: Path) -> None:
    functions = FUNCTIONS.replace("pieces: int = 1) -> float:", "pieces: int = 1) -> dict:")
    functions = functions.replace("return 2.5 * pieces", 'return {"total": 2.5 * pieces}')
    text = YAML.replace("    result_to: net\n", "    result_to: net\n    result_key: sum\n")
    text = text.replace('["It costs {result}.", "{result}"]', '["It costs {total}."]')
    source = DialogSource([load_domain(written(tmp_path, text, functions))], most_offered=2, renamed_ratio=0.0)
    with pytest.raises(ConfigError, match=r"the result of price: has no key sum; its keys: total"):
        make_dialog("multi-step", source, random.Random(0))


def test_values_that_cannot_differ_are_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    text = YAML.replace("item: goods", "item: {one_of: [2]}").replace("{whole: [2, 9]}", "{whole: [2, 2]}")
    text = text.replace("What does {item} cost?", "What do {pieces} {item} cost?").replace("{pieces: 2}", "{}")
    text = text.replace("    other_names: [item_price]\n", "    different: [item, pieces]\n").replace(
        "two: {item}", "{pieces} {item}"
    )
    shop = load_domain(written(tmp_path, text))
    with pytest.raises(ConfigError, match=r"tasks.price.different: item and pieces had the same value in 1000 draws"):
        request(shop.tasks[0], random.Random(0))


@pytest.mark.parametrize("missing, other", [("shop.py", "shop.yaml"), ("shop.yaml", "shop.py")])
def test_a_file_without_its_partner_is_an_error_that_says_so(tmp_path: Path, missing: str, other: str) -> None:
    written(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ConfigError, match=f"{other}: a domain is a pair of files, and {missing} is missing"):
        domain_files([tmp_path])


def test_folders_without_domains_and_names_in_two_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone: is not a folder"):
        domain_files([tmp_path / "gone"])
    with pytest.raises(ConfigError, match="has no domains"):
        domain_files([tmp_path])
    written(tmp_path / "one")
    written(tmp_path / "two")
    with pytest.raises(ConfigError, match="has a domain shop too"):
        domain_files([tmp_path / "one", tmp_path / "two"])


def test_own_folders_are_sorted_by_name_with_the_packaged_ones(tmp_path: Path) -> None:
    written(tmp_path)
    names = list(domain_files([tmp_path, PACKAGED]))
    assert names == sorted(names)
    assert {"shop", "geometry"} <= set(names)
