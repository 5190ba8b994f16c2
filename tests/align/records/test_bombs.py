"""Files that unpack to far more than they hold are refused quickly, in little memory, and ordinary files are read."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from align.errors import RowError
from align.jsonl import read_rows, row_of
from align.records import records_of
from align.records.bombs import parquet_batch_rows
from align.rows import SFTRow, tools_of

pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")

# Measured in a process of its own, whose memory before the first bomb is known.
MEASURE = """
import re, sys, time
import datasets, pyarrow.parquet
from align.errors import RowError
from align.records import records_of
import align.records.bombs
align.records.bombs.GROUP_BYTES = 8 << 20

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) // 1024

before = peak()
for path in sys.argv[1:]:
    began = time.process_time()
    try:
        count = sum(isinstance(record, dict) for _, record in records_of(path))
        said = f"read {count}"
    except RowError as error:
        said = str(error)
    print(f"{time.process_time() - began:.2f} {peak() - before} {said}")
"""


def row_group(path: Path, table: pa.Table, rows: int) -> None:
    pq.write_table(table, path, row_group_size=rows, compression="zstd")


def saved(folder: Path, compression: str | None) -> None:
    """A folder as `save_to_disk` writes it, or with compressed buffers."""
    from datasets import Dataset

    rows = [{"prompt": f"q{n}", "completion": "a" * 1000} for n in range(20)]
    Dataset.from_list(rows).save_to_disk(str(folder))
    if compression:
        (file,) = folder.glob("*.arrow")
        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_stream(source).read_all().combine_chunks()
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_bombs_are_refused_in_two_seconds_and_500_megabytes(tmp_path: Path) -> None:
    files = {
        "lines.jsonl.gz": r"lines\.jsonl\.gz: unpacks to more than 400 times its size\. Unpack it with gunzip first",
        "line.jsonl.gz": r"line\.jsonl\.gz: unpacks to more than 400 times",
        "objects.jsonl": r"read 1",
        "text.parquet": r"text\.parquet: unpacks to \d+ bytes from \d+ in one group of rows\. Write the file again",
        "rows.parquet": r"rows\.parquet: holds 20000000 rows in \d+ bytes of one group",
        "zstd": r"data-\S+\.arrow: has compressed buffers, which `save_to_disk` does not write",
        "lz4": r"data-\S+\.arrow: has compressed buffers",
    }
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(b"\n" * (32 << 20)))
    (tmp_path / "line.jsonl.gz").write_bytes(gzip.compress(b'{"a": "' + b"a" * (32 << 20)))
    (tmp_path / "objects.jsonl").write_bytes(b'{"a": [' + b"{}," * 2_700_000 + b"1]}\n")
    row_group(tmp_path / "text.parquet", pa.table({"prompt": ["a" * (24 << 20)]}), 1)
    row_group(tmp_path / "rows.parquet", pa.table({"prompt": pa.nulls(20_000_000, pa.int8())}), 20_000_000)
    for compression in ("zstd", "lz4"):
        saved(tmp_path / compression, compression)
    code = [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in files)]
    done = subprocess.run(code, capture_output=True, text=True)
    measured = done.stdout.splitlines()
    assert len(measured) == len(files), done.stderr
    for line, (name, message) in zip(measured, files.items(), strict=True):
        seconds, megabytes, said = line.split(" ", 2)
        assert re.search(message, said), line
        assert float(seconds) < 2, (name, line)
        assert int(megabytes) < 500, (name, line)


def test_every_file_that_a_saved_dataset_names_is_looked_at(tmp_path: Path) -> None:
    """Also behind one that is damaged, under another ending, and in each split."""
    from datasets import Dataset, DatasetDict

    saved(tmp_path / "damaged", "zstd")
    (tmp_path / "damaged" / "a.arrow").write_bytes(b"no Arrow file")
    (tmp_path / "damaged" / "b.arrow").touch()
    saved(tmp_path / "renamed", "zstd")
    (file,) = (tmp_path / "renamed").glob("*.arrow")
    file.rename(file.with_suffix(".bin"))
    name_files(tmp_path / "renamed", file.with_suffix(".bin").name)
    DatasetDict(train=Dataset.from_list([{"prompt": "q", "completion": "a"}])).save_to_disk(str(tmp_path / "splits"))
    shutil.rmtree(tmp_path / "splits" / "train")
    (tmp_path / "renamed").rename(tmp_path / "splits" / "train")
    for name in ("damaged", "splits"):
        with pytest.raises(RowError, match=r"data-\S+\.(arrow|bin): has compressed buffers"):
            read_rows(tmp_path / name, SFTRow)


@pytest.mark.parametrize("name", ["../other.arrow", "/other.arrow", "inner/../../other.arrow"])
def test_a_saved_dataset_names_no_file_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    saved(tmp_path / "data", None)
    name_files(tmp_path / "data", name)
    with pytest.raises(RowError, match=rf"state\.json: names '{re.escape(name)}', which is outside of its folder"):
        read_rows(tmp_path / "data", SFTRow)
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "dataset_dict.json").write_text(json.dumps({"splits": [name]}))
    with pytest.raises(RowError, match=r"dataset_dict\.json: names .*, which is outside of its folder"):
        read_rows(tmp_path / "both", SFTRow)


def name_files(folder: Path, *names: str) -> None:
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "_data_files": [{"filename": name} for name in names]}))


def test_ordinary_files_are_read_whatever_the_size_of_a_batch(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n}", "completion": f"answer {n} " * (1 + n % 50)} for n in range(3000)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    row_group(tmp_path / "a.parquet", pa.table({key: [row[key] for row in rows] for key in rows[0]}), 3000)
    saved(tmp_path / "saved", None)
    for name in ("a.jsonl.gz", "a.parquet"):
        assert [record for _, record in records_of(str(tmp_path / name))] == rows
    assert len(read_rows(tmp_path / "saved", SFTRow)) == 20


def test_the_largest_column_decides_how_many_rows_of_a_parquet_file_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dictionary holds one long text for all rows, so every row may have the size of its column."""
    monkeypatch.setattr("align.records.bombs.BATCH_BYTES", 1 << 20)
    for size, expected in ((10, 1000), (10_000, 104), (1 << 19, 4)):
        pq.write_table(pa.table({"a": ["a" * size]}), tmp_path / "a.parquet", compression="none")
        assert expected - 2 <= parquet_batch_rows(tmp_path / "a.parquet") <= expected


def test_a_million_choices_in_a_schema_are_refused() -> None:
    tools = json.dumps([{"name": "f", "parameters": {"enum": [str(n) for n in range(1_000_000)]}}])
    with pytest.raises(ValueError, match="tools: expected at most 1048576 characters of schemas, found 9888931"):
        tools_of(tools)
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    record = {"id": "a", "source": "t", "messages": messages, "tools": tools}
    with pytest.raises(RowError, match=r"a\.jsonl:1: tools: .*expected at most 1048576 characters"):
        row_of(record, SFTRow, "a.jsonl:1")
