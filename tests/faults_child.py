"""One `gnomon run` in a forked process: its doings go into a journal, and - if so ordered - a call of its own fails.

Imported once by a fork server, so that a run begins in a tenth of a second instead of five.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers.models.llama.modeling_llama  # noqa: F401 - loaded here, for every child
import typer

import gnomon
import gnomon.report.html
from gnomon.cli import _stop, guarded
from gnomon.executors.local import Local
from gnomon.step import Context
from gnomon.writer import Writer
from tests.faults_calls import Counting, Journal, Strike, striking

for _found in pkgutil.walk_packages(gnomon.__path__, "gnomon."):
    with contextlib.suppress(ImportError):  # an extra that is not installed
        importlib.import_module(_found.name)
torch.set_num_threads(1)


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
    journal.write("begin")
    signal.signal(signal.SIGTERM, _stop)
    if not orders.report:
        gnomon.report.html.build_report = lambda folder: Path(folder) / "report.html"

    def command(*args: Any, **options: Any) -> None:
        gnomon.run_study(*args, **options)

    watched = orders.strike is not None or orders.count
    try:
        with striking(orders.out, orders.strike, journal.write) if watched else contextlib.nullcontext():
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
