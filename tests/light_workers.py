"""Workers for tests of executors, in a module that imports nothing heavy."""

from __future__ import annotations

import os
import signal
from typing import Any


class Dies:
    """A worker whose process ends as soon as it opens."""

    def open(self) -> None:
        os._exit(3)

    def __call__(self, shard: Any) -> None: ...


class Unsendable:
    """A worker whose result cannot travel."""

    def open(self) -> None: ...

    def __call__(self, shard: Any) -> Any:
        return lambda: shard


class Threads:
    """A worker that tells what it finds around it."""

    def open(self) -> None: ...

    def __call__(self, shard: Any) -> tuple[str | None, str | None, bool]:
        deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        return os.environ.get("OMP_NUM_THREADS"), os.environ.get("CUDA_VISIBLE_DEVICES"), deaf
