"""Grades generated Python: the candidate runs in one fenced process, its tests in another that calls it.

The candidate never sees a test and has no verdict to forge: it answers calls with plain data, and only the process of
the tests can say that all of them held. docs/sandbox.md has the threat model. Standard library only.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from gnomon.errors import UserError
from gnomon.tasks.fence import landlock
from gnomon.tasks.fence.grade import Outcome, grade_once
from gnomon.tasks.fence.launch import Server, Stopped, bwrap, machine, wrapped
from gnomon.tasks.fence.layout import layout
from gnomon.tasks.fence.probes import probe
from gnomon.tasks.fence.syscalls import ARCHES

VERDICTS = ("pass", "fail", "timeout", "memory", "blocked", "unsupported", "infra")
LEVELS = ("bwrap+kernel", "kernel", "none")
Name = Literal["pass", "fail", "timeout", "memory", "blocked", "unsupported", "infra"]
_log = logging.getLogger("gnomon")


@dataclass(frozen=True)
class Limits:
    """What one candidate may use, and what its tests may use; each has the whole of it.

    Args:
        cpu_s: processor seconds, all threads.
        wall_s: seconds on the clock; None: 2 * cpu_s + 10, so that a busy machine does not change a label.
        memory_mb: MiB of address space.
        output_kb: KiB that the candidate may write to stdout and stderr together.
        files: open file descriptors.
        threads: threads at once.
    """

    cpu_s: float = 10.0
    wall_s: float | None = None
    memory_mb: int = 512
    output_kb: int = 64
    files: int = 32
    threads: int = 32

    def __post_init__(self) -> None:
        for name, least in {"cpu_s": 0.05, "memory_mb": 64, "output_kb": 0, "files": 8, "threads": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value < 1e9:
                raise UserError(f"{name} is {value!r}", f"a number of at least {least}")
        if self.wall_s is not None and not 0 < self.wall_s < 1e9:
            raise UserError(f"wall_s is {self.wall_s!r}", "a number above 0, or nothing for 2 * cpu_s + 10")

    @property
    def wall(self) -> float:
        """`wall_s`, or what stands for it."""
        return 2 * self.cpu_s + 10 if self.wall_s is None else self.wall_s


@dataclass(frozen=True)
class Verdict:
    """What came out of one grade.

    Args:
        verdict: one of VERDICTS; blocked, unsupported and infra are no statement about the code.
        reason: what decided, in one line; empty for a pass.
        cpu_s: processor seconds of the candidate.
        stderr: the end of its standard error and of the traceback that failed the tests, at most 2 kB; addresses
            are 0x... so that it repeats.
        level: one of LEVELS.
    """

    verdict: Name
    reason: str
    cpu_s: float
    stderr: str
    level: str


class Sandbox:
    """Grades one program at a time (calls from several threads wait for each other); starts at the first grade.

    Args:
        limits: see Limits.
        unsandboxed: run the code without any fence; stamped on every verdict as level "none".
        level: one of LEVELS to insist on it; None takes the best that this machine has and says so when it is not
            "bwrap+kernel".

    Raises:
        UserError: at the first grade, where the machine cannot fence code or a probe finds a hole.
    """

    def __init__(self, limits: Limits | None = None, unsandboxed: bool = False, level: str | None = None) -> None:
        if level is not None and level not in LEVELS:
            raise UserError(f"unknown level {level!r}", f"levels are {', '.join(LEVELS)}")
        if level is not None and (level == "none") != unsandboxed:
            raise UserError(f"level {level!r} with unsandboxed={unsandboxed}", "level none is named by unsandboxed")
        self.limits = limits or Limits()
        self._wanted = "none" if unsandboxed else level
        self._level: str | None = None
        self._servers: tuple[Server, Server] | None = None
        self._prefix: list[str] = []
        self._owner = 0
        self._lock = threading.RLock()

    @property
    def level(self) -> str:
        """The level that it grades at; starts it where it has not been."""
        with self._lock:
            self._start()
            assert self._level is not None
            return self._level

    def grade(self, code: str, tests: str | Sequence[str], entry: str | None = None, setup: str = "") -> Verdict:
        """Run `code` and ask it the tests.

        Args:
            code: Python source of a module.
            tests: asserts as one text, or as several, all of which must hold; or the text of a `check(candidate)`.
            entry: the name that `check` is given; also the one name with which the code may replace a builtin.
            setup: Python that runs before the tests, beside them: imports, classes, data.
        """
        texts = [tests] if isinstance(tests, str) else list(tests)
        wrong = [x for x in (code, setup, *texts, *([] if entry is None else [entry])) if not isinstance(x, str)]
        if wrong:
            raise UserError(f"code, tests, entry and setup are texts, not {type(wrong[0]).__name__}")
        code, setup, *texts = [text.removeprefix("\ufeff") for text in (code, setup, *texts)]  # as of a file
        job = {"code": code, "tests": texts, "entry": entry, "setup": setup}
        with self._lock:
            self._start()
            found = self._once(job)
            if found.verdict == "infra" and found.again:
                self._restart()
                found = self._once(job)
            if found.verdict == "blocked" and self._level == "none":
                found.verdict = "fail"  # there is no fence: the system itself refused
            name = cast(Name, found.verdict)
            return Verdict(name, _line(found.reason), round(found.cpu_s, 6), _tail(found.stderr), str(self._level))

    def _once(self, job: dict[str, Any]) -> Outcome:
        assert self._servers is not None
        try:
            return grade_once(self._servers, job, self.limits, self.limits.wall)
        except Stopped as error:
            return Outcome("infra", f"a fork server stopped: {error}", again=True)
        except BaseException:  # Ctrl-C in the middle of a grade: what the servers say next would be of this one
            self.close()
            raise

    # ------------------------------------------------------------ starting

    def _start(self) -> None:
        if self._servers is not None and self._owner != os.getpid():
            self._servers = None  # a fork of the process that started them: they are the parent's
        if self._servers is not None:
            return
        failures: list[str] = []
        for level, prefix in self._ways(failures):
            try:
                self._servers = self._pair(level, prefix)
            except Stopped as error:
                failures.append(f"{level}: {error}")
                continue
            self._level, self._prefix, self._owner = level, prefix, os.getpid()
            if level == "none":
                _log.warning("sandbox: none: generated code runs with all that this user may do")
                return
            try:
                holes = probe(self._servers, self.limits)
            except BaseException:  # Ctrl-C: servers that were not tried must not grade
                self.close()
                raise
            if holes:
                self.close()
                raise UserError(
                    f"the sandbox ({level}) does not hold: {'; '.join(holes)}",
                    "every start-up probe must be stopped, and an honest program must pass",
                    "update the kernel or install bubblewrap; unsandboxed grades without any fence",
                )
            if level != "bwrap+kernel" and self._wanted is None:
                _log.warning("sandbox: kernel only: %s", "; ".join(failures) or "bubblewrap is not installed")
            return
        raise UserError(
            f"no sandbox: {'; '.join(failures)}",
            "generated code is graded behind Landlock and seccomp (Linux 5.13 or later)",
            "install bubblewrap (bwrap), or name unsandboxed to run the code without any fence",
        )

    def _ways(self, failures: list[str]) -> list[tuple[str, list[str]]]:
        """Levels to try with their command lines; why one is left out goes into `failures`."""
        if self._wanted == "none":
            if not hasattr(os, "fork"):
                raise UserError("this system has no fork", "", "grade on Linux")
            return [("none", [])]
        if not sys.platform.startswith("linux") or machine() not in ARCHES:
            raise UserError(
                f"no sandbox on {sys.platform} {machine()}", f"Linux on {' or '.join(ARCHES)}",
                "name unsandboxed to run the code without any fence",
            )  # fmt: skip
        if landlock.version() == 0:
            failures.append("this kernel has no Landlock")
            return []
        ways: list[tuple[str, list[str]]] = []
        if self._wanted in (None, "bwrap+kernel"):
            program = bwrap()
            if program is None:
                failures.append("bubblewrap (bwrap) is not installed")
            else:
                ways += [("bwrap+kernel", prefix) for prefix in wrapped(layout(), program)]
        if self._wanted in (None, "kernel"):
            ways.append(("kernel", []))
        return ways

    def _pair(self, level: str, prefix: list[str]) -> tuple[Server, Server]:
        config: dict[str, Any] = {"fenced": level != "none", "machine": machine(), "readable": [], "listable": []}
        if level != "none":
            config |= {"readable": layout().readable(), "listable": list(layout().stdlib)}
        first = Server("candidate", prefix, config)
        try:
            return first, Server("tester", prefix, config)
        except Stopped:
            first.close()
            raise

    def _restart(self) -> None:
        level, prefix = str(self._level), self._prefix
        self.close()
        try:
            self._servers, self._level, self._owner = self._pair(level, prefix), level, os.getpid()
        except Stopped as error:
            raise UserError(f"the sandbox ({level}) does not start again: {error}") from None

    def close(self) -> None:
        """End the fork servers; the next grade starts them anew."""
        with self._lock:
            servers, self._servers = self._servers, None
            if servers is not None and self._owner == os.getpid():
                for server in servers:
                    server.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        try:  # noqa: SIM105 - when Python ends, contextlib may be gone already
            self.close()
        except Exception:
            pass

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a Sandbox holds running processes; make one in each process")


_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")


def _line(text: str) -> str:
    plain = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))  # no surrogates, no escapes
    return _ADDRESS.sub("0x...", plain)[:500]


def _tail(data: str) -> str:
    return _ADDRESS.sub("0x...", data).encode("utf-8", "replace")[-2048:].decode("utf-8", "ignore")
