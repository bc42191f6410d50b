"""What is written down of a run, and how one of its calls is made to fail: light, for worker processes load it too."""

from __future__ import annotations

import builtins
import io
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Call = Literal["replace", "fsync", "open"]


@dataclass(frozen=True)
class Strike:
    """At the `nth` call of `call` that touches the study (from 1): die of `deed` "SIGKILL", or fail with an errno."""

    call: Call
    nth: int
    deed: str | int = "SIGKILL"
    after: bool = False
    """Die after the call was done instead of before."""
    on: bool = False
    """Every later call of any kind fails too, as on a full disk."""


class Journal:
    """Lines of JSON, appended whole: what the child began, seen by its parent at once."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, event: str, **more: Any) -> None:
        line = json.dumps({"event": event, "pid": os.getpid(), **more}) + "\n"
        file = os.open(self.path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(file, line.encode())
        os.close(file)


@dataclass
class Counting:
    """A worker that writes each shard it begins into the journal; picklable where the worker is."""

    worker: Any
    step: str
    path: str

    def open(self) -> None:
        self.worker.open()

    def __call__(self, shard: Any) -> Any:
        Journal(self.path).write("shard", step=self.step, index=shard[0])
        return self.worker(shard)


Tell = Callable[..., None]


@contextmanager
def striking(study: str | Path, strike: Strike | None, tell: Tell | None = None) -> Iterator[Counter[str]]:
    """Within: calls that make, sync and rename files of `study` are counted; `strike` is carried out.

    `tell` hears of every call where there is no strike, else of the strike.
    """
    counts, root, struck = Counter[str](), os.path.realpath(study), [False]

    def watched(call: Call, real: Callable[..., Any], where: Callable[..., str]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            path = where(*args, **options)
            if not path.startswith(root):
                return real(*args, **options)
            counts[call] += 1
            mine = {"call": call, "nth": counts[call], "path": os.path.relpath(path, root)}
            if tell is not None and strike is None:
                tell("call", **mine)
            hit = strike is not None and (call, counts[call]) == (strike.call, strike.nth)
            if strike is None or not (hit or (struck[0] and strike.on)):
                return real(*args, **options)
            if strike.after:
                real(*args, **options)
            struck[0] = True
            if tell is not None:
                tell("strike", **mine)
            if isinstance(strike.deed, int):
                raise OSError(strike.deed, os.strerror(strike.deed), path)
            os.kill(os.getpid(), signal.Signals[strike.deed])
            raise AssertionError("it is dead by now")

        return wrapped

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> str:
        writes = isinstance(file, str | os.PathLike) and set(mode) & set("wax+")
        return os.path.realpath(os.fspath(file)) if writes else ""

    before = os.replace, os.fsync, builtins.open, io.open
    os.replace = watched("replace", os.replace, lambda a, b, **_: os.path.realpath(b))
    os.fsync = watched("fsync", os.fsync, lambda fd: os.path.realpath(f"/proc/self/fd/{fd}"))
    builtins.open = io.open = watched("open", builtins.open, opened)  # type: ignore[assignment]
    try:
        yield counts
    finally:
        os.replace, os.fsync, builtins.open, io.open = before
