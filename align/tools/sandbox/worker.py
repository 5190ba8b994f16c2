"""What runs inside the sandbox: takes code, runs it in one namespace that lives on, answers with a frame of bytes.

The host sends this file's text to a bare interpreter, so it imports the standard library only, and little of that: each
import is paid at each start (json alone would double Python's own). Nothing here protects anything. The boundary is
bubblewrap's and the kernel's; code may take this process over and gains no more than an answer of its own making, which
the host reads as data.

Descriptors at the start: 0 requests, 1 and 2 the code's output; that of the answers is named in the first request.
Request: 4 bytes of length, then marshal, which both sides have of the same interpreter: first the limits, then
{"id": bytes, "code": str, "files": {name: bytes}} for each call.
Answer: `ANSWER` (id, outcome, length of the value, length of the message), then both, UTF-8.
"""

import _ast  # ast itself takes milliseconds to import; the nodes and the parser are in here
import marshal
import os
import resource
import struct
import sys

ALL_DESCRIPTORS = 1 << 20
ANSWER = struct.Struct("!16sBII")
OUTCOMES = ("ok", "error", "memory", "output")  # as in session.py
ONLY_PARSE = 0x400  # ast.PyCF_ONLY_AST
RESERVE_BYTES = 8 << 20
"""What code may not take, so that a call that ran out of memory can still say so."""


def main():
    limits = marshal.loads(framed(0))  # nosec B302  # what the host wrote, read by the worker
    answers, requests, outputs = limits["answers"], os.dup(0), {1: os.dup(1), 2: os.dup(2)}
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # input() finds the end of the file, not the next request
    kept = sorted({2, answers, requests, *outputs.values(), ALL_DESCRIPTORS})
    for place, descriptor in enumerate(kept[1:]):
        os.closerange(kept[place] + 1, descriptor)
    memory = limits["memory_bytes"]
    for name, value in (
        ("AS", memory),
        ("CPU", limits["cpu_seconds"]),
        ("FSIZE", limits["file_bytes"]),
        ("NOFILE", limits["open_files"]),
        ("NPROC", limits["threads"]),
        ("CORE", 0),
    ):
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    resource.setrlimit(resource.RLIMIT_AS, (memory - RESERVE_BYTES, memory))
    main_module = type(sys)("__main__")
    sys.modules["__main__"] = main_module
    send(answers, b"\0" * 16, "ok", "", "", limits["output_bytes"])
    count = 0
    while frame := framed(requests):
        request = marshal.loads(frame)  # nosec B302  # the same
        count += 1
        for descriptor, original in outputs.items():  # an earlier call may have closed or replaced them
            os.dup2(original, descriptor)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        outcome, value, message = run(request, f"<call {count}>", main_module.__dict__)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BaseException:  # closed or replaced by the code, which may raise anything: its own loss
                continue
        send(answers, request["id"], outcome, value, message, limits["output_bytes"])
        resource.setrlimit(resource.RLIMIT_AS, (memory - RESERVE_BYTES, memory))


def run(request, name, namespace):
    """Outcome, value, message. The value is the repr of the last expression, as in an interactive interpreter."""
    try:
        for file, content in request["files"].items():
            os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
            with open(file, "wb") as out:
                out.write(content)
        tree = compile(request["code"], name, "exec", ONLY_PARSE)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], _ast.Expr) else None
        exec(compile(tree, name, "exec"), namespace)  # nosec B102  # what the sandbox is for
        shown = None if last is None else compile(_ast.Expression(last.value), name, "eval")
        result = None if shown is None else eval(shown, namespace)  # nosec B307  # the same
        return "ok", "" if result is None else repr(result), ""
    except MemoryError:
        return "memory", "", "MemoryError: the code asked for more memory than it may have"
    except BaseException as error:
        return "error", "", described(error, request["code"], name)


def described(error, code, name):
    """The traceback as the code's writer would see it: without this file, with the lines of the call."""
    try:
        import linecache
        import traceback

        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        below = error.__traceback__
        while below is not None and below.tb_frame.f_code.co_filename != name:
            below = below.tb_next
        return "".join(traceback.format_exception(type(error), error, below)).rstrip("\n")
    except BaseException:  # an exception that cannot be shown, such as one whose __str__ raises
        return type(error).__name__


def send(answers, identity, outcome, value, message, most_bytes):
    value, message = value.encode("utf-8", "replace"), message.encode("utf-8", "replace")[-most_bytes:]
    if len(value) > most_bytes:
        outcome, value, message = "output", b"", b"the value of the last expression is too long to show"
    head = ANSWER.pack(identity, OUTCOMES.index(outcome), len(value), len(message))
    frame = memoryview(head + value + message)
    while frame:
        frame = frame[os.write(answers, frame) :]


def framed(descriptor):
    """The next request; empty at the end of all."""
    return exactly(descriptor, int.from_bytes(exactly(descriptor, 4), "big"))


def exactly(descriptor, size):
    data = b""
    while len(data) < size:
        if not (more := os.read(descriptor, size - len(data))):
            return b""
        data += more
    return data


if __name__ == "__main__":
    main()
