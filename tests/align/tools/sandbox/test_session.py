"""What model-written code can and cannot do in the sandbox, seen from the host, as root and as an ordinary user."""

# ruff: noqa: E501 (a table of one attempt a line is read more easily)

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from align.errors import SandboxError
from align.tools.sandbox import namespaces, session
from align.tools.sandbox.session import Sandbox, SandboxLimits, SandboxPool, Session

ROOT = Path(__file__).parents[4]
MACHINE = namespaces.platform.machine()
SECRET = "hf_this_is_the_secret_of_the_host"
LIMITS = SandboxLimits(seconds=2, memory_bytes=192 << 20, scratch_bytes=4 << 20, scratch_files=50, file_bytes=1 << 20)

if not all(map(shutil.which, namespaces.TOOLS)):
    pytest.skip("bubblewrap is not installed: make system-packages", allow_module_level=True)
if subprocess.run(["unshare", "--user", "--mount", "true"], capture_output=True).returncode:
    pytest.skip(f"user namespaces are not permitted here. {namespaces.HOW_TO_PERMIT}", allow_module_level=True)


class Host(NamedTuple):
    """What an escape would reach: a secret, a place to write, a listening port and name, a process."""

    folder: Path
    secret: Path
    mark: Path
    port: int
    name: str
    victim: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    secret = folder / "secret.txt"
    secret.write_text(SECRET)
    held = os.open(secret, os.O_RDONLY)
    os.set_inheritable(held, True)
    os.environ["HF_TOKEN"] = SECRET
    name = f"align-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as named:
        named.bind("\0" + name)
        named.listen()
        victim = subprocess.Popen(["sleep", "600"])
        yield Host(folder, secret, folder / "mark", listener.getsockname()[1], name, victim)
        victim.kill()
        victim.wait()
    del os.environ["HF_TOKEN"]
    os.close(held)


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return Sandbox(LIMITS)


# The attempts run with these at hand. `tries` says "held" only if the kernel refused; `call` makes a raw system call.
PRELUDE = """
import errno, os, sys
REFUSED = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOENT, errno.EROFS, errno.EXDEV}
def tries(*attempts):
    for attempt in attempts:
        try:
            got = attempt()
        except OSError as error:
            if error.errno not in REFUSED:
                return f"not refused: {error!r}"
        else:
            return f"escaped: {got!r}"
    return "held"
def call(x86_64, aarch64, *arguments):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    number = x86_64 if os.uname().machine == "x86_64" else aarch64
    got = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(argument) for argument in arguments])
    if got < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return got
"""

