"""The sandbox's list of system calls, assembled into the BPF program that the kernel runs before each of them.

Everything that is not listed is refused: what Python and its libraries need to compute, to read and write files, and to
run threads is here; sockets to anywhere, new processes, tracing, keys, mounts, namespaces, BPF, io_uring and memory
files are not. Assembled by hand because the one Python binding of libseccomp with wheels is not kept any more; a filter
of this form (equal numbers, two checks of an argument) needs seven instructions of the machine.

Numbers: Linux `arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h` (aarch64).
Program: `struct sock_filter` of `linux/filter.h` over `struct seccomp_data` of `linux/seccomp.h`.
"""

from __future__ import annotations

import errno
import struct

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""The machines that have a filter, by `platform.machine()`, with the number the kernel gives each."""

# name: number on x86_64, number on aarch64; None where the machine never had the call.
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # reading and writing what is open
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68),
    "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "flock": (73, 32), "fsync": (74, 82),
    "fdatasync": (75, 83), "sendfile": (40, 71), "copy_file_range": (326, 285), "fadvise64": (221, 223),
    "pipe": (22, None), "pipe2": (293, 59), "poll": (7, None), "ppoll": (271, 73), "select": (23, None),
    "pselect6": (270, 72), "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22), "eventfd2": (290, 19),
    # files and folders
    "open": (2, None), "openat": (257, 56), "stat": (4, None), "fstat": (5, 80), "lstat": (6, None),
    "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None),
    "unlink": (87, None), "unlinkat": (263, 35), "symlink": (88, None), "symlinkat": (266, 36), "readlink": (89, None),
    "readlinkat": (267, 78), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "utimensat": (280, 88),
    "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47), "umask": (95, 166), "statfs": (137, 43),
    "fstatfs": (138, 44),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "msync": (26, 227), "mincore": (27, 232), "membarrier": (324, 283),
    # time
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "alarm": (37, None), "pause": (34, None),
    "setitimer": (38, 103), "getitimer": (36, 102),
    # the process itself: who it is, what it may use (a limit can only be lowered), how it ends
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158), "getresuid": (118, 148),
    "getresgid": (120, 150), "getpgid": (121, 155), "getpgrp": (111, None), "getsid": (124, 156), "uname": (63, 160),
    "sysinfo": (99, 179), "getrusage": (98, 165), "getrlimit": (97, 163), "setrlimit": (160, 164),
    "prlimit64": (302, 261), "getpriority": (140, 141), "getcpu": (309, 168), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "exit": (60, 93), "exit_group": (231, 94), "getrandom": (318, 278),
    # the filter is loaded before Python is: it must let one program start another in its place, and bwrap's init wait
    "execve": (59, 221), "wait4": (61, 260), "waitid": (247, 95),
    # threads and signals; both kinds of kill end at the process-id namespace
    "futex": (202, 98), "set_robust_list": (273, 99), "get_robust_list": (274, 100), "rseq": (334, 293),
    "set_tid_address": (218, 96), "arch_prctl": (158, None), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "kill": (62, 129), "tgkill": (234, 131),
    # the pair of sockets by which an asyncio loop wakes itself; socket, connect, bind and sendmsg are not here, nor is
    # setsockopt, by which each socket could hold megabytes in the kernel, outside of the limit on memory
    "sendto": (44, 206), "recvfrom": (45, 207), "shutdown": (48, 210), "getsockopt": (55, 209),
    "getsockname": (51, 204), "getpeername": (52, 205),
}  # fmt: skip

CLONE, CLONE3, SOCKETPAIR, IOCTL, FCNTL = (56, 220), (435, 435), (53, 199), (16, 29), (72, 25)
CLONE_THREAD = 0x00010000
AF_UNIX = 1
F_SETPIPE_SZ = 1031
HARMLESS_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: is it a terminal, how much is there, how is it opened."""
FIRST_NEW_CALL = 424
"""From here on numbers are the same on all machines, and a C library asks first and has another way: ENOSYS, not EPERM.
x86_64's second table (x32, bit 30 set) lies above it too."""

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6] (low half first)
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 4, 16, 24
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def seccomp_program(machine: str) -> bytes:
    """The filter for a machine of `AUDIT_ARCH`, in the form that `bwrap --seccomp` reads: 8 bytes an instruction."""
    column = list(AUDIT_ARCH).index(machine)
    program = [
        _do(LOAD, ARCHITECTURE),
        _do(EQUAL, AUDIT_ARCH[machine], 1, 0),
        _do(RETURN, KILL),  # 32-bit calls: another table of numbers
        _do(LOAD, NUMBER),
    ]
    for numbers in ALLOWED.values():
        if (number := numbers[column]) is not None:
            program += [_do(EQUAL, number, 0, 1), _do(RETURN, ALLOW)]
    program += [
        # A thread shares the process and its limits; a child would have limits of its own, so there is none.
        *_if(CLONE[column], FIRST_ARGUMENT, [_do(ANY_BIT, CLONE_THREAD, 0, 1), _do(RETURN, ALLOW)]),
        # Its flags lie in memory, where a filter cannot look: the C library then takes clone.
        *_if(CLONE3[column], NUMBER, [_do(RETURN, UNKNOWN)]),
        *_if(SOCKETPAIR[column], FIRST_ARGUMENT, [_do(EQUAL, AF_UNIX, 0, 1), _do(RETURN, ALLOW)]),
        # A pipe keeps its 64 KiB.
        *_if(
            FCNTL[column],
            SECOND_ARGUMENT,
            [_do(EQUAL, F_SETPIPE_SZ, 0, 1), _do(RETURN, REFUSE), _do(RETURN, ALLOW)],
        ),
        *_if(
            IOCTL[column],
            SECOND_ARGUMENT,
            [step for request in HARMLESS_IOCTLS for step in (_do(EQUAL, request, 0, 1), _do(RETURN, ALLOW))],
        ),
        _do(AT_LEAST, FIRST_NEW_CALL, 0, 1),
        _do(RETURN, UNKNOWN),
        _do(RETURN, REFUSE),
    ]
    return b"".join(program)


def _do(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One `struct sock_filter`; the jumps count instructions to leave out."""
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _if(number: int, argument: int, steps: list[bytes]) -> list[bytes]:
    """For the call of this number: load an argument, take the steps, and refuse what they let fall through."""
    body = [_do(LOAD, argument), *steps, _do(RETURN, REFUSE)]
    return [_do(EQUAL, number, 0, len(body)), *body]
