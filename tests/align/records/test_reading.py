"""Files, folders and datasets as records: the same records from every form, and every fault with its place."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import align.records.text
from align.errors import RowError
from align.jsonl import Drops, count_rows, read_rows, stream_rows, write_rows
from align.records import (
    count_of,
    has_selected,
    identities_of,
    inputs_of,
    key_of,
    records_of,
    selected_fingerprint,
    sources_of,
)
from align.rows import Message, PreferenceRow, PromptRow, SFTRow
from align.settings import PreferenceDataConfig, Reading, Source, TreeDataConfig

RECORDS = [{"prompt": f"Ünï {number}\u2028\x85?", "completion": f'answer, "{number}"\nNA'} for number in range(5)]
RECORDS[2] |= {"system": "Be brief."}


def lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write_csv(path: Path, records: list[dict[str, Any]], delimiter: str = ",") -> None:
    import csv

    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, ["prompt", "completion", "system"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(records)


def found(path: Any) -> list[dict[str, Any]]:
    """The records; a bad one is raised."""
    records = []
    for _, record in records_of(path):
        if isinstance(record, RowError):
            raise record
        records.append(record)
    return records


def faults(path: Path) -> list[str]:
    return [
        str(record).replace(f"{path.parent}/", "") for _, record in records_of(path) if isinstance(record, RowError)
    ]


def refused(path: Any) -> str:
    with pytest.raises(RowError) as caught:
        list(records_of(path))
    return str(caught.value)


# Forms of files


def test_the_same_records_come_from_every_form_of_file(tmp_path: Path) -> None:
    import datasets

    text = lines(RECORDS)
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "crlf.jsonl").write_bytes(text.replace("\n", "\r\n\r\n").encode())
    (tmp_path / "unended.jsonl").write_text(text.rstrip("\n"))
    (tmp_path / "array.json").write_text(json.dumps(RECORDS, indent=2))
    (tmp_path / "array.jsonl").write_bytes(b"\xef\xbb\xbf \n" + json.dumps(RECORDS, ensure_ascii=False).encode())
    (tmp_path / "lines.json").write_text(text)
    write_csv(tmp_path / "a.csv", RECORDS)
    write_csv(tmp_path / "a.tsv", RECORDS, "\t")
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.csv").read_bytes())
    for name in ("a.jsonl", "array.json", "a.csv", "a.tsv"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    dataset = datasets.Dataset.from_list([{"system": None, **record} for record in RECORDS])
    dataset.to_parquet(tmp_path / "a[1].parquet")
    dataset.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / "splits")
    paths = sorted(path for path in tmp_path.iterdir())
    assert len(paths) == 17
    for path in paths:
        assert found(path) == RECORDS, path
        assert count_of(Source(path=path)) == 5, path


def test_several_files_patterns_and_sections_are_read_in_order(tmp_path: Path) -> None:
    for number, record in enumerate(RECORDS):
        (tmp_path / f"{4 - number}.jsonl").write_text(lines([record]))
    pattern = tmp_path / "*.jsonl"
    assert found(pattern) == RECORDS[::-1]
    assert found([tmp_path / "4.jsonl", str(tmp_path / "3.jsonl"), Source(path=tmp_path / "2.jsonl")]) == RECORDS[:3]
    assert len(sources_of(TreeDataConfig(path=[str(pattern), {"path": str(pattern), "weight": 2}]).path)) == 10
    assert "matches no file" in refused(tmp_path / "*.parquet")


def test_a_folder_with_splits_needs_the_name_of_one(tmp_path: Path) -> None:
    import datasets

    parts = {"train": datasets.Dataset.from_list(RECORDS[:3]), "test": datasets.Dataset.from_list(RECORDS[3:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert found(Source(path=tmp_path / "saved", split="test")) == RECORDS[3:]
    assert "has several splits (train, test). Choose one with {path: ..., split: ...}." in refused(tmp_path / "saved")
    assert "has no split 'tset'. Its splits: train, test." in refused(Source(path=tmp_path / "saved", split="tset"))


def test_a_folder_laid_out_as_on_the_hub_goes_through_the_same_call(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "train.jsonl").write_text(lines(RECORDS))
    (tmp_path / "repo" / "test.jsonl").write_text(lines(RECORDS[:2]))
    assert found(Source(path=tmp_path / "repo", split="test"))[0]["prompt"] == RECORDS[0]["prompt"]
    assert count_of(Source(path=tmp_path / "repo", split="train")) == 5
    message = refused(tmp_path / "repo")
    assert "is a folder that `save_to_disk` did not write; it holds test.jsonl, train.jsonl" in message


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """The network border alone is doubled: the name goes to a folder here, all else is `datasets` itself."""
    import datasets

    import align.records.tables

    (tmp_path / "repo").mkdir()
    for split, records in (("train", RECORDS), ("test", RECORDS[:2])):
        (tmp_path / "repo" / f"{split}.jsonl").write_text(lines(records))
    honest, asked = datasets.load_dataset_builder, []

    def from_here(path: str, name: str | None = None, **settings: Any) -> Any:
        asked.append((path, name, settings.pop("revision", None)))
        return honest(str(tmp_path / "repo"), **settings)

    monkeypatch.setattr(datasets, "load_dataset_builder", from_here)
    monkeypatch.setattr(align.records.tables, "_asked_why", lambda name, revision: None)
    align.records.tables._cached_builder.cache_clear()
    yield asked
    align.records.tables._cached_builder.cache_clear()


@pytest.mark.slow
def test_a_hub_dataset_is_read_by_name_configuration_split_and_revision(hub: list[tuple[Any, ...]]) -> None:
    source = {"path": "owner/chats", "split": "test", "revision": "v1.0", "name": "main"}
    assert [record["prompt"] for record in found(Source.model_validate(source))] == [r["prompt"] for r in RECORDS[:2]]
    assert hub == [("owner/chats", "main", "v1.0")]
    rows = read_rows(TreeDataConfig(path=source).path, SFTRow)
    assert rows[0].source == "chats"
    assert len(found(Source(path="owner/chats", split="train"))) == 5
    assert "has several splits" in refused("owner/chats")
    assert found(Source(path="hf://datasets/owner/chats@v2", split="test")) == found(Source.model_validate(source))
    assert hub[-1] == ("owner/chats", None, "v2")


def test_a_hub_dataset_is_identified_by_name_and_commit(hub: list[tuple[Any, ...]]) -> None:
    source = Source(path="owner/chats", split="test")
    ((label, identity),) = identities_of(source).items()
    assert label == "owner/chats:test"
    assert identity.startswith("hub:owner/chats@")
    assert len(identity) > len("hub:owner/chats@") + 8
    assert inputs_of(TreeDataConfig(path=source)) == {label: identity}
    assert key_of(source) != key_of(Source(path="owner/chats", split="train"))


def test_an_address_is_read_through_its_file_system_and_not_changed(tmp_path: Path) -> None:
    import fsspec

    assert TreeDataConfig(path="hf://datasets/owner/name/a.jsonl").path == Source(
        path="hf://datasets/owner/name/a.jsonl"
    )
    system = fsspec.filesystem("memory")
    system.pipe("/rows/a.jsonl", lines(RECORDS[:2]).encode())
    system.pipe("/rows/b.jsonl.gz", gzip.compress(lines(RECORDS[2:]).encode()))
    assert found("memory://rows/*") == RECORDS
    before = identities_of("memory://rows/*")["memory://rows/*"]
    system.pipe("/rows/a.jsonl", lines(RECORDS[:1]).encode())
    assert identities_of("memory://rows/*")["memory://rows/*"] != before
    assert "cannot be read (/rows/none.jsonl)" in refused("memory://rows/none.jsonl")
    assert "names no file that exists" in refused("memory://rows/*.csv")
    assert "cannot be read (" in refused("nosuch://rows/a.jsonl")


# Columns and nulls


def test_columns_are_mapped_and_left_out(tmp_path: Path) -> None:
    records = [{"question": f"q{n}", "answer": f"a{n}", "score": n} for n in range(3)]
    (tmp_path / "a.jsonl").write_text(lines(records))
    columns = {"prompt": "question", "completion": "answer"}
    source = Source(path=tmp_path / "a.jsonl", columns=columns, ignore_columns=("score",))
    assert found(source) == [{"prompt": f"q{n}", "completion": f"a{n}"} for n in range(3)]
    assert [row.messages[-1].content for row in read_rows(source, SFTRow)] == ["a0", "a1", "a2"]
    wrong = refused(source.model_copy(update={"columns": {"prompt": "qestion"}}))
    assert "columns.prompt: names the column 'qestion', which no record has" in wrong
    assert "Their columns: answer, question, score." in wrong
    (tmp_path / "b.jsonl").write_text(lines([records[0] | {"prompt": "another"}]))
    assert found(source.model_copy(update={"path": str(tmp_path / "b.jsonl")}))[0]["prompt"] == "q0", (
        "a mapping replaces"
    )


def test_null_means_absent(tmp_path: Path) -> None:
    record = {"prompt": "q", "completion": "a", "system": None, "tools": None, "id": None, "level": None}
    (tmp_path / "a.jsonl").write_text(lines([record]))
    assert found(tmp_path / "a.jsonl") == [{"prompt": "q", "completion": "a"}]
    ours = PromptRow(id="1", source="s", prompt=(Message(role="user", content="q"),)).model_dump() | {"tools": None}
    (tmp_path / "b.jsonl").write_text(lines([ours]))
    assert [row.id for row in read_rows(tmp_path / "b.jsonl", PromptRow)] == ["1"]


def test_cells_of_csv_are_text_and_lists_in_json(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        'prompt,messages,label,\n007,"[{""role"": ""user"", ""content"": ""hi""}]",True,0\nNA,[1],,1\n'
        '"[{""role"": ""user""}]",,false,2\n"[{""answer"": 1}]",,x,3\n'
    )
    assert found(tmp_path / "a.csv") == [
        {"prompt": "007", "messages": [{"role": "user", "content": "hi"}], "label": True},
        {"prompt": "NA", "messages": [1]},
        {"prompt": [{"role": "user"}], "label": False},
        {"prompt": '[{"answer": 1}]', "label": "x"},
    ]


def test_what_a_model_may_say_is_read_back(tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x20))) + "\x7f\x85\u2028\ufeff\uffff\U0001f600"
    rows = [PromptRow(id="1", source="s", prompt=(Message(role="user", content=text),))]
    write_rows(tmp_path / "a.jsonl", rows)
    assert read_rows(tmp_path / "a.jsonl", PromptRow) == rows


# Faults of records


GOOD = '{"prompt": "x", "completion": "y"}'
BAD = {
    "Latin-1": ('{"prompt": "é", "completion": "y"}'.encode("latin-1"), "is not UTF-8 (byte 0xe9 at column 13)"),
    "half an emoji": (rb'{"prompt": "a \ud83d b", "completion": "y"}', "prompt: holds half a character"),
    "half an emoji in a key": (rb'{"prompt": {"\ud83d": 1}}', "prompt: has the key '\\ud83d', which is no text"),
    "a raw surrogate": (b'{"prompt": "\xed\xa0\xbd", "completion": "y"}', "is not UTF-8 (byte 0xed at column 13)"),
    "NUL bytes": (b'{"prompt": "x\0", "completion": "y"}', "holds NUL characters, so it is no JSON"),
    "a key twice": (b'{"prompt": "x", "completion": "y", "prompt": "z"}', "has the key 'prompt' twice in one object"),
    "a key twice inside": (b'{"prompt": [{"role": "user", "role": "x"}]}', "has the key 'role' twice in one object"),
    "NaN": (b'{"prompt": "x", "score": NaN}', "holds NaN, which is no JSON"),
    "Infinity": (b'{"prompt": "x", "score": -Infinity}', "holds -Infinity, which is no JSON"),
    "nested too deep": (b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", "is nested more than 100 levels deep"),
    "nested deep": (b'{"prompt": ' + b"[" * 150 + b"]" * 150 + b"}", "is nested more than 100 levels deep"),
    "a list": (b"[1, 2]", "expected a JSON object, found list"),
    "half a line": (b'{"prompt": "x", ', "is not JSON (Expecting property name"),
    "two objects": (f"{GOOD} {GOOD}".encode(), "is not JSON (Extra data"),
    "a long number": (b'{"prompt": ' + b"1" * 5000 + b"}", "is not JSON (Exceeds the limit"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_and_its_neighbors_are_read(tmp_path: Path, name: str) -> None:
    line, message = BAD[name]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([GOOD.encode(), b"", line, GOOD.encode().replace(b"x", b"z"), b""]))
    (fault,) = faults(path)
    assert fault.startswith("rows.jsonl:3: ")
    assert message in fault
    with pytest.raises(RowError, match=r"rows\.jsonl:3: "):
        read_rows(path, SFTRow)
    drops = Drops()
    assert len(read_rows(path, SFTRow, Reading(bad_rows="drop"), drops=drops)) == 2
    assert drops.reasons.total() == 1
    (reason,) = drops.reasons
    assert reason.startswith("bad row: ")
    assert drops.counts["sources"] == {str(path): {"read": 3, "dropped": {reason: 1}}}
    assert drops.counts["bad_rows"] == [str(drops.bad[0])]


@pytest.mark.parametrize("name", ["Latin-1", "half an emoji", "a key twice", "NaN", "nested deep"])
def test_a_bad_element_of_an_array_is_named_and_its_neighbors_are_read(tmp_path: Path, name: str) -> None:
    line, message = BAD[name]
    path = tmp_path / "rows.json"
    path.write_bytes(b"[\n" + b",\n".join([GOOD.encode(), line, GOOD.encode()]) + b"\n]\n")
    (fault,) = faults(path)
    assert fault.startswith("rows.json:3: ")
    assert message.partition(" at column")[0] in fault
    assert sum(1 for _ in records_of(path)) == 3


def test_an_array_is_read_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"n": number, "text": "é" * number, "nested": [[number]]} for number in range(40)]
    for piece in (1, 2, 3, 7, 64):
        monkeypatch.setattr(align.records.text, "_CHUNK", piece)
        (tmp_path / "a.json").write_text(json.dumps(records, ensure_ascii=False, indent=1))
        assert found(tmp_path / "a.json") == records


@pytest.mark.parametrize(
    "text, message",
    [
        (f"[{GOOD}, ", "rows.json:1: is an array that breaks off ("),
        (f"[{GOOD},\n{GOOD[:-3]}", "rows.json:2: is an array that breaks off ("),
        (f"[{GOOD}\n{GOOD}]", "rows.json:1: is followed by neither a comma nor the array's end"),
        (f"[{GOOD}]\n\n{GOOD}", "rows.json:3: has text after the array's end"),
        ("[]", "rows.json: holds no rows"),
        ('{\n "data": [\n  {"prompt": "x"}\n ]\n}', "rows.json: holds one JSON object over several lines"),
    ],
)
def test_text_that_is_no_array_ends_the_reading(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    assert refused(path).replace(f"{tmp_path}/", "").startswith(message)


@pytest.mark.parametrize(
    "text, message",
    [
        (b"a,b\n1\n", "a.csv:2: has 1 cells, and the header 2"),
        (b"a,b\n1,2,3\n", "a.csv:2: has 3 cells, and the header 2"),
        ("a,b\né,2\n".encode("latin-1"), "a.csv:2: a: is not UTF-8 (byte 0xe9)"),
        (b"messages,b\n[1,2\n", "a.csv:2: messages: is not JSON"),
        (b"a,b\n1,x\0y\n", "a.csv:2: b: holds a NUL character"),
        (b'a,b\n1,"x"y\n2,z\n', "a.csv:2: is not CSV ("),
        (b"a,b\n1,x\ry\n2,z\n", "a.csv:2: is not CSV ("),
    ],
)
def test_a_bad_row_of_csv_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(text)
    (fault,) = faults(tmp_path / "a.csv")
    assert fault.startswith(message)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,a\n1,2\n", "a.csv:1: names the column 'a' twice"),
        ("a;b\n1;2\n", "a.csv:1: has one column, 'a;b'; it looks separated by ';'"),
        ('a,b\n1,"2\n', "a.csv:2: is not CSV ("),
        ("a,b\n", "a.csv: holds no rows"),
    ],
)
def test_csv_that_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert refused(tmp_path / "a.csv").replace(f"{tmp_path}/", "").startswith(message)


# Files that are none


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\n\t\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
def test_a_file_of_nothing_is_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert refused(tmp_path / name).startswith(f"{tmp_path / name}: holds no rows")


def test_an_empty_file_that_a_stage_wrote_is_no_error_among_others(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "none.jsonl.manifest.json").write_text('{"counts": {"rows": 0}}')
    (tmp_path / "some.jsonl").write_text(lines(RECORDS))
    assert found([tmp_path / "none.jsonl", tmp_path / "some.jsonl"]) == RECORDS
    with pytest.raises(RowError, match="holds no rows"):
        read_rows(tmp_path / "none.jsonl", SFTRow)


def test_what_another_name_would_read_is_named(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "zipped.jsonl").write_bytes(gzip.compress(lines(RECORDS).encode()))
    assert faults(tmp_path / "zipped.jsonl") == [
        "zipped.jsonl:1: is compressed by gzip. Give the file a name that ends with .gz."
    ]
    (tmp_path / "plain.jsonl.gz").write_text(lines(RECORDS))
    assert "ends with .gz, but is not compressed by gzip" in refused(tmp_path / "plain.jsonl.gz")
    (tmp_path / "half.jsonl.gz").write_bytes(gzip.compress(os.urandom(5000))[:-200])
    assert "breaks off: its gzip data is damaged" in refused(tmp_path / "half.jsonl.gz")
    datasets.Dataset.from_list(RECORDS).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_bytes((tmp_path / "a.parquet").read_bytes())
    assert faults(tmp_path / "a.jsonl") == [
        "a.jsonl:1: is a Parquet file. Give the file a name that ends with .parquet."
    ]
    (tmp_path / "b.parquet").write_text(lines(RECORDS))
    assert "b.parquet: cannot be read by datasets (" in refused(tmp_path / "b.parquet")
    (tmp_path / "pointer.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    assert "is a pointer of Git LFS" in faults(tmp_path / "pointer.parquet")[0]
    (tmp_path / "page.jsonl").write_text("<!DOCTYPE html><html></html>")
    assert "is a web page" in faults(tmp_path / "page.jsonl")[0]
    (tmp_path / "utf16.csv").write_bytes("a,b\n1,2\n".encode("utf-16"))
    assert "is UTF-16, not UTF-8" in refused(tmp_path / "utf16.csv")
    (tmp_path / "utf16.jsonl").write_bytes(lines(RECORDS).encode("utf-16"))
    first = faults(tmp_path / "utf16.jsonl")[0]
    assert first.startswith(
        "utf16.jsonl:1: is not UTF-8 (is UTF-16). Save the file as UTF-8: `iconv -f UTF-16 -t UTF-8`"
    )


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jsonl")
    for path, message in (
        (tmp_path / "fifo.jsonl", "is a FIFO, and no file"),
        (Path("/dev/zero"), "is a device, and no file"),
        (tmp_path, "is a folder that `save_to_disk` did not write"),
        (tmp_path / "none.jsonl", "cannot be read (No such file or directory)"),
        (tmp_path / ("x" * 300), "has a name of 300 bytes"),
        (tmp_path / "a\0b.jsonl", "a path has no control characters"),
    ):
        assert message in refused(path)
        with pytest.raises(RowError):
            count_rows(path)
        if path != tmp_path:
            with pytest.raises(RowError):
                key_of(path)
    (tmp_path / "secret.jsonl").write_text(GOOD)
    (tmp_path / "secret.jsonl").chmod(0)
    if not os.access(tmp_path / "secret.jsonl", os.R_OK):
        assert "cannot be read (Permission denied)" in refused(tmp_path / "secret.jsonl")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_line_over_the_cap_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as handle:
        handle.write(GOOD.encode() + b"\n")
        handle.truncate(200 * 2**20)  # a hole of NUL bytes, which takes no room on disk
        handle.seek(0, 2)
        handle.write(b"\n" + GOOD.encode().replace(b"x", b"z") + b"\n")
    code = (
        "import re, sys\nimport align.records.text\nfrom align.records import records_of\n"
        "align.records.text.MAX_RECORD_BYTES = 2**20\n"
        "found = [str(record) for _, record in records_of(sys.argv[1])]\n"
        "print(len(found), 'is longer than 1048576 bytes' in found[1])\n"
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.jsonl"], capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "3 True", done.stderr
    assert int(done.stdout.splitlines()[1]) < 150, "MiB"


# Repeats, ids, weights


def pairs(path: Path, numbers: list[int]) -> Path:
    records = [{"prompt": f"q{n}", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in numbers]
    path.write_text(lines(records))
    return path


def test_exact_repeats_are_dropped_kept_under_ids_of_their_own_or_refused(tmp_path: Path) -> None:
    path = pairs(tmp_path / "a.jsonl", [1, 2, 1, 3, 1])
    drops = Drops()
    rows = read_rows(path, PreferenceRow, drops=drops)
    assert [row.chosen[0].content for row in rows] == ["yes 1", "yes 2", "yes 3"]
    assert drops.counts["sources"] == {str(path): {"read": 5, "dropped": {"exact repeat of another row": 2}}}
    kept = read_rows(path, PreferenceRow, Reading(duplicates="keep"))
    assert [row.id for row in kept] == [rows[0].id, rows[1].id, f"{rows[0].id}.1", rows[2].id, f"{rows[0].id}.2"]
    for bad_rows in ("stop", "drop"):
        with pytest.raises(RowError) as caught:
            read_rows(path, PreferenceRow, Reading(duplicates="error", bad_rows=bad_rows))
        assert str(caught.value).replace(f"{tmp_path}/", "") == (
            f"a.jsonl:3: id: repeats the row {rows[0].id!r} of a.jsonl:1. "
            "Remove the repeated row, or set duplicates to drop or keep."
        )


def test_records_of_other_forms_repeat_by_content_and_our_rows_by_id_and_content(tmp_path: Path) -> None:
    record = {"prompt": "q", "completion": "a"}
    (tmp_path / "theirs.jsonl").write_text(lines([{"id": 1, **record}, {"id": 2, **record}, record]))
    assert [row.id for row in read_rows(tmp_path / "theirs.jsonl", SFTRow)] == ["1"]
    said = (Message(role="user", content="q"),)
    ours = [PromptRow(id=name, source="s", prompt=said) for name in ("a", "a.1", "a")]  # a copy that a mix made
    write_rows(tmp_path / "ours.jsonl", ours)
    assert [row.id for row in read_rows(tmp_path / "ours.jsonl", PromptRow)] == ["a", "a.1"]


def test_an_id_of_two_different_rows_is_an_error_or_a_counted_drop(tmp_path: Path) -> None:
    records = [{"id": "x", "prompt": "q", "completion": answer} for answer in "ab"]
    (tmp_path / "a.jsonl").write_text(lines(records))
    with pytest.raises(RowError, match=r"a\.jsonl:2: id: 'x' is already the id of another row, .*a\.jsonl:1"):
        read_rows(tmp_path / "a.jsonl", SFTRow)
    drops = Drops()
    assert len(read_rows(tmp_path / "a.jsonl", SFTRow, Reading(bad_rows="drop"), drops=drops)) == 1
    assert drops.reasons == {"bad row: its id is the id of another row": 1}


def test_a_weight_repeats_or_thins_a_source_the_same_way_each_time(tmp_path: Path) -> None:
    path = pairs(tmp_path / "a.jsonl", list(range(10)))

    def ids(weight: float, seed: int = 0) -> list[str]:
        source = Source(path=path, weight=weight)
        rows = [row.id for row in stream_rows(source, PreferenceRow, seed=seed)]
        assert len(rows) == len(set(rows)) == count_rows(source)
        return rows

    whole = ids(1)
    assert len(ids(0.5)) == 5
    assert ids(0.5) == ids(0.5) != ids(0.5, seed=1)
    assert set(ids(0.5)) < set(whole)
    assert sorted(ids(2)) == sorted([*whole, *(f"{name}.1" for name in whole)])
    assert len(ids(2.3)) == 23
    drops = Drops()
    list(stream_rows([Source(path=path, weight=0.2), path], PreferenceRow, drops=drops))
    assert drops.counts["sources"][str(path)]["dropped"]["left out by weight"] == 8


def test_a_weight_that_a_stage_does_not_read_is_refused(tmp_path: Path) -> None:
    path = pairs(tmp_path / "a.jsonl", [1])
    assert "weight: is 2, which this stage does not read" in refused(Source(path=path, weight=2))


def test_places_are_counted_over_all_sources_and_weights(tmp_path: Path) -> None:
    sources = [Source(path=pairs(tmp_path / "a.jsonl", [0, 1, 2]), weight=2), pairs(tmp_path / "b.jsonl", [3, 4])]
    rows = list(stream_rows(sources, PreferenceRow, places=[0, 3, 7]))
    assert [row.chosen[0].content for row in rows] == ["yes 0", "yes 1", "yes 4"]


def test_everything_dropped_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": NaN}\n{"nothing": 1}\n')
    with pytest.raises(
        RowError, match=r"a\.jsonl: no row is left \(1 bad row: holds NaN, which is no JSON, 1 bad row: "
    ):
        read_rows(tmp_path / "a.jsonl", SFTRow, Reading(bad_rows="drop"))


def test_settings_of_a_source_are_part_of_its_key_and_its_place_is_not(tmp_path: Path) -> None:
    one, other = pairs(tmp_path / "a.jsonl", [1]), pairs(tmp_path / "b.jsonl", [1])
    assert key_of(one) == key_of(other) != key_of(pairs(tmp_path / "c.jsonl", [2]))
    assert key_of(Source(path=one, weight=2)) != key_of(one)
    assert key_of(Source(path=one, columns={"prompt": "chosen"})) != key_of(one)
    assert PreferenceDataConfig(path=one).bad_rows == "stop"


# Rows of some rounds and batches


def preference(number: int, **values: Any) -> dict[str, Any]:
    return {"prompt": f"Question {number}?", "chosen": "Good.", "rejected": "Bad."} | values


def rounds_of(*numbers: int) -> list[dict[str, Any]]:
    return [preference(place, round=number) for place, number in enumerate(numbers)]


def selecting(path: Path, **settings: Any) -> Source:
    return Source.model_validate({"path": str(path)} | settings)


@pytest.mark.parametrize(
    "rounds, expected",
    [({"up_to": 2}, [0, 1, 2]), ({"up_to": 2, "latest": 1}, [2]), ({"up_to": 3, "latest": 2}, [2, 3])],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_rows_of_some_rounds_are_read_and_the_others_counted(
    tmp_path: Path, name: str, rounds: dict[str, int], expected: list[int]
) -> None:
    import csv

    path, records = tmp_path / name, rounds_of(0, 3, 1, 2, 7)
    if name.endswith(".csv"):
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    else:
        path.write_text(lines(records))
    drops = Drops()
    source = selecting(path, rounds=rounds)
    rows = read_rows(source, PreferenceRow, drops=drops)
    assert sorted(row.round for row in rows if row.round is not None) == expected
    assert count_of(source) == count_rows(source) == len(expected)
    assert drops.dropped == {"dropped": {"of a round or batch that is not selected": 5 - len(expected)}}
    label = f"{path}:rounds {source.rounds}"
    assert drops.counts["sources"][label]["read"] == 5, "what was read and what was left out add up"
    usable_or_not = [isinstance(record, RowError) for _, record in records_of(source)]
    assert (len(usable_or_not), sum(usable_or_not)) == (5, 5 - len(expected)), "readers of records count them too"


def test_rows_of_some_batches_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines([preference(n, round=n, batch=name) for n, name in enumerate(("code", "general", "code"))]))
    assert [row.round for row in read_rows(selecting(path, batches=["code"]), PreferenceRow)] == [0, 2]
    both = selecting(path, batches=["code"], rounds={"up_to": 1})
    assert [row.round for row in read_rows(both, PreferenceRow)] == [0]
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text(lines([preference(0, week=1), preference(1, week=2)]))
    assert len(read_rows(selecting(renamed, rounds={"up_to": 1}, columns={"round": "week"}), PreferenceRow)) == 1


def test_rows_without_the_column_they_are_selected_by_are_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines([*rounds_of(1, 2), preference(2), preference(3, round="two")]))
    source = selecting(path, rounds={"up_to": 1})
    with pytest.raises(RowError) as caught:
        read_rows(source, PreferenceRow)
    assert str(caught.value) == (
        f"{path}:3: round: expected a value, because the source is selected by it; found nothing. Write the number of "
        "the round that it was collected in into the row, or read the source without the setting rounds."
    )
    drops = Drops()
    assert len(read_rows(source, PreferenceRow, Reading(bad_rows="drop"), drops=drops)) == 1
    assert sorted(drops.reasons.values()) == [1, 1, 1]
    with pytest.raises(RowError, match=r"rows.jsonl:1: batch: expected a value, .* without the setting batches\."):
        read_rows(selecting(path, batches=["a"]), PreferenceRow)


def test_a_selection_of_nothing_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(rounds_of(1, 1)))
    assert not has_selected(selecting(path, rounds={"up_to": 2, "latest": 1}))
    assert has_selected(selecting(path, rounds={"up_to": 2}))
    with pytest.raises(RowError, match=r"rows.jsonl:rounds 2: no row is selected \(2 are of other ones\)"):
        read_rows(selecting(path, rounds={"up_to": 2, "latest": 1}), PreferenceRow)


def test_the_identity_of_selected_rows_is_theirs_alone(tmp_path: Path) -> None:
    growing, apart = tmp_path / "rows.jsonl", tmp_path / "apart"
    growing.write_text(lines(rounds_of(0, 1, 1)))
    source = selecting(growing, rounds={"up_to": 1})
    before = [key_of(source), selected_fingerprint(source), *identities_of(source).values()]
    growing.write_text(growing.read_text() + lines([preference(9, round=2)]))
    assert [key_of(source), selected_fingerprint(source), *identities_of(source).values()] == before
    apart.mkdir()
    (apart / "1.jsonl").write_text(lines(rounds_of(0, 1, 1)))
    (apart / "2.jsonl").write_text(lines([preference(9, round=2)]))
    assert selected_fingerprint(selecting(apart / "*.jsonl", rounds={"up_to": 1})) == before[1], "a file a batch"
    changes = ([preference(9, round=1)], [preference(9)])
    for change in changes:  # another row that is selected, and one of which that cannot be said
        (tmp_path / "changed.jsonl").write_text(growing.read_text() + lines(change))
        assert selected_fingerprint(selecting(tmp_path / "changed.jsonl", rounds={"up_to": 1})) != before[1]
    assert selected_fingerprint(selecting(growing, rounds={"up_to": 2})) != before[1]


def test_a_limit_chooses_among_the_selected_rows(tmp_path: Path) -> None:
    """The choice of `data.limit`, and the rows that a weight repeats, are the same after another batch."""
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(rounds_of(*[1] * 9)))
    source = selecting(path, rounds={"up_to": 1}, weight=1.5)
    before = [row.prompt for row in stream_rows(source, PreferenceRow, places=[0, 5, 9])]
    path.write_text(lines([preference(99, round=2)]) + path.read_text())
    assert [row.prompt for row in stream_rows(source, PreferenceRow, places=[0, 5, 9])] == before
    assert count_rows(source) == 13
