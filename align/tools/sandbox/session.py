"""Run Python that a model wrote: once, in a session whose variables persist, or in many sessions from a warm pool.

    with Sandbox().session() as session:
        session.run("x = 2")
        session.run("x * 21").value  # "42"

The isolation is in `namespaces.py` and `seccomp.py`, the isolated process in `worker.py`. What comes back
from there is data, whoever wrote it: lengths are checked, bytes are decoded, and nothing else is made of them.

One process, no children: the filter refuses them, so a limit on the process is a limit on all that the code can start.
A sandbox holds at most `memory_bytes` of memory and `scratch_bytes` of files, which are in memory too. The kernel holds
what waits in its pipes and pairs of sockets: 64 KiB and 208 KiB a descriptor, which the filter does not let code raise,
so 13 MiB for 64 `open_files`. The 208 KiB are Linux's default (`net.core.wmem_default` of the host): a host with a
larger one lets sandboxes hold more.
"""

from __future__ import annotations

import marshal
import os
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from pydantic import Field

from align.config import Section
from align.errors import SandboxError
from align.tools.sandbox import namespaces
from align.tools.sandbox.worker import ANSWER

Outcome = Literal["ok", "error", "timeout", "memory", "output", "killed"]
OUTCOMES: tuple[Outcome, ...] = ("ok", "error", "memory", "output")
"""What an answer can say of itself, by its number there; the host sees the others."""
CHUNK = 1 << 16
START_SECONDS = 20.0


class SandboxLimits(Section):
    """What one sandbox may use. The defaults fit short calls of a dialog."""

    seconds: float = Field(20.0, gt=0)
    """Wall clock of one call. Llama 3's executor: 20."""
    cpu_seconds: int = Field(120, gt=0)
    """Processor time of a whole session, threads that work on between calls included."""
    memory_bytes: int = Field(512 << 20, ge=64 << 20)
    """Address space."""
    scratch_bytes: int = Field(32 << 20, ge=1 << 16)
    """All files together."""
    scratch_files: int = Field(1_000, gt=0)
    """Files and folders, however small."""
    file_bytes: int = Field(16 << 20, gt=0)
    """One file."""
    output_bytes: int = Field(1 << 16, gt=0)
    """Standard output and error of one call together; the value and the traceback of a call each."""
    open_files: int = Field(64, ge=16)
    """Descriptors."""
    threads: int = Field(16, gt=0)
    """Threads, the main one included."""


class Execution(NamedTuple):
    """What a call did. Every text is what the code made of it, and may hold anything."""

    stdout: str
    stderr: str
    value: str | None
    """`repr` of the last expression; None if there is none, or it is None."""
    outcome: Outcome
    """ok; error: the code raised; timeout, memory, output: over that limit; killed: the process ended."""
    message: str
    """The traceback of an error, or why the call ended; empty when ok."""
    seconds: float
    """Wall clock, as the host saw it."""
    ended: bool
    """The session is over: variables and files of the dialog are gone."""


