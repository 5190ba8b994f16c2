"""Start training as users do, in processes of its own, without importing torch again for each of them.

A training process spends about seven seconds of a core on imports, and `accelerate launch` with two workers pays them
three times: most of the time of a test that starts it. Here one server process has imported everything
(tests/preloaded.py), and each process, and each Python that it starts, is a fork of it (`multiprocessing`'s
forkserver). All the rest is real: the launcher's own code with its command line, its elastic agent, signals, exit
codes, processes to kill, and environments, except for variables that a library reads when it is imported.

    run([*ZERO3, "recipes/dpo.py", "config.yaml"])              # to the end; an exit code other than 0 is a failure
    started = Started([PYTHON, "recipes/dpo.py", "config.yaml"])
    started.kill()                                              # it and all that it started

`real=True` starts the interpreter in the place of a fork. One test of each launcher does so.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable
ZERO3 = [PYTHON, "-m", "accelerate.commands.launch", "--config_file", "recipes/launch/zero3_cpu.yaml"]
TORCHRUN = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# Two processes that each keep both cores spinning are many times slower than two that share them.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
TIMEOUT = 400.0


class Started:
    """A process that runs `words`, a command line that begins with Python. `output` has what it printed."""

    def __init__(
        self, words: Sequence[str], *, real: bool = False, printed: Path | None = None, **environment: str
    ) -> None:
        self._keep = printed is not None
        if printed is None:
            with tempfile.NamedTemporaryFile(delete=False, suffix=".out") as made:
                printed = Path(made.name)
        self._printed = printed
        given = dict(os.environ) | ENVIRONMENT | environment
        if real:
            with self._printed.open("w") as out:
                popen = subprocess.Popen(words, cwd=ROOT, env=given, stdout=out, stderr=subprocess.STDOUT)
            self.pid, self.poll = popen.pid, popen.poll
            return
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.preloaded"])
        process = context.Process(target=_in_the_fork, args=(words, given, str(self._printed)), daemon=True)
        process.start()
        assert process.pid is not None
        self.pid, self.poll = process.pid, lambda: process.exitcode

    def __del__(self) -> None:
        if not self._keep:
            self._printed.unlink(missing_ok=True)

    @property
    def output(self) -> str:
        return self._printed.read_text(errors="replace")

    def wait(self, timeout: float = TIMEOUT) -> int:
        """The exit code; the negative number of the signal that ended the process."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, f"it runs still after {timeout:.0f} s:\n{self.output[-4000:]}"
            time.sleep(0.01)
        return code

    def wait_for(self, reached: Callable[[], Any], timeout: float = TIMEOUT) -> None:
        """Wait until the process has done something; it must not end before."""
        deadline = time.monotonic() + timeout
        while not reached():
            assert self.poll() is None, f"it ended too early:\n{self.output[-4000:]}"
            assert time.monotonic() < deadline, f"not reached after {timeout:.0f} s:\n{self.output[-4000:]}"
            time.sleep(0.002)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL it and all that it started; a launcher's workers are in sessions of their own."""
        family = psutil.Process(self.pid)
        for member in [family, *family.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self.wait()


def run(words: Sequence[str], *, real: bool = False, **environment: str) -> str:
    """Run to the end, and return what was printed. A process that fails is a failure of the test."""
    started = Started(words, real=real, **environment)
    assert started.wait() == 0, started.output[-4000:]
    return started.output


class Stage:
    """In the place of the `subprocess.Popen` of a stage of rounds: the stage is a fork of the server.

    It cannot be a fork of the driver, which has hashed files: the threads that did so are missing in a fork, and the
    next hash would wait for them. The lock on the stage's log is not handed on; tests/align/rounds/test_driver.py has
    that with real processes.
    """

    def __init__(self, command: Sequence[str], *, stdout: IO[bytes], env: Mapping[str, str], **others: Any) -> None:
        assert others == {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "start_new_session": True}, others
        self._started = Started(command, printed=Path(stdout.name), **env)
        self.pid = self._started.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        return self._started.poll()


def _in_the_fork(words: Sequence[str], environment: Mapping[str, str], printed: str) -> None:
    out = os.open(printed, os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.setsid()
    os.chdir(ROOT)
    _be(words, environment)


def _be(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Be the process that would execute `words`, its end included. Does not return."""
    os.environ.clear()
    os.environ.update(environment)
    if threads := environment.get("OMP_NUM_THREADS"):
        sys.modules["torch"].set_num_threads(int(threads))  # the library read the variable when the server imported it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    subprocess.Popen._execute_child = _fork_child  # type: ignore[attr-defined]
    script = _script(words)
    assert script, words
    code: Any = 0
    try:
        if script[0] == "-m":
            sys.argv = ["-m", *script[2:]]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(script[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(script)
            sys.path.insert(0, str(Path(script[0]).resolve().parent))
            runpy.run_path(script[0], run_name="__main__")
    except SystemExit as left:
        code = left.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _script(words: Sequence[str]) -> list[str]:
    """The script, or -m and the module, with its arguments; empty if `words` start another program."""
    rest = [str(word) for word in words[1:]]
    while rest and rest[0] == "-u":
        del rest[0]
    is_ours = words[0] == PYTHON and rest and (rest[0] == "-m" or rest[0].endswith(".py"))
    return rest if is_ours else []


_executed = subprocess.Popen._execute_child  # type: ignore[attr-defined]


def _fork_child(
    self: Any, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any,
    startupinfo: Any, creationflags: Any, shell: Any, p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int,
    errread: int, errwrite: int, restore_signals: Any, gid: Any, gids: Any, uid: Any, umask: Any,
    start_new_session: bool, process_group: int,
) -> None:  # fmt: skip
    """In the place of `subprocess.Popen._execute_child`: a fork where Python would be executed again."""
    if shell or isinstance(args, str | bytes | os.PathLike) or not _script(args):
        _executed(
            self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
            p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid, umask,
            start_new_session, process_group,
        )  # fmt: skip
        return
    assert preexec_fn is None
    assert not pass_fds
    assert process_group == -1
    sys.stdout.flush()
    sys.stderr.flush()
    self.pid = os.fork()
    if not self.pid:
        # `subprocess` names -1 where a stream is the parent's own.
        for mine, given in enumerate((p2cread, c2pwrite, errwrite)):
            if given != -1:
                os.dup2(given, mine)
        os.closerange(3, 4096)
        if start_new_session:
            os.setsid()
        if cwd:
            os.chdir(cwd)
        _be(args, dict(os.environ) if env is None else env)
    self._child_created = True
    self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
