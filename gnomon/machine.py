"""Facts of the machine: versions, cores, memory, instruction set, threads. torch is asked only where it is loaded."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from gnomon.cores import memory_bytes, physical_cores
from gnomon.errors import UserError
from gnomon.processor import instructions, processor

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "numpy", "scipy", "scikit-learn", "pandas",
            "pyarrow", "pydantic", "plotly")  # fmt: skip
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_CBWR", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG",
             "PYTORCH_ENABLE_MPS_FALLBACK", "HF_HUB_OFFLINE", "GNOMON_CACHE")  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python, gnomon and what it stands on; nothing is imported for it."""
    import gnomon

    return {"python": platform.python_version(), "gnomon": gnomon.__version__, **_installed()}


@cache
def _installed() -> dict[str, str]:
    """Of the packages that are there; looked up once, for each takes milliseconds."""
    out = {}
    for package in PACKAGES:
        try:
            out[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return out


@cache
def machine() -> dict[str, Any]:
    """What decides floating point and speed: system, processor, instruction set, cores, memory."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "processor": processor(),
        "instructions": instructions(),
        "cores": physical_cores(),
        "memory_bytes": memory_bytes(),
    }


def environment() -> dict[str, str]:
    """The environment variables that change numbers or speed, where they are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def reset_peak() -> None:
    """Begin a new peak-memory measurement (Linux; elsewhere the peak is the process's own since its start)."""
    with suppress(OSError):  # not Linux, or not allowed: the peak then covers the whole run
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """Peak memory since `reset_peak`: of this process, of its largest worker so far, and of the accelerator."""
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    with suppress(OSError, StopIteration):  # not Linux
        status = Path("/proc/self/status").read_text()
        peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    out = {"peak_memory_bytes": peak}
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    if workers:
        out["peak_worker_memory_bytes"] = workers
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        out["peak_device_memory_bytes"] = int(torch.cuda.max_memory_allocated())
    return out


def default_threads(workers: int) -> int:
    """Threads of each process where the study names none: OMP_NUM_THREADS, or the physical cores over the workers."""
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(text) if text.isdigit() and int(text) > 0 else max(1, physical_cores() // max(1, workers))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Fix the number of CPU threads of torch here and in the workers that are started meanwhile.

    The number of threads decides how sums are split, and so the last digits of the results.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(count)))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def device_class(device: str) -> str:
    """`cpu`, `mps`, or the name of the CUDA device that `device` stands for; asks torch."""
    if device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available() and (device == "auto" or device.startswith("cuda")):
        return torch.cuda.get_device_name(0 if device == "auto" else torch.device(device))
    if torch.backends.mps.is_available() and device in ("auto", "mps"):
        return "mps"
    return "cpu"


def accelerators(device: str) -> int:
    """How many CUDA devices `device` lets a run use: 0 on the CPU and on mps, whose memory is the machine's own."""
    if not (device in ("auto", "cuda") or device.startswith("cuda:")) or not _has_cuda():
        return 0
    import torch

    return torch.cuda.device_count() if device in ("auto", "cuda") else 1


def _has_cuda() -> bool:
    """Is there a driver, and a torch that was built for it? torch is imported only where there is a driver."""
    if not any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return False
    import torch

    return torch.cuda.is_available()


def free_memory() -> int | None:
    """Bytes that this run can still have here: what is free, and what this process holds already; None if unknown."""
    from gnomon.models.memory import available

    free = available("cpu")
    with suppress(OSError, StopIteration):  # not Linux: what it holds counts as gone
        status = Path("/proc/self/status").read_text()
        own = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))
        free = None if free is None else free + own
    return free


def free_device_memory(device: str) -> int | None:
    """Bytes that are free on the CUDA device that `device` stands for (of several, on the first); None without one."""
    if not accelerators(device):
        return None
    from gnomon.models.memory import available

    return available(device if device.startswith("cuda") else "cuda:0")


def same_class(folder: Path, device: str, count: int, allow_mixed: bool) -> int:
    """Note in a half-made step which class of machine works on it; refuse another class than began it.

    Returns the number of threads to use: the one that it was begun with, so that a resumed step's shards are alike.
    """
    from gnomon.disk import write_json
    from gnomon.reading import read_json

    note = folder / "_done" / "machine"
    mine = {"device": device, "instructions": machine()["instructions"], "threads": count}
    if not note.is_file():
        write_json(note, mine)
        return count
    began = read_json(note)
    differs = [
        f"{key} {began.get(key)}, here {mine[key]}" for key in ("device", "instructions") if began.get(key) != mine[key]
    ]
    if differs and not allow_mixed:
        raise UserError(
            f"{folder} was begun on another class of machine ({'; '.join(differs)})",
            "one class, since results differ in their last digits",
            "finish it there, set mixed: allow, or delete that folder",
        )
    return count if allow_mixed else int(began.get("threads", count))
