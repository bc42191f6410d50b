"""One grade: two forks, their sockets, the clock on the wall; and which verdict follows from what they did."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from dataclasses import dataclass
from typing import Any

from gnomon.tasks.fence.launch import Server, ready

KEPT = 4096
"""Bytes of standard error that are kept while a candidate runs."""
SETTLE_S = 2.0
GONE_S = 1.0
"""How long the end of a candidate is awaited when its tests have found it gone: it is then about to end."""
END_S = 10.0


@dataclass
class Outcome:
    """What one try of a grade gave; `again`: the machine may be to blame, so it is worth another try."""

    verdict: str
    reason: str
    cpu_s: float = 0.0
    stderr: str = ""
    again: bool = False


@dataclass
class _Seen:
    """What has been seen of the two children so far."""

    said: bytes = b""
    output: int = 0
    stderr: bytes = b""
    stop: str = ""
    refused: str = ""


def _framed(job: dict[str, Any]) -> bytes:
    data = json.dumps(job).encode()
    return b"%d\n" % len(data) + data


def grade_once(servers: tuple[Server, Server], job: dict[str, Any], limits: Any, wall: float) -> Outcome:
    """Fork both children, give each its own half of the job, and wait. Both are dead and reaped on return.

    Raises:
        Stopped: when a server has ended; both are to be started anew.
    """
    order = {
        "start": True, "cpu_s": float(limits.cpu_s), "memory": int(limits.memory_mb * 2**20),
        "files": int(limits.files), "threads": int(limits.threads),
    }  # fmt: skip
    with contextlib.ExitStack() as stack:

        def pair() -> tuple[socket.socket, socket.socket]:
            both = socket.socketpair()
            for one in both:
                stack.callback(one.close)
            return both

        ours, theirs = pair()
        code, code_there = pair()
        verdict, verdict_there = pair()
        out, out_there = pair()
        err, err_there = pair()
        servers[0].order(order, [ours.fileno(), code_there.fileno(), out_there.fileno(), err_there.fileno()])
        servers[1].order(order, [theirs.fileno(), verdict_there.fileno()])
        for one in (ours, theirs, code_there, verdict_there, out_there, err_there):
            one.close()
        jobs = {
            code: memoryview(_framed({"code": job["code"]})),
            verdict: memoryview(_framed({name: job[name] for name in ("setup", "tests", "entry")})),
        }
        seen = _Seen()
        reports: dict[Server, dict[str, Any]] = {}
        _watch(servers, jobs, verdict, (out, err), limits.output_kb * 1024, time.monotonic() + wall, seen, reports)
        if b'"gone"' in seen.said[:40] and servers[0] not in reports and ready([servers[0].control], [], GONE_S)[0]:
            reports[servers[0]] = servers[0].answer(1.0)
        for server in servers:
            if server not in reports:
                server.order({"stop": True})
        for server in servers:
            if server not in reports:
                reports[server] = server.answer(END_S)
        _drain(out, err, seen)
        if reports[servers[0]]["end"] == "itself":
            seen.refused = (_read(code) or b"").decode("utf-8", "replace")
    return decide(seen, reports[servers[0]], reports[servers[1]], limits)


def _watch(servers: tuple[Server, Server], jobs: dict[socket.socket, memoryview], verdict: socket.socket,
           outputs: tuple[socket.socket, socket.socket], most: int, end: float, seen: _Seen,
           reports: dict[Server, dict[str, Any]]) -> None:  # fmt: skip
    """Until the tests have spoken or ended, or a limit is passed."""
    controls = {server.control: server for server in servers}
    for one in (*jobs, *outputs):
        one.setblocking(False)
    reading: list[socket.socket] = [*controls, verdict, *outputs]
    while True:
        rest = end - time.monotonic()
        if rest <= 0:
            seen.stop = seen.stop or "wall"
            return
        readable, writable = ready(reading, list(jobs), rest)
        for one in writable:
            try:
                jobs[one] = jobs[one][one.send(jobs[one]) :]
            except BlockingIOError:
                continue
            except OSError:
                jobs[one] = jobs[one][:0]
            if not jobs[one]:
                del jobs[one]
        for one in readable:
            if one in controls:
                server = controls[one]
                reports[server] = server.answer(1.0)
                reading.remove(one)
                if server is servers[1]:
                    _hear(verdict, seen)
                    return
                end = min(end, time.monotonic() + SETTLE_S) if reports[server]["end"] == "itself" else 0.0
            elif one is verdict:
                if _hear(verdict, seen):
                    return
            else:
                data = _read(one)
                if data is None:
                    continue
                if not data:
                    reading.remove(one)
                seen.output += len(data)
                if one is outputs[1]:
                    seen.stderr = (seen.stderr + data)[-KEPT:]
                if seen.output > most:
                    seen.stop = "output"
                    return


def _read(one: socket.socket) -> bytes | None:
    try:
        return one.recv(65536)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _hear(verdict: socket.socket, seen: _Seen) -> bool:
    """Read what the tests' process says; True when it has said all or closed."""
    while True:
        data = _read(verdict)
        if data is None:
            return False
        if not data:
            return True
        seen.said += data
        with contextlib.suppress(ValueError):
            json.loads(seen.said)
            return True
        if len(seen.said) > 2**16:
            return True


def _drain(out: socket.socket, err: socket.socket, seen: _Seen) -> None:
    """What the candidate had written when it was ended."""
    for one in (out, err):
        while data := _read(one):
            seen.output += len(data)
            if one is err:
                seen.stderr = (seen.stderr + data)[-KEPT:]


def decide(seen: _Seen, candidate: dict[str, Any], tests: dict[str, Any], limits: Any) -> Outcome:
    """The verdict. "pass" comes from the tests' process alone; the other children's ends only explain a failure."""
    stderr = seen.stderr.decode("utf-8", "replace")
    cpu = float(candidate["cpu_s"])

    def out(verdict: str, reason: str, again: bool = False) -> Outcome:
        return Outcome(verdict, reason, cpu, stderr, again)

    if seen.refused or seen.said.startswith(b"fence: "):
        return out("infra", seen.refused or seen.said.decode("utf-8", "replace"), again=True)
    try:
        said = json.loads(seen.said)
    except ValueError:
        said = {}
    if seen.output > limits.output_kb * 1024:
        return out("fail", f"output limit: more than {limits.output_kb} KiB written")
    if said.get("trace"):
        stderr = f"{stderr}\n{said['trace']}" if stderr else said["trace"]
    if said.get("verdict") == "pass":
        return out("pass", "")
    seconds = f"{limits.cpu_s:g} CPU seconds"
    if candidate["end"] == "cpu" or candidate["signal"] == signal.SIGXCPU:
        return out("timeout", f"more than {seconds}")
    if candidate["end"] == "threads":
        return out("fail", f"more than {limits.threads} threads")
    if said and said["verdict"] != "gone":
        return out(said["verdict"], said["reason"])
    if tests["end"] == "cpu" or tests["signal"] == signal.SIGXCPU:
        return out("timeout", f"more than {seconds} in the tests")
    if candidate["end"] == "itself":
        full = candidate["rss_kb"] >= 0.75 * limits.memory_mb * 1024
        number = candidate["signal"]
        if not number:
            return out("fail", f"the candidate ended by itself, with code {candidate['code']}")
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return out("memory" if full else "fail", f"the candidate was ended by {name}")
    if seen.stop == "wall":
        return out("timeout", f"more than {limits.wall:g} seconds")
    if said:
        return out("fail", "the candidate closed its connection")
    return out("infra", f"the tests ended without a word (code {tests['code']}, signal {tests['signal']})", again=True)
