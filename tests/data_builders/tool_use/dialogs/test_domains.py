"""Every function that dialogs are sampled from: it runs, what people say fits it, and its renamed form is the same."""

from __future__ import annotations

import inspect
import json
import keyword
import math
import random
import typing
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest

from align.rows import ToolCall
from align.tools.registry import Registry, load_functions, tool_of
from align.tools.results import ToolResult
from data_builders.tool_use.dialogs.catalog import PACKAGED, domain_files, load_domains
from data_builders.tool_use.dialogs.dialog import shown
from data_builders.tool_use.dialogs.renaming import STYLES, name_key, renamed
from data_builders.tool_use.dialogs.samplers import Value
from data_builders.tool_use.dialogs.task import Chain, Domain, Query, Task

DOMAINS = tuple(domain_files())
DRAWS = 10
"""For each function, at least, and divided among its queries."""
BY_DOMAIN = pytest.mark.parametrize("name", DOMAINS)


@cache
def domain(name: str) -> Domain:
    (found,) = load_domains([name])
    return found


def domains() -> list[Domain]:
    return [domain(name) for name in DOMAINS]


def own_parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def required(function: Callable[..., Any]) -> set[str]:
    return {name for name, parameter in own_parameters(function).items() if parameter.default is parameter.empty}


@cache
def registry(function: Callable[..., Any]) -> Registry:
    return Registry([tool_of(function)])


def called(function: Callable[..., Any], arguments: Mapping[str, Any]) -> ToolResult:
    return registry(function).call(ToolCall(name=function.__name__, arguments=json.dumps(arguments)))


