"""Grades hostile programs at a level and prints what went wrong: `python hostile_run.py LEVEL all|some [NAME ...]`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from hostile import CALLS, ESCAPE, FORGE, HONEST, MORE, PROGRAMS, TALK, TESTS  # noqa: E402

from gnomon.tasks.sandbox import Limits, Sandbox  # noqa: E402

LIMITS = Limits(cpu_s=0.2, wall_s=2.5, memory_mb=256, threads=16)
STATED = ("fail", "timeout", "memory", "blocked", "unsupported")


class Witness:
    """A folder, a home and listeners that no candidate may touch."""

    def __init__(self, folder: str) -> None:
        os.chmod(folder, 0o777)
        self.folder = folder
        self.secret = os.path.join(folder, "secret")
        Path(self.secret).write_text("secret 41923 86243")
        os.chmod(self.secret, 0o666)
        self.home = os.path.join(os.environ.get("HOME", "/nonexistent"), f".gnomon-hostile-{os.getpid()}")
        try:
            Path(self.home).write_text("secret")
        except OSError:
            self.home = self.secret
        self.listeners: list[socket.socket] = []
        tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        tcp.bind(("127.0.0.1", 0))
        self.port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", self.port))
        unix, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.unix, self.abstract = os.path.join(folder, "unix"), f"\0gnomon-{os.getpid()}"
        unix.bind(self.unix)
        os.chmod(self.unix, 0o777)
        abstract.bind(self.abstract)
        self.listeners = [tcp, unix, abstract]
        for one in self.listeners:
            one.listen()
        self.listeners.append(udp)
        for one in self.listeners:
            one.setblocking(False)
        self.before = self._state()

    def _state(self) -> Any:
        facts = os.stat(self.secret)
        places = [f"{p}/gnomon-hostile" for p in ("/tmp", "/dev/shm", os.getcwd(), "/")]
        return (
            sorted(os.listdir(self.folder)), Path(self.secret).read_text(), stat.S_IMODE(facts.st_mode), facts.st_uid,
            facts.st_mtime, facts.st_atime > 1, os.listxattr(self.secret), [p for p in places if os.path.exists(p)],
        )  # fmt: skip

    def seen(self) -> list[str]:
        """What has changed, or who has called."""
        out = [] if self._state() == self.before else [f"changed: {self._state()} from {self.before}"]
        for one in self.listeners:
            with contextlib.suppress(BlockingIOError):
                one.recv(1) if one.type == socket.SOCK_DGRAM else one.accept()
                out.append(f"a connection to {one}")
        return out

    def close(self) -> None:
        """Remove what lies outside the folder."""
        for one in self.listeners:
            one.close()
        if self.home != self.secret:
            os.unlink(self.home)


def children(servers: list[int]) -> list[str]:
    """Command lines of processes below the fork servers, which are to have none between grades."""
    below: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{name}/stat").read_bytes().rsplit(b")", 1)[1].split()
            below.setdefault(int(fields[1]), []).append(int(name))
    out: list[int] = []
    walk = list(servers)
    while walk:
        found = below.get(walk.pop(), [])
        out += found
        walk += found
    return [str(pid) for pid in out]


def main() -> int:
    """Print one JSON object: how many programs, what went wrong, the verdicts, and the seconds it took."""
    level, only = sys.argv[1], sys.argv[3:]
    programs = PROGRAMS | MORE if sys.argv[2] == "all" else PROGRAMS
    began = time.monotonic()
    wrong: list[str] = []
    verdicts: dict[str, str] = {}
    os.environ["GNOMON_TEST_SECRET"] = "41923"
    with tempfile.TemporaryDirectory() as folder, Sandbox(LIMITS, level=level) as sandbox:
        assert sandbox.level == level
        witness = Witness(folder)
        servers = [server.process.pid for server in sandbox._servers or ()]
        idle = len(children(servers))
        for name, code in programs.items():
            if only and name not in only:
                continue
            alone = [TESTS[:2], TESTS[2:]] if name in FORGE else [TESTS[2:]] if name in TALK else []
            if name in ESCAPE or name in CALLS:
                alone = [TESTS[:1]]
                code = code.format(secret=witness.secret, home=witness.home, folder=folder, port=witness.port,
                                   unix=witness.unix, abstract=witness.abstract, driver=os.getpid())  # fmt: skip
            for part in alone:  # where one test might hide another
                if sandbox.grade(code, part, "f").verdict not in STATED:
                    wrong.append(f"{name}: {part} passes")
            found = sandbox.grade(code, TESTS, "f")
            verdicts[name] = found.verdict
            if only:
                print(name, found)
            if found.verdict not in STATED:
                wrong.append(f"{name}: {found}")
            if len(found.stderr.encode()) > 2048 or found.level != level:
                wrong.append(f"{name}: stderr of {len(found.stderr)} or level {found.level}")
            wrong += [f"{name}: {one}" for one in witness.seen()]
            if len(children(servers)) != idle:
                wrong.append(f"{name}: processes left: {children(servers)}")
            after = sandbox.grade(*HONEST)
            if after.verdict != "pass":
                wrong.append(f"after {name}: an honest program {after}")
        if servers != [server.process.pid for server in sandbox._servers or ()]:
            wrong.append("a fork server had to be started anew")
        witness.close()
    print(json.dumps({"programs": len(verdicts), "wrong": wrong, "verdicts": verdicts, "user": os.getuid(),
                      "seconds": round(time.monotonic() - began, 1)}))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