# name: (code, what must come of it). Names in capitals are set from the host. "held" is the value of an attempt that was
# refused; another word is the outcome of a call that the host ended.
ESCAPES = {
    # files
    "read a file of the host": ("tries(lambda: open(SECRET_FILE).read())", "held"),
    "read accounts and passwords": ("tries(lambda: open('/etc/passwd').read(), lambda: open('/etc/shadow').read())", "held"),
    "list homes and mounts": ("tries(*[lambda p=p: os.listdir(p) for p in ('/root', '/home', '/mnt', '/srv', '/var', '/tmp')])", "held"),
    "read through a symlink": ("os.symlink(SECRET_FILE, 'link'); tries(lambda: open('link').read())", "held"),
    "climb out of the scratch folder": ("tries(lambda: open('../../../../..' + SECRET_FILE).read(), lambda: os.listdir('/scratch/../tmp'))", "held"),
    "write to the host": ("tries(lambda: open(MARK, 'w').write('here'))", "held"),
    "write to the root": ("tries(lambda: open('/mark', 'w'), lambda: os.mkdir('/tmp'), lambda: os.symlink('/', '/dev/x'))", "held"),
    "change the interpreter": ("tries(lambda: open(os.__file__, 'a'), lambda: os.chmod(sys.executable, 0o777), lambda: os.unlink(os.__file__))", "held"),
    "link a file of the library into scratch": ("tries(lambda: os.link(os.__file__, 'os.py'))", "held"),
    "make or open a device": ("tries(lambda: os.mknod('disk', 0o060666, os.makedev(254, 0)), lambda: open('/dev/mem'), lambda: open('/dev/tty'), lambda: open('/dev/vda'))", "held"),
    "read the kernel's own files": ("tries(lambda: os.listdir('/sys'), lambda: os.listdir('/proc'), lambda: os.listdir('/sys/fs/cgroup'))", "held"),
    # secrets
    "read the environment": ("'held' if SECRET not in repr(dict(os.environ)) else 'escaped'", "held"),
    "read another process's environment": ("tries(*[lambda p=p: open(f'/proc/{p}/environ').read() for p in (1, 'self', os.getppid(), VICTIM)])", "held"),
    "use descriptors of the host": (
        """
        kinds = {}
        for descriptor in range(3, 1024):
            try:
                kinds[descriptor] = os.fstat(descriptor).st_mode >> 12
            except OSError:
                pass
        'held' if len(kinds) == 4 and set(kinds.values()) == {1} else kinds  # the worker's own four pipes
        """,
        "held",
    ),
    "find secrets in memory": ("import gc\n'held' if SECRET not in repr([o for o in gc.get_objects() if isinstance(o, (str, dict, list)) and o is not globals()]) else 'escaped'", "held"),
    # network
    "connect to the host": ("import socket\ntries(lambda: socket.create_connection(('127.0.0.1', PORT), 1))", "held"),
    "ask a name server": ("import socket\ntries(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53)))", "held"),
    "connect to a local socket": ("import socket\ntries(lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + NAME))", "held"),
    "listen, and open raw and netlink sockets": ("import socket\ntries(lambda: socket.create_server(('127.0.0.1', 0)), lambda: socket.socket(17, 3), lambda: socket.socket(16, 3), lambda: socket.socket(40, 1))", "held"),
    # processes
    "fork": ("tries(os.fork, lambda: os.posix_spawn(sys.executable, ['p'], {}), lambda: call(435, 435, 0, 0))", "held"),
    "start a program": ("import subprocess\ntries(lambda: subprocess.run([sys.executable, '-c', '']), lambda: os.popen('true'))", "held"),
    "fork bomb": ("tries(*[os.fork] * 500, *[lambda: call(56, 220, 17, 0, 0, 0, 0)] * 500)", "held"),
    "memory bomb by many children": ("tries(*[lambda: os.fork() or bytearray(100 << 20)] * 50)", "held"),
    "survive as a daemon": ("tries(os.setsid, os.fork, lambda: os.setpgid(0, 0))", "held"),
    "kill a process of the host": ("try:\n    os.kill(VICTIM, 9)\nexcept ProcessLookupError:\n    got = 'held'\ngot", "held"),
    "kill all": ("try:\n    os.kill(-1, 9)\nexcept ProcessLookupError:\n    pass\n'held'", "held"),
    "trace and read other processes": ("tries(lambda: call(101, 117, 16, 1, 0, 0), lambda: call(310, 270, 1, 0, 0, 0, 0, 0), lambda: call(434, 434, 1, 0), lambda: call(312, 272, 1, 1, 0, 0, 0))", "held"),
    # kernel
    "become root": ("tries(lambda: os.setuid(0), lambda: os.setresgid(0, 0, 0), lambda: os.setgroups([0]), lambda: call(126, 91, 0, 0))", "held"),
    "mount, unshare, change root": ("tries(lambda: call(165, 40, 0, 0, 0, 0, 0), lambda: call(272, 97, 0x10000000), lambda: os.chroot('.'), lambda: call(308, 268, 0, 0), lambda: call(155, 41, 0, 0), lambda: call(428, 428, 0, 0, 0))", "held"),
    "keep a key in the kernel": ("tries(lambda: call(250, 219, 0, -3, 1), lambda: call(248, 217, 0, 0, 0, 0, -3), lambda: call(249, 218, 0, 0, 0, 0))", "held"),
    "load BPF, watch, page by oneself": ("tries(lambda: call(321, 280, 0, 0, 0), lambda: call(298, 241, 0, 0, -1, -1, 0), lambda: call(323, 282, 0))", "held"),
    "use io_uring": ("tries(lambda: call(425, 425, 4, 0), lambda: call(426, 426, 0, 0, 0, 0, 0, 0), lambda: call(427, 427, 0, 0, 0, 0))", "held"),
    "memory outside the limits": ("tries(lambda: os.memfd_create('m'), lambda: call(29, 194, 0, 1 << 20, 0o1600), lambda: call(68, 186, 0, 0o1600), lambda: call(240, 180, 0, 0, 0, 0))", "held"),
    "hold memory in sockets": (
        """
        import socket
        sent, kept = 0, []
        try:
            while True:
                kept += socket.socketpair()
                for end in kept[-2:]:
                    end.setblocking(False)
                    try: end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 20)
                    except PermissionError: pass
                    try:
                        while True: sent += end.send(bytes(65536))
                    except BlockingIOError: pass
        except OSError: pass
        [end.close() for end in kept]
        'held' if len(kept) > 40 and sent < 16 << 20 else (len(kept), sent)
        """,
        "held",
    ),
    "hold memory in pipes": (
        """
        import fcntl
        sent, kept = 0, []
        try:
            while True:
                kept += os.pipe()
                os.set_blocking(kept[-1], False)
                try: fcntl.fcntl(kept[-1], fcntl.F_SETPIPE_SZ, 1 << 20)
                except PermissionError: pass
                try:
                    while True: sent += os.write(kept[-1], bytes(65536))
                except BlockingIOError: pass
        except OSError: pass
        [os.close(end) for end in kept]
        'held' if len(kept) > 40 and sent <= 2 << 20 else (len(kept), sent)
        """,
        "held",
    ),
    "change the machine": ("tries(lambda: call(169, 142, 0, 0, 0), lambda: call(175, 105, 0, 0, 0), lambda: call(170, 161, 0, 0), lambda: call(227, 112, 0, 0), lambda: call(246, 104, 0, 0, 0, 0), lambda: call(135, 92, 0x40000))", "held"),
    "push characters into a terminal": ("import fcntl\ntries(lambda: fcntl.ioctl(1, 0x5412, b'x'), lambda: fcntl.ioctl(1, 0x541C, b'x'))", "held"),
    # resources
    "never end": ("while True: pass", "timeout"),
    "sleep with all signals ignored": ("import signal, time\n[signal.signal(s, signal.SIG_IGN) for s in range(1, 32) if s not in (9, 19)]\ntime.sleep(99)", "timeout"),
    "print for ever": ("while True: os.write(1, b'x' * 65536)", "output"),
    "print for ever to the error stream": ("while True: print('x' * 10000, file=sys.stderr)", "output"),
    "return an endless value": ("'x' * (4 << 20)", "output"),
    "take all memory": ("held = []\nwhile True: held.append(bytearray(1 << 20))", "memory"),
    "take memory by mapping": ("import mmap\nheld = []\ntry:\n    while len(held) < 1000: held.append(mmap.mmap(-1, 1 << 20))\nexcept OSError:\n    pass\nn = len(held); held = None\n'held' if n < 192 else n", "held"),
    "start threads without end": ("import threading, time\nn = 0\ntry:\n    while n < 500: threading.Thread(target=time.sleep, args=(1,), daemon=True).start(); n += 1\nexcept RuntimeError:\n    pass\n'held' if n < 16 else n", "held"),
    "fill the scratch folder": ("n = 0\ntry:\n    while n < 20: open(f'f{n}', 'wb').write(bytes(1 << 20)); n += 1\nexcept OSError:\n    pass\n'held' if 0 < n <= 4 else n", "held"),
    "write one large file": ("try:\n    open('f', 'wb').write(bytes((1 << 20) + 1))\nexcept OSError:\n    pass\n'held' if os.path.getsize('f') <= 1 << 20 else 'escaped'", "held"),
    "write files without number": ("n = 0\ntry:\n    while n < 5000: open(f'f{n}', 'w').close(); n += 1\nexcept OSError:\n    pass\n'held' if 0 < n <= 50 else n", "held"),
    "open descriptors without number": ("held = []\ntry:\n    while len(held) < 5000: held.append(os.dup(1))\nexcept OSError:\n    pass\nn = len(held); [os.close(d) for d in held]\n'held' if n < 64 else n", "held"),
    "raise the limits again": (
        "import resource\nnames = [n for n in dir(resource) if n in ('RLIMIT_AS', 'RLIMIT_CPU', 'RLIMIT_FSIZE', 'RLIMIT_NOFILE', 'RLIMIT_NPROC')]\ntried = 0\n"
        "for n in names:\n    try:\n        resource.setrlimit(getattr(resource, n), (resource.RLIM_INFINITY,) * 2)\n    except ValueError:\n        tried += 1\n'held' if tried == len(names) == 5 else tried",
        "held",
    ),
    "crash the interpreter": ("import ctypes\nctypes.string_at(0)", "killed"),
    "leave": ("os._exit(0)", "killed"),
    "close every descriptor": ("os.closerange(0, 1024)", "killed"),
    "forge an answer": ("for d in range(3, 1024):\n    try: os.write(d, bytes(16) + b'\\x00' + (5).to_bytes(4, 'big') + bytes(4) + b'wrong')\n    except OSError: pass\nimport time; time.sleep(99)", "killed"),
    "answer without end": ("while True:\n  for d in range(3, 1024):\n    try: os.write(d, b'\\xff' * 1000)\n    except OSError: pass", "killed"),
    "answer half": ("for d in range(3, 1024):\n    try: os.write(d, b'x')\n    except OSError: pass\n'said'", "killed"),
}  # fmt: skip
if MACHINE == "x86_64":
    ESCAPES["make 32-bit calls"] = (
        "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes.fromhex('b802000000cd80c3'))  # fork, by int 0x80\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()",
        "killed",
    )  # fmt: skip


