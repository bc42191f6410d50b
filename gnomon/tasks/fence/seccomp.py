"""The system calls that a fenced process may make, as a seccomp filter: an allow-list; anything else fails with EPERM.

A filter cannot be taken off again, and it is inherited by every thread.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct

from gnomon.tasks.fence.syscalls import ARCHES, CHECKED, NUMBERS, number

ALLOW = 0x7FFF0000
KILL = 0x80000000
ERRNO = 0x00050000
_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH = 0, 4
X32 = 0x40000000

THREAD = 0x00010000 | 0x00000100 | 0x00000800  # CLONE_THREAD, CLONE_VM, CLONE_SIGHAND
NAMESPACES = 0x7E020000 | 0x2000 | 0x4000 | 0x80  # CLONE_NEW*, CLONE_PTRACE, CLONE_VFORK
PRCTLS = (15, 16)  # PR_SET_NAME, PR_GET_NAME
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIO(N)CLEX
FCNTLS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value & 0xFFFFFFFF)


def _argument(index: int, high: bool = False) -> bytes:
    return _op(_LOAD, 16 + 8 * index + (4 if high else 0))


def _deny(number: int = errno.EPERM) -> bytes:
    return _op(_RET, ERRNO | number)


def _one_of(index: int, values: tuple[int, ...]) -> list[bytes]:
    """Allow where the low half of an argument is one of these; else EPERM."""
    out = [_argument(index)]
    for value in values:
        out += [_op(_JEQ, value, 0, 1), _op(_RET, ALLOW)]
    return [*out, _deny()]


def _zero(index: int) -> list[bytes]:
    """Go on where an argument is 0; else EPERM."""
    return [_argument(index), _op(_JEQ, 0, 1, 0), _deny(), _argument(index, True), _op(_JEQ, 0, 1, 0), _deny()]


def checks(pid: int) -> dict[str, list[bytes]]:
    """The tests of the calls whose arguments matter, for the process `pid`."""
    return {
        "clone": [
            _argument(0), _op(_JSET, NAMESPACES, 0, 1), _deny(),
            _op(_JSET, 0x10000, 1, 0), _deny(), _op(_JSET, 0x100, 1, 0), _deny(), _op(_JSET, 0x800, 1, 0), _deny(),
            _op(_RET, ALLOW),
        ],
        "clone3": [_deny(errno.ENOSYS)],
        "kill": _one_of(0, (pid,)),
        "tgkill": _one_of(0, (pid,)),
        "prctl": _one_of(0, PRCTLS),
        "prlimit64": [*_zero(2), *_one_of(0, (0, pid))],
        "ioctl": _one_of(1, IOCTLS),
        "fcntl": _one_of(1, FCNTLS),
        "socketpair": _one_of(0, (1,)),
        "sendto": [*_zero(4), _op(_RET, ALLOW)],
    }  # fmt: skip


def program(machine: str, pid: int) -> bytes:
    """The filter as BPF instructions for one process on one machine."""
    out = [_op(_LOAD, _ARCH), _op(_JEQ, ARCHES[machine], 1, 0), _op(_RET, KILL), _op(_LOAD, _NR)]
    if machine == "x86_64":
        out += [_op(_JGE, X32, 0, 1), _deny()]
    for name in NUMBERS:
        call = number(name, machine)
        if call is not None:
            out += [_op(_JEQ, call, 0, 1), _op(_RET, ALLOW)]
    rules = checks(pid)
    for name in CHECKED:
        call = number(name, machine)
        assert call is not None
        out += [_op(_JEQ, call, 0, len(rules[name])), *rules[name]]
    return b"".join([*out, _deny()])


_SOMEBODY = 0x7A7A7A7A


@functools.cache
def template(machine: str) -> bytes:
    """The filter of a process that does not exist; a server makes it once, before it forks."""
    return program(machine, _SOMEBODY)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(machine: str) -> None:
    """Put this process under the filter. OSError where the kernel has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = template(machine).replace(struct.pack("<I", _SOMEBODY), struct.pack("<I", os.getpid()))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(_Program(len(code) // 8, code)), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
