"""What one side tells the other of an exception, and how strictly that is read."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

from gnomon.tasks.fence.codec import Garbled

ERROR: tuple[str, ...] = ("mro", "class", "args", "text", "errno", "trace", "outside")
"""What is told of an exception; `outside`: it names an absolute path, or a missing file that it does not name."""
_FORMS: dict[str, Any] = {"args": tuple, "text": str, "errno": int | None, "trace": str, "outside": bool}
ENDINGS = (StopIteration, StopAsyncIteration, GeneratorExit)
"""What would end a loop, or a generator, of the side that it is raised in."""


class Remote(Exception):
    """An error of the other side as it came: `info`."""

    def __init__(self, info: dict[str, Any]) -> None:
        super().__init__(info.get("text", ""))
        self.info = info


def read(nodes: Any, value: Callable[[Any], Any]) -> dict[str, Any]:
    """The fields of ERROR; Garbled where one is not of its kind: a handle would be asked while the verdict is made."""
    if type(nodes) is not list or len(nodes) != len(ERROR):
        raise Garbled("no error")
    info = dict(zip(ERROR, map(value, nodes), strict=True))
    names = info["mro"]
    if type(names) is not tuple or any(type(one) is not str for one in names):
        raise Garbled("an error without names")
    if any(not isinstance(info[name], form) for name, form in _FORMS.items()):
        raise Garbled("an error that is none")
    return info


def nearest_exception(names: list[str]) -> type[BaseException]:
    """The first of these names that is a builtin exception; those that end loops or generators are a RuntimeError."""
    for name in names:
        found = getattr(builtins, name, None)
        if isinstance(found, type) and issubclass(found, BaseException):
            return Exception if found is BaseException else lasting(found)
    return Exception


def lasting(kind: type[BaseException]) -> type[BaseException]:
    """The class itself, or RuntimeError for one that would end a loop or a generator here."""
    return RuntimeError if issubclass(kind, ENDINGS) else kind
