"""A worker process's side: it gets a worker, then a shard at a time, until the driver is done or gone.

Nothing heavy is imported here: the threads and devices that the driver chose must stand in the environment before torch
is loaded, so workers and shards come as bytes, and are unpickled after it.
"""

from __future__ import annotations

import gc
import multiprocessing as mp
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait

from gnomon.errors import UserError
from gnomon.shards import Worker

# from the driver: (WORKER, bytes), (SHARD, bytes), (REST, b""); to it: OPEN, RESULT, USER or ERROR with a value
WORKER, SHARD, REST = "worker", "shard", "rest"
OPEN, RESULT, USER, ERROR = "open", "result", "user", "error"


def work(pipe: Connection, environment: dict[str, str], driver: int) -> None:
    """The loop of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver gets Ctrl-C and stops its workers
    os.environ.update(environment)
    threading.Thread(target=_die_with, args=(driver,), daemon=True).start()
    hands = _Hands()
    while _serve(pipe, hands):
        pass


def _serve(pipe: Connection, hands: _Hands) -> bool:
    """Take one message and answer it; False when the driver is gone. Nothing of either is left behind."""
    try:
        for answer in hands.take(*pipe.recv()):
            pipe.send_bytes(answer)
    except (EOFError, OSError):
        return False
    return True


class _Hands:
    """The worker of the map that goes on; between maps it is dropped, and with it all but the loaded model."""

    def __init__(self) -> None:
        self.payload: bytes | None = None
        self.worker: Worker | None = None

    def take(self, kind: str, data: bytes) -> Iterator[bytes]:
        """Do what a message says; yields the answers to it, pickled."""
        if kind in (WORKER, REST):
            self.payload, self.worker = data or None, None
            release()
            return
        try:
            if self.worker is None:
                assert self.payload is not None
                worker: Worker = pickle.loads(self.payload)
                worker.open()
                self.worker = worker
                yield pickle.dumps((OPEN, None))
            yield pickle.dumps((RESULT, self.worker(pickle.loads(data))))
        except UserError as error:
            yield pickle.dumps((USER, error))
        except BaseException:  # whatever it is, the driver raises it with this traceback
            yield pickle.dumps((ERROR, traceback.format_exc()))


def release() -> None:
    """Free what a map has left: its objects, and the device memory that torch keeps for the next."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _die_with(driver: int) -> None:
    """End this process when its driver is gone, at once and even in the middle of a shard: another run may come.

    The driver's end closes a pipe; its number is looked at too, for what the driver has forked holds that pipe open.
    """
    parent = mp.parent_process()
    while os.getppid() == driver:
        if parent is None:
            time.sleep(0.5)
        elif wait([parent.sentinel], 0.5):
            break
    os._exit(1)
