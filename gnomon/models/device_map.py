"""The options of a model that is spread over devices: which, how much of each, and whether that is enough.

Nothing here loads torch before free memory is asked for, so a plan can refuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from gnomon.errors import UserError, unknown
from gnomon.models.memory import BYTES, SLACK, available

MAPS = ("auto", "balanced", "sequential")
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}  # fmt: skip


def sizes(max_memory: Mapping[Any, Any] | None) -> tuple[tuple[int | str, int], ...]:
    """`{0: 20GB, cpu: 60GiB, disk: 1TB}` as sorted pairs of a device (a GPU's number, cpu, disk, mps) and bytes.

    UserError for another device, a size that is none, or one below 1 byte.
    """
    out: dict[int | str, int] = {}
    for key, value in (max_memory or {}).items():
        name: int | str = int(key) if str(key).isdigit() else str(key)
        if isinstance(name, str) and name not in ("cpu", "disk"):
            raise UserError(f"max_memory of {key!r}", "a GPU's number (0, 1, ...), cpu, or disk")
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B)?\s*", str(value).upper())
        if found is None or isinstance(value, bool) or float(found[1]) * _UNITS[found[2] or "B"] < 1:
            raise UserError(f"max_memory of {key} is {value!r}", "a size such as 20GB or 60GiB")
        out[name] = int(float(found[1]) * _UNITS[found[2] or "B"])
    return tuple(sorted(out.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def check_map(device_map: str, max_memory: Iterable[Any], device: str, adapter: str | None) -> None:
    """UserError where a model's options do not go together; nothing is loaded."""
    if device_map == "none":
        if tuple(max_memory):
            raise UserError("max_memory without device_map", "", "device_map: auto (or balanced, sequential)")
        return
    if device_map not in MAPS:
        raise unknown("device_map", device_map, ("none", *MAPS))
    if device != "auto":
        raise UserError(
            f"device: {device} with device_map: {device_map}", "device: auto", "max_memory says which devices"
        )
    if adapter is not None:
        raise UserError(
            f"an adapter with device_map: {device_map}", "a model whose weights are all at hand while it is merged",
            "merge the adapter into the model's folder first (peft: merge_and_unload, save_pretrained)",
        )  # fmt: skip


def room(max_memory: Mapping[int | str, int]) -> dict[str, int]:
    """Bytes that may be used, by device: what is free (and no more than `max_memory` says of those it names)."""
    import torch

    here: dict[int | str, str] = {i: f"cuda:{i}" for i in range(torch.cuda.device_count())}
    here["cpu"] = "cpu"
    wrong = [key for key in max_memory if isinstance(key, int) and key not in here]
    if wrong:
        raise UserError(f"max_memory of GPU {wrong[0]}", f"{len(here) - 1} GPUs are here", "check max_memory")
    out: dict[str, int] = {}
    for key, name in here.items():
        if max_memory and key not in max_memory:
            continue
        free = available(name)
        given = max_memory.get(key)
        known = [value for value in (free, given) if value is not None]
        if known:
            out[name] = min(known)
    if "disk" in max_memory:
        out["disk"] = max_memory["disk"]
    return out


def check_room(name: str, count: int, dtype: str, max_memory: Mapping[int | str, int]) -> None:
    """UserError, with every device's bytes, where all of them together do not hold `count` numbers of `dtype`."""
    need, there = int(count * BYTES[dtype] * SLACK), room(max_memory)
    if sum(there.values()) >= need:
        return
    said = ", ".join(f"{device} {size / 1e9:.1f} GB" for device, size in there.items()) or "nothing"
    raise UserError(
        f"{name} needs about {need / 1e9:.1f} GB in {dtype}", f"room for {sum(there.values()) / 1e9:.1f} GB: {said}",
        "dtype: bfloat16, more GPUs to a worker (executor: {local: {gpus: n}}), or max_memory with disk: 500GB (slow)",
    )  # fmt: skip
