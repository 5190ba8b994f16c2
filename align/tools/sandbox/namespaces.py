"""Starts a Python process isolated by Linux namespaces, and checks from outside that the isolation is complete.

bubblewrap makes the namespaces and the read-only root; the filter of `seccomp.py` lists the permitted system calls. An
outer mount namespace provides what bubblewrap cannot: a scratch folder with a limit on the number of files, and an
interpreter that an unprivileged user can read, because root becomes user 65534 before bubblewrap starts.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
from contextlib import suppress
from functools import cache
from pathlib import Path

from align.errors import SandboxError
from align.tools.sandbox.seccomp import AUDIT_ARCH, seccomp_program

UNPRIVILEGED = 65534
SCRATCH = "/scratch"
PACKAGES = "/python/packages"
WORKER = Path(__file__).with_name("worker.py")
STAGES = ("/mnt", "/tmp", "/srv")
"""Empty folders that every Linux has, covered in the sandbox's own mount namespace: interpreter, scratch, packages."""
TOOLS = {"bwrap": "bubblewrap", "unshare": "util-linux", "setpriv": "util-linux", "mount": "mount"}
"""Programs, with the Debian packages that hold them."""
NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
ENVIRONMENT = {
    "HOME": SCRATCH,
    "TMPDIR": SCRATCH,
    "LANG": "C.UTF-8",
    "LD_LIBRARY_PATH": "/python/lib",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
# The interpreter first: it, too, may lie under a folder that is covered next.
PREPARE = """set -e
mount --rbind "$1" /mnt
if [ -n "$2" ]; then mount --rbind "$2" /srv; fi
mount -t tmpfs -o "$3" scratch /tmp
shift 3
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
    for tool, package in {
        "bwrap": "bubblewrap",
        "unshare": "util-linux",
        "setpriv": "util-linux",
        "mount": "mount",
    }.items():
        if shutil.which(tool) is None:
            raise SandboxError(
                "sandbox",
                f"requires the program {tool}, which is not installed",
                f"Install it: apt-get install {package}",
            )
    return machine


def start(scratch: str, packages: Path | None, answers: int) -> subprocess.Popen[bytes]:
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
                *_outer(scratch, packages),
                *_inner(packages, filter_file),
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


def _outer(scratch: str, packages: Path | None) -> list[str]:
    """The programs before bubblewrap: a mount namespace with STAGES mounted; root gives up its privileges."""
    prepare = ["sh", "-c", PREPARE, "sh", sys.base_prefix, str(packages or ""), f"{scratch},mode=700"]
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


def _inner(packages: Path | None, filter_file: int) -> list[str]:
    command = ["bwrap", "--unshare-user", "--uid", str(UNPRIVILEGED), "--gid", str(UNPRIVILEGED)]
    command += [f"--unshare-{name}" for name in ("ipc", "pid", "net", "uts", "cgroup")]
    command += ["--cap-drop", "ALL", "--hostname", "sandbox", "--new-session", "--die-with-parent", "--clearenv"]
    environment = {
        "HOME": SCRATCH,
        "TMPDIR": SCRATCH,
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "LD_LIBRARY_PATH": "/python/lib",
    }
    for name, value in environment.items():
        command += ["--setenv", name, value]
    for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64"):  # the C library and what extension modules link to
        command += ["--ro-bind-try", folder, folder]
    for source, target in _interpreter().items():
        command += ["--ro-bind", f"/mnt/{source}", target]
    if packages is not None:
        command += ["--ro-bind", "/srv", PACKAGES]
    for device in ("null", "zero", "urandom", "random"):
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    # No /proc: Python needs none of it. The root is bubblewrap's own tmpfs, read-only once everything is mounted.
    command += ["--bind", "/tmp", SCRATCH, "--remount-ro", "/", "--chdir", SCRATCH, "--seccomp", str(filter_file)]
    return [*command, "--", "/python/bin/python3", "-I", "-S", "-B", "-X", "utf8", "-c"]


@cache
def _interpreter() -> dict[str, str]:
    """Files and folders of this interpreter, relative to its prefix, with their places inside."""
    prefix = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = {f"bin/{version}": "/python/bin/python3"}
    for folder in {f"lib/{version}", f"{sys.platlibdir}/{version}"}:
        if (prefix / folder).is_dir():
            found[folder] = f"/python/{folder}"
    shared = sysconfig.get_config_var("INSTSONAME") if sysconfig.get_config_var("Py_ENABLE_SHARED") else None
    if shared and (prefix / "lib" / shared).exists():
        found[f"lib/{shared}"] = f"/python/lib/{shared}"
    return found
