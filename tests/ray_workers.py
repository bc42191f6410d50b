"""Workers for tests on Ray clusters: they die once, answer at length, tell where they are; all light."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.writer import Writer


@dataclass
class Slow:
    """Writes its number into a shard within `seconds`; dies by SIGKILL on the shards in `deadly`, once each."""

    path: str
    seconds: float = 0.0
    deadly: tuple[int, ...] = ()

    def open(self) -> None:
        with open(Path(self.path).parent / "opened", "a") as file:
            file.write(f"{os.getpid()}\n")

    def __call__(self, task: tuple[int, Any]) -> tuple[int, str]:
        import ray

        index = task[0]
        note = Path(self.path).parent / f"started-{index}"
        with open(note, "a") as file:
            file.write(f"{os.getpid()}\n")
        if index in self.deadly and len(note.read_text().split()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        shard = Writer.attach(self.path).shard(index)
        shard.array("numbers", np.full(10, index))
        shard.finish({"rows": 1})
        return os.getpid(), ray.get_runtime_context().get_node_id()


@dataclass
class Around:
    """Tells what it finds around it, or as many bytes as it is asked for."""

    size: int = 0

    def open(self) -> None: ...

    def __call__(self, task: tuple[int, Any]) -> Any:
        if self.size:
            return b"x" * self.size
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MINE")
        return {name: os.environ.get(name) for name in names} | {"pid": os.getpid(), "cwd": os.getcwd()}
