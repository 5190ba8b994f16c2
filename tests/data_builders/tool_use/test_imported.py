"""Tool dialogs become one row a turn, and a held-out function is never seen in training."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from align.jsonl import read_rows, write_rows
from align.manifest import read_data_manifest
from align.rows import Message, SFTRow, ToolCall, ToolSpec, tools_of, tools_text
from data_builders import packaged
from data_builders.packaged import ToolDialog
from data_builders.tool_use.imported import (
    ImportedDialogsConfig,
    build,
    function_names,
    held_out_functions,
    kind_of,
    tool_rows,
)


def dialog(name: str, *more: str) -> ToolDialog:
    messages = (
        Message(role="user", content=f"Please use {name} for me now."),
        Message(role="assistant", tool_calls=(ToolCall(name=name, arguments='{"n": 1}'),)),
        Message(role="tool", content='{"n": 2}', name=name),
        Message(role="assistant", content=f"{name} says 2."),
        Message(role="user", content="Thanks."),
        Message(role="assistant", content=f"{name} was glad to help."),
    )
    return ToolDialog(messages, tuple(ToolSpec(name=each) for each in (name, *more)))


def test_each_assistant_turn_is_a_row_that_ends_with_it() -> None:
    train, heldout = tool_rows([dialog("f")], ImportedDialogsConfig(heldout_ratio=0), seed=0)
    assert heldout.rows == []
    assert [kind_of(row) for row in train.rows] == ["call", "answer", "no-call"]
    assert [len(row.messages) for row in train.rows] == [2, 4, 6]
    assert [row.source.rsplit("/", 1)[1] for row in train.rows] == ["call", "answer", "no-call"]
    assert all(tools_of(row.tools)[0].name == "f" for row in train.rows)


def test_a_dialog_with_functions_of_both_sides_is_on_neither() -> None:
    dialogs = [dialog(f"f{number}") for number in range(20)]
    held = held_out_functions(dialogs, 0.25, seed=0)
    assert len(held) == 5
    inside, outside = sorted(held)[0], next(f"f{n}" for n in range(20) if f"f{n}" not in held)
    train, heldout = tool_rows([*dialogs, dialog(inside, outside)], ImportedDialogsConfig(heldout_ratio=0.25), seed=0)
    assert train.dropped["functions on both sides"] == 3
    assert {name for row in heldout.rows for name in names(row)}.isdisjoint(n for row in train.rows for n in names(row))


def names(row: SFTRow) -> set[str]:
    return function_names(row.messages, tools_of(row.tools))


def test_long_rows_and_surplus_rows_are_counted() -> None:
    dialogs = [dialog(f"f{number}") for number in range(10)] + [dialog("f" * 400)]
    config = ImportedDialogsConfig(heldout_ratio=0.3, max_characters=500, heldout_limits={"call": 1, "answer": 0})
    train, heldout = tool_rows(dialogs, config, seed=0)
    kinds = [kind_of(row) for row in heldout.rows]
    assert kinds.count("call") == 1
    assert kinds.count("answer") == 0
    assert train.dropped["over max_characters"] + heldout.dropped["over max_characters"] == 3
    assert train.counts["read"] + heldout.counts["read"] == 33


def test_a_users_dialogs_become_two_files(tmp_path: Path) -> None:
    rows = [
        SFTRow(id=str(n), source="mine", messages=d.messages, tools=tools_text(d.tools))
        for n, d in enumerate(dialog(f"f{number}") for number in range(12))
    ]
    write_rows(tmp_path / "mine.jsonl", rows)
    out = build(ImportedDialogsConfig(path=tmp_path / "mine.jsonl", limits={"call": 4}), tmp_path / "out")
    train, heldout = (read_rows(out / f"{name}.jsonl", SFTRow) for name in ("tools", "tools.heldout"))
    assert [kind_of(row) for row in train].count("call") == 4
    assert {row.source for row in heldout} == {"mine/call", "mine/answer", "mine/no-call"}
    assert read_data_manifest(out / "tools.jsonl")["inputs"]


TIDES = ToolSpec(
    name="get_tides",
    parameters={
        "type": "dict",
        "properties": {"harbor": {"type": "string"}, "height": {"type": "float"}},
        "required": ["harbor"],
    },
)
BROKEN = ToolSpec(name="sail", parameters={"type": "object", "properties": "none"})


def harbor_dialog(bad: ToolCall, trained: bool = True) -> ToolDialog:
    """Two good turns, a bad call, and two turns after it."""
    good = ToolCall(name="get_tides", arguments='{"harbor": "Dover", "height": 2}')
    messages = (
        Message(role="user", content="When is high water at Dover today?"),
        Message(role="assistant", tool_calls=(good,)),
        Message(role="tool", content="06:10", name="get_tides"),
        Message(role="assistant", content="At 06:10."),
        Message(role="user", content="And at the next harbor to the east?"),
        Message(role="assistant", tool_calls=(good, bad), trained=trained),
        Message(role="tool", content="?", name=bad.name),
        Message(role="assistant", content="I could not find out."),
        Message(role="user", content="Never mind."),
        Message(role="assistant", content="Sorry!"),
    )
    return ToolDialog(messages, (TIDES, BROKEN))


@pytest.mark.parametrize(
    "bad, reason",
    [
        (ToolCall(name="get_waves", arguments='{"harbor": "Deal"}'), "function not offered"),
        (ToolCall(name="get_tides", arguments='{"harbor": ["Deal"]}'), "arguments do not match the schema"),
        (ToolCall(name="sail", arguments="{}"), "schema is not valid"),
    ],
)
def test_a_bad_call_drops_its_turn_and_the_later_ones_and_no_earlier_one(bad: ToolCall, reason: str) -> None:
    train, heldout = tool_rows([harbor_dialog(bad), dialog("f")], ImportedDialogsConfig(heldout_ratio=0), seed=0)
    assert train.dropped == {reason: 3}
    assert [kind_of(row) for row in train.rows] == ["call", "answer", "call", "answer", "no-call"]
    assert not heldout.rows
    assert all(call != bad for row in train.rows for message in row.messages for call in message.tool_calls)
    assert train.counts["read"] == 8


def test_a_bad_call_counts_on_the_side_of_its_dialog() -> None:
    bad = ToolCall(name="get_tides")
    train, heldout = tool_rows([harbor_dialog(bad)], ImportedDialogsConfig(heldout_ratio=0.99), seed=0)
    assert not train.rows
    assert not train.dropped
    assert heldout.dropped == {"arguments do not match the schema": 3}
    assert len(heldout.rows) == 2


def test_a_bad_call_of_a_held_out_function_leaves_the_turns_before_it_in_training() -> None:
    dialogs = [dialog(f"f{number}") for number in range(20)]
    held = held_out_functions(dialogs, 0.25, seed=0)
    bad = ToolCall(name=sorted(held)[0], arguments="{}")
    train, heldout = tool_rows([*dialogs, harbor_dialog(bad)], ImportedDialogsConfig(heldout_ratio=0.25), seed=0)
    assert train.dropped == {"function not offered": 3}
    assert sum("get_tides" in names(row) for row in train.rows) == 2
    assert not heldout.dropped


def test_a_bad_call_that_is_context_only_drops_nothing() -> None:
    """Rows that teach what to do after a call that failed."""
    failed = harbor_dialog(ToolCall(name="get_waves"), trained=False)
    train, _ = tool_rows([failed], ImportedDialogsConfig(heldout_ratio=0), seed=0)
    assert not train.dropped
    assert len(train.rows) == 5


SCHEMA = {
    "name": "get_tides",
    "description": "Times of high water",
    "parameters": {
        "type": "dict",
        "properties": {"harbor": {"type": "string", "description": "Where"}, "days": {"type": "tuple"}},
        "required": ["harbor"],
    },
}
RECORDS = {
    "glaive": lambda harbor: {
        "system": "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
        + json.dumps(SCHEMA, indent=4),
        "chat": "USER: When is high water?\n\n\nASSISTANT: <functioncall> "
        f'{{"name": "get_tides", "arguments": \'{json.dumps({"harbor": harbor})}\'}} <|endoftext|>\n\n\n'
        'FUNCTION RESPONSE: {"high": "06:10"}\n\n\nASSISTANT: At 06:10. <|endoftext|>\n',
    },
    "openai": lambda harbor: {
        "messages": [
            {"role": "user", "content": "When is high water?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "get_tides", "arguments": json.dumps({"harbor": harbor})},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "06:10"},
            {"role": "assistant", "content": "At 06:10."},
        ],
        "tools": [{"type": "function", "function": SCHEMA}],
    },
    "sharegpt": lambda harbor: {
        "conversations": [
            {"from": "human", "value": "When is high water?"},
            {"from": "function_call", "value": json.dumps({"name": "get_tides", "arguments": {"harbor": harbor}})},
            {"from": "observation", "value": "06:10"},
            {"from": "gpt", "value": "At 06:10."},
        ],
        "tools": json.dumps([SCHEMA]),
    },
    "bfcl": lambda harbor: {
        "id": f"simple_{harbor}",
        "question": [[{"role": "user", "content": "When is high water?"}]],
        "function": [SCHEMA],
        "ground_truth": [{"get_tides": {"harbor": [harbor, "a port"], "days": ["", [1, 2]]}}],
    },
}


@pytest.mark.parametrize("form", RECORDS)
def test_a_file_of_each_form_builds_rows_and_leaves_bad_calls_out(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"{form}.jsonl"
    path.write_text("".join(json.dumps(RECORDS[form](harbor)) + "\n" for harbor in ("Dover", 7)))
    out = build(ImportedDialogsConfig(path=path, heldout_ratio=0), tmp_path / "out")
    rows = read_rows(out / "tools.jsonl", SFTRow)
    turns = {f"{form}/call": 1} if form == "bfcl" else {f"{form}/call": 1, f"{form}/answer": 1}
    assert Counter(row.source for row in rows) == turns
    for row in rows:
        calls = [call for message in row.messages for call in message.tool_calls]
        assert calls == [ToolCall(name="get_tides", arguments='{"harbor": "Dover"}')]
        assert tools_of(row.tools)[0].parameters["required"] == ["harbor"]
    dropped = read_data_manifest(out / "tools.jsonl")["counts"]["dropped"]
    assert dropped == {"arguments do not match the schema": len(turns)}


@pytest.mark.asset("llamafactory")
def test_of_the_packaged_calls_one_gives_a_list_for_a_number() -> None:
    dialogs = packaged.tool_dialogs()
    train, heldout = tool_rows(dialogs, ImportedDialogsConfig(heldout_ratio=0), seed=0)
    assert not heldout.rows
    reasons = {reason: count for reason, count in train.dropped.items() if "match" in reason or "valid" in reason}
    assert reasons == {"arguments do not match the schema": 2}
    assert "function not offered" not in train.dropped
    calls = [call for row in train.rows for message in row.messages for call in message.tool_calls]
    assert len(calls) > 200
    assert not [call for call in calls if isinstance(call.parsed().get("calories_per_item"), list)]


@pytest.mark.asset("llamafactory")
def test_the_packaged_dialogs_keep_functions_apart_and_their_schemas_whole() -> None:
    dialogs = packaged.tool_dialogs()
    assert len(dialogs) == 300
    assert sum(bool(call) for d in dialogs for m in d.messages for call in m.tool_calls) == 211
    train, heldout = tool_rows(dialogs, ImportedDialogsConfig(heldout_ratio=0.25), seed=0)
    seen, held = ({name for row in part.rows for name in names(row)} for part in (train, heldout))
    assert seen
    assert held
    assert seen.isdisjoint(held)
    assert len({row.id for row in train.rows + heldout.rows}) == len(train.rows) + len(heldout.rows)
    for row in train.rows + heldout.rows:
        for tool in tools_of(row.tools):
            assert None not in tool.parameters.values()
            assert set(tool.parameters.get("required", ())) <= set(tool.parameters["properties"])
