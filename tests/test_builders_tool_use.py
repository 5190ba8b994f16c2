"""Tool dialogs become one row a turn, and a held-out function is never seen in training."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.jsonl import read_rows, write_rows
from align.manifest import read_data_manifest
from align.rows import Message, SFTRow, ToolCall, ToolSpec, tools_of, tools_text
from data_builders import sources
from data_builders.sources import ToolDialog
from data_builders.tool_use import ToolUseConfig, build, function_names, held_out_functions, kind_of, tool_rows


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
    train, heldout = tool_rows([dialog("f")], ToolUseConfig(heldout_share=0), seed=0)
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
    train, heldout = tool_rows([*dialogs, dialog(inside, outside)], ToolUseConfig(heldout_share=0.25), seed=0)
    assert train.dropped["functions on both sides"] == 3
    assert {name for row in heldout.rows for name in names(row)}.isdisjoint(n for row in train.rows for n in names(row))


def names(row: SFTRow) -> set[str]:
    return function_names(row.messages, tools_of(row.tools))


def test_long_rows_and_surplus_rows_are_counted() -> None:
    dialogs = [dialog(f"f{number}") for number in range(10)] + [dialog("f" * 400)]
    config = ToolUseConfig(heldout_share=0.3, max_characters=500, heldout_limits={"call": 1, "answer": 0})
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
    out = build(ToolUseConfig(path=tmp_path / "mine.jsonl", limits={"call": 4}), tmp_path / "out")
    train, heldout = (read_rows(out / f"{name}.jsonl", SFTRow) for name in ("tools", "tools.heldout"))
    assert [kind_of(row) for row in train].count("call") == 4
    assert {row.source for row in heldout} == {"mine/call", "mine/answer", "mine/no-call"}
    assert read_data_manifest(out / "tools.jsonl")["inputs"]


@pytest.mark.asset("llamafactory")
def test_the_packaged_dialogs_keep_functions_apart_and_their_schemas_whole() -> None:
    dialogs = sources.tool_dialogs()
    assert len(dialogs) == 300
    assert sum(bool(call) for d in dialogs for m in d.messages for call in m.tool_calls) == 211
    train, heldout = tool_rows(dialogs, ToolUseConfig(heldout_share=0.25), seed=0)
    seen, held = ({name for row in part.rows for name in names(row)} for part in (train, heldout))
    assert seen
    assert held
    assert seen.isdisjoint(held)
    assert len({row.id for row in train.rows + heldout.rows}) == len(train.rows) + len(heldout.rows)
    for row in train.rows + heldout.rows:
        for tool in tools_of(row.tools):
            assert None not in tool.parameters.values()
            assert set(tool.parameters.get("required", ())) <= set(tool.parameters["properties"])
