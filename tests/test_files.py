"""Files that appear whole or not at all, and fingerprints."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from blake3 import blake3

from align.files import fingerprint, fingerprint_of, whole_file, write_text


def test_a_file_stands_only_after_its_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    with whole_file(path) as handle:
        handle.write("one\n")
        handle.flush()
        assert not path.exists()
    assert path.read_text() == "one\n"
    assert [file.name for file in path.parent.iterdir()] == ["rows.jsonl"]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_text(path, "old")

    def fail() -> None:
        with whole_file(path) as handle:
            handle.write("new, and longer")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_text(path, "old")
    code = (
        "import sys, time\nfrom align.files import whole_file\n"
        "with whole_file(sys.argv[1]) as handle:\n"
        "    handle.write('half'); handle.flush(); print('wrote', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "wrote\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.read_text() == "old"


def test_a_new_file_has_the_permissions_that_open_gives(tmp_path: Path) -> None:
    write_text(tmp_path / "whole", "")
    (tmp_path / "plain").write_text("")
    whole, plain = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("whole", "plain"))
    assert whole == plain


def test_a_fingerprint_is_blake3_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = os.urandom(300_000)
    path.write_bytes(content)
    assert fingerprint(path) == blake3(content).hexdigest()
    empty = tmp_path / "empty"
    empty.touch()
    assert fingerprint(empty) == blake3(b"").hexdigest()


def test_a_folders_fingerprint_follows_names_and_contents_and_nothing_else(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        return fingerprint(tmp_path / name)

    first = folder("a", {"x": "1", "y/z": "2"})
    time.sleep(0.01)
    assert folder("b", {"y/z": "2", "x": "1"}) == first, "neither time nor order counts"
    assert folder("c", {"x": "1", "y/z": "2", ".hidden": "3", ".lock/x": "4"}) == first
    assert folder("d", {"x": "2", "y/z": "1"}) != first
    assert folder("e", {"x": "1", "y/w": "2"}) != first


def test_a_fingerprint_of_parts_keeps_them_apart() -> None:
    assert fingerprint_of("ab", "c") != fingerprint_of("a", "bc")
    assert fingerprint_of("a", 1) == fingerprint_of("a", "1")
    assert fingerprint_of() != fingerprint_of("")
