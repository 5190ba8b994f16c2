"""One place for tools: a typed Python function with a docstring becomes a `ToolSpec`, and a call becomes a result.

The schema comes from the signature (pydantic) and the docstring (docstring-parser: Google, numpy and reST style).
Nothing here knows a particular tool; `align/tools/catalog.py` does.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import time
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict

from align.errors import AlignError
from align.files import fingerprint_of
from align.rows import ToolCall, ToolSpec
from align.tools.results import ToolError, ToolFailure, ToolResult, library, result_text

MAX_RESULT_CHARACTERS = 8000

_FIRST = ("type", "description", "properties", "required")
"""What a schema begins with, where it has it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that may be called."""

    spec: ToolSpec
    """What is offered to the model."""
    function: Callable[..., Any]
    """Called with keyword arguments that match the schema."""
    arguments: TypeAdapter[Any]
    """Checks a call's arguments: strictly, so "3" is no integer, and no argument beyond the schema."""
    identity: str
    """Which engine and which version of it answers; equal identities give equal answers where a tool can promise it."""


class Registry:
    """Tools by name. `call` never raises for what a model did; it raises `AlignError` for what the user must fix."""

    def __init__(self, tools: Iterable[Tool], *, max_result_characters: int = MAX_RESULT_CHARACTERS) -> None:
        self.tools: dict[str, Tool] = {}
        self.max_result_characters = max_result_characters
        for tool in tools:
            name = tool.spec.name
            if name in self.tools:
                raise ToolError(name, "two tools have this name", "Rename one of them")
            self.tools[name] = tool

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What is offered to the model, in the order given."""
        return tuple(tool.spec for tool in self.tools.values())

    def extended(self, *tools: Tool) -> Registry:
        """This registry with more tools, such as one dialog's interpreter; this one stays as it is."""
        return Registry([*self.tools.values(), *tools], max_result_characters=self.max_result_characters)

    def only(self, names: Iterable[str]) -> Registry:
        """The tools of these names, in their order. Raises ToolError for a name that no tool has."""
        names = list(names)
        for name in names:
            if name not in self.tools:
                known = ", ".join(self.tools) or "none"
                raise ToolError(
                    name, f"a row offers this function, and the tools are {known}", "Add its file to tools.functions"
                )
        return Registry([self.tools[name] for name in names], max_result_characters=self.max_result_characters)

    def identity(self, name: str) -> str:
        """Which engine answers for a name; empty for a name that no tool has."""
        return self.tools[name].identity if name in self.tools else ""

    def call(self, call: ToolCall) -> ToolResult:
        """Check the arguments, run the function, and give what it returned as capped text.

        Edge: an unknown name, wrong arguments and an exception are results with `ok` False, in words for the model.
            A text result stays as it is; any other becomes JSON.
        """
        began = time.monotonic()
        try:
            text, error = self._answer(call), None
        except AlignError:
            raise
        except ToolFailure as failure:
            text, error = failure.text, failure.kind
        except (Exception, SystemExit) as raised:
            text, error = f"Error: {type(raised).__name__}: {raised}", "exception"
        return ToolResult(result_text(text, self.max_result_characters), error is None, error, time.monotonic() - began)

    def _answer(self, call: ToolCall) -> str:
        if call.name not in self.tools:
            known = ", ".join(self.tools) or "none"
            raise ToolFailure("unknown-tool", f"there is no function {call.name!r}. Functions: {known}.")
        tool = self.tools[call.name]
        try:
            values = tool.arguments.validate_json(call.arguments, strict=True)
        except ValidationError as error:
            raise ToolFailure("arguments", f"{call.name}: {_validation_message(error)}") from None
        found = tool.function(**values)
        return found if isinstance(found, str) else json.dumps(to_jsonable_python(found), ensure_ascii=False)


