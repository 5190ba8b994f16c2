"""The Berkeley Function Calling Leaderboard's files: functions, questions and possible answers, in our terms.

A question's file and the file of its possible answers meet by id. `eval/bfcl.py` scores with them; builders ask here
which functions and questions must not be trained on. A folder in this file is one that holds `bfcl_eval/`, such as
`align.assets.path_of("bfcl-eval")`.

Source: gorilla-llm, bfcl-eval 2026.3.23 (BFCL v4), constants/type_mappings.py and model_handler/utils.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align.errors import RowError
from align.records import records_of
from align.rows import tools_of, tools_text

Json = dict[str, Any]

DATA = Path("bfcl_eval/data")
JSON_TYPES = {
    **dict.fromkeys(("string", "String", "char", "any", "Any"), "string"),
    **dict.fromkeys(("integer", "byte", "short", "long", "Bigint"), "integer"),
    **dict.fromkeys(("number", "float", "double"), "number"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("array", "list", "tuple", "ArrayList", "Array", "Queue", "Stack"), "array"),
    **dict.fromkeys(("object", "dict", "HashMap", "Hashtable"), "object"),
}
"""BFCL's name of a type -> JSON schema's, as BFCL's own handlers translate them (GORILLA_TO_OPENAPI)."""

LEFT_OUT = ""
"""Among the possible values of an argument: it may be left out."""


def read_records(path: Path) -> list[Json]:
    """The records of one of BFCL's files: JSON lines, although the files are named .json.

    Raises RowError naming the file and line.
    """
    if not path.exists():
        how = "Name a folder that holds bfcl_eval/ of the package bfcl-eval, or none for the pinned one"
        raise RowError(path, "cannot be read (No such file or directory)", how)
    found = []
    for _, record in records_of(path):
        if isinstance(record, RowError):
            raise RowError(record.where, record.what, "Fetch the package again")
        found.append(record)
    return found


def function_names(folder: Path) -> set[str]:
    """Every function that BFCL offers, as written there: single-turn, live, multi-turn, memory and search sections."""
    functions = [function for record in _questions(folder) for function in record.get("function", ())]
    for path in _files(folder, "multi_turn_func_doc/*.json"):
        functions += read_records(path)
    return {function["name"] for function in functions}


def question_texts(folder: Path) -> set[str]:
    """What users say in any section of BFCL, every turn of the dialogs with several."""
    return {
        message["content"]
        for record in _questions(folder)
        for turn in record["question"]
        for message in turn
        if message["role"] == "user"
    }


def prompt_fields(record: Json, where: str) -> Json:
    """`prompt` and `tools` of a row, from a question and the functions offered with it.

    The types of arguments become JSON schema's. Names stay as they are, dots too, and so do descriptions: BFCL's
    handlers add sentences to them ("Note that the provided function is in Python 3 syntax."), which are left out.
    Raises RowError for a dialog of several turns, whose later turns wait for executed calls.
    """
    turns, functions = record.get("question"), record.get("function")
    if not (isinstance(turns, list) and len(turns) == 1 and isinstance(turns[0], list)):
        found = f"{len(turns)} turns" if isinstance(turns, list) and len(turns) > 1 else repr(turns)[:80]
        raise RowError(
            f"{where}: question",
            f"expected [[messages]] of one turn, found {found}",
            "Only single-turn sections are read",
        )
    if not isinstance(functions, list) or not all(isinstance(function, dict) for function in functions):
        raise RowError(f"{where}: function", f"expected a list of functions, found {functions!r:.80}", "Write a list")
    try:
        tools = tools_of(json.dumps([_offered(function) for function in functions]))
    except ValueError as error:
        raise RowError(f"{where}: function", str(error), "Write a list of functions with name and parameters") from None
    return {"prompt": turns[0], "tools": tools_text(tools)}


def first_answer(ground_truth: Any, functions: Sequence[Json], where: str) -> list[Json]:
    """Calls made of the first possible value of each argument; an argument that may be left out is left out.

    ground_truth: one `{function: {argument: [possible values]}}` a call, as BFCL's single-turn sections have it.
    functions: those offered. An argument that they require is given, although three of BFCL's answers allow otherwise.
    Raises RowError where it is something else, such as the executed calls of a multi-turn section.
    """
    calls = ground_truth if isinstance(ground_truth, list) else [ground_truth]
    if not calls:
        raise RowError(f"{where}: ground_truth", "holds no call", "Leave questions out whose right answer is silence")
    required = {function.get("name"): (function.get("parameters") or {}).get("required") for function in functions}
    made = []
    for place, call in enumerate(calls):
        if not (isinstance(call, dict) and len(call) == 1 and all(isinstance(given, dict) for given in call.values())):
            raise RowError(
                f"{where}: ground_truth[{place}]",
                f"expected {{function: {{argument: [possible values]}}}}, found {call!r:.80}",
                "Write possible answers as BFCL's single-turn sections have them",
            )
        ((name, given),) = call.items()
        for argument, options in given.items():
            if not isinstance(options, list) or not options:
                raise RowError(
                    f"{where}: ground_truth[{place}].{name}.{argument}",
                    f"expected a list of possible values, found {options!r:.80}",
                    "Write the one value in a list",
                )
        arguments = _first_values(given, required.get(name) or ())
        made.append({"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)})
    return made


def _first_values(given: Json, required: Sequence[str] = ()) -> Json:
    found = {}
    for key, options in given.items():
        options = options if isinstance(options, list) else [options]
        if LEFT_OUT not in options or key in required:
            values = [option for option in options if option != LEFT_OUT]
            found[key] = _plain(values[0] if values else LEFT_OUT)
    return found


def _plain(value: Any) -> Any:
    """A possible value as a value: an object in it holds a list of possible values for each key, at every depth."""
    if isinstance(value, dict):
        return _first_values(value)
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _schema(schema: Any) -> Any:
    """A schema with JSON schema's types, at every depth; an unknown type is text, as BFCL's handlers take it."""
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    if isinstance(schema.get("type"), str):
        found["type"] = JSON_TYPES.get(schema["type"], "string")
    if isinstance(schema.get("properties"), dict):
        found["properties"] = {
            name: {"type": "string", **_schema(each)} if isinstance(each, dict) else each
            for name, each in schema["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if key in schema:
            found[key] = _schema(schema[key])
    return found


def _offered(function: Json) -> Json:
    """A function with a JSON schema. Raises ValueError where its parameters are no object."""
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ValueError(f"expected parameters as an object, found {parameters!r:.80}")
    schema = {"type": "object", "properties": {}, **_schema(parameters)}
    return function | {"parameters": schema | {"type": "object"}}


def _questions(folder: Path) -> list[Json]:
    """The questions of every section. One file lists ids of others only."""
    paths = [path for path in _files(folder, "BFCL_v4_*.json") if path.stem != "BFCL_v4_format_sensitivity"]
    return [record for path in paths for record in read_records(path)]


def _files(folder: Path, pattern: str) -> list[Path]:
    files = sorted((folder / DATA).glob(pattern))
    if not files:
        raise RowError(folder / DATA, f"holds no {pattern}", "Name a folder that holds bfcl_eval/ of bfcl-eval")
    return files
