"""Does a model fit? Estimated from file headers before anything is loaded."""

from __future__ import annotations

import json
import os
import struct
from math import prod
from pathlib import Path

from gnomon.errors import UserError

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
NOT_TEXT = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
SLACK = 1.05
"""Buffers and the tokenizer, beside the weights."""


def parameters(folder: Path) -> int:
    """Numbers in a model folder's text weights, from safetensors headers (from file sizes for .bin files)."""
    count = 0
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            with open(file, "rb") as handle:
                (length,) = struct.unpack("<Q", handle.read(8))
                header = json.loads(handle.read(length))
            count += sum(prod(entry["shape"]) for name, entry in header.items() if _counts(name))
        else:
            count += file.stat().st_size // 4
    return count


def _counts(name: str) -> bool:
    return name != "__metadata__" and not name.startswith(NOT_TEXT)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a model folder, sorted: safetensors, else PyTorch .bin; UserError where there are none."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        return sorted(folder / name for name in set(json.loads(index.read_text())["weight_map"].values()))
    if single.is_file():
        return [single]
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"no weights in {folder}", "*.safetensors or pytorch_model*.bin", "check the model folder")
    return files


def available(device: str) -> int | None:
    """Free bytes on a device: of the machine and of its control group on the CPU; None where it cannot be told."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    if device.startswith("mps"):
        import torch

        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    found = [value for value in (_meminfo(), _cgroup()) if value is not None]
    if not found and "SC_PHYS_PAGES" in os.sysconf_names:  # macOS: all of it, the system makes room
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min(found, default=None)


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _cgroup() -> int | None:
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        cached = next(
            int(line.split()[1])
            for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
    except (OSError, ValueError, StopIteration):
        return None
    return None if limit == "max" else int(limit) - used + cached


def check_fits(name: str, count: int, dtype: str, device: str, free: int | None = None) -> int:
    """Bytes that `count` numbers take in `dtype`; UserError where `device` has less (`free` overrides its reading)."""
    need = int(count * BYTES[dtype] * SLACK)
    free = available(device) if free is None else free
    if free is not None and need > free:
        smaller = "dtype: bfloat16 halves it; or take a smaller model" if BYTES[dtype] > 2 else "take a smaller model"
        raise UserError(
            f"{name} needs about {need / 1e9:.1f} GB in {dtype}",
            f"{device} has {free / 1e9:.1f} GB free",
            f"{smaller}, or a larger machine",
        )
    return need
