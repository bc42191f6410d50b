"""How much of a GPU capturing uses: floating-point operations of its matrix products a second, over the device's peak.

Operations are counted by torch's own counter in one untimed pass of the worker's batches (matrix products and
attention; norms and copies are none). The peak is measured, not read off a sheet: the best of large square products in
the same dtype on the same device. A small model or short texts cannot fill a large GPU: the row says which were used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks import setting
from benchmarks.timing import Row

PROMPTS, SIDE = 2048, 8192
DTYPE = "bfloat16"


def row(device: str = "cuda", prompts: int = PROMPTS, side: int = SIDE, repeats: int = 3) -> Row:
    """The device's share of its peak in capture."""
    import torch

    here = setting.load(prompts, device=device, dtype=DTYPE)
    shards = setting.texts_of(here)
    setting.capture_in_memory(here, shards[:2])
    operations = counted(lambda: setting.capture_in_memory(here, shards))
    seconds = min(timed(device, lambda: setting.capture_in_memory(here, shards)) for _ in range(repeats))
    best = peak(device, side, repeats)
    tokens = sum(map(len, here.tokens))
    name = torch.cuda.get_device_name() if device.startswith("cuda") else device
    return Row(
        "capture / share of the GPU's peak", operations / seconds / best, None, ">=", repeats, operations / seconds,
        best, "FLOP/s", f"{name}, {DTYPE}, {setting.MODEL}, {tokens} tokens of resid_post in every block, "
        f"{tokens / seconds:.0f} tokens/s, values brought to the host",
    )  # fmt: skip


def counted(work: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products in `work`."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def timed(device: str, work: Callable[[], Any]) -> float:
    """Seconds on the wall, everything that was queued on the device included."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def peak(device: str, side: int, repeats: int) -> float:
    """The most floating-point operations a second of square products of `side`, in DTYPE."""
    import torch

    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, DTYPE)) for _ in range(2))
    out = a @ b

    def several() -> None:
        for _ in range(10):
            torch.matmul(a, b, out=out)

    several()
    return 10 * 2 * side**3 / min(timed(device, several) for _ in range(repeats))


def _wait(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()