def returned(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What the function itself gives for values of its own types, as JSON has it: no registry is asked."""
    types = typing.get_type_hints(function)
    return json.loads(json.dumps(function(**{key: _typed(value, types[key]) for key, value in arguments.items()})))


def _typed(value: Any, expected: Any) -> Any:
    """54 for a float is 54.0: what a service's made-up result depends on."""
    if expected == list[float]:
        return [float(each) for each in value]
    return float(value) if expected is float else value


def drawn(task: Task, query: Query, seed: int) -> dict[str, Value]:
    rng = random.Random(seed)
    for _ in range(200):
        found = {name: task.arguments[name](rng) for name in query.named}
        apart = [json.dumps(found[name].value) for name in task.different if name in found]
        if len(apart) == len(set(apart)):
            return found
    raise AssertionError(f"{task.name}: nothing different was drawn for {task.different}")


def draws(task: Task) -> list[tuple[Query, dict[str, Value], dict[str, Any]]]:
    """(query, drawn values, arguments)."""
    found = []
    for query in task.queries:
        for seed in range(math.ceil(DRAWS / len(task.queries))):
            values = drawn(task, query, seed)
            found.append((query, values, {name: value.value for name, value in values.items()} | dict(query.fixed)))
    return found


def filled(template: str, fields: Mapping[str, Any]) -> str:
    text = template.format(**{key: shown(value) for key, value in fields.items()})
    assert text.strip()
    return text


def fields_of(result: Any) -> dict[str, Any]:
    return result if isinstance(result, dict) else {}


@pytest.mark.slow
def test_the_domains_are_many_and_no_two_functions_share_a_name() -> None:
    tasks = [task for each in domains() for task in each.tasks]
    assert len(DOMAINS) > 20, "the walk found no domains"
    assert len(tasks) > 250
    assert [name for name, count in Counter(task.name for task in tasks).items() if count > 1] == []


@pytest.mark.slow
@BY_DOMAIN
def test_every_public_function_of_a_domain_has_a_task(name: str) -> None:
    offered = {tool.spec.name for tool in load_functions(PACKAGED / f"{name}.py")}
    assert offered == {task.name for task in domain(name).tasks}
    assert len(offered) >= 10


@BY_DOMAIN
def test_a_function_is_described_to_its_last_parameter(name: str) -> None:
    for task in domain(name).tasks:
        spec = tool_of(task.function).spec
        properties = spec.parameters["properties"]
        assert list(properties) == list(own_parameters(task.function)), task.name
        assert set(spec.parameters.get("required", ())) == required(task.function), task.name
        assert all(each.get("description") for each in properties.values()), task.name


@BY_DOMAIN
def test_queries_name_what_the_function_takes_and_needs(name: str) -> None:
    for task in domain(name).tasks:
        known = set(own_parameters(task.function))
        assert set(task.arguments) <= known, task.name
        assert set(task.different) <= known, task.name
        used: set[str] = set()
        for query in task.queries:
            assert set(query.named) <= set(task.arguments), (task.name, query.text)
            assert not set(query.named) & set(query.fixed), (task.name, query.text)
            given = set(query.named) | set(query.fixed)
            assert required(task.function) <= given <= known, (task.name, query.text)
            used |= given
        assert used == known, f"{task.name}: no query gives {known - used}"
        assert len({query.text for query in task.queries}) == len(task.queries) >= 3, task.name
        assert len(set(task.answers)) == len(task.answers) >= 2, task.name


@BY_DOMAIN
def test_drawn_calls_run_and_give_the_same_twice(name: str) -> None:
    for task in domain(name).tasks:
        for query, _, arguments in draws(task):
            first, second = called(task.function, arguments), called(task.function, arguments)
            assert first.ok, (task.name, query.text, arguments, first.text)
            assert first.text == second.text, (task.name, arguments)
            result = returned(task.function, arguments)
            assert first.text == result if isinstance(result, str) else json.loads(first.text) == result, task.name


@BY_DOMAIN
def test_what_is_said_holds_every_drawn_value(name: str) -> None:
    for task in domain(name).tasks:
        for query, values, _ in draws(task):
            text = query.text.format(**{key: value.said for key, value in values.items()})
            assert all(value.said in text for value in values.values())
            assert all(value.said for value in values.values()), (task.name, query.text)
            assert "{" not in text, (task.name, text)


@BY_DOMAIN
def test_every_answer_can_be_said_after_every_query(name: str) -> None:
    for task in domain(name).tasks:
        for _, values, arguments in draws(task):
            result = returned(task.function, arguments)
            said = {key: value.said for key, value in values.items()}
            for answer in task.answers:
                filled(answer, {**said, **fields_of(result), "result": result})


@BY_DOMAIN
def test_other_names_are_identifiers_and_do_not_clash(name: str) -> None:
    for task in domain(name).tasks:
        own = set(own_parameters(task.function))
        assert set(task.other_parameter_names) <= own, task.name
        others = [other for names in task.other_parameter_names.values() for other in names]
        for other in (*others, *task.other_names):
            assert other.isidentifier(), (task.name, other)
            assert not keyword.iskeyword(other), (task.name, other)
        assert len(set(others)) == len(others), (task.name, others)
        assert own.isdisjoint(others), (task.name, own & set(others))
        assert task.name not in task.other_names
        assert len(set(task.other_names)) == len(task.other_names) >= 2, task.name


@BY_DOMAIN
def test_a_wrong_value_is_refused_by_an_error_that_names_what_is_accepted(name: str) -> None:
    for task in domain(name).tasks:
        for parameter, pairs in task.corrections.items():
            queries = [query for query in task.queries if parameter in query.named]
            assert queries, f"{task.name}: no query names {parameter}"
            for query in queries:
                values = {key: value.value for key, value in drawn(task, query, 0).items()} | dict(query.fixed)
                for wrong, right in pairs:
                    refused = called(task.function, values | {parameter: wrong})
                    assert not refused.ok, (task.name, wrong)
                    assert refused.error == "exception", "the function refuses it; its schema takes it"
                    words = refused.text.replace(repr(wrong), "")
                    assert str(right) in words or ", such as " in words, (task.name, refused.text)  # itself or its form
                    corrected = called(task.function, values | {parameter: right})
                    assert corrected.ok, (task.name, right, corrected.text)


def test_most_domains_have_corrections() -> None:
    correctable = [each.name for each in domains() if any(task.corrections for task in each.tasks)]
    assert len(correctable) > len(DOMAINS) / 2, correctable


def steps(chain: Chain, here: Domain, query: Query, seed: int) -> tuple[dict[str, Value], Any, Any]:
    """(drawn values, what the first call gave, what the second one gave), over real registries."""
    samplers = {**here.task_of(chain.first).arguments, **here.task_of(chain.second).arguments}
    tasks = (here.task_of(chain.first), here.task_of(chain.second))
    rng = random.Random(seed)
    for _ in range(200):
        values = {name: samplers[name](rng) for name in query.named}
        apart = [[str(values[name].value) for name in task.different if name in values] for task in tasks]
        if all(len(found) == len(set(found)) for found in apart):
            break
    arguments = {name: value.value for name, value in values.items()} | dict(query.fixed)
    given = arguments_of(chain.first, arguments)
    first = called(chain.first, given)
    assert first.ok, (chain.first.__name__, given, first.text)
    found = returned(chain.first, given)
    fed = found[chain.result_key] if chain.result_key else found
    assert not isinstance(fed, dict), f"{chain.first.__name__}: name the key that is passed on in `result_key`"
    second = called(chain.second, arguments_of(chain.second, arguments) | {chain.result_to: fed})
    assert second.ok, (chain.second.__name__, fed, second.text)
    result = returned(chain.second, arguments_of(chain.second, arguments) | {chain.result_to: fed})
    for between in chain.between:
        filled(between, {**said(values), **fields_of(found), "result": found, "given": fed})
    return values, fed, result


def arguments_of(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name in own_parameters(function)}


def said(values: Mapping[str, Value]) -> dict[str, str]:
    return {name: value.said for name, value in values.items()}


@BY_DOMAIN
def test_the_functions_of_a_chain_share_no_parameter_and_its_queries_give_all_but_the_fed_one(name: str) -> None:
    here = domain(name)
    assert len(here.chains) >= 5
    for chain in here.chains:
        where = (chain.first.__name__, chain.second.__name__)
        first, second = set(own_parameters(chain.first)), set(own_parameters(chain.second))
        assert first.isdisjoint(second), where
        assert chain.result_to in second, where
        for query in chain.queries:
            given = set(query.named) | set(query.fixed)
            needed = (required(chain.first) | required(chain.second)) - {chain.result_to}
            assert needed <= given <= (first | second) - {chain.result_to}, (where, query.text)


@BY_DOMAIN
def test_in_a_chain_the_first_result_feeds_the_second_call_and_every_template_is_filled(name: str) -> None:
    here = domain(name)
    for chain in here.chains:
        for query in chain.queries:
            for seed in range(math.ceil(DRAWS / len(chain.queries))):
                values, given, result = steps(chain, here, query, seed)
                assert "{" not in query.text.format(**said(values))
                for answer in chain.answers:
                    filled(answer, {**said(values), **fields_of(result), "result": result, "given": given})


@pytest.mark.slow
@BY_DOMAIN
def test_a_renamed_function_gives_what_the_real_one_gives(name: str) -> None:
    for task in domain(name).tasks:
        real = tool_of(task.function)
        for number, (_, _, arguments) in enumerate(draws(task)[::4]):
            offered = renamed(task, name, random.Random(f"{task.name} {number}"))
            names = dict(zip(own_parameters(task.function), offered.tool.spec.parameters["properties"], strict=True))
            assert len(set(names.values())) == len(names), (task.name, names)
            arranged = {names[key]: value for key, value in arguments.items()}
            call = ToolCall(name=offered.tool.spec.name, arguments=json.dumps(arranged))
            assert offered.call(arguments).parsed() == arranged
            result = Registry([offered.tool]).call(call)
            assert result.ok, (task.name, call, result.text)
            assert result.text == called(task.function, arguments).text, (task.name, call)
            assert offered.tool.identity == real.identity, "the name is another, the function is the same"
            own, other = real.spec.parameters, offered.tool.spec.parameters
            assert {names[key] for key in own.get("required", ())} == set(other.get("required", ())), task.name
            for key, schema in own["properties"].items():
                kept = {word: value for word, value in schema.items() if word != "description"}
                assert kept == {w: v for w, v in other["properties"][names[key]].items() if w != "description"}, key


@pytest.mark.slow
def test_renaming_gives_many_names_in_every_style_of_writing() -> None:
    (task,) = (task for task in domain("household").tasks if task.name == "paint_liters")
    found = {renamed(task, "household", random.Random(seed)).tool.spec.name for seed in range(120)}
    assert len(found) > 10
    assert any("." in name for name in found)
    assert any("_" in name and "." not in name for name in found)
    assert any(name[0].isupper() for name in found)
    assert any(name[0].islower() and name != name.lower() for name in found)
    assert set(STYLES) == {"snake", "camel", "dotted", "pascal"}


@pytest.mark.parametrize(
    "spellings",
    [
        (
            "stock_price",
            "get_stock_price",
            "stocks.stockPrice",
            "StockPrice",
            "calculate_stock_price",
            "stock.price_of",
        ),
        ("paint_liters", "paintLiters", "house.paint_liters", "compute_paint_liters", "find_paint_liters", "paint"),
    ],
)
def test_spellings_of_a_name_share_a_key_and_other_names_do_not(spellings: tuple[str, ...]) -> None:
    *same, other = spellings
    assert len({name_key(name) for name in same}) == 1
    assert name_key(other) != name_key(same[0])
