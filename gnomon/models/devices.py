"""A model laid out over several devices by accelerate (`device_map`): where its parts compute, and their real weights.

accelerate gives every part an execution device and a hook that brings inputs there; what does not fit on the GPUs waits
in main memory or on disk and is brought in for each call. One rule keeps that out of everybody else's way: whatever a
`Model` hands out, takes, or shows to an edit lies on its `device`, that of the embedding (home). Keys and values stay
beside their block.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gnomon.errors import UserError

log = logging.getLogger("gnomon")


def place_of(module: nn.Module) -> torch.device:
    """The device on which a module computes: its hook's, else that of its weights or buffers; UserError for neither."""
    hook: Any = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", None) or ([] if hook is None else [hook]):
        device = getattr(one, "execution_device", None)
        if device is not None:
            return torch.device(f"cuda:{device}") if isinstance(device, int) else torch.device(device)
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    raise UserError(f"a {type(module).__name__} without weights", "a module that is somewhere")


def real(module: nn.Module, name: str = "weight") -> torch.Tensor | None:
    """A module's tensor where it computes, also one that waits in main memory or on disk; None where there is none."""
    tensor: torch.Tensor | None = getattr(module, name, None)
    if tensor is None or tensor.device.type != "meta":
        return tensor
    from accelerate.utils import align_module_device

    with align_module_device(module):
        return getattr(module, name).detach()


@dataclass
class Carried:
    """Tensors that every block needs (masks, rotary tables), each brought to a device once a call."""

    held: dict[tuple[int, torch.device], tuple[Any, Any]] = field(default_factory=dict)

    def at(self, value: Any, device: torch.device) -> Any:
        """`value` (a tensor, a tuple of them, None) on the device."""
        if isinstance(value, tuple):
            return tuple(self.at(one, device) for one in value)
        if not isinstance(value, torch.Tensor) or value.device == device:
            return value
        key = (id(value), device)
        if key not in self.held:
            self.held[key] = (value, value.to(device))  # the first keeps its id from being given to another
        return self.held[key][1]


def spread(device_map: str, max_memory: Mapping[int | str, int]) -> dict[str, Any]:
    """Arguments of `from_pretrained`; the folder for weights on disk goes with the process."""
    out: dict[str, Any] = {"device_map": device_map, "max_memory": dict(max_memory) or None}
    if "disk" in max_memory:
        folder = tempfile.mkdtemp(prefix="gnomon-weights-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        out["offload_folder"] = folder
    return out


def check_placed(name: str, hf: Any, max_memory: Mapping[int | str, int]) -> None:
    """Say in the log what does not lie on a GPU; UserError where accelerate put weights on disk unasked."""
    where = Counter(str(device) for device in hf.hf_device_map.values())
    if where["disk"] and "disk" not in max_memory:
        raise UserError(
            f"accelerate leaves {where['disk']} parts of {name} on disk", "room for all of it",
            "give max_memory more, take device_map: sequential or dtype: bfloat16, or name disk: 500GB there (slow)",
        )  # fmt: skip
    waiting = where["disk"] + where["cpu"] * (len(where) > 1)
    if waiting:
        log.warning("%s: %d of %d parts wait in main memory or on disk: slow", name, waiting, where.total())


def placed(hf: Any, blocks: Iterable[nn.Module]) -> dict[str, int]:
    """Blocks by where their weights lie (cuda:0, cpu, disk): {} of a model on one device."""
    where: Mapping[str, Any] = getattr(hf, "hf_device_map", None) or {}
    if len(set(where.values())) < 2 and "disk" not in where.values():
        return {}
    names = {id(module): name for name, module in hf.named_modules()}
    return dict(Counter(_named(where, names[id(block)]) for block in blocks))


def _named(where: Mapping[str, Any], name: str) -> str:
    """The device that a map gives a module: by its own name, or the longest one it lies under."""
    fitting = [key for key in where if key in ("", name) or name.startswith(f"{key}.")]
    device = where[max(fitting, key=len)] if fitting else "several"
    return f"cuda:{device}" if isinstance(device, int) else str(device)
