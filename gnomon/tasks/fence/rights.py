"""What a process gives up: its user, its capabilities, new privileges; and the limits on what it may use."""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import signal
import struct

NOBODY = 65534
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_CAP_AMBIENT = 1, 4, 38, 24, 47
CAPSET_VERSION = 0x20080522


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def drop_user(must_read: str) -> bool:
    """Become nobody where this process may and nobody can still read the file `must_read`; says whether it did."""
    if os.getuid() != 0:
        return False
    pid = os.fork()
    if pid == 0:  # try in a child: there is no way back
        try:
            _become_nobody()
            with open(must_read, "rb"):
                os._exit(0)
        except OSError:
            os._exit(1)
    if os.waitpid(pid, 0)[1] != 0:
        return False
    _become_nobody()
    return True


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def drop_capabilities() -> None:
    """Give up every capability, also those that a program started later could get."""
    libc = _libc()
    for number in range(64):
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    libc.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)
    renounce()


def renounce() -> None:
    """Give up the capabilities that this process has, and new privileges: what each fork does once more."""
    libc = _libc()
    if libc.capset(struct.pack("<Ii", CAPSET_VERSION, 0), bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")


def capabilities() -> str:
    """The effective capabilities as the kernel writes them; "" where it does not say."""
    try:
        with open("/proc/self/status") as file:
            return next((line.split()[1] for line in file if line.startswith("CapEff")), "")
    except OSError:
        return ""


def die_with_parent(parent: int) -> None:
    """Be killed when the parent ends; ends at once where it has ended already."""
    libc = _libc()
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(70)


def limit(cpu_s: float, memory_bytes: int, files: int, processes: int | None) -> None:
    """Hard limits of this process: processor seconds (a backstop), address space, files; no core, nothing written.

    Args:
        processes: how many tasks its user may have in all; None where others share the user.
    """
    seconds = int(cpu_s) + 2
    wanted = {
        "RLIMIT_CPU": seconds, "RLIMIT_AS": memory_bytes, "RLIMIT_NOFILE": files, "RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0,
        "RLIMIT_MEMLOCK": 0, "RLIMIT_MSGQUEUE": 0, "RLIMIT_STACK": 8 * 2**20,
    }  # fmt: skip
    if processes is not None:
        wanted["RLIMIT_NPROC"] = processes
    for name, value in wanted.items():
        which = getattr(resource, name, None)
        if which is None:
            continue
        hard = resource.getrlimit(which)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        try:
            resource.setrlimit(which, (value, value))
        except (ValueError, OSError):
            if name == "RLIMIT_AS":  # a system without it (macOS): the sandbox is refused there anyway
                continue
            raise
