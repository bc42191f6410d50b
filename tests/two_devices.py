"""A second device on a machine without one: tensors that say they lie elsewhere, compute on the CPU and do not mix.

`Away` tensors report the device `meta`. Under `strict()` every operation looks where its tensors lie: all on the CPU,
or all away; only copies go between the two. Numbers (0-dim tensors) may go anywhere, as on a GPU. So a model whose
later blocks are sent `away` computes what it computed before, and any line that forgets to move a tensor raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

AWAY = torch.device("meta")
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Away(torch.Tensor):
    """A CPU tensor that says it lies on another device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, requires_grad: bool = False) -> Any:
        out = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=AWAY, requires_grad=requires_grad,
        )  # fmt: skip
        out.held = held
        return out

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"Away({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    """Also sees operations that make tensors, such as torch.arange(device=...)."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class _Written(TorchFunctionMode):
    """torch.tensor([...], device=...) is no operation: it is made here, and sent there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and given.get("device") is not None:
            device = given.pop("device")
            return func(*args, **given).to(device)
        return func(*args, **given)


@contextmanager
def strict() -> Iterator[None]:
    """Look at every operation, whether it has a tensor of the other device or is about to make one."""
    with _Written(), _Operations():
        yield


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, where its tensors lie; RuntimeError where they lie on both devices."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    places = {isinstance(x, Away) for x in tensors if x.dim()}
    if len(places) > 1 and func not in COPIES:
        raise RuntimeError(f"{func}: expected all tensors on one device")
    away = True in places
    if kwargs.get("device") is not None:
        away = torch.device(kwargs["device"]) == AWAY
        kwargs = kwargs | {"device": torch.device("cpu")}
    elif func is torch.ops.aten.copy_.default:
        away = isinstance(args[0], Away)
    out = func(*tree_map(_cpu, args), **tree_map(_cpu, kwargs))
    if func._schema.name.endswith("_") and args and isinstance(args[0], torch.Tensor):
        return args[0]  # in place
    return tree_map(lambda x: Away(x) if isinstance(x, torch.Tensor) else x, out) if away else out


def _cpu(x: Any) -> Any:
    return x.held if isinstance(x, Away) else x


def send(*modules: torch.nn.Module) -> None:
    """Put the weights and buffers of modules on the other device."""
    for module in (m for top in modules for m in top.modules()):
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = torch.nn.Parameter(Away(weight.detach()), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Away(buffer)
