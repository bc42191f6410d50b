"""Work in shards: what an executor is, what it runs, and what it tells while it goes on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from gnomon.errors import UserError


class Worker(Protocol):
    """What an executor runs: picklable; `open()` once a process (loads the model), then called with each shard."""

    def open(self) -> None: ...
    def __call__(self, shard: Any, /) -> Any: ...


@dataclass(frozen=True)
class ShardEvent:
    """What happened to a shard or a worker: for progress bars and the log, never for results."""

    kind: Literal["open", "start", "done", "retry", "lost"]
    """open: a worker is ready. retry: its worker died, it is tried again. lost: it is given up."""
    worker: str
    """Which worker: "0", or "node-a/3"."""
    shard: Any = None
    text: str = ""
    """Of retry and lost: what happened, in words."""


Watch = Callable[[ShardEvent], None]


def label(shard: Any) -> str:
    """A shard in words: its number where it has one."""
    if isinstance(shard, tuple) and shard and isinstance(shard[0], int):
        return f"shard {shard[0]}"
    return f"shard {shard!r:.80}"


class Executor(Protocol):
    """Runs workers over shards, in any order and place. `prepare` once before work, `close` however it ends.

    One that has them is also asked: `computes_on(device)`, told the study's device first of all;
    `device_class(device) -> str`, where its workers compute; `disk_delay`, seconds until their files are seen here.
    """

    def processes(self, memory_bytes: int = 0) -> int:
        """Worker processes that share one machine: its threads and memory are divided by it.

        memory_bytes: what one of them takes (the largest model of the study), where that is known. Who asks first says
        it: an executor that chooses the number itself does so then, and keeps it, for threads and plans stand on it.
        """
        ...

    def prepare(self, folder: Path) -> None:
        """Start what is needed; UserError where a place cannot work on the study in `folder`."""
        ...

    def map(self, worker: Worker, shards: Sequence[Any], watch: Watch | None = None) -> Iterator[tuple[Any, Any]]:
        """Yields (shard, result) as they finish; a shard whose worker dies is tried again elsewhere.

        Raises the worker's own UserError unchanged; RuntimeError with the worker's traceback for any other exception;
        UserError naming worker, cause and shard where a shard was given up, after the others have finished.
        """
        ...

    def close(self) -> None:
        """End every process; also right without `prepare`, and twice."""
        ...


CALLS: Mapping[str, tuple[Any, ...]] = {"processes": (0,), "prepare": (Path(),), "map": (None, (), None), "close": ()}
"""What every executor must take, by method."""


def check_executor(executor: object, name: str) -> None:
    """UserError where a user's own class is no executor: a method is missing, or takes other arguments."""
    for method, given in CALLS.items():
        wanted = str(inspect.signature(getattr(Executor, method)))
        try:
            inspect.signature(getattr(executor, method)).bind(*given)
        except (AttributeError, TypeError) as error:
            raise UserError(
                f"executor {name} cannot be used: {error}", f"{method}{wanted}", "see Executor in gnomon/shards.py"
            ) from None
