"""One `gnomon run` in a forked process: its doings go into a journal, and - if so ordered - a call of its own fails.

Imported once by a fork server, so that a run begins in a tenth of a second instead of five.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import json
import os
import pkgutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers.models.llama.modeling_llama  # noqa: F401 - loaded here, for every child
import typer

import gnomon
import gnomon.report.html
from gnomon.cli import _stop, guarded
from gnomon.executors.local import Local
from gnomon.step import Context
from gnomon.writer import Writer

for _found in pkgutil.walk_packages(gnomon.__path__, "gnomon."):
    with contextlib.suppress(ImportError):  # an extra that is not installed
        importlib.import_module(_found.name)
torch.set_num_threads(1)
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


@dataclass(frozen=True)
class Orders:
    """What one child does."""

    file: str
    out: str
    journal: str
    said: str
    """Where its stdout and stderr go."""
    options: tuple[tuple[str, Any], ...] = ()
    """Further arguments of `run_study`."""
    strike: Strike | None = None
    report: bool = False
    """Build the report too: it takes as long as the study."""
    count: bool = False
    """Write every call that a strike could name into the journal."""


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


def live(orders: Orders) -> None:
    """Run the study as the command line does; the exit code is the command's."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    said = os.open(orders.said, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), line_buffering=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), line_buffering=True)
    journal = Journal(orders.journal)
    _tell_steps(journal)
    _tell_shards(orders.journal)
    if orders.strike is not None or orders.count:
        _watch_calls(orders, journal)
    journal.write("begin")
    signal.signal(signal.SIGTERM, _stop)
    if not orders.report:
        gnomon.report.html.build_report = lambda folder: Path(folder) / "report.html"

    def command(*args: Any, **options: Any) -> None:
        gnomon.run_study(*args, **options)

    try:
        guarded(command)(orders.file, orders.out, **dict(orders.options))
    except typer.Exit as end:
        sys.exit(end.exit_code)


def _tell_steps(journal: Journal) -> None:
    """Each step that is begun (its writer is made by the run, not by a worker)."""
    begin = Writer.__init__

    def told(self: Writer, study: Path, name: str, fingerprint: str) -> None:
        begin(self, study, name, fingerprint)
        journal.write("step", step=name)

    Writer.__init__ = told  # type: ignore[method-assign]
    commit = Writer.commit

    def committed(self: Writer, meta: Any) -> Any:
        journal.write("commit", step=self.name)
        return commit(self, meta)

    Writer.commit = committed  # type: ignore[method-assign]


def _tell_shards(path: str) -> None:
    """Each shard that is begun, in this process or in a worker's."""
    mapped, ran = Local.map, Context.map
    name = [""]

    def map_of(self: Context, worker: Any, shards: Sequence[Any], out: Writer, *more: Any, **options: Any) -> None:
        name[0] = out.name
        ran(self, worker, shards, out, *more, **options)

    def map_in(self: Local, worker: Any, shards: Sequence[Any], *more: Any, **options: Any) -> Iterator[Any]:
        yield from mapped(self, Counting(worker, name[0], path), shards, *more, **options)

    Context.map, Local.map = map_of, map_in  # type: ignore[method-assign]


def _watch_calls(orders: Orders, journal: Journal) -> None:
    """Count the calls that make, sync and rename files of the study; strike where it was ordered."""
    counts, strike, study = Counter[str](), orders.strike, os.path.realpath(orders.out)
    struck = [False]

    def watched(call: Call, real: Callable[..., Any], where: Callable[..., str]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            path = where(*args, **options)
            if not path.startswith(study):
                return real(*args, **options)
            counts[call] += 1
            hit = strike is not None and (call, counts[call]) == (strike.call, strike.nth)
            if orders.count:
                journal.write("call", call=call, nth=counts[call], path=os.path.relpath(path, study))
            if strike is not None and hit and strike.after:
                real(*args, **options)
            if strike is not None and (hit or (struck[0] and strike.on)):
                struck[0] = True
                journal.write("strike", call=call, nth=counts[call], path=os.path.relpath(path, study))
                if isinstance(strike.deed, int):
                    raise OSError(strike.deed, os.strerror(strike.deed), path)
                os.kill(os.getpid(), signal.Signals[strike.deed])
            return real(*args, **options)

        return wrapped

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> str:
        writes = isinstance(file, str | os.PathLike) and set(mode) & set("wax+")
        return os.path.realpath(os.fspath(file)) if writes else ""

    os.replace = watched("replace", os.replace, lambda a, b, **_: os.path.realpath(b))
    os.fsync = watched("fsync", os.fsync, lambda fd: os.path.realpath(f"/proc/self/fd/{fd}"))
    builtins.open = watched("open", builtins.open, opened)  # type: ignore[assignment]
    io.open = builtins.open
