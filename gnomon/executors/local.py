"""Shards on this machine: in this process, or in worker processes - one a device where there are CUDA devices.

Workers are spawned, open once, get a shard at a time and die with their driver. A worker that the system kills is
named with the shard it was on; the others finish theirs first, so that nothing done is lost.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gnomon.errors import UserError
from gnomon.shards import Watch, Worker


class Local(BaseModel):
    """Works on this machine, in one process or several."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    workers: int = Field(default=1, ge=1)
    """Processes; 1 works in this one. With CUDA devices, worker i has device i (modulo their number) to itself."""

    def processes(self) -> int:
        """Worker processes on this machine."""
        return self.workers

    def prepare(self, folder: Path) -> None:
        """Nothing to start beforehand."""

    def close(self) -> None:
        """Nothing outlives a map."""

    def map(self, worker: Worker, shards: Sequence[Any], watch: Watch | None = None) -> Iterator[tuple[Any, Any]]:
        """Run `worker` over `shards`; yields (shard, result) as they finish.

        Raises the worker's own UserError unchanged; RuntimeError with the worker's traceback for any other exception;
        UserError naming worker, signal and shard where a process died, after the living ones have finished.
        """
        shards = list(shards)
        if not shards:
            return
        if self.workers == 1 or len(shards) == 1:
            worker.open()
            for shard in shards:
                yield shard, worker(shard)
            return
        yield from _Pool(min(self.workers, len(shards)), worker).run(shards)


@dataclass
class _Process:
    """One worker process, the pipe to it, and the index of the shard it is on."""

    number: int
    process: Any
    pipe: Connection
    shard: int | None = None


class _Pool:
    """Worker processes over one list of shards."""

    def __init__(self, count: int, worker: Worker) -> None:
        self.context, self.count = mp.get_context("spawn"), count
        self.payload = pickle.dumps(worker)
        self.devices = _devices()

    def run(self, shards: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Hand out shards, yield results; every process is gone when this ends, however it ends."""
        waiting = list(range(len(shards)))[::-1]
        lost: list[str] = []
        crew = [self._start(i) for i in range(self.count)]
        try:
            while crew:
                for member in crew:
                    if member.shard is None and waiting:
                        member.shard = waiting.pop()
                        _send(member.pipe, shards[member.shard])
                busy = [member for member in crew if member.shard is not None]
                if not busy:
                    break
                for ready in wait([member.pipe for member in busy]):
                    member = next(m for m in busy if m.pipe is ready)
                    assert member.shard is not None
                    try:
                        kind, value = member.pipe.recv()
                    except (EOFError, OSError):
                        lost.append(_death(member, shards[member.shard]))
                        crew.remove(member)
                        continue
                    if kind == "result":
                        done, member.shard = member.shard, None
                        yield shards[done], value
                    elif kind == "user":
                        raise value
                    else:
                        raise RuntimeError(f"worker {member.number} failed on {_label(shards[member.shard])}:\n{value}")
        finally:
            for member in crew:
                _stop(member)
        if lost:
            raise UserError(
                "; ".join(lost),
                f"{len(waiting) + len(lost)} of {len(shards)} shards are missing" if crew else "no worker is left",
                "finished shards are kept: run the same command again, with fewer workers if memory ran out",
            )

    def _start(self, number: int) -> _Process:
        here, there = self.context.Pipe()
        environment = {"CUDA_VISIBLE_DEVICES": self.devices[number % len(self.devices)]} if self.devices else {}
        if "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.count))
        # the environment must be there before the child imports torch, so the worker travels as bytes after it
        process = self.context.Process(
            target=_work, args=(there, environment, self.payload, os.getpid()), name=f"gnomon-{number}", daemon=True
        )
        process.start()
        there.close()
        return _Process(number, process, here)


def _work(pipe: Connection, environment: dict[str, str], payload: bytes, driver: int) -> None:
    """A worker process: open once, then a shard at a time until the driver is done or gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver gets Ctrl-C and stops its workers
    os.environ.update(environment)
    threading.Thread(target=_die_with, args=(driver,), daemon=True).start()
    opened: list[Worker] = []
    while True:
        try:
            shard = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if not opened:
                worker: Worker = pickle.loads(payload)
                worker.open()
                opened.append(worker)
            answer = pickle.dumps(("result", opened[0](shard)))
        except UserError as error:
            answer = pickle.dumps(("user", error))
        except BaseException:  # whatever it is, the driver raises it with this traceback
            answer = pickle.dumps(("error", traceback.format_exc()))
        try:
            pipe.send_bytes(answer)
        except OSError:
            return  # the driver is gone


def _die_with(driver: int) -> None:
    """End this process when its driver is gone, even in the middle of a shard."""
    while os.getppid() == driver:
        time.sleep(0.5)
    os._exit(1)


def _send(pipe: Connection, shard: Any) -> None:
    with suppress(OSError):  # it died before it began: the wait that follows sees the closed pipe and names it
        pipe.send(shard)


def _stop(member: _Process) -> None:
    """End a worker: it has nothing to save, for a shard counts only once its marker is there."""
    member.pipe.close()
    if member.shard is not None:
        member.process.terminate()
    member.process.join(5)
    if member.process.is_alive():
        member.process.kill()
        member.process.join()


def _death(member: _Process, shard: Any) -> str:
    """How a process ended and what it was on."""
    member.process.join(10)
    code = member.process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
    return f"worker {member.number} (pid {member.process.pid}) {how} on {_label(shard)}"


def _label(shard: Any) -> str:
    """A shard in words: its number where it has one."""
    return (
        f"shard {shard[0]}"
        if isinstance(shard, tuple) and shard and isinstance(shard[0], int)
        else f"shard {shard!r:.80}"
    )


def _devices() -> list[str]:
    """CUDA devices that workers can have to themselves; [] without any (then they share the CPU)."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in listed.split(",") if name.strip() not in ("", "-1")]
    if not os.path.exists("/dev/nvidiactl"):
        return []
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
