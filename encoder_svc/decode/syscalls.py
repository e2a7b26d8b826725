"""Shell. What a process that decodes may ask of the kernel: a list, and everything else is refused.

Limits of descriptors and processes do not stop one that foreign media took over: another process of the same
user is read, written and ended without any, files are removed and renamed by their names, and of root
processes are not counted. A seccomp filter stops all of that.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_PR_SET_NO_NEW_PRIVS = 38
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_AT_NUMBER, _AT_MACHINE, _AT_FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _KILL = 0x7FFF_0000, 0x8000_0000
_REFUSE = 0x0005_0000 | errno.EPERM


_MACHINES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
"""As the kernel's auditing names them, in the order of the numbers below."""
_PRLIMIT = (302, 261)
"""Let through for the process itself only."""
_ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "poll": (7, None),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "ppoll": (271, 73),
    "getrandom": (318, 278),
}


def forbid_others() -> bool:
    """From here on all other calls of this process are refused with EPERM.

    False where this kernel or machine has no such filters, and nothing is forbidden then.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _MACHINES:
        return False
    rules = _filter(machine)
    buffer = ctypes.create_string_buffer(b"".join(rules))
    program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, program, 0, 0) == 0)


def _filter(machine: str) -> list[bytes]:
    """The program, in the kernel's own small language: jumps count the lines that they leave out."""
    of = list(_MACHINES).index(machine)
    allowed = [number for numbers in _ALLOWED.values() if (number := numbers[of]) is not None]
    return [
        _rule(_LOAD, _AT_MACHINE),
        _rule(_EQUAL, _MACHINES[machine], then=1),
        _rule(_RETURN, _KILL),
        _rule(_LOAD, _AT_NUMBER),
        *(_rule(_EQUAL, number, then=len(allowed) - at + 2) for at, number in enumerate(allowed)),
        _rule(_EQUAL, _PRLIMIT[of], otherwise=3),
        _rule(_LOAD, _AT_FIRST_ARGUMENT),
        _rule(_EQUAL, 0, otherwise=1),
        _rule(_RETURN, _ALLOW),
        _rule(_RETURN, _REFUSE),
    ]


def _rule(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)
