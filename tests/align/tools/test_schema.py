"""A written call is held against its schema; foreign names of types, and forms of older drafts, make no call wrong."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from align.rows import ToolCall, ToolSpec
from align.tools.schema import call_problem


def problem(schema: dict[str, Any], arguments: dict[str, Any]) -> tuple[str, str] | None:
    return call_problem([ToolSpec(name="f", parameters=schema)], ToolCall(name="f", arguments=json.dumps(arguments)))


def of_one(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}, "required": ["a"]}


@pytest.mark.parametrize(
    "named, fits, fits_not",
    [
        ("string", "x", 1),
        ("String", "x", None),
        ("str", "x", 1),
        ("integer", 3, 3.5),
        ("long", 3, "3"),
        ("int", 3, True),
        ("float", 3, "3"),
        ("double", 3.5, [3.5]),
        ("bool", True, 1),
        ("BOOLEAN", True, "true"),
        ("list", [1], "1"),
        ("tuple", [1, "x"], {"0": 1}),
        ("ArrayList", [], {}),
        ("dict", {"x": 1}, []),
        ("HashMap", {}, "{}"),
        (["string", "null"], None, 1),
        (["int", "integer"], 1, "1"),
        (["float", "tuple"], [1], "1"),
    ],
)
def test_foreign_names_of_types_mean_what_they_mean(named: Any, fits: Any, fits_not: Any) -> None:
    assert problem(of_one({"type": named}), {"a": fits}) is None
    found = problem(of_one({"type": named}), {"a": fits_not})
    assert found
    assert found[0] == "arguments do not match the schema"


@pytest.mark.parametrize("named", ["any", "Any", "date", "Optional[str]", ["any", "string"], ["string", "Callable"]])
@pytest.mark.parametrize("value", ["x", 1, 2.5, None, True, [1], {"x": 1}])
def test_under_any_and_unknown_names_every_value_passes(named: Any, value: Any) -> None:
    assert problem(of_one({"type": named}), {"a": value}) is None


@pytest.mark.parametrize(
    "schema, arguments, detail",
    [
        (of_one({"type": "string"}), {}, "f: 'a' is a required property"),
        (of_one({"enum": ["x", "y"]}), {"a": "z"}, "f.a: 'z' is not one of ['x', 'y']"),
        (of_one({"type": "list", "items": {"type": "float"}}), {"a": [1, "2"]}, "f.a.1: '2' is not of type 'number'"),
        (
            of_one({"type": "dict", "properties": {"type": {"type": "float"}}}),
            {"a": {"type": "x"}},
            "f.a.type: 'x' is not of type 'number'",
        ),
        (
            {"$defs": {"n": {"type": "int"}}, **of_one({"$ref": "#/$defs/n"})},
            {"a": "1"},
            "f.a: '1' is not of type 'integer'",
        ),
        (of_one({"anyOf": [{"type": "int"}, {"type": "None"}]}), {"a": "1"}, "f.a: "),
        (of_one({"type": "tuple", "items": [{"type": "int"}]}), {"a": ["x"]}, "f.a.0: 'x' is not of type 'integer'"),
        (of_one({"type": "string"}), {"a": "x", "b": 1}, "f: Unevaluated properties are not allowed ('b'"),
    ],
)
def test_arguments_that_do_not_match_are_reported_by_their_place(
    schema: dict[str, Any], arguments: dict[str, Any], detail: str
) -> None:
    found = problem(schema, arguments)
    assert found
    assert found[0] == "arguments do not match the schema"
    assert found[1].startswith(detail), found[1]


@pytest.mark.parametrize(
    "schema, arguments",
    [
        ({}, {"a": 1}),
        ({"type": "object", "properties": {}}, {"a": 1}),
        ({**of_one({"type": "string"}), "additionalProperties": True}, {"a": "x", "b": 1}),
        ({**of_one({"type": "string"}), "allOf": [{"properties": {"b": {"type": "float"}}}]}, {"a": "x", "b": 1}),
        (of_one({"type": "string", "required": True}), {"a": "x"}),
        (of_one({"type": "number", "minimum": 0, "exclusiveMinimum": True}), {"a": 1}),
        (of_one({"type": "string", "pattern": r"^\p{Lu}(?<rest>.*)"}), {"a": "X"}),
        (of_one({"type": "string", "format": "date", "default": {"type": 5}}), {"a": "tomorrow"}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", **of_one({"type": "string"})}, {"a": "x"}),
    ],
)
def test_loose_and_older_schemas_take_what_they_allow(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert problem(schema, arguments) is None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": "none"},
        {"type": "object", "properties": {"a": "string"}},
        {"type": 5},
        {"type": []},
        {"type": ["string", 5]},
        {"required": "a"},
        of_one({"pattern": 5}),
        of_one({"enum": "x"}),
        of_one({"$ref": "#/$defs/nowhere"}),
        {"$ref": "#"},
    ],
)
def test_a_schema_that_is_none_is_distinguished_from_wrong_arguments(schema: dict[str, Any]) -> None:
    found = problem(schema, {"a": "x"})
    assert found
    assert found[0] == "schema is not valid"
    assert found[1].startswith("f")


def test_a_function_that_is_not_offered_is_reported_with_those_that_are() -> None:
    found = call_problem([ToolSpec(name="f"), ToolSpec(name="g")], ToolCall(name="h"))
    assert found == ("function not offered", "'h'; offered: f, g")


def test_no_address_in_a_schema_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address))
    found = problem(of_one({"$ref": "http://schemas.test/a.json"}), {"a": "x"})
    assert found
    assert found[0] == "schema is not valid"
    assert not asked