def all_gone(namespace: int) -> bool:
    """Whether no process is left there within two seconds: a killed process takes a moment to be gone from /proc."""
    end = time.monotonic() + 2
    while (living := processes_in(namespace)) and time.monotonic() < end:
        time.sleep(0.01)
    return not living


def processes_in(namespace: int) -> list[int]:
    """Ids of the living; a dead one that the machine's init has yet to bury holds nothing."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            dead = (folder / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            if not dead and os.stat(folder / "ns" / "pid").st_ino == namespace:
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def namespace_of(session: Session) -> int:
    return os.stat(f"/proc/{namespaces.descendants(session._process.pid)[-1]}/ns/pid").st_ino


def with_names(code: str, host: Host) -> str:
    names = {
        "SECRET_FILE": str(host.secret),
        "MARK": str(host.mark),
        "PORT": host.port,
        "NAME": host.name,
        "VICTIM": host.victim.pid,
    }
    # The secret itself is put together inside, so that finding it means that it was reached.
    lines = [f"{name} = {value!r}" for name, value in names.items()] + [f"SECRET = {SECRET[:5]!r} + {SECRET[5:]!r}"]
    return "\n".join(lines) + PRELUDE + textwrap.dedent(code)


@pytest.mark.slow
@pytest.mark.parametrize("name", ESCAPES)
def test_escape_is_held_and_the_host_is_unchanged(name: str, host: Host) -> None:
    code, expected = ESCAPES[name]
    # Time ends only what nothing else ends: on a busy machine it takes more than two seconds to fill the memory.
    limits = LIMITS if expected == "timeout" else LIMITS.model_copy(update={"seconds": 30})
    with Sandbox(limits).session() as session:
        namespace = namespace_of(session)
        assert len(processes_in(namespace)) == 2, "bubblewrap's init and the worker"
        ran = session.run(with_names(code, host))
        assert len(processes_in(namespace)) <= 2
    assert (ran.value if expected == "held" else ran.outcome) == ("'held'" if expected == "held" else expected), ran
    assert ran.seconds < limits.seconds + 3
    assert len(ran.stdout) + len(ran.stderr) <= LIMITS.output_bytes
    assert SECRET not in repr(ran)
    assert all_gone(namespace)
    assert host.victim.poll() is None
    assert sorted(path.name for path in host.folder.iterdir()) == ["secret.txt"]


def test_there_are_the_36_escapes_and_more() -> None:
    assert len(ESCAPES) >= 36


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "read a file of the host",
        "read through a symlink",
        "write to the host",
        "read the environment",
        "connect to the host",
        "connect to a local socket",
        "start a program",
        "use descriptors of the host",
        "write files without number",
        "open descriptors without number",
        "hold memory in pipes",
    ],
)
def test_the_same_attempt_succeeds_without_the_sandbox(name: str, host: Host, tmp_path: Path) -> None:
    code = with_names(ESCAPES[name][0], host).rstrip().splitlines()
    code[-1] = "\n".join((*(parts := code[-1].rsplit("; ", 1))[:-1], f"print({parts[-1].split('  #')[0]})"))
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        close_fds=False,
    )
    host.mark.unlink(missing_ok=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() != "held"


@pytest.mark.slow
def test_the_standard_library_is_whole_and_nothing_else_of_the_host_can_be_read() -> None:
    """Every module is imported that the same interpreter imports outside; no file is there but its own and the
    libraries that `ldd` names for them."""
    importable = (
        "import importlib, sys\nfound = []\n"
        "for name in sorted(sys.stdlib_module_names - {'antigravity', 'this', '_tkinter', 'tkinter', 'turtle', 'idlelib'}):\n"
        "    try: importlib.import_module(name)\n    except ImportError: continue\n    found.append(name)\n"
    )
    outside = subprocess.run(
        [sys.executable, "-I", "-S", "-c", importable + "print(found)"], capture_output=True, text=True, check=True
    )
    patient = Sandbox(LIMITS.model_copy(update={"seconds": 30}))  # about 300 imports, on a machine that may be busy
    with patient.session() as session:
        found = session.run(f"{importable}found")
        files = session.run(
            "import os\nsorted(os.path.join(folder, name) for folder, _, names in os.walk('/')"
            " for name in names if not folder.startswith(('/python/lib/python', '/dev', '/usr/lib/locale')))"
        )
        packages = session.run("[os.listdir(d) for d, _, _ in os.walk('/') if d.endswith('-packages')]")
        asyncs = session.run("import asyncio\nasync def three(): return 3\nasyncio.run(three())")
    assert found.value == outside.stdout.strip()
    assert asyncs.value == "3"
    assert packages.value is not None
    assert set(packages.value) <= set("[], ")
    for name in ast.literal_eval(files.value or "[]"):
        assert name == "/python/bin/python3" or re.fullmatch(r"(/python)?/lib(64)?/(\w[\w.+-]*\.so[\w.]*)", name), name


def test_a_session_remembers_and_a_fresh_one_does_not(box: Sandbox) -> None:
    with box.session() as session:
        assert session.run("x = 6\nopen('f', 'w').write('7')").value == "1"
        assert session.run("x * int(open('f').read())").value == "42"
        assert "division by zero" in session.run("1 / 0").message
        assert session.run("print(x)").stdout == "6\n"
    assert "NameError" in box.run("x").message


def test_a_call_that_dies_ends_the_session_and_says_so(box: Sandbox) -> None:
    with box.session() as session:
        ran = session.run("import os; os._exit(3)")
        assert (ran.outcome, ran.ended, ran.message) == ("killed", True, "the process ended with 3")
        with pytest.raises(SandboxError, match=r"has ended\. Open another session"):
            session.run("1")


def test_files_reach_the_scratch_folder_and_no_other(box: Sandbox) -> None:
    with box.session() as session:
        assert session.run("open('a/b.txt').read()", {"a/b.txt": "text"}).value == "'text'"
        for name in ("/etc/x", "../x", "", "a/../../x"):
            with pytest.raises(SandboxError, match="inside the scratch folder"):
                session.run("1", {name: b""})


def test_a_printed_answer_is_output_and_broken_text_is_repaired(box: Sandbox) -> None:
    ran = box.run(r"import os; os.write(1, bytes(16) + b'\x00\x00\xff'); '\ud800'")
    assert ran.outcome == "ok"
    assert ran.stdout == "\0" * 18 + "\ufffd"
    assert ran.value == r"'\ud800'"


@pytest.mark.slow
def test_dialogs_of_a_pool_do_not_meet() -> None:
    def dialog(number: int) -> list[str | None]:
        with pool.session() as session:
            fresh = session.run("'x' in globals()").value
            session.run(f"x = {number}")
            return [fresh, session.run("x * 2").value]

    with SandboxPool(2, LIMITS) as pool, ThreadPoolExecutor(4) as threads:
        assert list(threads.map(dialog, range(8))) == [["False", str(number * 2)] for number in range(8)]
    with pytest.raises(SandboxError, match="closed"):
        pool.run("1")


@pytest.mark.slow
def test_the_sandbox_dies_with_its_host(tmp_path: Path) -> None:
    code = (
        "import os; from align.tools.sandbox import namespaces; from align.tools.sandbox.session import Sandbox\n"
        "s = Sandbox().session(); p = namespaces.descendants(s._process.pid)[-1]\n"
        "print(os.stat(f'/proc/{p}/ns/pid').st_ino, flush=True); os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    deadline = time.monotonic() + 10
    while processes_in(int(ran.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_in(int(ran.stdout)) == []


def test_without_a_boundary_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "PREPARE", "echo unshare failed >&2; exit 1")
    session._probed.cache_clear()
    with pytest.raises(SandboxError, match="expected an isolated process, found: unshare failed"):
        Sandbox()


def test_a_boundary_without_its_filter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Seccomp is 0" in ", ".join(namespaces.missing_isolation(os.getpid()))
    monkeypatch.setattr(namespaces, "_inner", lambda *arguments: without_filter(INNER(*arguments)))
    session._probed.cache_clear()
    with pytest.raises(SandboxError, match="Seccomp is 0"):
        Sandbox()
    session._probed.cache_clear()


INNER = namespaces._inner


def without_filter(command: list[str]) -> list[str]:
    place = command.index("--seccomp")
    return command[:place] + command[place + 2 :]


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0, reason="this is the run as an ordinary user already, or there is no root to start from"
)
def test_all_holds_as_an_ordinary_user() -> None:
    """The same file again under another uid, with interpreter, checkout and packages where that user can reach them."""
    prepare = 'mount --rbind "$1" /mnt; mount --rbind "$2" /srv; mount --rbind "$3" /media; shift 3; exec "$@"'
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    command = [
        "unshare",
        "--mount",
        "sh",
        "-ec",
        prepare,
        "sh",
        sys.base_prefix,
        str(ROOT),
        sysconfig.get_path("purelib"),
    ]
    command += ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    command += ["env", "-i", "HOME=/tmp", f"PATH={os.environ['PATH']}", "LD_LIBRARY_PATH=/mnt/lib"]
    command += ["PYTHONPATH=/srv:/media", "PYTHONDONTWRITEBYTECODE=1", f"/mnt/bin/{version}", "-m", "pytest", "-q"]
    command += [
        "-p",
        "no:cacheprovider",
        "-k",
        "not without_the_sandbox",
        "/srv/tests/align/tools/sandbox/test_session.py",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd="/")
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-2000:]
    assert f"{len(ESCAPES) + 10} passed, 1 skipped" in ran.stdout, ran.stdout[-500:]
