"""Dialogs with tools in other toolkits' forms become our rows; what is broken is named with file, line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from align.assets import path_of
from align.errors import RowError
from align.formats.bfcl import first_answer
from align.formats.rows import to_row
from align.jsonl import read_rows
from align.rows import Message, PromptRow, Row, SFTRow, ToolCall, tools_of
from data_builders.packaged import tool_dialogs

HERE = "data/dialogs.jsonl:7"

TIDES = {
    "name": "get_tides",
    "description": "Times of high and low water",
    "parameters": {
        "type": "object",
        "properties": {"harbor": {"type": "string", "description": "Name of the harbor"}},
        "required": ["harbor"],
    },
}
FERRY = {"name": "book_ferry", "description": "", "parameters": {"type": "object", "properties": {}}}
GLAIVE_SYSTEM = (
    "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
    + json.dumps(TIDES, indent=4)
    + "\n\n"
    + json.dumps(FERRY, indent=4)
    + "\n"
)
GLAIVE_CHAT = (
    "USER: When is high water at Land's End?\n\n\n"
    'ASSISTANT: <functioncall> {"name": "get_tides", "arguments": \'{"harbor": "Land\'s End"}\'} <|endoftext|>\n\n\n'
    'FUNCTION RESPONSE: {"high": ["06:10", "18:32"]}\n\n\n'
    "ASSISTANT: At 06:10 and at 18:32. Two notes:\n\n1. Check the wind.\n2. Bring boots. <|endoftext|>\n\n\n"
    "USER: Thank you!\n\n\nASSISTANT: You're welcome! <|endoftext|>\n"
)


def asked(text: str) -> Message:
    return Message(role="user", content=text)


def said(text: str, *calls: tuple[str, dict[str, Any]]) -> Message:
    made = tuple(ToolCall(name=name, arguments=json.dumps(arguments)) for name, arguments in calls)
    return Message(role="assistant", content=text, tool_calls=made)


def returned(text: str, name: str | None = None) -> Message:
    return Message(role="tool", content=text, name=name)


# Glaive


def test_a_glaive_dialog_becomes_messages_calls_and_functions() -> None:
    row = to_row({"system": GLAIVE_SYSTEM, "chat": GLAIVE_CHAT}, SFTRow, HERE)
    assert row.messages == (
        Message(role="system", content="You are a helpful assistant."),
        asked("When is high water at Land's End?"),
        said("", ("get_tides", {"harbor": "Land's End"})),
        returned('{"high": ["06:10", "18:32"]}', "get_tides"),
        said("At 06:10 and at 18:32. Two notes:\n\n1. Check the wind.\n2. Bring boots."),
        asked("Thank you!"),
        said("You're welcome!"),
    )
    assert [tool.model_dump() for tool in tools_of(row.tools)] == [TIDES, FERRY]
    assert row.source == "dialogs"


def test_a_glaive_dialog_without_functions_keeps_its_system_message() -> None:
    system = "SYSTEM: You are a helpful assistant, with no access to external functions."
    row = to_row({"system": system, "chat": "USER: Hi\n\n\nASSISTANT: Hello! <|endoftext|>"}, SFTRow, HERE)
    assert row.messages == (Message(role="system", content=system[8:]), asked("Hi"), said("Hello!"))
    assert row.tools == ""


@pytest.mark.parametrize(
    "written, arguments",
    [
        ('{"name": "f", "arguments": \'{"a": 1, "b": [true, null]}\'}', {"a": 1, "b": [True, None]}),
        ('{"name": "f", "arguments": {"a": "plain"}}', {"a": "plain"}),
        ('{"name": "f", "arguments": "{\\"a\\": 2}"}', {"a": 2}),
        ('{"name": "f", "arguments": \'{}\'}', {}),
        ('{"name": "f"}', {}),
        (r"""{"name": "f", "arguments": '{"a": "it\'s a \"tie\", C:\\"}'}""", {"a": 'it\'s a "tie", C:\\'}),
        ('{"name": "f",\n "arguments": \'{"text": "one\ntwo"}\'}', {"text": "one\ntwo"}),
        ('{"name": "f", "arguments": \'{"code": "print(\'}\')"}\'}', {"code": "print('}')"}),
    ],
)
def test_glaives_ways_to_write_arguments(written: str, arguments: dict[str, Any]) -> None:
    chat = f"USER: Do it\n\n\nASSISTANT: Let me see. <functioncall> {written} <|endoftext|>"
    assert to_row({"system": "", "chat": chat}, SFTRow, HERE).messages[1] == said("Let me see.", ("f", arguments))


def test_several_calls_and_outputs_of_glaive_meet_in_order() -> None:
    chat = (
        'USER: Both\nASSISTANT: <functioncall> {"name": "f", "arguments": \'{"n": 1}\'} '
        '<functioncall> {"name": "g", "arguments": \'{"n": 2}\'} <|endoftext|>'
        "FUNCTION RESPONSE: one\nFUNCTION RESPONSE: two\nASSISTANT: Done <|endoftext|>"
    )
    row = to_row({"system": GLAIVE_SYSTEM, "chat": chat}, SFTRow, HERE)
    assert row.messages[2:5] == (said("", ("f", {"n": 1}), ("g", {"n": 2})), returned("one", "f"), returned("two", "g"))


# OpenAI and ShareGPT


def test_openais_parallel_calls_keep_ids_apart_over_several_turns() -> None:
    def call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}

    record = {
        "messages": [
            {"role": "user", "content": "Tides and a ferry?"},
            {"role": "assistant", "tool_calls": [call("1", "get_tides", '{"harbor": "Oban"}'), call("2", "f", "{}")]},
            {"role": "tool", "tool_call_id": "2", "content": "two"},
            {"role": "tool", "tool_call_id": "1", "content": "one"},
            {"role": "assistant", "content": "Now the ferry.", "tool_calls": [call("3", "book_ferry", "{}")]},
            {"role": "tool", "tool_call_id": "3", "content": "three"},
            {"role": "assistant", "content": "Done."},
        ],
        "tools": [{"type": "function", "function": TIDES}],
        "parallel_tool_calls": True,
    }
    row = to_row(record, SFTRow, HERE)
    assert row.messages[1:] == (
        said("", ("get_tides", {"harbor": "Oban"}), ("f", {})),
        returned("two", "f"),
        returned("one", "get_tides"),
        said("Now the ferry.", ("book_ferry", {})),
        returned("three", "book_ferry"),
        said("Done."),
    )


def test_openais_older_functions_and_function_call_are_read() -> None:
    record = {
        "messages": [
            {"role": "user", "content": "Tides?"},
            {"role": "assistant", "content": None, "function_call": {"name": "get_tides", "arguments": "{}"}},
            {"role": "function", "name": "get_tides", "content": "06:10"},
            {"role": "assistant", "content": "06:10."},
        ],
        "functions": [TIDES],
    }
    row = to_row(record, SFTRow, HERE)
    assert row.messages[1:3] == (said("", ("get_tides", {})), returned("06:10", "get_tides"))
    assert [tool.model_dump() for tool in tools_of(row.tools)] == [TIDES]


def test_sharegpts_observations_bear_the_names_of_their_calls_where_each_has_one() -> None:
    def sharegpt(*turns: tuple[str, str]) -> tuple[Message, ...]:
        conversations = [{"from": who, "value": value} for who, value in turns]
        return to_row({"conversations": conversations, "tools": json.dumps([TIDES])}, SFTRow, HERE).messages

    one = json.dumps({"name": "get_tides", "arguments": {"harbor": "Oban"}})
    two = json.dumps([{"name": "f", "arguments": {}}, {"name": "g", "arguments": "{}"}])
    first, last = ("human", "Tides?"), ("gpt", "Done.")
    single = sharegpt(first, ("function_call", one), ("observation", "06:10"), last)
    assert single[1:3] == (said("", ("get_tides", {"harbor": "Oban"})), returned("06:10", "get_tides"))
    both = sharegpt(first, ("function_call", two), ("observation", "1"), ("observation", "2"), last)
    assert both[2:4] == (returned("1", "f"), returned("2", "g"))
    joined = sharegpt(first, ("function_call", two), ("observation", "[1, 2]"), last)
    assert joined[2] == returned("[1, 2]")


@pytest.mark.asset("llamafactory")
def test_real_sharegpt_dialogs_are_read_as_the_builders_own_reader_reads_them() -> None:
    records = json.loads((path_of("llamafactory") / "data/glaive_toolcall_en_demo.json").read_text(encoding="utf-8"))
    dialogs = tool_dialogs()
    assert len(records) == len(dialogs) == 300
    for number, (record, dialog) in enumerate(zip(records, dialogs, strict=True)):
        row = to_row(record, SFTRow, f"glaive.json:{number}")
        assert row.messages == dialog.messages
        assert tools_of(row.tools) == dialog.tools


# BFCL

BFCL: dict[str, Any] = {
    "id": "simple_python_900",
    "question": [[{"role": "user", "content": "Which way to Oban from here, for 2 people?"}]],
    "function": [
        {
            "name": "route.find",
            "description": "Find a way.",
            "parameters": {
                "type": "dict",
                "properties": {
                    "to": {"type": "string", "description": "Where to."},
                    "type": {"type": "dict", "properties": {"km": {"type": "float"}, "by": {"type": "tuple"}}},
                    "people": {"type": "integer", "default": 1},
                    "stops": {"type": "array", "items": {"type": "dict", "properties": {"n": {"type": "any"}}}},
                    "mystery": {"type": "quaternion"},
                    "bare": {"description": "No type"},
                },
                "required": ["to", "people"],
            },
        }
    ],
    "ground_truth": [
        {
            "route.find": {
                "to": ["Oban", "Oban, Scotland"],
                "type": ["", {"km": [1.5]}],
                "people": ["", 2],
                "stops": [[{"n": ["a", "b"], "m": ["", 1]}]],
            }
        }
    ],
}


def test_a_bfcl_record_becomes_a_prompt_and_its_first_possible_call() -> None:
    row = to_row(BFCL, SFTRow, HERE)
    call = ("route.find", {"to": "Oban", "people": 2, "stops": [{"n": "a"}]})
    assert row.messages == (asked("Which way to Oban from here, for 2 people?"), said("", call))
    assert row.id == "simple_python_900"
    prompt = to_row({key: BFCL[key] for key in ("id", "question", "function")}, PromptRow, HERE)
    assert (prompt.prompt, prompt.tools) == (row.messages[:1], row.tools)


def test_bfcls_types_become_json_schemas_at_every_depth() -> None:
    (tool,) = tools_of(to_row(BFCL, SFTRow, HERE).tools)
    assert tool.name == "route.find"
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "to": {"type": "string", "description": "Where to."},
            "type": {"type": "object", "properties": {"km": {"type": "number"}, "by": {"type": "array"}}},
            "people": {"type": "integer", "default": 1},
            "stops": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "string"}}}},
            "mystery": {"type": "string"},
            "bare": {"type": "string", "description": "No type"},
        },
        "required": ["to", "people"],
    }


def test_parallel_answers_are_parallel_calls() -> None:
    truth = [{"f": {"a": [1]}}, {"f": {"a": [2, 3]}}, {"g": {}}]
    found = first_answer(truth, [], HERE)
    assert [(call["name"], json.loads(call["arguments"])) for call in found] == [
        ("f", {"a": 1}),
        ("f", {"a": 2}),
        ("g", {}),
    ]


# What is broken

ERRORS: list[tuple[type[Row], dict[str, Any], str]] = [
    (SFTRow, {"system": 5, "chat": "USER: a"}, "system: expected text, found 5. Write it as text."),
    (SFTRow, {"system": "", "chat": ["USER: a"]}, "chat: expected text, found ['USER: a']"),
    (
        SFTRow,
        {"system": "", "chat": "Hello there"},
        "chat: expected text that begins with USER: or ASSISTANT:, found 'Hello",
    ),
    (
        SFTRow,
        {"system": 'SYSTEM: Use -\n{"name": "f",', "chat": "USER: a"},
        "system: holds a function that is not JSON",
    ),
    (SFTRow, {"system": 'SYSTEM: Use -\n{"n": 1}', "chat": "USER: a"}, "system: tools: expected function schemas"),
    (
        SFTRow,
        {"chat": 'USER: a\nASSISTANT: <functioncall> {"name": "f", "arguments": \'{"a": \'}'},
        "chat[1]: holds <functioncall> with a call that is not JSON",
    ),
    (SFTRow, {"chat": "USER: a\nASSISTANT: <functioncall> [1]"}, "chat[1]: expected a call with a function's name"),
    (
        SFTRow,
        {"chat": 'USER: a\nASSISTANT: <functioncall> {"name": "f", "arguments": \'[1]\'}'},
        "chat[1].arguments: expected a JSON object, found [1]",
    ),
    (SFTRow, {"chat": "USER: Hi"}, "messages: "),
    (SFTRow, {"messages": [], "functions": "{"}, "messages: expected text or a list of messages"),
    (
        SFTRow,
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "functions": "{"},
        "functions: expected a JSON list of function schemas",
    ),
    (SFTRow, {**BFCL, "question": [[], []]}, "question: expected [[messages]] of one turn, found 2 turns"),
    (SFTRow, {**BFCL, "question": "Where?"}, "question: expected [[messages]] of one turn, found 'Where?'"),
    (PromptRow, {**BFCL, "question": [[{"role": "bot"}]]}, "question[0].role: expected a role, found 'bot'"),
    (PromptRow, {**BFCL, "function": "route.find"}, "function: expected a list of functions, found 'route.find'"),
    (PromptRow, {**BFCL, "function": [{"name": "f", "parameters": "x"}]}, "function: expected parameters as an object"),
    (PromptRow, {**BFCL, "function": [{"description": "x"}]}, "function: tools: expected function schemas with a name"),
    (
        SFTRow,
        {key: BFCL[key] for key in ("question", "function")},
        "ground_truth: expected possible answers, found nothing. Add the possible answers of the same id",
    ),
    (SFTRow, {**BFCL, "ground_truth": []}, "ground_truth: holds no call"),
    (
        SFTRow,
        {**BFCL, "ground_truth": ["cd('x')"]},
        "ground_truth[0]: expected {function: {argument: [possible values]}}",
    ),
    (
        SFTRow,
        {**BFCL, "ground_truth": [{"f": {"a": 1}}]},
        "ground_truth[0].f.a: expected a list of possible values, found 1",
    ),
]


@pytest.mark.parametrize("kind, record, error", ERRORS)
def test_errors_name_file_line_and_field(tmp_path: Path, kind: type[Row], record: dict[str, Any], error: str) -> None:
    path = tmp_path / "dialogs.jsonl"
    path.write_text("\n" + json.dumps(record) + "\n")
    with pytest.raises(RowError) as caught:
        read_rows(path, kind)
    assert str(caught.value).startswith(f"{path}:2: {error}")


def test_nulls_with_which_arrow_fills_arguments_are_not_arguments(tmp_path: Path) -> None:
    def row(name: str, arguments: Any) -> dict[str, Any]:
        call = {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}
        output = {"role": "tool", "tool_call_id": "c", "content": "1"}
        answer = {"role": "assistant", "content": "One."}
        asked = {"role": "user", "content": name}
        return {"messages": [asked, {"role": "assistant", "content": None, "tool_calls": [call]}, output, answer]}

    records = [row("f", {"x": 1, "at": {"a": 1}}), row("g", {"y": [1, 2], "at": {"b": 2}})]
    datasets.Dataset.from_list(records).to_parquet(tmp_path / "a.parquet")
    rows = read_rows(tmp_path / "a.parquet", SFTRow)
    assert [row.messages[1].tool_calls[0].parsed() for row in rows] == [
        {"x": 1, "at": {"a": 1}},
        {"y": [1, 2], "at": {"b": 2}},
    ]
    call = {"name": "f", "arguments": {"x": 1, "y": None}}
    ours = {
        "id": "1",
        "source": "s",
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}],
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(ours) + "\n")
    (read,) = read_rows(tmp_path / "a.jsonl", SFTRow)
    assert read.messages[1].tool_calls[0].parsed() == {"x": 1}
    assert ToolCall(**call).parsed() == {"x": 1, "y": None}  # what a model wrote stays, so that it can be judged
    written = to_row(row("f", '{"x": null}'), SFTRow, "a.jsonl:1")  # somebody wrote this null
    assert written.messages[1].tool_calls[0].parsed() == {"x": None}
