"""Rows to and from disk: errors name file, line and field; files appear whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import align.records.text
from align.errors import RowError
from align.jsonl import Drops, read_rows, stream_rows, write_rows
from align.rows import Message, PreferenceRow, PromptRow, SFTRow, ToolCall


def prompt(number: int) -> PromptRow:
    return PromptRow(id=str(number), source="s", prompt=(Message(role="user", content=f"Ünï {number}\u2028"),))


def said(path: Path, kind: type = PromptRow) -> str:
    with pytest.raises(RowError) as caught:
        read_rows(path, kind)
    return str(caught.value).replace(str(path), path.name)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rows = [prompt(number) for number in range(5)]
    assert write_rows(tmp_path / "new" / "rows.jsonl", rows) == 5
    assert read_rows(tmp_path / "new" / "rows.jsonl", PromptRow) == rows
    assert list(stream_rows(tmp_path / "new" / "rows.jsonl", PromptRow)) == rows


def test_calls_survive_the_disk(tmp_path: Path) -> None:
    call = ToolCall(name="f", arguments={"a": [None, "ü", {"b": 1.5}]})
    row = SFTRow(
        id="1",
        source="s",
        messages=(Message(role="user", content="go"), Message(role="assistant", tool_calls=(call,))),
        tools='[{"name": "f"}]',
    )
    write_rows(tmp_path / "rows.jsonl", [row])
    assert read_rows(tmp_path / "rows.jsonl", SFTRow) == [row]


def test_several_files_are_read_in_order_and_blank_lines_skipped(tmp_path: Path) -> None:
    for name, number in (("b", 1), ("a", 2)):
        (tmp_path / name).write_text(f"\n{prompt(number).model_dump_json()}\n\n")
    assert [row.id for row in read_rows([tmp_path / "b", tmp_path / "a"], PromptRow)] == ["1", "2"]


def test_a_row_that_fails_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [prompt(1)])

    def rows():
        yield prompt(2)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_rows(path, rows())
    assert [row.id for row in read_rows(path, PromptRow)] == ["1"]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_an_id_of_two_different_rows_is_named_with_both_places(tmp_path: Path) -> None:
    other = PromptRow(id="1", source="s", prompt=(Message(role="user", content="another"),))
    write_rows(tmp_path / "rows.jsonl", [prompt(1), prompt(2), other])
    assert said(tmp_path / "rows.jsonl") == (
        f"rows.jsonl:3: id: '1' is already the id of another row, {tmp_path}/rows.jsonl:1. Give each row its own id."
    ).replace(str(tmp_path) + "/", "")


def test_a_file_of_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n")
    assert said(tmp_path / "rows.jsonl").startswith("rows.jsonl: holds no rows. Check the stage that wrote it")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert said(tmp_path / "no.jsonl").startswith("no.jsonl: cannot be read (No such file or directory). Name")


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "rows.jsonl:2: is not JSON ("),
        ('"text"', "rows.jsonl:2: expected a JSON object, found str."),
        (
            '{"id": "1", "source": "s"}',
            "rows.jsonl:2: prompt: Field required; found nothing. See PromptRow in align/rows.py.",
        ),
        ('{"id": "1", "source": "s", "prompt": []}', "rows.jsonl:2: prompt: Tuple should have at least 1 item"),
        (
            '{"id": "1", "source": "s", "prompt": [{"role": "robot", "content": "x"}]}',
            "rows.jsonl:2: prompt.0.role: Input should be 'system', 'user', 'assistant' or 'tool'; found 'robot'.",
        ),
        (
            '{"id": "1", "source": "s", "prompt": [{"content": "x"}]}',
            "rows.jsonl:2: prompt.0.role: Field required; found nothing. See PromptRow in align/rows.py.",
        ),
        (
            '{"id": "1", "source": "s", "prompt": [{"role": "user", "tool_calls": [{"name": "f"}]}]}',
            "rows.jsonl:2: prompt.0: tool_calls stand on a user message; only an assistant makes calls; found",
        ),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_field(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{prompt(9).model_dump_json()}\n{line}\n")
    assert said(tmp_path / "rows.jsonl").startswith(message)


def test_a_line_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(align.records.text, "MAX_RECORD_BYTES", 10)
    write_rows(tmp_path / "rows.jsonl", [prompt(1)])
    assert said(tmp_path / "rows.jsonl") == "rows.jsonl:1: is longer than 10 bytes. Split the row."


def test_other_toolkits_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "trl.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    (row,) = read_rows(path, SFTRow)
    assert (row.source, [m.role for m in row.messages]) == ("trl", ["user", "assistant"])


def test_rows_whose_answer_is_empty_are_dropped_and_counted(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "Hi"}
    empty = [
        {"prompt": "Hi", "completion": ""},
        {"messages": [asked, {"role": "assistant", "content": None}]},
        {"id": "1", "source": "s", "messages": [asked, {"role": "assistant", "content": " "}]},
    ]
    called = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": "{}"}]}
    (tmp_path / "sft.jsonl").write_text("\n".join(map(json.dumps, [*empty, {"messages": [asked, called]}])))
    drops = Drops()
    (row,) = read_rows(tmp_path / "sft.jsonl", SFTRow, drops=drops)
    assert row.messages[-1].tool_calls
    assert drops.reasons == {"empty response": 3}
    pairs = [{"prompt": "Hi", "chosen": "", "rejected": "A"}, {"prompt": "Hi", "chosen": "A", "rejected": ""}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    drops = Drops()
    (pair,) = read_rows(tmp_path / "pairs.jsonl", PreferenceRow, drops=drops)
    assert pair.chosen[0].content == "A"
    assert drops.reasons == {"empty response": 1}