class Session:
    """One sandboxed process. Variables and scratch files live on from call to call, until a call ends the process.

    Calls from several threads run one after the other. Made by `Sandbox.session` and `SandboxPool.session`.
    """

    def __init__(self, limits: SandboxLimits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._answers, answers = os.pipe()
        settings = limits.model_dump() | {"answers": answers}
        scratch = f"size={limits.scratch_bytes},nr_inodes={limits.scratch_files + 1}"
        try:
            # bubblewrap dies with the thread that started it, so a thread that never ends starts them all.
            self._process = _starter().submit(namespaces.start, scratch, answers).result()
        except BaseException:
            os.close(self._answers)
            raise
        finally:
            os.close(answers)
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._requests = self._process.stdin.fileno()
        self._outputs = (self._process.stdout.fileno(), self._process.stderr.fileno())
        for descriptor in (self._requests, self._answers, *self._outputs):
            os.set_blocking(descriptor, False)
        self._settings = settings
        self.alive = True
        self._ready = False

    def wait_until_ready(self) -> None:
        """Wait for the worker's first answer. Raises SandboxError with what the boundary's programs said instead."""
        if self._ready:
            return
        started = self._exchange(_framed(self._settings), bytes(16), START_SECONDS)
        if started.outcome != "ok":
            said = started.stderr.strip() or started.message
            raise SandboxError("sandbox", f"expected an isolated process, found: {said}", namespaces.HOW_TO_PERMIT)
        self._ready = True

    def run(self, code: str, files: Mapping[str, bytes | str] | None = None) -> Execution:
        """Run code in the session's namespace; `files` (relative names) are written to the scratch folder first.

        Whatever the code does comes back as an Execution. Raises SandboxError if an earlier call ended the session, or
        for a file name that leaves the folder.
        """
        with self._lock:
            if not self.alive:
                raise SandboxError(
                    "sandbox", "expected a running session, found one that has ended", "Open another session"
                )
            self.wait_until_ready()
            identity = os.urandom(16)
            contents = {
                _safe_name(name): content.encode() if isinstance(content, str) else bytes(content)
                for name, content in (files or {}).items()
            }
            text = code.encode("utf-8", "replace").decode()  # lone surrogates are no program
            request = _framed({"id": identity, "code": text, "files": contents})
            return self._exchange(request, identity, self.limits.seconds)

    def close(self) -> None:
        """End the process and all it holds; returns when all of it is gone. Does nothing the second time."""
        if self.alive:
            self.alive = False
            namespaces.end(self._process)
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                assert stream
                stream.close()
            os.close(self._answers)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, request: bytes, identity: bytes, seconds: float) -> Execution:
        """Send a request and read until its answer, a limit or the end; output is capped while it is read."""
        began = time.monotonic()
        call = _Call(self.limits.output_bytes, identity)
        ending: tuple[Outcome, str] | None = None
        with selectors.DefaultSelector() as selector:
            for descriptor in (*self._outputs, self._answers):
                selector.register(descriptor, selectors.EVENT_READ)
            selector.register(self._requests, selectors.EVENT_WRITE)
            while not call.answered and ending is None:
                left = began + seconds - time.monotonic()
                if left <= 0:
                    ending = "timeout", f"the call was ended after {seconds:g} seconds"
                    break
                for key, _ in selector.select(left):
                    descriptor = key.fd
                    if descriptor == self._requests:
                        request = _write_some(descriptor, request)
                        if not request:
                            selector.unregister(descriptor)
                    elif (data := _read_some(descriptor)) is None:
                        continue
                    elif not data:
                        selector.unregister(descriptor)
                        if descriptor == self._answers:
                            ending = "killed", self._end_of_process()
                    elif descriptor == self._answers:
                        call.take_answer(data)
                    else:
                        call.take_output(self._outputs.index(descriptor), data)
                ending = ending or call.ending
        if call.answered or (ending and ending[0] == "killed"):
            # The code wrote its output before the worker wrote its answer, so all of it waits in the pipes.
            for place, descriptor in enumerate(self._outputs):
                while call.ending is None and (data := _read_some(descriptor)):
                    call.take_output(place, data)
            ending = ending or call.ending
        if ending is not None:
            self.close()
        return call.execution(ending, time.monotonic() - began)

    def _end_of_process(self) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:  # it closed its answers and runs on
            return "the process gave up its answers and was ended"
        names = {128 + number: number.name for number in signal.Signals}
        return f"the process ended with {names.get(code, code)}"


class Sandbox:
    """Opens sessions with the same limits. The first one on a machine is looked at from outside before any code runs.

    Code may import the standard library alone, whatever is installed on the host.
    Raises SandboxError if the machine does not permit isolation: code never runs without it.
    """

    def __init__(self, limits: SandboxLimits | None = None) -> None:
        self.limits = limits or SandboxLimits()
        self.probe()

    @staticmethod
    def probe() -> None:
        """Start one sandbox and ask the kernel whether it is isolated. Raises SandboxError naming each missing part.

        Asked once a process, for each of its user ids.
        """
        _probed(os.geteuid())

    def session(self) -> Session:
        """A fresh process with no variables and an empty scratch folder; close it, or use it in a `with`."""
        session = Session(self.limits)
        try:
            session.wait_until_ready()
        except BaseException:
            session.close()
            raise
        return session

    def run(self, code: str, files: Mapping[str, bytes | str] | None = None) -> Execution:
        """One call in a process of its own."""
        with self.session() as session:
            return session.run(code, files)


