"""The quality pipeline: counts add up, each row has its reason, and the bytes depend on the rows and settings alone."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from align.errors import RowError
from align.jsonl import read_rows, write_rows
from align.manifest import read_data_manifest
from align.records import count_of, sources_of
from align.rows import SFTRow
from data_builders.quality import pipeline, shards
from data_builders.quality.builder import QualityConfig, build
from data_builders.quality.why import explanations
from tests.data_builders.quality.made_rows import dialog, near_duplicate, random_rows
from tests.processes import Started

ROOT = Path(__file__).parents[3]
FILES = ("rows.jsonl", "dropped.jsonl", "decisions.parquet")
SHARD = 32


def planted_rows() -> list[SFTRow]:
    rows = random_rows(80, seed=1)
    draw = random.Random(2)
    rows += [row.model_copy(update={"id": f"copy-of-{row.id}"}) for row in rows[:10]]
    rows += [near_duplicate(row, f"near-{row.id}", draw, every=25) for row in rows[20:30]]
    rows += [dialog(f"loud-{n}", f"Question number {n} of them?", f"I apologize{'!' * 6} {n}") for n in range(5)]
    return rows


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quality") / "in.jsonl"
    write_rows(path, planted_rows())
    return path


def built(source: Path | tuple[Path, ...], output: Path, **settings: Any) -> Path:
    return build(QualityConfig(path=source, shard_rows=SHARD, **settings), output)


@pytest.fixture(scope="module")
def whole(source: Path) -> Path:
    """What one process writes without an interruption."""
    return built(source, source.parent / "whole")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.slow
def test_every_planted_row_is_dropped_and_the_kept_row_is_named(whole: Path) -> None:
    dropped = [json.loads(line) for line in (whole / "dropped.jsonl").read_text().splitlines()]
    causes = {each["id"]: each.get("cause") for each in dropped}
    rows = random_rows(80, seed=1)
    expected: dict[str, str | None] = {f"copy-of-{row.id}": row.id for row in rows[:10]}
    expected |= {f"near-{row.id}": row.id for row in rows[20:30]}
    expected |= {f"loud-{n}": None for n in range(5)}
    assert causes == expected
    assert {each["gate"] for each in dropped} == {"rules", "exact duplicates", "near duplicates"}
    assert [row.id for row in read_rows(whole / "rows.jsonl", SFTRow)] == [row.id for row in rows]
    assert all(SFTRow.model_validate(each["row"]).id == each["id"] for each in dropped)


@pytest.mark.slow
def test_counts_add_up_at_each_gate(whole: Path) -> None:
    counts = read_data_manifest(whole / "rows.jsonl")["counts"]
    assert (counts["read"], counts["rows"]) == (105, 80)
    left = counts["read"]
    for gate in counts["gates"]:
        assert gate["in"] == left
        left = gate["in"] - sum(gate["dropped"].values())
        assert gate["out"] == left
    assert left == counts["rows"] == counts["read"] - sum(counts["dropped"].values())
    assert counts["dropped"] == {"exact duplicate": 10, "near duplicate": 10, "too many exclamation marks": 5}
    table = pq.read_table(whole / "decisions.parquet")
    assert table.num_rows == 105
    assert table.column("gate").to_pylist().count("") == 80


@pytest.mark.slow
def test_why_answers_for_kept_and_dropped_rows(whole: Path) -> None:
    kept, copied, loud = explanations(whole, ["row-1-0", "copy-of-row-1-3", "loud-2"])
    assert kept.splitlines()[0].endswith("in.jsonl:1): kept by all gates")
    assert "copy-of-row-1-0 was dropped because of it: exact duplicate" in kept
    assert copied.endswith("dropped by exact duplicates, exact duplicate, because of row-1-3")
    assert loud.endswith("dropped by rules, too many exclamation marks: 6")
    with pytest.raises(RowError, match="no row has the id 'nothing'"):
        explanations(whole, ["nothing"])
    with pytest.raises(RowError, match="there is no such file"):
        explanations(whole / "none", ["row-1-0"])


@pytest.mark.slow
def test_killed_at_any_shard_and_resumed_gives_the_same_bytes(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = len(list(whole.glob("units/*/**/*.arrow")))
    assert written == 4 + 1 + 4, "shards, candidates of near duplicates, and shards of compared pairs"
    publish, left = shards.publish, 0

    def killed(path: Path, content: bytes, is_whole: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        publish(path, content, is_whole)

    monkeypatch.setattr(shards, "publish", killed)
    output = tmp_path / "out"
    for _ in range(written - 1):  # each run makes one more file and is killed at the next
        left = 1
        with pytest.raises(KeyboardInterrupt):
            built(source, output)
        assert not (output / "rows.jsonl").exists()
    left = 1
    built(source, output)
    assert bytes_of(output) == bytes_of(whole)


@pytest.mark.slow
def test_several_workers_in_one_folder_give_the_same_bytes(source: Path, whole: Path, tmp_path: Path) -> None:
    from data_builders.quality.builder import pipeline_of

    config = QualityConfig(path=source, shard_rows=SHARD)
    pipelines = [pipeline_of(config, tmp_path) for _ in range(3)]
    threads = [threading.Thread(target=pipeline.complete) for pipeline in pipelines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    decided = [[decision for decision in pipeline.decisions()] for pipeline in pipelines]
    assert decided[0] == decided[1] == decided[2]
    build(config, tmp_path)
    assert bytes_of(tmp_path) == bytes_of(whole)


@pytest.mark.engine
def test_two_processes_that_are_killed_and_started_again_write_the_same_bytes(
    source: Path, whole: Path, tmp_path: Path
) -> None:
    values = [f"quality.path={source}", f"quality.shard_rows={SHARD}", "quality.processes=2", f"output={tmp_path}"]
    command = [sys.executable, "recipes/build_data.py", "recipes/configs/data/quality.yaml", *values]
    command += ["quality.language.enabled=false"]
    started = Started(command, real=True)
    started.wait_for(lambda: list(tmp_path.rglob("unit-*.arrow")))
    os.kill(started.pid, signal.SIGKILL)
    is_killed = started.wait() == -signal.SIGKILL  # on a busy machine it may have finished before
    assert (tmp_path / "rows.jsonl").exists() != is_killed
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    assert (tmp_path / "rows.jsonl").read_bytes() == (whole / "rows.jsonl").read_bytes()
    assert not (tmp_path / ".precision.json").exists(), "no model, so nothing to decide and no torch to load"
    asked = [sys.executable, "-m", "align.cli", "data", "why", str(tmp_path), "loud-1"]
    done = subprocess.run(asked, check=True, cwd=ROOT, capture_output=True, text=True)
    assert "too many exclamation marks" in done.stdout


@pytest.mark.parametrize("semantic, chosen", [(True, ["5"]), (False, [])])
def test_a_process_takes_a_gpu_of_its_own_if_a_gate_has_a_model(
    semantic: bool, chosen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third helper of the third process of a launcher; there is no GPU here, so what is asked for is compared."""
    from align.models import devices
    from data_builders.quality import builder

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    found: list[str] = []
    monkeypatch.setattr(devices, "use_own_gpu", lambda: found.append(os.environ["LOCAL_RANK"]))
    monkeypatch.setattr(builder, "pipeline_of", lambda *given: SimpleNamespace(complete=lambda: None))
    builder._help(QualityConfig(path=tmp_path, semantic={"enabled": semantic}), tmp_path, 3)
    assert found == chosen


