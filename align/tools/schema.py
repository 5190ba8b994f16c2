"""Whether a written call fits the functions that its dialog offers: for dialogs whose calls were not executed.

Calls that are run are checked by `registry`. The schemas of imported dialogs name types as Python, Java or BFCL do;
those names alone make no call wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from align.formats.bfcl import JSON_TYPES
from align.rows import ToolCall, ToolSpec
from align.tools.results import library

_TYPES = {
    **{name.lower(): ours for name, ours in JSON_TYPES.items() if name.lower() != "any"},
    **{"str": "string", "int": "integer", "null": "null", "none": "null"},
}
"""A name of a type in lower case -> JSON schema's. Under any other name (`any`, `date`) every value passes."""

_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose values are schemas by names that their writer chose, which may be `type`."""
_VALUES = ("default", "enum", "const", "examples")
"""Keywords whose values are not schemas."""

_OLD_FLAGS = ("required", "exclusiveMinimum", "exclusiveMaximum")
"""True or false here is drafts 3 and 4; it is ignored."""

_SHOWN_CHARACTERS = 200


class CallProblem(NamedTuple):
    """What is wrong with a call."""

    reason: Literal["function not offered", "schema is not valid", "arguments do not match the schema"]
    """In words that dropped rows can be counted by."""
    detail: str
    """For a person who looks into it."""


def call_problem(tools: Sequence[ToolSpec], call: ToolCall) -> CallProblem | None:
    """What is wrong with a call, given the functions offered; None where nothing is.

    Edge: an argument that the parameters do not name is wrong, unless the schema speaks of further ones, or names none
        at all. `format` is not checked. Nothing is fetched: a `$ref` leads to a place in the schema.
    Source: JSON schema, draft 2020-12; what older drafts write otherwise is read too.
    """
    spec = next((tool for tool in tools if tool.name == call.name), None)
    if spec is None:
        known = ", ".join(tool.name for tool in tools) or "none"
        return CallProblem("function not offered", f"{call.name!r}; offered: {known}"[:_SHOWN_CHARACTERS])
    exceptions = library("jsonschema.exceptions")
    unresolvable = library("referencing.exceptions").Unresolvable
    try:
        error = exceptions.best_match(_validator(json.dumps(spec.parameters)).iter_errors(call.parsed()))
    except exceptions.SchemaError as broken:
        return CallProblem("schema is not valid", _shown(call.name, broken))
    except (unresolvable, RecursionError) as broken:  # a `$ref` to nowhere, or one in a circle
        return CallProblem("schema is not valid", f"{call.name}: $ref: {broken!r}"[:_SHOWN_CHARACTERS])
    return CallProblem("arguments do not match the schema", _shown(call.name, error)) if error else None


@lru_cache(maxsize=1024)
def _validator(parameters: str) -> Any:
    """What checks arguments against the JSON text of a schema. Raises jsonschema's SchemaError."""
    schema = _readable(json.loads(parameters))
    if schema.get("properties"):
        schema = {"unevaluatedProperties": False, **schema}
    draft = library("jsonschema").Draft202012Validator
    draft.check_schema(schema)
    # Without a registry of our own, jsonschema would fetch the address that a `$ref` names.
    return draft(schema, registry=library("referencing").Registry())


def _readable(schema: Any) -> Any:
    """A schema with JSON schema's names of types, in the words of draft 2020-12, at every depth."""
    if isinstance(schema, list):
        return [_readable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _VALUES:
            kept[key] = value
        elif key in _NAMED and isinstance(value, dict):
            kept[key] = {name: _readable(inner) for name, inner in value.items()}
        elif key == "type":
            kept |= _type(value)
        elif key == "items" and isinstance(value, list):
            kept["prefixItems"] = _readable(value)
        elif not (key in _OLD_FLAGS and isinstance(value, bool)) and not (key == "pattern" and _is_foreign(value)):
            kept[key] = _readable(value)
    return kept


def _type(value: Any) -> dict[str, Any]:
    """The keyword `type` with JSON schema's names; without it where a name is not among ours."""
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        return {"type": value}  # broken, and the check of the schema says so
    found = dict.fromkeys(_TYPES.get(name.lower()) for name in names)
    return {} if None in found else {"type": list(found)}


def _is_foreign(pattern: Any) -> bool:
    """Whether Python cannot read a regular expression; JSON schema's are JavaScript's."""
    try:
        re.compile(pattern)
    except re.error:
        return True
    except TypeError:  # no text at all: broken, and the check of the schema says so
        return False
    return False


def _shown(name: str, error: Any) -> str:
    place = ".".join(str(part) for part in error.absolute_path)
    return f"{name}{place and '.'}{place}: {error.message}"[:_SHOWN_CHARACTERS]