def tool_of(function: Callable[..., Any], *, name: str | None = None, identity: str | None = None) -> Tool:
    """A function as a tool.

    Every parameter needs a type. The schema contains its default and, if the docstring describes it, its description.
    identity: by default the name and a fingerprint of the source text.
    """
    name = name or function.__name__
    where = f"{inspect.getsourcefile(function) or 'function'}:{name}"
    parsed = library("docstring_parser").parse(function.__doc__ or "")
    description = "\n\n".join(filter(None, [parsed.short_description, parsed.long_description]))
    if not description:
        raise ToolError(where, "a tool requires a docstring, and there is none", "Say what it does: the model reads it")
    described = {item.arg_name: " ".join((item.description or "").split()) for item in parsed.params}
    parameters = inspect.signature(function).parameters
    if strangers := described.keys() - parameters.keys():
        raise ToolError(where, f"the docstring describes {sorted(strangers)}, which are no parameters", "Fix it")
    types = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for key, parameter in parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ToolError(
                where,
                f"{key} is {parameter.kind.description}, which no schema can say",
                "Give each argument a name of its own",
            )
        if key not in types:
            raise ToolError(where, f"{key} has no type", f"Write {key}: str, or what it takes")
        extra: dict[str, Any] = {}
        if parameter.default is not parameter.empty:
            extra = {"default": to_jsonable_python(parameter.default)}
        field: Any = Annotated[
            types[key], Field(description=described.get(key) or None, json_schema_extra=extra or None)
        ]
        fields[key] = NotRequired[field] if extra else field
    # A TypedDict and not a model: parameters may have any name, also that of a model's attribute.
    schema = TypedDict(name, fields)  # type: ignore[misc]
    schema.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]
    arguments: TypeAdapter[Any] = TypeAdapter(schema)
    spec = ToolSpec(name=name, description=description, parameters=_plain(arguments.json_schema()))
    return Tool(spec, function, arguments, identity or f"{name}@{_source_fingerprint(function, spec)}")


def load_functions(path: str | Path) -> list[Tool]:
    """Every public function that a Python file defines, as tools, in the file's order. Runs the file."""
    path = Path(path)
    if not path.is_file():
        raise ToolError(path, "there is no such file", "Name a Python file of functions")
    module_name = f"align_tools_of_{fingerprint_of(path.resolve())[:16]}"
    found = importlib.util.spec_from_file_location(module_name, path)
    assert found is not None
    assert found.loader is not None
    module = sys.modules[module_name] = importlib.util.module_from_spec(found)  # dataclasses look their module up
    found.loader.exec_module(module)
    functions = [
        value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module_name and not key.startswith("_")
    ]
    if not functions:
        raise ToolError(path, "there is no public function in it", "Define one, typed and with a docstring")
    return [tool_of(function) for function in functions]


def _validation_message(error: ValidationError) -> str:
    """pydantic's findings in one line; values are left out, they may be long."""
    found = []
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            found.append(f"unknown argument {place!r}")
        elif item["type"] == "missing":
            found.append(f"missing argument {place!r}")
        else:
            found.append(f"argument {place!r}: {item['msg']}")
    return "; ".join(found)


def _plain(schema: Any) -> Any:
    """A schema as people write it: type and description first, no titles, and no `additionalProperties: false` (unknown
    arguments are refused anyway)."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key in sorted(schema, key=lambda key: (*_FIRST, key).index(key)):
        value = schema[key]
        if key in ("properties", "$defs"):  # names that the user chose, which may be `title`
            kept[key] = {name: _plain(inner) for name, inner in value.items()}
        elif key in ("default", "enum", "const", "examples"):  # values, not schemas
            kept[key] = value
        elif key != "title" and not (key == "additionalProperties" and value is False):
            kept[key] = _plain(value)
    return kept


def _source_fingerprint(function: Callable[..., Any], spec: ToolSpec) -> str:
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # made at a prompt, or not in Python: its schema is all there is to go by
        source = ""
    return fingerprint_of(source, spec.model_dump_json())[:12]
