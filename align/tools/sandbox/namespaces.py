"""Starts a Python process isolated by Linux namespaces, and checks from outside that the isolation is complete.

bubblewrap makes the namespaces and the read-only root; the filter of `seccomp.py` lists the permitted system calls. An
outer mount namespace provides what bubblewrap cannot: a scratch folder with a limit on the number of files, and an
interpreter that an unprivileged user can read, because root becomes user 65534 before bubblewrap starts.

Inside are the interpreter, its standard library, and the shared libraries that these two load. The packages that are
installed on the host, and all other files of its /usr, are not: what code computes must not depend on them.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from align.errors import SandboxError
from align.tools.sandbox.seccomp import AUDIT_ARCH, seccomp_program

UNPRIVILEGED = 65534
SCRATCH = "/scratch"
WORKER = Path(__file__).with_name("worker.py")
TOOLS = {
    "bwrap": "bubblewrap",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "ldd": "libc-bin",
}
"""Programs, with the Debian packages that hold them."""
LOCALE = "/usr/lib/locale/C.utf8"
"""The locale of LANG, where the C library does not have it built in."""
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
ENVIRONMENT = {
    "HOME": SCRATCH,
    "TMPDIR": SCRATCH,
    "LANG": "C.UTF-8",
    "LD_LIBRARY_PATH": "/python/lib",
}
# The interpreter on /mnt first: it, too, may lie under /tmp, which the scratch folder covers next.
PREPARE = """set -e
mount --rbind "$1" /mnt
mount -t tmpfs -o "$2" scratch /tmp
shift 2
exec "$@"
"""
HOW_TO_PERMIT = (
    "Let this user make user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0, "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container, a seccomp profile that permits unshare and mount)"
)


@cache
def require_tools() -> str:
    """The machine's name. Raises SandboxError where the sandbox's tools are missing; starts nothing."""
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    if platform.system() != "Linux" or machine not in AUDIT_ARCH or sys.byteorder != "little":
        found = f"{platform.system()} on {platform.machine()}"
        raise SandboxError(
            "sandbox", f"expected Linux on {' or '.join(AUDIT_ARCH)}, found {found}", "Use such a machine"
        )
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise SandboxError(
                "sandbox",
                f"requires the program {tool}, which is not installed",
                f"Install it: apt-get install {package}",
            )
    return machine


def start(scratch: str, answers: int) -> subprocess.Popen[bytes]:
    """Start the isolated worker, with pipes for its standard streams and that descriptor for its answers.

    scratch: the options of the scratch folder's tmpfs, such as "size=1048576,nr_inodes=100".
    The environment is empty from the first program on, so the init process inside has none to show either.
    """
    machine = require_tools()
    filter_file = os.memfd_create("seccomp")
    try:
        os.write(filter_file, seccomp_program(machine))
        os.lseek(filter_file, 0, os.SEEK_SET)
        return subprocess.Popen(
            [
                *_outer(scratch),
                *_inner(filter_file),
                WORKER.read_text(encoding="utf-8"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            close_fds=True,
            pass_fds=(answers, filter_file),
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            cwd="/",
            start_new_session=True,  # no terminal, and Ctrl-C is the host's to answer
            bufsize=0,
        )
    finally:
        os.close(filter_file)


def end(process: subprocess.Popen[bytes], seconds: float = 5.0) -> None:
    """Kill every process that `start` started, and return when the kernel has removed them.

    The init process inside is killed first: its namespace ends with it, and bubblewrap, its parent, collects its exit
    status. If bubblewrap were killed first, the machine's init would have to collect it, and in a container that may
    be a program that never does.
    """
    for child in descendants(process.pid)[:1] or [process.pid]:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def missing_isolation(worker: int) -> list[str]:
    """The parts of the isolation that a process lacks, according to the kernel; empty if it is complete."""
    lines = Path(f"/proc/{worker}/status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    missing = [
        f"{name} is {' '.join(status.get(name, ['unknown']))}"
        for name, expected in {"Seccomp": {"2"}, "NoNewPrivs": {"1"}}.items()
        if set(status.get(name, ["unknown"])) != expected
    ]
    missing += [
        f"{name} is not empty"
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        if int(status[name][0], 16)
    ]
    missing += ["it is root outside"] if "0" in status["Uid"] + status["Gid"] else []
    for name in NAMESPACES:
        if os.stat(f"/proc/{worker}/ns/{name}").st_ino == os.stat(f"/proc/self/ns/{name}").st_ino:
            missing.append(f"no {name} namespace of its own")
    return missing


def descendants(process: int) -> list[int]:
    """Process ids below one of ours, nearest first."""
    try:
        below = [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return below + [deeper for child in below for deeper in descendants(child)]


def _outer(scratch: str) -> list[str]:
    """The programs before bubblewrap: interpreter and scratch are mounted; root gives up its privileges."""
    prepare = ["sh", "-c", PREPARE, "sh", sys.base_prefix, f"{scratch},mode=700"]
    if os.geteuid() != 0:
        return ["unshare", "--user", "--map-root-user", "--mount", *prepare]
    prepare[-1] += f",uid={UNPRIVILEGED},gid={UNPRIVILEGED}"
    drop = [
        "setpriv",
        f"--reuid={UNPRIVILEGED}",
        f"--regid={UNPRIVILEGED}",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ]
    return ["unshare", "--mount", *prepare, *drop]


def _inner(filter_file: int) -> list[str]:
    command = ["bwrap", "--unshare-user", "--uid", str(UNPRIVILEGED), "--gid", str(UNPRIVILEGED)]
    command += [f"--unshare-{name}" for name in ("ipc", "pid", "net", "uts", "cgroup")]
    command += ["--cap-drop", "ALL", "--hostname", "sandbox", "--new-session", "--die-with-parent", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    for source, target in {**_interpreter(), **_shared_libraries()}.items():
        command += ["--ro-bind", source, target]
    for folder in _installed_packages():
        command += ["--tmpfs", folder, "--remount-ro", folder]
    command += ["--ro-bind-try", LOCALE, LOCALE]
    for device in ("null", "zero", "urandom", "random"):
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    # No /proc: Python needs none of it. The root is bubblewrap's own tmpfs, read-only once everything is mounted.
    command += ["--bind", "/tmp", SCRATCH, "--remount-ro", "/"]  # nosec B108  # this sandbox's own tmpfs, see PREPARE
    command += ["--chdir", SCRATCH, "--seccomp", str(filter_file)]
    return [*command, "--", "/python/bin/python3", "-I", "-S", "-B", "-X", "utf8", "-c"]


@cache
def _interpreter() -> dict[str, str]:
    """The interpreter and its standard library on /mnt, with their places inside."""
    found = {f"/mnt/bin/{PYTHON}": "/python/bin/python3"}
    for folder in _library_folders():
        found[f"/mnt/{folder}"] = f"/python/{folder}"
    return found


def _library_folders() -> list[str]:
    """Folders of the standard library, relative to the interpreter's prefix."""
    folders = sorted({f"lib/{PYTHON}", f"{sys.platlibdir}/{PYTHON}"})
    return [folder for folder in folders if (Path(sys.base_prefix) / folder).is_dir()]


