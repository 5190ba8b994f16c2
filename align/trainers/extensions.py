"""What DeepSpeed compiles on a CPU before ZeRO-3 starts: checked first, so that a start neither fails late nor hangs.

DeepSpeed's collectives in shared memory are C++ that torch compiles at the first start, about a minute, and keeps in
`<TORCH_EXTENSIONS_DIR>/deepspeed_shm_comm`. Without a compiler or ninja they are left out: gloo does their work.

A file `lock` in that folder makes other processes wait for the one that compiles. A process that is killed while it
compiles leaves the file, and torch then waits for it for ever, in silence.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import time
from pathlib import Path

from align.errors import ConfigError
from align.reporting import duration, logger

log = logger(__name__)

EXTENSION = "deepspeed_shm_comm"
LOCK = "lock"
NINJA, COMPILER = "ninja", "a C++ compiler"
_HOW = {
    NINJA: "For its faster collectives in shared memory: pip install ninja",
    COMPILER: "For its faster collectives in shared memory: apt install g++, or set CXX to the compiler's name",
}
POLL_SECONDS = 2.0
SAY_SECONDS = 60.0
"""How often a start that waits for a build says so."""
STALE_SECONDS = 180.0
"""A lock that no visible process has open, in a folder without any change for so long, was left by a killed build. The
holder may be invisible: another user's, or on another machine that shares the folder."""


def prepare_extension() -> None:
    """Make sure that DeepSpeed can start on this CPU. Call it on every process, before DeepSpeed is initialized.

    Leaves the extension out if a tool to compile it with is missing. Waits for a build that is under way, and raises
    ConfigError if a killed build has left its lock.
    """
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    missing = _missing_tool()
    if missing:
        _leave_out(missing)
        if first:
            log.warning("%s is not on PATH: DeepSpeed communicates through gloo. %s", missing, _HOW[missing])
    elif first:
        _wait_for_build(build_folder())


def build_folder() -> Path:
    """Where torch compiles the extension: as `torch.utils.cpp_extension` names it, without creating it."""
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root is not None:
        return Path(root) / EXTENSION
    built_for = f"cu{torch.version.cuda.replace('.', '')}" if torch.version.cuda else "cpu"
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    return Path(get_default_build_root()) / f"{python}_{built_for}" / EXTENSION


def _missing_tool() -> str:
    """The program that is missing to compile the extension; empty if none is. The same answer on every process.

    A compiled extension does not replace the compiler: torch runs ninja at every start, and ninja compiles again if the
    paths of the environment or the compiler's name have changed since.
    """
    if shutil.which("ninja") is None:
        # `.venv/bin/python -m accelerate.commands.launch` finds the environment's packages, but not its programs.
        scripts = sysconfig.get_path("scripts")
        if shutil.which("ninja", path=scripts) is None:
            return NINJA
        os.environ["PATH"] = os.pathsep.join(filter(None, (os.environ.get("PATH"), scripts)))
    compiler = os.environ.get("CXX", "").strip() or "c++"
    if shutil.which(compiler.split()[0]) is None:
        return COMPILER
    return ""


def _leave_out(missing: str) -> None:
    """Tell DeepSpeed that the extension cannot be had here. It then uses torch's own backend for collectives, gloo."""
    import deepspeed.ops

    usable = getattr(deepspeed.ops, "__compatible_ops__", None)
    if not isinstance(usable, dict):
        what = f"DeepSpeed compiles a part of itself on a CPU, and {missing} is not on PATH"
        raise ConfigError("launch", what, f"{_HOW[missing]}, or train on one process without DeepSpeed")
    usable[EXTENSION] = False


def _wait_for_build(folder: Path) -> None:
    lock = folder / LOCK
    began = time.monotonic()
    said = began - SAY_SECONDS
    while lock.exists():
        holder = _holder(lock)
        quiet = time.time() - _last_change(folder)
        if holder is None and quiet > STALE_SECONDS:
            what = (
                f"a build of {EXTENSION} that was killed left it {duration(quiet)} ago; every start would wait for it"
            )
            raise ConfigError(lock, what, f"Delete the file: rm {lock}")
        now = time.monotonic()
        if now - said >= SAY_SECONDS:
            said = now
            log.warning(
                "waiting for another process%s that compiles %s (%s exists; %s so far)",
                f" ({holder})" if holder else "",
                EXTENSION,
                lock,
                duration(now - began),
            )
        time.sleep(POLL_SECONDS)


def _holder(lock: Path) -> int | None:
    """The process that has the lock open, as its maker does until it has compiled; None if none is visible."""
    target = str(lock.resolve())
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(opened) == target:
                return int(opened.parts[2])
        except OSError:
            continue  # another user's, or it has ended
    return None


def _last_change(folder: Path) -> float:
    """Seconds since 1970. Compilers write into the folder while they work."""
    times = []
    for path in (folder, *folder.iterdir()):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(times, default=0.0)
