"""Files that appear whole or not at all, and fingerprints."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from blake3 import blake3

from align.errors import ConfigError
from align.files import FolderLock, fingerprint, fingerprint_of, sole_writer, whole_file, write_text


def test_a_file_appears_only_after_its_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    with whole_file(path) as handle:
        handle.write("one\n")
        handle.flush()
        assert not path.exists()
    assert path.read_text() == "one\n"
    assert [file.name for file in path.parent.iterdir()] == ["rows.jsonl"]


def test_an_error_leaves_the_old_file_and_nothing_next_to_it(tmp_path: Path) -> None:
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


def test_there_is_no_fingerprint_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "missing")


HOLD = """
import sys, time
from pathlib import Path
from align.files import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_writer_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ConfigError) as caught, sole_writer(folder, "training.output_dir"):
        pass
    expected = (
        f"training.output_dir: {folder}: another run is writing to it (process {process.pid} on {socket.gethostname()})"
    )
    assert str(caught.value).startswith(expected)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / ".lock").read_text().split()[0] == str(process.pid), "the file is there; the lock is not"
    with sole_writer(folder):
        assert (folder / ".lock").read_text().split()[0] == str(os.getpid())
    assert list(folder.iterdir()) == []
    with sole_writer(tmp_path / "new"):
        assert (tmp_path / "new" / ".lock").exists()
    assert not (tmp_path / "new").exists(), "a run that wrote nothing leaves nothing"


def test_a_process_may_lock_a_folder_again(tmp_path: Path) -> None:
    first = FolderLock.acquire(tmp_path / "run")
    assert FolderLock.acquire(tmp_path / "other" / ".." / "run") is first
    first.release()
    first.release()
    assert FolderLock.acquire(tmp_path / "run") is not first
    FolderLock.release_folder(tmp_path / "run")


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    what = r"(is a file, and a folder is expected|cannot be written to \(.*\))\. Name a folder that can be created"
    with pytest.raises(ConfigError, match=what):
        FolderLock.acquire(tmp_path / name)


def test_a_folder_that_a_run_has_only_looked_at_is_gone_after_it(tmp_path: Path) -> None:
    """A hidden record, such as the choice of a precision, is of no use where nothing else was written."""
    for kept in ("metrics.jsonl", None):
        folder = tmp_path / f"run-{kept}"
        lock = FolderLock.acquire(folder)
        (folder / ".precision.json").write_text("{}")
        if kept:
            (folder / kept).write_text("{}")
        lock.release()
        assert folder.exists() == (kept is not None)
    assert sorted(path.name for path in (tmp_path / "run-metrics.jsonl").iterdir()) == [
        ".precision.json",
        "metrics.jsonl",
    ]
    there = tmp_path / "there"
    there.mkdir()
    (there / ".mine").write_text("")
    FolderLock.acquire(there).release()
    assert [path.name for path in there.iterdir()] == [".mine"], "a folder that was there before stays as it was"
