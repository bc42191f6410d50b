"""Programs that try each fence before the first grade: all must be stopped, and an honest one must pass."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from gnomon.tasks.fence.grade import grade_once
from gnomon.tasks.fence.launch import Server, Stopped, machine

HONEST = ("def add(a, b):\n    return a + b\n", "assert add(2, 3) == 5\nassert add([1], [2]) == [1, 2]")

ATTEMPTS = '''
def holes(secret, folder, driver, calls):
    """Names of the fences that did not hold."""
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    found = []

    def attempt(name, act):
        try:
            if act():
                found.append(name)
        except OSError:
            pass

    def call(name, *args):
        ctypes.set_errno(0)
        got = libc.syscall(calls[name], *args)
        if got == 0 and name in ("clone", "fork"):
            os._exit(0)
        return got >= 0 or ctypes.get_errno() not in (1, 38)

    attempt("reading outside", lambda: open(secret).read())
    attempt("listing outside", lambda: os.listdir(folder))
    attempt("reading /proc", lambda: open("/proc/self/status"))
    attempt("writing outside", lambda: open(folder + "/hole", "w"))
    attempt("writing in /tmp", lambda: (open("/tmp/gnomon-hole", "w").close(), os.unlink("/tmp/gnomon-hole"), 1)[2])
    attempt("removing a file", lambda: (os.unlink(secret), True)[1])
    attempt("changing a mode", lambda: (os.chmod(secret, 0o600), True)[1])
    attempt("setting times", lambda: (os.utime(secret), True)[1])
    attempt("starting a process", lambda: os.fork() or os._exit(0))
    attempt("signals to the parent", lambda: (os.kill(os.getppid(), 0), True)[1])
    attempt("signals to the driver", lambda: (os.kill(driver, 0), True)[1])
    for name, args in {
        "clone": (17, 0, 0, 0, 0), "execve": (b"/nonexistent", 0, 0), "socket": (2, 1, 0), "connect": (3, 0, 0),
        "ptrace": (2, 1, 0, 0), "process_vm_readv": (1, 0, 0, 0, 0, 0), "mount": (0, 0, 0, 0, 0), "bpf": (0, 0, 0),
        "io_uring_setup": (1, 0), "unshare": (0,), "memfd_create": (b"x", 0), "userfaultfd": (0,), "keyctl": (0, 0),
        "sendmsg": (3, 0, 0), "setuid": (0,), "personality": (0,), "pidfd_open": (1, 0), "seccomp": (2, 0, 0),
        "kill": (-1, 0), "setpriority": (0, 0, 0), "chdir": (b"/",), "umask": (0,),
    }.items():
        attempt("system call " + name, lambda name=name, args=args: call(name, *args))
    return found
'''
TESTS = """
found = holes(SECRET, FOLDER, DRIVER, CALLS)
assert not found, ", ".join(found)
"""
CALLS = {
    "x86_64": {
        "clone": 56, "execve": 59, "socket": 41, "connect": 42, "ptrace": 101, "process_vm_readv": 310, "mount": 165,
        "bpf": 321, "io_uring_setup": 425, "unshare": 272, "memfd_create": 319, "userfaultfd": 323, "keyctl": 250,
        "sendmsg": 46, "setuid": 105, "personality": 135, "pidfd_open": 434, "seccomp": 317, "kill": 62,
        "setpriority": 141, "chdir": 80, "umask": 95,
    },
    "aarch64": {
        "clone": 220, "execve": 221, "socket": 198, "connect": 203, "ptrace": 117, "process_vm_readv": 270,
        "mount": 40, "bpf": 280, "io_uring_setup": 425, "unshare": 97, "memfd_create": 279, "userfaultfd": 282,
        "keyctl": 219, "sendmsg": 211, "setuid": 146, "personality": 92, "pidfd_open": 434, "seccomp": 277,
        "kill": 129, "setpriority": 140, "chdir": 49, "umask": 166,
    },
}  # fmt: skip


class _Wide:
    """Limits of the probes: the user's own may be too tight for them."""

    cpu_s, memory_mb, output_kb, files, threads, wall = 10.0, 512, 64, 64, 16, 60.0


def probe(servers: tuple[Server, Server], limits: Any) -> list[str]:
    """Try every fence from both sides; what did not hold, empty where all is well."""
    try:
        with tempfile.TemporaryDirectory(prefix="gnomon-probe-") as folder:
            secret = os.path.join(folder, "secret")
            with open(secret, "w") as file:
                file.write("secret")
            os.chmod(folder, 0o777)
            os.chmod(secret, 0o666)
            known = f"SECRET = {secret!r}\nFOLDER = {folder!r}\nDRIVER = {os.getpid()}\nCALLS = {CALLS[machine()]!r}\n"
            cases = {
                "honest": (*HONEST, ""),
                "candidate": (ATTEMPTS, TESTS, known),
                "tests": ("def nothing():\n    pass\n", TESTS, known + ATTEMPTS),
            }
            holes = []
            for name, (code, tests, setup) in cases.items():
                job = {"code": code, "tests": [tests], "entry": None, "setup": setup}
                found = grade_once(servers, job, _Wide, _Wide.wall)
                if found.verdict != "pass":
                    holes.append(f"{name}: {found.verdict} {found.reason} {found.stderr[-200:]}".strip())
            return holes
    except Stopped as error:
        return [f"a fork server stopped: {error}"]
