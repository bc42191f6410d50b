"""The driver's side of the worker processes: they are started once, work through map after map, and end together.

A process that stays has its imports done and, by `ModelSpec.load`, its model loaded. Shards are handed out in order and
on demand, not as fixed ranges: a plan is sorted by length, so equal ranges take unequal times, and the last shards of
all are then the only ones that anybody waits for. What a shard holds never depends on who works on it.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import pickle
import signal
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from gnomon.cores import physical_cores
from gnomon.errors import UserError
from gnomon.executors import crew_process as told
from gnomon.shards import ShardEvent, Watch, Worker, label

SURROUNDINGS = ("OMP_", "MKL_", "KMP_", "CUDA", "CUBLAS", "PYTORCH_", "TORCH_", "HF_", "GNOMON_")
"""Environment variables that a process reads when it starts: where one differs, processes are started anew."""


@dataclass
class Member:
    """One worker process, the pipe to it, and the index of the shard it is on."""

    number: int
    process: Any
    pipe: Connection
    shard: int | None = None
    given: bool = False
    """Whether it has the worker of the map that goes on."""
    opened: bool = False

    def send(self, kind: str, data: bytes = b"") -> None:
        """Tell it something; where it is dead, the wait that follows sees the closed pipe and names it."""
        with suppress(OSError):
            self.pipe.send((kind, data))


@dataclass
class _Map:
    """What one map has yet to do, and what went wrong in it."""

    payload: bytes
    shards: Sequence[Any]
    retries: int
    watch: Watch
    waiting: deque[int]
    tries: dict[int, int] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)
    deaths: int = 0

    def tell(self, kind: Any, member: Member, shard: int | None, text: str = "") -> None:
        self.watch(ShardEvent(kind, str(member.number), None if shard is None else self.shards[shard], text))


class Crew:
    """Worker processes on this machine: at most `count`, each with its own of `places` (CUDA_VISIBLE_DEVICES)."""

    def __init__(self, count: int, places: Sequence[str]) -> None:
        self.context, self.count, self.places = mp.get_context("spawn"), count, places
        self.members: list[Member] = []
        self.surroundings: dict[str, str] = {}
        weakref.finalize(self, end, self.members)  # also where nobody calls close()

    def map(self, worker: Worker, shards: Sequence[Any], retries: int, watch: Watch) -> Iterator[tuple[Any, Any]]:
        """Hand out shards, yield results; however it ends otherwise than well, every process ends with it."""
        work = _Map(pickle.dumps(worker), shards, retries, watch, deque(range(len(shards))))
        well = False
        try:
            self._gather(len(shards))
            for member in self.members:
                self._hand(member, work)
            while busy := [member for member in self.members if member.shard is not None]:
                for ready in wait([member.pipe for member in busy]):
                    member = next(m for m in busy if m.pipe is ready)
                    yield from self._hear(member, work)
            for member in self.members:
                member.send(told.REST)
            well = True
        finally:
            if not well:
                self.close()
        if work.lost or work.waiting:
            self._regret(work)

    def close(self) -> None:
        """End every process."""
        end(self.members)

    def _gather(self, shards: int) -> None:
        """The processes of a map: those that stand, unless they are dead or began in other surroundings."""
        now = {name: value for name, value in os.environ.items() if name.startswith(SURROUNDINGS)}
        with suppress(OSError):
            now["cwd"] = os.getcwd()
        if now != self.surroundings:
            self.close()
        self.surroundings = now
        for member in [m for m in self.members if not m.process.is_alive()]:
            self._leave(member)
        for member in self.members:
            member.shard, member.given, member.opened = None, False, False
        taken = {member.number for member in self.members}
        for number in [i for i in range(self.count) if i not in taken][: max(0, shards - len(taken))]:
            self._start(number)

    def _start(self, number: int) -> Member:
        here, there = self.context.Pipe()
        environment = {"CUDA_VISIBLE_DEVICES": self.places[number % len(self.places)]} if self.places else {}
        if "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, physical_cores() // self.count))
        process = self.context.Process(
            target=told.work, args=(there, environment, os.getpid()), name=f"gnomon-{number}", daemon=True
        )
        process.start()
        there.close()
        self.members.append(Member(number, process, here))
        return self.members[-1]

    def _hand(self, member: Member, work: _Map) -> None:
        """Give a member the next shard, if there is one."""
        if not work.waiting:
            return
        member.shard = work.waiting.popleft()
        data = pickle.dumps(work.shards[member.shard])
        if not member.given:
            member.send(told.WORKER, work.payload)
            member.given = True
        member.send(told.SHARD, data)
        work.tell("start", member, member.shard)

    def _hear(self, member: Member, work: _Map) -> Iterator[tuple[Any, Any]]:
        """Take one message of a busy member; yields the (shard, result) that it brings, if it does."""
        shard = member.shard
        assert shard is not None
        try:
            kind, value = member.pipe.recv()
        except (EOFError, OSError):
            self._mourn(member, shard, work)
            return
        if kind == told.OPEN:
            member.opened = True
            work.tell("open", member, None)
        elif kind == told.RESULT:
            member.shard = None
            self._hand(member, work)  # before the result is looked at, so that nobody waits for that
            work.tell("done", member, shard)
            yield work.shards[shard], value
        elif kind == told.USER:
            raise value
        else:
            raise RuntimeError(f"worker {member.number} failed on {label(work.shards[shard])}:\n{value}")

    def _mourn(self, member: Member, shard: int, work: _Map) -> None:
        """A process died: its shard goes to the end of the queue, or is given up; another takes its place.

        To the end, for then fewer work beside it: mostly it was memory. A death while opening is not the shard's fault,
        and where several die so, nobody takes their place.
        """
        text = _death(member, work.shards[shard])
        self._leave(member)
        work.deaths += 1
        work.tries[shard] = tries = work.tries.get(shard, 0) + member.opened
        if tries > work.retries:
            work.lost[shard] = text + (f", the last of {tries} tries" if tries > 1 else "")
            work.tell("lost", member, shard, text)
        else:
            (work.waiting.append if member.opened else work.waiting.appendleft)(shard)
            work.tell("retry", member, shard, text)
        if work.waiting and (work.deaths <= work.retries or (member.opened and not self.members)):
            self._start(member.number)
        if not self.members:
            work.lost |= {shard: text} if shard in work.waiting else {}
        for idle in [m for m in self.members if m.shard is None]:
            self._hand(idle, work)

    def _leave(self, member: Member) -> None:
        member.pipe.close()
        self.members.remove(member)

    def _regret(self, work: _Map) -> None:
        """Say which shards are missing and why."""
        missing = len({*work.lost, *work.waiting})
        raise UserError(
            "; ".join(work.lost.values()),
            f"{missing} of {len(work.shards)} shards are missing" + (": no worker is left" if work.waiting else ""),
            "finished shards are kept: run the same command again, with fewer workers if memory ran out",
        )


def end(members: list[Member]) -> None:
    """End worker processes: they have nothing to save, for a shard counts only once its marker is there."""
    for member in members:
        member.pipe.close()
        if member.shard is not None:
            member.process.terminate()
    for member in members:
        member.process.join(5)
        if member.process.is_alive():
            member.process.kill()
            member.process.join(10)
    members.clear()


def _death(member: Member, shard: Any) -> str:
    """How a process ended and what it was on; one that only left its pipe ends now: its shard goes to another."""
    member.process.join(10)
    if member.process.is_alive():
        member.process.kill()
        member.process.join(10)
    code = member.process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
    return f"worker {member.number} (pid {member.process.pid}) {how} on {label(shard)}"