@pytest.mark.slow
def test_a_damaged_shard_is_made_again(source: Path, whole: Path, tmp_path: Path) -> None:
    built(source, tmp_path)
    damaged = sorted(tmp_path.glob("units/*/unit-*.arrow"))[1]
    content = bytearray(damaged.read_bytes())
    content[-100] ^= 1
    damaged.write_bytes(content)
    sorted(tmp_path.glob("units/*/unit-*.arrow"))[2].write_bytes(b"{}")
    built(source, tmp_path)
    assert bytes_of(tmp_path) == bytes_of(whole)


@pytest.mark.slow
def test_other_sizes_and_forms_of_sources_give_the_same_rows(source: Path, whole: Path, tmp_path: Path) -> None:
    """Two files in place of one, one of them Parquet, and shards of other sizes."""
    rows = planted_rows()
    write_rows(tmp_path / "a.jsonl", rows[:50])
    records = [json.loads(row.model_dump_json(exclude_defaults=True)) for row in rows[50:]]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "b.parquet")
    config = QualityConfig(path=(tmp_path / "a.jsonl", tmp_path / "b.parquet"), shard_rows=17)
    build(config, tmp_path / "out")
    assert (tmp_path / "out/rows.jsonl").read_bytes() == (whole / "rows.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("batch_rows", [1, 7])
def test_how_many_rows_the_steps_see_at_once_does_not_matter(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    monkeypatch.setattr(pipeline, "_BATCH_ROWS", batch_rows)
    built(source, tmp_path)
    assert bytes_of(tmp_path) == bytes_of(whole)


@pytest.mark.slow
def test_named_sources_have_files_of_their_own_and_are_compared_with_each_other(
    source: Path, whole: Path, tmp_path: Path
) -> None:
    """The rows of one file in two: the same decisions, and the kept rows of both files are those of the whole."""
    rows = planted_rows()
    write_rows(tmp_path / "a.jsonl", rows[:50])
    write_rows(tmp_path / "b.jsonl", [*rows[50:]])
    write_rows(tmp_path / "c.jsonl", [rows[0].model_copy(update={"id": "again"})])
    sources = {"first": tmp_path / "a.jsonl", "second": (tmp_path / "b.jsonl",), "third": tmp_path / "c.jsonl"}
    output = build(QualityConfig(sources=sources), tmp_path / "out")
    first, second, third = (output / f"{name}.jsonl" for name in sources)
    assert not (output / "rows.jsonl").exists()
    assert first.read_bytes() + second.read_bytes() == (whole / "rows.jsonl").read_bytes()
    assert third.read_bytes() == b""
    assert (read_data_manifest(first)["counts"]["read"], read_data_manifest(second)["counts"]["read"]) == (50, 55)
    counts = read_data_manifest(third)["counts"]
    assert (counts["read"], counts["rows"], counts["dropped"]) == (1, 0, {"exact duplicate": 1})
    assert count_of(sources_of(third)[0]) == 0, "a stage that reads it knows that it is empty"
    assert explanations(output, ["again"])[0].endswith("because of row-1-0")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "expected either path or sources, found neither"),
        ({"path": "a.jsonl", "sources": {"b": "b.jsonl"}}, "expected either path or sources, found both"),
        ({"sources": {"dropped": "b.jsonl"}}, "Choose another name"),
        ({"sources": {"../b": "b.jsonl"}}, "should match pattern"),
    ],
)
def test_either_path_or_named_sources_are_given(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        QualityConfig(**settings)


@pytest.mark.slow
def test_other_settings_leave_no_old_shards(source: Path, whole: Path, tmp_path: Path) -> None:
    built(source, tmp_path)
    built(source, tmp_path, duplicates={"near": False})
    assert len(list(tmp_path.glob("units/*"))) == 1
    counts = read_data_manifest(tmp_path / "rows.jsonl")["counts"]
    assert counts["dropped"] == {"exact duplicate": 10, "too many exclamation marks": 5}


BAD = {
    "no json": "is not JSON",
    "[1, 2]": "expected a JSON object",
    '{"id": "a", "source": "s"}': "a.jsonl:2",
    '{"id": "a", "source": "s", "messages": []}': "a.jsonl:2",
    '{"id": "a", "source": "s", "messages": [{"role": "user", "content": "x"}]}': "a.jsonl:2",
    '{"id": "a", "source": "s", "messages": [{"role": "robot", "content": "x"}]}': "a.jsonl:2",
    '{"id": 3, "source": "s", "messages": "none"}': "a.jsonl:2",
    '{"id": "row-3-0", "source": "s", "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}': "already the id",  # noqa: E501
    "\udcff".encode("utf-8", "surrogateescape").decode("latin-1") + "{": "is not JSON",
}


@pytest.mark.slow
@pytest.mark.parametrize("line", BAD)
def test_a_bad_row_stops_the_run_and_nothing_is_written_or_is_dropped_and_counted(line: str, tmp_path: Path) -> None:
    first, second = (row.model_dump_json(exclude_defaults=True) for row in random_rows(2, seed=3))
    (tmp_path / "a.jsonl").write_text(f"{first}\n{line}\n{second}\n")
    with pytest.raises(RowError, match=BAD[line]):
        built(tmp_path / "a.jsonl", tmp_path / "out")
    assert not [name for name in FILES if (tmp_path / "out" / name).exists()]
    built(tmp_path / "a.jsonl", tmp_path / "out", bad_rows="drop")
    counts = read_data_manifest(tmp_path / "out/rows.jsonl")["counts"]
    assert (counts["read"], counts["rows"], sum(counts["dropped"].values())) == (3, 2, 1)


def malformed() -> list[bytes]:
    """60 lines, none of which is an SFT row: broken JSON, broken text, and every part of a row in a wrong form."""
    whole = json.loads(random_rows(1, seed=3)[0].model_dump_json(exclude_defaults=True))
    user, answer = whole["messages"]
    broken = [
        b"{",
        b"[]",
        b"null",
        b"3",
        b'"text"',
        b'{"a": 1',
        b"{'id': 1}",
        b'{"id": NaN}',
        b"\xff\xfe{}",
        b"\x00",
        b"{}",
    ]
    broken += [
        b"[" * 5000,
        b'{"a": ' * 3000,
        json.dumps(whole).encode()[:-2],
        json.dumps(whole).encode() + b"}",
        b"---",
    ]
    values: list[Any] = [3, True, {}, [3], [[]], "", [None]]
    wrong = [{**whole, "messages": value} for value in values]
    wrong += [{**whole, "messages": [user]}, {**whole, "messages": [answer]}, {**whole, "messages": [user, user]}]
    wrong += [{**whole, "messages": [user, {**answer, "role": role}]} for role in ("", "bot", None, 3, [])]
    wrong += [{**whole, "messages": [user, {**answer, "content": value}]} for value in (3, {}, "", "  ", True)]
    wrong += [
        {**whole, "messages": [user, {**answer, "tool_calls": value}]} for value in (3, "x", [3], [{}], {"name": 1})
    ]
    wrong += [{**whole, "messages": [{**user, "tool_calls": [{"name": "f", "arguments": "{}"}]}, answer]}]
    wrong += [{**whole, "messages": [user, {**answer, name: 7}]} for name in ("unknown", "trained", "name")]
    wrong += [{**whole, "messages": [{**user, "content": [{"type": "image"}]}, answer]}]
    wrong += [{**whole, "messages": [answer, user]}, {**whole, "messages": [user, answer, {"role": "system"}, answer]}]
    wrong += [{**whole, "id": ""}, {**whole, "source": ""}, {**whole, "unknown": 1}]
    wrong += [{**whole, "tools": value} for value in (3, "no json", "{}", "[3]", [{}])]
    wrong += [{**whole, "score": value} for value in ("high", [], {})] + [
        {**whole, "round": value} for value in (-1, "x")
    ]
    return [*broken, *(json.dumps(record).encode() for record in wrong)]


@pytest.mark.slow
def test_sixty_kinds_of_malformed_rows_are_dropped_each_with_its_line(tmp_path: Path) -> None:
    good = random_rows(2, seed=4)
    first, last = (row.model_dump_json(exclude_defaults=True).encode() for row in good)
    bad = malformed()
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([first, *bad, last]) + b"\n")
    built(tmp_path / "a.jsonl", tmp_path / "out", bad_rows="drop", rules={"rules": []})
    assert [row.id for row in read_rows(tmp_path / "out/rows.jsonl", SFTRow)] == [row.id for row in good]
    dropped = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert [each["where"].rpartition(":")[2] for each in dropped] == [str(n) for n in range(2, len(bad) + 2)]
    assert all(each["gate"] == "reading" and each["reason"] and each["detail"] for each in dropped)
    assert len(bad) >= 60


