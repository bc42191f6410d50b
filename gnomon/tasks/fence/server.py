"""A fork server: a bare interpreter that forks one fenced child a grade, watches its clock, kills and reaps it.

It holds no code and no tests: a child reads its job from the driver, over a socket that the driver made for it.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from gnomon.tasks.fence import candidate, landlock, rights, seccomp, tester

PRELOAD = (
    "abc", "array", "base64", "bisect", "calendar", "cmath", "collections", "contextlib", "copy", "ctypes", "datetime",
    "dataclasses", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io", "itertools",
    "json", "linecache", "math", "numbers", "operator", "os", "queue", "random", "re", "statistics", "string",
    "textwrap", "threading", "time", "traceback", "types", "typing", "unicodedata", "warnings",
)  # fmt: skip
TICK_S = 0.02


def main(config: dict[str, Any], control: socket.socket, driver: int | None) -> None:
    """Serve until the driver closes or ends. Returns only in a child, whose work is then done by `child`."""
    for name in PRELOAD:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    facts: dict[str, Any] = {"pid": os.getpid(), "user": os.getuid()}
    rules = None
    if config["fenced"]:
        facts["nobody"] = rights.drop_user(os.__file__)
        rights.drop_capabilities()
        facts |= {"user": os.getuid(), "landlock": landlock.version(), "capabilities": rights.capabilities()}
        rules = landlock.ruleset(config["readable"], config["listable"])
        seccomp.template(config["machine"])
    null = os.open(os.devnull, os.O_RDWR) if os.path.exists(os.devnull) else os.dup(0)
    gc.collect()
    gc.freeze()
    control.send(json.dumps(facts).encode())
    parent = os.getpid()
    watched = [control.fileno()] + ([driver] if driver is not None else [])
    while True:
        ready = select.select(watched, [], [])[0]
        if control.fileno() not in ready:
            os._exit(0)
        order, fds = receive(control)
        if order is None:
            os._exit(0)
        if "start" not in order:
            continue
        pid = os.fork()
        if pid == 0:
            job = enter(config, order, fds, rules, null, parent)
            break
        for fd in fds:
            os.close(fd)
        report = watch(pid, order, control, driver)
        control.send(json.dumps(report).encode())
    control.detach()  # its descriptor is closed already
    child(config["role"], job)


def receive(control: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """One order of the driver, and the descriptors that came with it; (None, []) when it has closed."""
    data, ancillary, _, _ = control.recvmsg(65536, socket.CMSG_SPACE(8 * 4))
    fds = array.array("i")
    for level, kind, part in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(part[: len(part) - len(part) % fds.itemsize])
    return (json.loads(data) if data else None), list(fds)


def clock(pid: int) -> float:
    """Processor seconds of a process, all its threads; 0 where the system does not tell."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except (OSError, OverflowError):
        return 0.0


def threads(pid: int) -> int:
    """How many threads a process has; 0 where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rsplit(b")", 1)[1].split()[17])
    except (OSError, IndexError, ValueError):
        return 0


def watch(pid: int, order: dict[str, Any], control: socket.socket, driver: int | None) -> dict[str, Any]:
    """Wait for a child's end, or bring it about: on the driver's word, or over its processor time or threads."""
    handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    why = "itself"
    leave = False
    inputs = [fd for fd in (control.fileno(), handle, driver) if fd is not None]
    while True:
        rest = order["cpu_s"] - clock(pid)
        if rest <= 0:
            why = "cpu"
            break
        if threads(pid) > order["threads"]:
            why = "threads"
            break
        ready = select.select(inputs, [], [], min(TICK_S, max(rest, 0.001)))[0]
        if handle in ready or (handle is None and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
            break
        if driver in ready:
            leave = True
            break
        if control.fileno() in ready:
            word, _ = receive(control)
            why, leave = "told", word is None
            break
    cpu = clock(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    if handle is not None:
        os.close(handle)
    if leave:
        os._exit(0)
    return {
        "end": why, "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
        "cpu_s": max(cpu, usage.ru_utime + usage.ru_stime), "rss_kb": usage.ru_maxrss,
    }  # fmt: skip


REFUSED = b"fence: "
TALK, JOB = 3, 4
"""A child's descriptors: the socket between candidate and tests, and the one to the driver."""


def enter(config: dict[str, Any], order: dict[str, Any], fds: list[int], rules: int | None, null: int,
          parent: int) -> Any:  # fmt: skip
    """Turn this fork into a fenced child; only then its job is read. A failure is told on the driver's socket, which
    the code will never have: on standard error it could be forged.
    """
    say = fds[1]
    try:
        if config["fenced"]:
            rights.die_with_parent(parent)
        keep = [null, fds[2] if len(fds) > 2 else null, fds[3] if len(fds) > 3 else null, fds[0], fds[1]]
        held = [os.dup(fd) for fd in keep]
        rules_fd = None if rules is None else os.dup(rules)
        high = max([*held, rules_fd or 0]) + 1
        held = [os.dup2(fd, high + i, inheritable=False) for i, fd in enumerate(held)]
        rules_fd = None if rules_fd is None else os.dup2(rules_fd, high + 5, inheritable=False)
        say = held[JOB]
        for target, fd in enumerate(held):
            os.dup2(fd, target, inheritable=False)
        say = JOB
        if rules_fd is not None:
            landlock.restrict(rules_fd)
        os.closerange(5, 4096)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
        rights.limit(order["cpu_s"], order["memory"], order["files"], order.get("processes"))
        if config["fenced"]:
            rights.renounce()
            seccomp.install(config["machine"])
        return read_job()
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(say, REFUSED + f"{type(error).__name__}: {error}\n".encode("utf-8", "replace")[:400])
        os._exit(71)


def read_job() -> Any:
    """The job, which the driver writes with its length before it."""
    data = b""
    while b"\n" not in data:
        data += os.read(JOB, 65536) or os._exit(72)
    head, _, data = data.partition(b"\n")
    parts = [data]
    size = len(data)
    while size < int(head):
        parts.append(os.read(JOB, 2**20) or os._exit(72))
        size += len(parts[-1])
    return json.loads(b"".join(parts))


def child(role: str, job: dict[str, Any]) -> None:
    """Run a candidate, or tests and then tell the driver; never returns."""
    if role == "candidate":
        os.close(JOB)
        forget = tuple(name for name in sys.modules if name == "gnomon" or name.startswith("gnomon."))
        candidate.run(TALK, job["code"], forget)
        os._exit(0)
    found = tester.run(TALK, job["setup"], job["tests"], job["entry"])
    data = json.dumps(found).encode()
    while data:
        data = data[os.write(JOB, data) :]
    os._exit(0)
