"""Batches that the device has no memory for: run in halves, and the sizes that failed noted for the shard's marker.

A halved batch has other neighbours, so its numbers agree with the plan's within rounding only: the marker says so
(`halved`), and the log. Work that is run here may fail and be run again: it keeps nothing until it is finished.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from gnomon.errors import UserError

log = logging.getLogger("gnomon")
T = TypeVar("T")
R = TypeVar("R")


def run_halving(work: Callable[[Sequence[T]], list[R]], batch: Sequence[T], halved: list[int] | None) -> list[R]:
    """`work(batch)`, or the joined results of its halves where memory ran out; the sizes that failed join `halved`.

    halved: None where no marker is written: the log says so at once.

    UserError where one row alone does not fit; any other error of the work passes.
    """
    try:
        return [one for part in in_halves(work, batch, halved) for one in part]
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"out of memory on a batch of one row ({error})", "a device with more memory free",
            "lower max_length or max_new_tokens, capture fewer sites, or take dtype: bfloat16",
        ) from error  # fmt: skip


def in_halves(work: Callable[[Sequence[T]], R], batch: Sequence[T], halved: list[int] | None, each: int = 1) -> list[R]:
    """The same for work that gives one thing a batch: what each part gave, in order.

    A single item that does not fit raises the device's own error: the batch around it may still be halved. each: rows
    that one item stands for (many conditions run as copies of a batch), so that `halved` counts rows.
    """
    try:
        return [work(batch)]
    except RuntimeError as error:
        if len(batch) < 2 or not out_of_memory(error):
            raise
    release_memory()  # behind the except: the error holds the frames, and they the tensors
    if halved is None:
        log.warning("a batch of %d rows does not fit into memory: it runs in halves", len(batch) * each)
    else:
        halved.append(len(batch) * each)
    half = (len(batch) + 1) // 2
    return in_halves(work, batch[:half], halved, each) + in_halves(work, batch[half:], halved, each)


def marked(halved: Sequence[int]) -> dict[str, list[int]]:
    """What a shard's marker says of it: nothing where every batch fitted."""
    return {"halved": list(halved)} if halved else {}


def out_of_memory(error: RuntimeError) -> bool:
    """True for torch's out-of-memory errors: CUDA's and its libraries', MPS's, and the CPU allocator's."""
    said = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")  # the last: cuBLAS's and cuDNN's
    return type(error).__name__ == "OutOfMemoryError" or any(one in str(error) for one in said)


def release_memory(cycles: bool = False) -> None:
    """Give memory back that nobody holds: what torch keeps of a device for later; `cycles` of objects before."""
    if cycles:
        gc.collect()
    torch = sys.modules.get("torch")  # where it was never loaded there is nothing of it to give back
    if torch is None:
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
