"""Tools from functions: schemas against ones written by hand, calls checked, results capped, records replayed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from align.errors import ConfigError
from align.rows import ToolCall, tools_of, tools_text
from align.tools.catalog import ToolsConfig, make_registry
from align.tools.registry import Registry, load_functions, tool_of
from align.tools.replay import CallRecord, Recorder, Replay, ReplayError, differences
from align.tools.results import ToolError


def book_table(
    title: str, guests: int, seats: list[str] | None = None, area: Literal["inside", "garden"] = "inside"
) -> dict:
    """Book a table at a restaurant.

    Args:
        title: Name of the restaurant.
        guests: How many people
            will come.
        area: Where to sit.
    """
    return {"title": title, "guests": guests, "seats": seats, "area": area}


BOOK_TABLE = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "description": "Name of the restaurant."},
        "guests": {"type": "integer", "description": "How many people will come."},
        "seats": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "default": None},
        "area": {"type": "string", "enum": ["inside", "garden"], "description": "Where to sit.", "default": "inside"},
    },
    "required": ["title", "guests"],
}


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=json.dumps(arguments))


def test_the_schema_is_the_one_that_a_person_would_write() -> None:
    spec = tool_of(book_table).spec
    assert spec.description == "Book a table at a restaurant."
    assert spec.parameters == BOOK_TABLE
    assert tools_of(tools_text([spec])) == (spec,)


def test_a_numpy_style_docstring_gives_the_same_descriptions() -> None:
    def area(width: float, copy: bool = False) -> float:
        """Area of a square.

        Parameters
        ----------
        width : float
            In meters.
        """
        return width**2

    assert tool_of(area).spec.parameters == {
        "type": "object",
        "properties": {
            "width": {"type": "number", "description": "In meters."},
            "copy": {"type": "boolean", "default": False},
        },
        "required": ["width"],
    }


def test_a_call_runs_with_its_defaults_and_gives_json() -> None:
    result = Registry([tool_of(book_table)]).call(call("book_table", title="Ünï", guests=2))
    assert result.ok
    assert result.text == '{"title": "Ünï", "guests": 2, "seats": null, "area": "inside"}'


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"title": "x", "guests": "2"}, "Error: book_table: argument 'guests': Input should be a valid integer"),
        ({"title": "x", "guests": True}, "Error: book_table: argument 'guests': Input should be a valid integer"),
        ({"title": "x", "guests": 2, "when": "now"}, "Error: book_table: unknown argument 'when'"),
        ({"title": "x", "guests": 2, "area": "up"}, "Error: book_table: argument 'area': "
         "Input should be 'inside' or 'garden'"),
        ({"guests": 2}, "Error: book_table: missing argument 'title'"),
        ({"seats": [1]}, "Error: book_table: missing argument 'title'; missing argument 'guests'; "
         "argument 'seats.0': Input should be a valid string"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named_for_the_model(arguments: dict[str, Any], words: str) -> None:
    result = Registry([tool_of(book_table)]).call(call("book_table", **arguments))
    assert (result.ok, result.error, result.text) == (False, "arguments", words)


def test_unknown_names_and_exceptions_are_results_but_a_broken_setup_ends_the_run() -> None:
    def divide(a: float, b: float) -> float:
        """Divide."""
        return a / b

    def leave() -> str:
        """Leave."""
        raise SystemExit(3)

    def unset() -> str:
        """Needs a key."""
        raise ConfigError("KEY", "no key", "Set it")

    tools = Registry([tool_of(divide), tool_of(leave), tool_of(unset)])
    assert tools.call(call("dvide")).text == "Error: there is no function 'dvide'. Functions: divide, leave, unset."
    assert tools.call(call("divide", a=1, b=0)).text == "Error: ZeroDivisionError: float division by zero"
    assert tools.call(call("leave")).error == "exception"
    with pytest.raises(ConfigError):
        tools.call(call("unset"))


def test_results_are_capped_and_fit_for_utf8() -> None:
    def echo(text: str) -> str:
        """Echo."""
        return text + "\ud800"

    result = Registry([tool_of(echo)], max_result_characters=60).call(call("echo", text="x" * 90))
    assert len(result.text) <= 60
    assert "characters cut" in result.text
    assert result.text.endswith("\ufffd"), "the half character that it ends with was replaced"


def test_a_function_that_no_schema_can_say_is_refused() -> None:
    def silent(a: int) -> int:
        return a

    def loose(a) -> int:
        """Untyped."""
        return a

    def many(*a: int) -> int:
        """Any number."""
        return sum(a)

    def liar(a: int) -> int:
        """Describe another.

        Args:
            b: Is not there.
        """
        return a

    for function, words in [
        (silent, "requires a docstring"), (loose, "a has no type"), (many, "variadic"), (liar, r"describes \['b'\]")
    ]:  # fmt: skip
        with pytest.raises(ToolError, match=words):
            tool_of(function)
    with pytest.raises(ToolError, match="two tools have this name"):
        Registry([tool_of(book_table), tool_of(book_table)])


USER_FILE = '''
from __future__ import annotations
from dataclasses import dataclass
from math import sqrt

@dataclass
class Point:
    x: float
    y: float

def distance(a: Point) -> float:
    """Distance from the origin."""
    return sqrt(a["x"] ** 2 + a["y"] ** 2) if isinstance(a, dict) else sqrt(a.x**2 + a.y**2)

def _hidden() -> int:
    return 1
'''


def test_functions_of_a_file_become_tools(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(USER_FILE)
    tools = make_registry(ToolsConfig(functions=(file,)))
    assert list(tools.tools) == ["distance"]
    assert tools.call(call("distance", a={"x": 3, "y": 4})).text == "5.0"
    before = tools.identity("distance")
    assert load_functions(file)[0].identity == before
    file.write_text(USER_FILE.replace("sqrt(a.x**2", "2 * sqrt(a.x**2"))
    assert load_functions(file)[0].identity != before, "another source is another tool"
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(ToolError, match="no public function"):
        load_functions(tmp_path / "empty.py")


def recorded() -> Recorder:
    recorder = Recorder(Registry([tool_of(book_table)]))
    recorder.call(call("book_table", title="A", guests=1))
    recorder.call(call("book_table", title="B"))
    recorder.call(call("nothing"))
    return recorder


def test_records_are_the_same_from_run_to_run_and_go_through_json() -> None:
    first, second = recorded(), recorded()
    assert first.records == second.records
    assert len(first.seconds) == 3
    lines = [record.model_dump_json() for record in first.records]
    assert "seconds" not in "".join(lines)
    assert [CallRecord.model_validate_json(line) for line in lines] == first.records


def test_a_replay_gives_the_recorded_results_without_the_tools() -> None:
    recorder = recorded()
    replay = Replay(recorder.records, "dialog 7")
    spaced = ToolCall(name="book_table", arguments='{"guests":1,   "title":"A"}')
    results = [replay.call(spaced), replay.call(recorder.records[1].call), replay.call(recorder.records[2].call)]
    assert [(result.text, result.ok, result.error) for result in results] == [
        (record.text, record.ok, record.error) for record in recorder.records
    ]
    replay.end()


@pytest.mark.slow
def test_a_replay_that_differs_is_named() -> None:
    records = recorded().records
    with pytest.raises(ReplayError, match=r"dialog 7, call 1: book_table: argument 'guests': expected 1, found true"):
        Replay(records, "dialog 7").call(call("book_table", title="A", guests=True))
    with pytest.raises(ReplayError, match=r"call 1: expected book_table, found other"):
        Replay(records).call(call("other"))
    with pytest.raises(ReplayError, match=r"call 1: expected no more than the 0 recorded calls, found book_table"):
        Replay([]).call(records[0].call)
    with pytest.raises(ReplayError, match=r"call 1: expected 3 calls, found 0; the next was book_table"):
        Replay(records).end()


def test_a_live_run_that_differs_is_named() -> None:
    records = recorded().records
    tools = Registry([tool_of(book_table)])
    assert differences(records, tools) == []
    other = records[0].model_copy(update={"text": "something else"})
    assert differences([other, *records[1:]], tools)[0].startswith("call 1, book_table: text was 'something else', is ")


@pytest.mark.slow
def test_the_catalogue_loads_no_engine_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = {"torch", "numpy", "sympy", "pint", "bm25s", "lxml"}
    code = f"import sys, align.tools.catalog; print(sorted({engines} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(ConfigError, match=r"tools.documents: expected a folder, found None"):
        make_registry(ToolsConfig(built_in=("brave_search",)))
    monkeypatch.delenv("WOLFRAM_APP_ID", raising=False)
    with pytest.raises(
        ConfigError, match=r"WOLFRAM_APP_ID: Wolfram Alpha requires a key, and the environment has none"
    ):
        make_registry(ToolsConfig(built_in=("wolfram_alpha",), calculator="api"))