def _installed_packages() -> list[str]:
    """Folders inside the standard library's that hold what is installed on the host, as they are named inside."""
    folders = [f"{folder}/{name}" for folder in _library_folders() for name in ("site-packages", "dist-packages")]
    return [f"/python/{folder}" for folder in folders if (Path(sys.base_prefix) / folder).is_dir()]


@cache
def _shared_libraries() -> dict[str, str]:
    """Files that the interpreter and its extension modules load, with their places inside. Without those of tkinter:
    there is no display, and each mounted file adds to the time of a start.

    All lie in one folder, which LD_LIBRARY_PATH names; only the loader must be where the interpreter says it is:
        libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x...)     bound to /python/lib/libm.so.6
        libpython3.11.so.1.0 => PREFIX/lib/libpython... (0x...)  read from /mnt/lib/, since PREFIX may be covered
        /lib64/ld-linux-x86-64.so.2 (0x...)                      bound to itself
    """
    prefix = Path(sys.base_prefix)
    modules = [file for folder in _library_folders() for file in sorted((prefix / folder).glob("lib-dynload/*.so"))]
    command = ["ldd", str(prefix / "bin" / PYTHON), *(str(file) for file in modules if "_tkinter" not in file.name)]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found: dict[str, str] = {}
    for name, path in re.findall(r"^\s+(?:(\S+) => )?(/.+) \(0x[0-9a-f]+\)$", listed, re.MULTILINE):
        source = os.path.normpath(path)
        if source.startswith(f"{prefix}/"):
            source = f"/mnt/{Path(source).relative_to(prefix)}"
        found.setdefault(source, f"/python/lib/{name}" if name else path)
    if not found:
        what = f"expected `ldd` to list the libraries of {prefix / 'bin' / PYTHON}, found none"
        raise SandboxError("sandbox", what, "Use an interpreter that is linked dynamically")
    return found
