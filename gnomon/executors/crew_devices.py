"""Where the worker processes of this machine work: which CUDA devices each has to itself, and how many there are."""

from __future__ import annotations

import os

from gnomon.cores import memory_bytes, physical_cores
from gnomon.errors import UserError

SHARE = 0.9
"""Of the machine's memory that workers and driver may take together."""


def devices(device: str = "auto") -> list[str]:
    """CUDA devices that workers can have to themselves; [] without any, and where the study names another device.

    device: the study's: `cpu`, `mps`, and `cuda:1`, which all workers share, leave nothing to hand out.
    """
    if device not in ("auto", "cuda"):
        return []
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in listed.split(",") if name.strip() not in ("", "-1")]
    if not os.path.exists("/dev/nvidiactl"):
        return []
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def groups(gpus: int, device: str = "auto") -> list[str]:
    """The machine's devices in groups of `gpus`, each as CUDA_VISIBLE_DEVICES; UserError where not one is whole."""
    found = devices(device)
    if gpus > max(1, len(found)):
        raise UserError(
            f"each worker is to have {gpus} CUDA devices, but there are {len(found)} here"
            + (f" on device {device}" if device != "auto" else ""),
            "executor.local.gpus: at most the number of devices",
            "lower it, or let CUDA_VISIBLE_DEVICES name more",
        )
    return [",".join(found[i : i + gpus]) for i in range(0, len(found) - gpus + 1, gpus)]


def how_many(gpus: int, needed: int, device: str = "auto") -> int:
    """Workers of `workers: auto`: one a group of devices, or on a device that the study names by its number; without
    any one a physical core, if memory allows.

    needed: bytes that each takes; the driver may take as much again. 0: not known, so cores alone decide.
    """
    found = groups(gpus, device)
    if found or device.startswith("cuda:"):
        return max(1, len(found))
    room = int(SHARE * memory_bytes()) // needed - 1 if needed and memory_bytes() else physical_cores()
    return max(1, min(physical_cores(), room))