class SandboxPool:
    """Sessions for many dialogs at once: at most `size` open, and as many fresh ones started ahead.

        with SandboxPool(2) as pool, pool.session() as session:
            session.run("1 + 1")

    Measured on two cores shared with other work: a call in an open session takes 0.2 ms; 350 calls a second in dialogs
    of ten; 29 to 43 a second where every call has a process of its own (`run`).

    A session is never used for a second dialog. Safe to use from many threads; `session` waits for a free place.
    """

    def __init__(self, size: int, limits: SandboxLimits | None = None) -> None:
        if size < 1:
            raise SandboxError("sandbox", f"expected a pool of one session or more, found {size}", "Name a larger size")
        self._sandbox = Sandbox(limits)
        self._places = threading.BoundedSemaphore(size)
        self._makers = ThreadPoolExecutor(size, thread_name_prefix="sandbox-pool")
        self._lock = threading.Lock()
        self._closed = False
        self._fresh: deque[Future[Session]] = deque(self._makers.submit(self._sandbox.session) for _ in range(size))

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A fresh session, ended after the `with`."""
        with self._places:
            with self._lock:
                if self._closed:
                    raise SandboxError("sandbox", "expected an open pool, found a closed one", "Open another pool")
                fresh = self._fresh.popleft()
                self._fresh.append(self._makers.submit(self._sandbox.session))
            with fresh.result() as session:
                yield session

    def run(self, code: str, files: Mapping[str, bytes | str] | None = None) -> Execution:
        """One call in a fresh session."""
        with self.session() as session:
            return session.run(code, files)

    def close(self) -> None:
        """End the sessions that wait; those in use end with their `with`."""
        with self._lock:
            self._closed = True
            fresh = list(self._fresh)
            self._fresh.clear()
        for future in fresh:
            if not future.cancel() and future.exception() is None:
                future.result().close()
        self._makers.shutdown()

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Call:
    """What has been read of one call: capped output, and the bytes of its answer, of which none is trusted."""

    def __init__(self, most_bytes: int, identity: bytes) -> None:
        self.most_bytes = most_bytes
        self.identity = identity
        self.outputs = (bytearray(), bytearray())
        self.frame = bytearray()
        self.ending: tuple[Outcome, str] | None = None
        self.answered = False

    def take_output(self, place: int, data: bytes) -> None:
        left = self.most_bytes - sum(map(len, self.outputs))
        self.outputs[place].extend(data[:left])
        if len(data) > left:
            self.ending = "output", f"the call was ended after {self.most_bytes} bytes of output"

    def take_answer(self, data: bytes) -> None:
        self.frame += data
        if len(self.frame) < ANSWER.size:
            return
        identity, outcome, value, message = ANSWER.unpack_from(self.frame)
        size = ANSWER.size + value + message
        fits = identity == self.identity and outcome < len(OUTCOMES) and max(value, message) <= self.most_bytes
        if not fits or len(self.frame) > size:
            self.ending = "killed", "the call was ended: it wrote to the answers' pipe"
        self.answered = self.ending is None and len(self.frame) == size

    def execution(self, ending: tuple[Outcome, str] | None, seconds: float) -> Execution:
        stdout, stderr = (bytes(output).decode("utf-8", "replace") for output in self.outputs)
        if ending is not None:
            return Execution(stdout, stderr, None, *ending, seconds, ended=True)
        _, outcome, size, _ = ANSWER.unpack_from(self.frame)
        value, message = self.frame[ANSWER.size :][:size], self.frame[ANSWER.size + size :]
        shown = value.decode("utf-8", "replace") or None
        return Execution(
            stdout, stderr, shown, OUTCOMES[outcome], message.decode("utf-8", "replace"), seconds, ended=False
        )


@cache
def _starter() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="sandbox-start")


@cache
def _probed(user: int) -> None:
    session = Session(SandboxLimits())
    try:
        session.wait_until_ready()
        inside = namespaces.descendants(session._process.pid)
        missing = (
            namespaces.missing_isolation(inside[-1]) if len(inside) == 2 else [f"{len(inside)} processes, not two"]
        )
    finally:
        session.close()
    if missing:
        raise SandboxError(
            "sandbox", f"expected complete isolation, found: {'; '.join(missing)}", namespaces.HOW_TO_PERMIT
        )


def _safe_name(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise SandboxError(
            "sandbox", f"expected a file name inside the scratch folder, found {name!r}", "Give a relative name"
        )
    return str(path)


def _framed(request: dict[str, object]) -> bytes:
    data = marshal.dumps(request)
    return len(data).to_bytes(4, "big") + data


def _read_some(descriptor: int) -> bytes | None:
    """None: nothing yet. Empty: the end."""
    try:
        return os.read(descriptor, CHUNK)
    except BlockingIOError:
        return None


def _write_some(descriptor: int, data: bytes) -> bytes:
    try:
        return data[os.write(descriptor, data[:CHUNK]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:  # the end shows itself on the answers' pipe
        return b""