PLAIN: dict[str, Any] = {
    "duplicates": {"near": False},
    "decontamination": {"enabled": False},
    "balance": {"enabled": False},
}
"""Settings without the gates that cost more than to read the rows."""


@pytest.mark.slow
def test_each_of_sixty_kinds_of_malformed_rows_stops_the_run_and_nothing_is_written(tmp_path: Path) -> None:
    first, last = (row.model_dump_json(exclude_defaults=True).encode() for row in random_rows(2, seed=4))
    source, output = tmp_path / "a.jsonl", tmp_path / "out"
    for line in malformed():
        source.write_bytes(b"\n".join([first, line, last]) + b"\n")
        error = fault_of(source, output)
        if error is None:  # a row without an answer stops no run
            dropped = [json.loads(text) for text in (output / "dropped.jsonl").read_text().splitlines()]
            assert [each["where"].rpartition(":")[2] for each in dropped] == ["2"], line
            shutil.rmtree(output)
            continue
        assert re.match(r".*a\.jsonl:2\b", error.where), error
        assert error.what, line
        assert error.how, line
        assert not files_in(output), line


def fault_of(source: Path, output: Path, **settings: Any) -> RowError | None:
    """The error of a run that stops at the first bad row; None if it goes through."""
    try:
        built(source, output, **PLAIN, **settings)
    except RowError as error:
        return error
    return None


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def of_other_kinds() -> list[tuple[str, dict[str, Any]]]:
    """Malformed preferences and prompts."""
    row = json.loads(random_rows(1, seed=3)[0].model_dump_json(exclude_defaults=True))
    user, answer = row.pop("messages")
    other = {**answer, "content": "Something else."}
    pair = {**row, "prompt": [user], "completions": [[answer], [other]]}
    prompt = {**row, "prompt": [user]}
    completions: list[Any] = [
        [],
        [[answer]],
        [[answer], [answer]],
        [[], []],
        [answer, other],
        [[user], [answer]],
        "ab",
        3,
    ]
    pairs = [{**pair, "completions": value} for value in completions]
    pairs += [{**pair, "scores": value} for value in ([1.0], [1.0, 2.0, 3.0], ["a", "b"], [0.0, 1.0], 3)]
    pairs += [{**pair, "prompt": value} for value in ([], [answer], None, 3)]
    prompts = [{**prompt, "prompt": value} for value in ([], 3, [answer], [{}], {"role": "user"})]
    prompts += [{**prompt, "verify": 3}]
    return [*(("preferences", record) for record in pairs), *(("prompts", record) for record in prompts)]


