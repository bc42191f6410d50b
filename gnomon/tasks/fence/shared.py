"""Standard functions, classes and modules that go by name: each side takes its own."""

from __future__ import annotations

import sys
import types
from typing import Any

from gnomon.tasks.fence.codec import Garbled

SHARED = (
    "bisect", "builtins", "cmath", "collections", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "math", "operator", "random", "re", "statistics", "string", "time", "types",
)  # fmt: skip
"""Modules whose functions and classes either side takes from its own copy when the other names them."""
NOT_SHARED = {
    "exec", "eval", "compile", "open", "input", "breakpoint", "__import__", "exit", "quit", "globals", "vars",
    "getattr", "setattr", "delattr", "locals", "dir",
}  # fmt: skip


def shared_name(value: Any) -> list[Any] | None:
    """The node of a standard function, class or module that the other side has too; None for anything else."""
    if isinstance(value, types.ModuleType):
        return ["m", value.__name__] if value.__name__ in sys.stdlib_module_names else None
    if not isinstance(value, type | types.BuiltinFunctionType | types.FunctionType):
        return None
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    module = {"_operator": "operator", "_functools": "functools", "_heapq": "heapq", "_bisect": "bisect",
              "_collections": "collections", "_statistics": "statistics"}.get(str(module), module)  # fmt: skip
    if module not in SHARED or name in NOT_SHARED:
        return None
    found = getattr(sys.modules.get(str(module)), name, None)
    return ["g", module, name] if found is value else None


def find_shared(module: Any, name: Any) -> Any:
    """What `shared_name` named."""
    if module not in SHARED or type(name) is not str or name in NOT_SHARED or name.startswith("_"):
        raise Garbled(f"{module}.{name} is not shared")
    return getattr(sys.modules[module], name)
