"""What DeepSpeed compiles on a CPU: its tools are there, and no start waits for a build that was killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest

from align.errors import ConfigError
from align.trainers import extensions
from align.trainers.extensions import EXTENSION, build_folder, prepare_extension


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "ext"))
    monkeypatch.setattr(extensions, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(extensions, "_missing_tool", lambda: "")
    made = tmp_path / "ext" / EXTENSION
    made.mkdir(parents=True)
    return made


def aged(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))


def test_the_lock_of_a_killed_build_stops_the_start_and_names_the_file(folder: Path) -> None:
    (folder / "build.ninja").touch()
    (folder / "lock").touch()
    aged(folder, 600)
    with pytest.raises(ConfigError, match=rf"a build of {EXTENSION} that was killed left it .*rm {folder}/lock"):
        prepare_extension()
    assert (folder / "lock").exists(), "it is the user's to delete"


@pytest.mark.slow
def test_a_build_that_is_under_way_is_waited_for_with_a_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However old its lock is, while a process has it open; and a young one that no process here has open."""
    code = (
        "import os, sys, time\nfrom torch.utils.file_baton import FileBaton\n"
        "baton = FileBaton(sys.argv[1]); baton.try_acquire(); print('held', flush=True)\n"
        "sys.stdin.readline(); baton.release()\n"
    )
    arguments = [sys.executable, "-c", code, str(folder / "lock")]
    maker = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    assert maker.stdin is not None
    assert maker.stdout.readline() == "held\n"
    aged(folder, 600)
    threading.Timer(0.3, maker.stdin.close).start()
    prepare_extension()
    assert not (folder / "lock").exists()
    assert f"waiting for another process ({maker.pid}) that compiles {EXTENSION}" in caplog.text
    maker.wait()
    (folder / "lock").touch()
    threading.Timer(0.3, (folder / "lock").unlink).start()
    prepare_extension()
    assert "waiting for another process that compiles" in caplog.text


def test_an_extension_that_is_compiled_or_not_begun_is_no_wait(folder: Path) -> None:
    (folder / f"{EXTENSION}.so").touch()
    prepare_extension()
    shutil.rmtree(folder.parent)
    prepare_extension()


def test_the_folder_is_torchs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.cpp_extension import _get_build_directory

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for root in (None, str(tmp_path / "ext")):
        monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
        if root:
            monkeypatch.setenv("TORCH_EXTENSIONS_DIR", root)
        assert str(build_folder()) == _get_build_directory(EXTENSION, verbose=False)


def test_without_a_tool_to_compile_with_deepspeed_leaves_the_extension_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import deepspeed.ops

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "ext"))
    monkeypatch.delenv("CXX", raising=False)
    programs, scripts = tmp_path / "bin", tmp_path / "scripts"
    for each in (programs, scripts):
        each.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(scripts))
    usable = dict.fromkeys([EXTENSION], True)
    monkeypatch.setattr(deepspeed.ops, "__compatible_ops__", usable)

    def program(path: Path) -> None:
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)

    def said_of() -> str:
        caplog.clear()
        usable[EXTENSION] = True
        prepare_extension()
        assert usable[EXTENSION] is (caplog.text == "")
        return caplog.text

    assert "ninja is not on PATH: DeepSpeed communicates through gloo" in said_of()
    program(scripts / "ninja")  # as pip installs it, in an environment that was not activated
    assert "a C++ compiler is not on PATH: DeepSpeed communicates through gloo" in said_of()
    assert shutil.which("ninja") == str(scripts / "ninja"), "torch finds it now"
    monkeypatch.setenv("CXX", "clang++ -v")
    assert "a C++ compiler is not on PATH" in said_of()
    (tmp_path / "ext" / EXTENSION).mkdir(parents=True)
    (tmp_path / "ext" / EXTENSION / f"{EXTENSION}.so").touch()
    assert "a C++ compiler is not on PATH" in said_of(), "ninja may compile it again, for another environment's paths"
    monkeypatch.setattr(deepspeed.ops, "__compatible_ops__", None)  # a DeepSpeed that asks in another way
    with pytest.raises(ConfigError, match=r"launch: .* a C\+\+ compiler is not on PATH\. .*apt install g\+\+"):
        prepare_extension()
    program(programs / "clang++")
    monkeypatch.setattr(deepspeed.ops, "__compatible_ops__", usable)
    assert said_of() == ""
    assert usable[EXTENSION]


def test_deepspeed_asks_whether_the_extension_can_be_had() -> None:
    """The key that `prepare_extension` sets is the one that DeepSpeed reads before it compiles."""
    import deepspeed.ops
    from deepspeed.comm.torch import build_shm_op

    known = deepspeed.ops.__compatible_ops__
    assert EXTENSION in known
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(known, EXTENSION, False)
        assert build_shm_op() is None
