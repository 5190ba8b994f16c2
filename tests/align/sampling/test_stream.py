"""Candidates are a stream: the files do not depend on how they are cut into units, nor does memory grow with them."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from align import files
from align.errors import CheckError, StageError
from align.rows import Candidate
from align.sampling.work_units import read_unit
from tests.last_pass import write

FILES = ("candidates.jsonl", "sft.jsonl", "preferences.jsonl")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power cut here


def files_of(folder: Path) -> dict[str, Any]:
    """The files of rows, and what their manifests count, in the order in which it is written."""
    manifests = {name: json.loads((folder / f"{name}.manifest.json").read_text()) for name in FILES}
    return {name: ((folder / name).read_bytes(), json.dumps(manifests[name]["counts"])) for name in FILES}


def test_small_units_give_the_files_of_one_big_unit(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"pairs": {"min_gap": 500.0}, "sft_per_prompt": 2}
    small, big = (files_of(write(tmp_path / str(size), 20, 4, 60, size, **limits)) for size in (3, 20))
    assert small == big
    for name in FILES[1:]:
        assert small[name][0].count(b"\n") > 4
    assert json.loads(small["preferences.jsonl"][1])["dropped"]["scores too close"] > 1


def peak(folder: Path, prompts: int) -> int:
    """The most memory that Python held at one time, in bytes."""
    tracemalloc.start()
    write(folder, prompts, 4, 10_000, unit_size=2)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_does_not_grow_with_the_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_READ_BYTES", 2**16)  # of a file that is hashed
    write(tmp_path / "first", 2, 4, 20)  # imports what the passes import
    few, many = peak(tmp_path / "few", 4), peak(tmp_path / "many", 40)
    text = (tmp_path / "many" / "candidates.jsonl").stat().st_size
    assert many < 1.2 * few
    assert many < text


def test_an_alarm_that_stops_the_run_leaves_no_rows(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=r"alarms\.unfinished is 0\.01"):
        write(tmp_path, 4, 4, 20, alarms={"unfinished": 0.01, "action": "stop"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "scores", "units"]


def test_a_unit_that_was_damaged_since_it_was_checked_is_named(tmp_path: Path) -> None:
    write(tmp_path, 4, 2, 20, unit_size=2)
    unit = tmp_path / "scores" / "unit-00001.jsonl"
    with pytest.raises(StageError, match=r"unit-00001\.jsonl: it is unit 1, under the name of unit 0\. Delete this"):
        read_unit(unit, Candidate, 0)
    unit.write_bytes(unit.read_bytes()[:-9])
    with pytest.raises(StageError, match=r"rows are not those that were written\. Delete .*the unit is made again"):
        read_unit(unit, Candidate)
    unit.unlink()
    with pytest.raises(StageError, match=r"cannot be read \(No such file"):
        read_unit(unit, Candidate)
