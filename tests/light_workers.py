"""Workers for tests of executors, in a module that imports nothing heavy."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.errors import UserError


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
    """A worker that tells what it finds around it, after the seconds that a shard may say."""

    def open(self) -> None: ...

    def __call__(self, shard: Any) -> tuple[str | None, str | None, bool]:
        time.sleep(shard[1] or 0)
        deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        return os.environ.get("OMP_NUM_THREADS"), os.environ.get("CUDA_VISIBLE_DEVICES"), deaf


class Left:
    """Writes its name when it is dropped."""

    def __init__(self, file: str, name: str) -> None:
        self.file, self.name = file, name

    def __del__(self) -> None:
        with open(self.file, "a") as file:
            file.write(f"{self.name} {os.getpid()}\n")


@dataclass
class Holds:
    """A worker that holds something from its opening on, and makes something for each shard; tells its process."""

    file: str
    held: Any = None

    def open(self) -> None:
        self.held = Left(self.file, "worker")
        with open(f"{self.file}.opened", "a") as file:
            file.write(f"{os.getpid()}\n")

    def __call__(self, shard: Any) -> tuple[int, str | None]:
        return os.getpid(), os.environ.get("OMP_NUM_THREADS")


@dataclass
class KilledBy:
    """A worker that is killed by shards of these numbers; by a number only once where `once` is a file to leave."""

    numbers: tuple[int, ...]
    once: str = ""

    def open(self) -> None: ...

    def __call__(self, shard: tuple[int, Any]) -> int:
        if shard[0] in self.numbers and not (self.once and Path(self.once).exists()):
            if self.once:
                Path(self.once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()


@dataclass
class Marks:
    """A worker that leaves a file of each shard's rows; `trouble` names what goes wrong on which shard."""

    folder: str
    trouble: dict[str, int]

    def open(self) -> None:
        with open(Path(self.folder) / "opened", "a") as file:
            file.write(f"{os.getpid()}\n")

    def __call__(self, shard: tuple[int, Any]) -> int:
        index, rows = shard
        if not (Path(self.folder) / "no-more-trouble").exists():
            if self.trouble.get("kill") == index:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.trouble.get("user_error") == index:
                raise UserError(f"shard {index} cannot be made", "another number", "choose n below 10")
            if self.trouble.get("bug") == index:
                raise ZeroDivisionError(f"shard {index}")
            time.sleep(self.trouble.get("sleep", 0) / 1000)
        (Path(self.folder) / f"{index}.done").write_text(str(rows))
        return len(rows)


class Slow:
    """A worker that takes the seconds that a shard says."""

    def open(self) -> None: ...

    def __call__(self, shard: tuple[int, float]) -> int:
        time.sleep(shard[1])
        return os.getpid()
