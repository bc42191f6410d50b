"""Starts a fork server: a fresh bare interpreter, inside bubblewrap where the level says so, and talks to it."""

from __future__ import annotations

import array
import contextlib
import json
import math
import os
import platform
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnomon.tasks.fence.layout import ENVIRONMENT, FLAGS, PACKAGES, Layout, interpreter

MODULES = (
    "gnomon.tasks.fence.codec", "gnomon.tasks.fence.encode", "gnomon.tasks.fence.decode",
    "gnomon.tasks.fence.shared", "gnomon.tasks.fence.handles", "gnomon.tasks.fence.raised", "gnomon.tasks.fence.peer",
    "gnomon.tasks.fence.candidate", "gnomon.tasks.fence.tester", "gnomon.tasks.fence.syscalls",
    "gnomon.tasks.fence.seccomp", "gnomon.tasks.fence.landlock", "gnomon.tasks.fence.rights",
    "gnomon.tasks.fence.server",
)  # fmt: skip
"""What a server runs, each after what it imports."""
START_S = 30.0
_BOOT = """
def boot():
    import json, os, socket, sys, types
    given = json.loads(sys.stdin.buffer.read())
    for name in ("gnomon", "gnomon.tasks", "gnomon.tasks.fence"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    for name, text in given["modules"]:
        module = sys.modules[name] = types.ModuleType(name)
        exec(compile(text, "<" + name + ">", "exec"), module.__dict__)
        parent, _, own = name.rpartition(".")
        setattr(sys.modules[parent], own, module)
    low = [os.dup(int(fd)) if int(fd) >= 0 else -1 for fd in sys.argv[1:3]]  # the driver's numbers may be any
    for fd in sys.argv[1:3]:
        if int(fd) >= 0:
            os.close(int(fd))
    control, driver = socket.socket(fileno=low[0]), low[1]
    given = given["config"]
    sys.argv[:] = [""]
    sys.modules["gnomon.tasks.fence.server"].main(given, control, driver if driver >= 0 else None)
boot()
"""


class Stopped(Exception):
    """A server that does not start, or has ended."""


def bwrap() -> str | None:
    """The bubblewrap program, where there is one."""
    return shutil.which("bwrap")


def wrapped(layout: Layout, program: str) -> list[list[str]]:
    """Command lines that start bubblewrap, the strictest first: which one works depends on the machine."""
    common = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
              "--new-session", "--cap-drop", "ALL"]  # fmt: skip
    paths = [*layout.stdlib, *layout.libraries, *layout.files]
    above = sorted({str(folder) for path in paths for folder in Path(path).parents} - {"/"}, key=len)
    binds = ["--tmpfs", "/tmp"]  # before the binds: the interpreter may lie below it
    for folder in above:  # a user without rights must be able to walk through them
        if not os.path.islink(folder):
            binds += ["--perms", "0755", "--dir", folder]
    for path in ("/lib", "/lib64", "/usr/lib", "/usr/lib64"):
        if os.path.islink(path):
            binds += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path) and path != "/usr/lib":
            binds += ["--ro-bind", path, path]
    for path in sorted(dict.fromkeys(paths), key=len):
        if not any(path.startswith(other + "/") for other in paths):
            binds += ["--ro-bind", path, path]
    for folder in layout.stdlib:
        for name in PACKAGES:
            if os.path.isdir(os.path.join(folder, name)):
                binds += ["--tmpfs", os.path.join(folder, name)]
    places = ["--dir", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]
    users: list[list[str]] = [["--unshare-user"]]
    if os.geteuid() == 0:
        users.insert(0, ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"])
    return [[program, *common, *user, *binds, *proc, *places] for user in users for proc in (["--proc", "/proc"], [])]


def ready(reading: Sequence[Any], writing: Sequence[Any], seconds: float) -> tuple[list[Any], list[Any]]:
    """Which sockets can be read, and which written, at the latest after so long. Not `select.select`: it fails where
    the caller has more than a thousand descriptors.
    """
    poll = select.poll()
    for one in {*reading, *writing}:
        poll.register(one, select.POLLIN * (one in reading) | select.POLLOUT * (one in writing))
    found = dict(poll.poll(math.ceil(seconds * 1000)))
    done = select.POLLHUP | select.POLLERR
    return (
        [one for one in reading if found.get(one.fileno(), 0) & (select.POLLIN | done)],
        [one for one in writing if found.get(one.fileno(), 0) & (select.POLLOUT | done)],
    )


class Server:
    """A running fork server for one role, "candidate" or "tester".

    Args:
        role: what its children do.
        prefix: the command line before the interpreter: bubblewrap's, or empty.
        config: what `server.main` is given.
    """

    def __init__(self, role: str, prefix: Sequence[str], config: dict[str, Any]) -> None:
        here = Path(__file__).parent
        modules = [(name, (here / f"{name.rpartition('.')[2]}.py").read_text("utf-8")) for name in MODULES]
        blob = json.dumps({"modules": modules, "config": config | {"role": role}}).encode()
        try:
            self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:  # macOS
            raise Stopped(f"no packet sockets: {error}") from None
        driver = os.pidfd_open(os.getpid()) if hasattr(os, "pidfd_open") else -1
        passed = [theirs.fileno()] + ([driver] if driver >= 0 else [])
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        command = [*prefix, interpreter(), *FLAGS, "-c", _BOOT, str(theirs.fileno()), str(driver)]
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors, env=ENVIRONMENT,
                pass_fds=passed, start_new_session=True, cwd="/",
            )  # fmt: skip
        except OSError as error:
            self.control.close()
            raise Stopped(str(error)) from None
        finally:
            theirs.close()
            if driver >= 0:
                os.close(driver)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(blob)
            self.process.stdin.close()
        try:
            self.facts = self.answer(START_S)
        except Stopped:
            self._end()
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip()[-400:]
            self._errors.close()
            raise Stopped(said or f"ended with code {self.process.returncode}") from None

    def order(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send one order."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.control.sendmsg([json.dumps(message).encode()], ancillary)
        except OSError as error:
            raise Stopped(str(error)) from None

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next message of the server; Stopped when it ends or is silent for so long."""
        end = time.monotonic() + seconds
        if not ready([self.control], [], max(0.0, end - time.monotonic()))[0]:
            raise Stopped("no answer")
        try:
            data = self.control.recv(65536)
        except OSError as error:
            raise Stopped(str(error)) from None
        if not data:
            raise Stopped("it ended")
        return json.loads(data)

    def close(self) -> None:
        """End the server and wait for it."""
        self._end()
        self._errors.close()

    def _end(self) -> None:
        self.control.close()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def machine() -> str:
    """This machine's name among those that the fence knows, or as the system calls it."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
