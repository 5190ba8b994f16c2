"""Runs a function in a helper process with a time and a memory limit, because some inputs make it run without end.

This is not a sandbox: the code is trusted (this project's or a library's) and only its input is not. Code that a model
wrote runs in `align/tools/sandbox/session.py`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import subprocess
import sys
import threading
import time
from typing import IO, Any

from align.errors import AlignError
from align.tools.results import ToolError, ToolFailure

STARTING_SECONDS = 60
"""Time limit for loading Python and the libraries. A call's own time begins after that."""


class LimitedProcess:
    """Calls `module:function`, which takes JSON values and returns text, in a process that is kept between calls.

    A call that exceeds its time or memory raises `ToolFailure`, and the next call starts another process. A call that
    the function itself refuses raises `ToolFailure` too. One call runs at a time; other threads wait.
    """

    def __init__(
        self, target: str, *, timeout_seconds: float, memory_bytes: int, first_call: tuple[Any, ...] | None = None
    ) -> None:
        self.target = target
        self.timeout_seconds = timeout_seconds
        self.memory_bytes = memory_bytes
        self.first_call = first_call
        """Arguments of a call that is made while the process starts, so that libraries load outside a call's time."""
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> str:
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(arguments).encode() + b"\n")
                process.stdin.flush()
                answer = self._line(process, self.timeout_seconds)
            except BrokenPipeError:
                answer = b""
            if answer is None:
                self.close()
                raise ToolFailure("time-out", f"took longer than {self.timeout_seconds:g} seconds")
            if not answer:
                self.close()
                raise ToolFailure("memory", f"took more than {self.memory_bytes >> 20} MiB, or could not go on")
        found = json.loads(answer)
        if "setup" in found:
            raise ToolError(*found["setup"])
        if "kind" in found:
            raise ToolFailure(found["kind"], found["text"])
        value: str = found["text"]
        return value

    def close(self) -> None:
        """End the process; the next call starts another."""
        process, self._process, self._rest = self._process, None, b""
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()  # type: ignore[union-attr]
            process.wait()

    def __del__(self) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            command = [sys.executable, "-c", "from align.tools.limited_process import serve; serve()", self.target]
            command += [str(self.memory_bytes), json.dumps(self.first_call)]
            # The helper asks no service, so it does not get the keys that the environment may contain.
            kept = {key: value for key, value in os.environ.items() if not key.endswith(("_KEY", "_APP_ID", "_TOKEN"))}
            environment = kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
            )
            ready = self._line(self._process, STARTING_SECONDS)
            if ready != b"ready\n":
                self.close()
                raise ToolError(self.target, "its process did not start", "See the message above")
        return self._process

    def _line(self, process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
        """One line; b"" if the process has ended, None if the time is over."""
        assert process.stdout is not None
        until = time.monotonic() + seconds
        while b"\n" not in self._rest:
            if not select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                return b""
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line + b"\n"


def serve() -> None:
    """The helper's side: a line of JSON arguments in, a line of JSON out, until the pipe is closed."""
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    limit = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if (first := json.loads(sys.argv[3])) is not None:
        _answer(function, first)
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        _put(answers, _answer(function, json.loads(line)))


def _answer(function: Any, arguments: list[Any]) -> dict[str, Any]:
    try:
        return {"text": function(*arguments)}
    except ToolFailure as failure:
        return {"kind": failure.kind, "text": str(failure)}
    except AlignError as error:
        return {"setup": [error.where, error.what, error.how]}
    except MemoryError:
        return {"kind": "memory", "text": "took more memory than a call is given"}
    except Exception as error:
        return {"kind": "exception", "text": f"{type(error).__name__}: {error}"}


def _put(answers: IO[bytes], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()