@pytest.mark.slow
def test_malformed_preferences_and_prompts_are_dropped_or_stop_the_run(tmp_path: Path) -> None:
    good = random_rows(1, seed=4)[0]
    user, answer = (message.model_dump(exclude_defaults=True) for message in good.messages)
    fine = {"id": "a", "source": "s", "prompt": [user]}
    second = {**answer, "content": "No."}
    whole = {"preferences": {**fine, "completions": [[answer], [second]]}, "prompts": fine}
    source, output = tmp_path / "a.jsonl", tmp_path / "out"
    for kind, record in of_other_kinds():
        source.write_text(f"{json.dumps(whole[kind])}\n{json.dumps(record)}\n")
        if fault_of(source, output, kind=kind) is None:
            shutil.rmtree(output)
        assert not files_in(output), record
        built(source, output, kind=kind, bad_rows="drop", **PLAIN)
        dropped = json.loads((output / "dropped.jsonl").read_text())
        assert (dropped["where"].rpartition(":")[2], dropped["gate"]) == ("2", "reading"), record
        assert dropped["reason"], record
        shutil.rmtree(output)


def test_sources_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"none\.jsonl: cannot be read"):
        built(tmp_path / "none.jsonl", tmp_path / "out")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(RowError, match=r"empty\.jsonl: holds no rows"):
        built(tmp_path / "empty.jsonl", tmp_path / "out")
    write_rows(tmp_path / "a.jsonl", random_rows(1, seed=0))
    weighed = {"path": str(tmp_path / "a.jsonl"), "weight": 2.0}
    with pytest.raises(RowError, match="the rows are cleaned before they are weighed"):
        build(QualityConfig(path=weighed), tmp_path / "out")
