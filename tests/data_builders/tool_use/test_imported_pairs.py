"""Preference pairs from imported dialogs: what is wrong in each, and that nothing held out is in them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from align.jsonl import read_rows, write_rows
from align.rows import Message, PreferenceRow, SFTRow, ToolCall, ToolSpec, tools_of, tools_text
from data_builders.packaged import ToolDialog
from data_builders.tool_use.imported import ImportedDialogsConfig, build, tool_rows
from data_builders.tool_use.imported_pairs import imported_pairs
from data_builders.tool_use.pairs import NO_CALL


def turn(identity: str, name: str, reply: Message) -> SFTRow:
    messages = (Message(role="user", content=f"Something about {name}, as {identity} says."), reply)
    return SFTRow(id=identity, source="mine/x", messages=messages, tools=tools_text((ToolSpec(name=name),)))


def called(name: str, n: int) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name=name, arguments=json.dumps({"n": n})),))


TEXT = Message(role="assistant", content="Which one do you mean?")


def test_text_is_preferred_to_a_call_that_another_turn_makes() -> None:
    rows = [turn("a", "f", TEXT), turn("b", "f", called("f", 1)), turn("c", "g", called("g", 2)), turn("d", "h", TEXT)]
    pairs = imported_pairs(rows, {"no-call": 10}, seed=0)
    (pair,) = pairs.rows
    assert pair.prompt == rows[0].messages[:1]
    assert pair.completions == ((TEXT,), (called("f", 1),))
    assert pair.source == "mine/x/needless call"
    assert tools_of(pair.tools) == tools_of(rows[0].tools)
    assert pairs.dropped == {"no training dialog calls an offered function": 1}
    assert pairs.counts["read"] == 2


def test_a_call_is_preferred_to_text_and_to_the_arguments_of_another_turn() -> None:
    rows = [turn(str(n), "f", called("f", n % 3)) for n in range(40)]
    pairs = imported_pairs(rows, {"call": 30}, seed=0)
    what = Counter(pair.source.rsplit("/", 1)[1] for pair in pairs.rows)
    assert what.total() == 30
    assert min(what["no call"], what["other value"]) >= 8
    assert pairs.dropped == {"over the limit": 10}
    for pair in pairs.rows:
        (right,), (wrong,) = pair.completions
        if pair.source.endswith("no call"):
            assert wrong.content in NO_CALL
            assert not wrong.tool_calls
        else:
            assert wrong.tool_calls[0].name == right.tool_calls[0].name
            assert wrong.tool_calls[0].parsed() != right.tool_calls[0].parsed()


def test_a_call_that_only_one_turn_makes_is_compared_with_text() -> None:
    pairs = imported_pairs([turn(str(n), f"f{n}", called(f"f{n}", 1)) for n in range(20)], {"call": 20}, seed=0)
    assert {pair.source for pair in pairs.rows} == {"mine/x/no call"}


def test_the_pairs_do_not_depend_on_the_order_of_the_rows() -> None:
    rows = [turn(str(n), "f", called("f", n) if n % 2 else TEXT) for n in range(30)]
    some, same = (imported_pairs(each, {"call": 9, "no-call": 9}, seed=3).rows for each in (rows, rows[::-1]))
    assert sorted(some, key=lambda pair: pair.id) == sorted(same, key=lambda pair: pair.id)
    assert len({pair.id for pair in some}) == 18


def test_the_builder_writes_pairs_of_functions_that_are_trained_on(tmp_path: Path) -> None:
    dialogs = [ToolDialog(row.messages, tools_of(row.tools)) for n in range(20) for row in two_turns(n)]
    rows = [
        SFTRow(id=str(n), source="mine", messages=dialog.messages, tools=tools_text(dialog.tools))
        for n, dialog in enumerate(dialogs)
    ]
    write_rows(tmp_path / "mine.jsonl", rows)
    config = ImportedDialogsConfig(path=tmp_path / "mine.jsonl", limits={"call": 2}, pairs={"call": 5, "no-call": 6})
    out = build(config, tmp_path / "out")
    pairs = read_rows(out / "tools.preferences.jsonl", PreferenceRow)
    assert Counter(pair.source for pair in pairs) == {"mine/no-call/needless call": 6, "mine/call/no call": 5}
    _, heldout = tool_rows(dialogs, config, config.seed, "mine")
    held = {tool.name for row in heldout.rows for tool in tools_of(row.tools)}
    assert held.isdisjoint(tool.name for pair in pairs for tool in tools_of(pair.tools))
    without = build(config.model_copy(update={"pairs": {}}), tmp_path / "without")
    assert not (without / "tools.preferences.jsonl").exists()


def two_turns(number: int) -> list[SFTRow]:
    name = f"f{number}"
    return [turn(f"{name} text", name, TEXT), turn(f"{name} call", name, called(name, number))]
