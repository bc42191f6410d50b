"""Shards on this machine: in this process, or in worker processes - one a device where there are CUDA devices.

Workers are spawned at the first map, load the model once a run, get a shard at a time and die with their driver. A
shard whose worker the system kills is tried again by another; where that fails too it is named, the others are
finished first, and nothing done is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from gnomon.executors.crew import Crew
from gnomon.executors.crew_devices import groups, how_many
from gnomon.shards import ShardEvent, Watch, Worker


class Local(BaseModel):
    """Works on this machine, in one process or several."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    """Processes; 1 works in this one. auto: one a group of `gpus` CUDA devices; without such devices, or with
    `device: cpu`, one a physical core, but no more than fit into memory with the study's model. Each has its share of
    the threads."""
    gpus: int = Field(default=1, ge=1)
    """CUDA devices that each worker process has to itself; more than one for a model that is split over several. Where
    there are more workers than groups of devices, some share theirs."""
    retries: int = Field(default=2, ge=0)
    """How often a shard is tried again whose worker died; as many dead workers are replaced."""

    _device: str = PrivateAttr(default="auto")
    _settled: int | None = PrivateAttr(default=None)
    _crew: Crew | None = PrivateAttr(default=None)

    def computes_on(self, device: str) -> None:
        """Take in the study's device, before anything is asked: on `cpu` GPUs are neither counted nor handed out."""
        self._device = device

    def processes(self, memory_bytes: int = 0) -> int:
        """Worker processes on this machine; of `auto` the number is settled when it is first asked for.

        memory_bytes: what each takes, 0 where it is not known. Raises UserError where `gpus` are not there.
        """
        if self._settled is None:
            self._settled = how_many(self.gpus, memory_bytes, self._device) if self.workers == "auto" else self.workers
        return self._settled

    def prepare(self, folder: Path) -> None:
        """Nothing to start beforehand; UserError where `gpus` are not there."""
        groups(self.gpus, self._device)

    def close(self) -> None:
        """End the worker processes."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None

    def map(self, worker: Worker, shards: Sequence[Any], watch: Watch | None = None) -> Iterator[tuple[Any, Any]]:
        """Run `worker` over `shards`; yields (shard, result) as they finish.

        Raises the worker's own UserError unchanged; RuntimeError with the worker's traceback for any other exception;
        UserError naming worker, signal and shard where a shard was given up, after the others have finished. A single
        shard is worked on here, unless worker processes with a loaded model stand by.
        """
        shards, watch, count = list(shards), watch or _silent, self.processes()
        if not shards:
            return
        idle = self._crew is None or not self._crew.members
        if count == 1 or (len(shards) == 1 and idle):
            yield from _here(worker, shards, watch)
            return
        if self._crew is None:
            self._crew = Crew(count, groups(self.gpus, self._device))
        yield from self._crew.map(worker, shards, self.retries, watch)


def _here(worker: Worker, shards: Sequence[Any], watch: Watch) -> Iterator[tuple[Any, Any]]:
    """Work in this process; an exception is the worker's own."""
    worker.open()
    watch(ShardEvent("open", "0"))
    for shard in shards:
        watch(ShardEvent("start", "0", shard))
        result = worker(shard)
        watch(ShardEvent("done", "0", shard))
        yield shard, result


def _silent(event: ShardEvent) -> None: ...
