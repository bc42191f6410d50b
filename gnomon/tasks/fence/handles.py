"""Stand-ins for objects that stay in the other process.

A handle of a candidate's object decides nothing for a test: it never equals plain data, it has no order, and no truth
value where its class has a say in it. What the tests gave to a candidate may be asked for both (`trusting`).
"""

from __future__ import annotations

from typing import Any

from gnomon.tasks.fence.codec import Unsupported


def part(handle: Any, name: str) -> Any:
    """`peer` or `number` of a handle."""
    return object.__getattribute__(handle, "_" + name)


_RIGHT = ("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul", "and", "or", "xor", "lshift",
          "rshift")  # fmt: skip
NOT_CARRIED = {f"__{name}__" for name in (
    *[f"r{name}" for name in _RIGHT], *_RIGHT[6:], "pos", "invert", "int", "float", "complex", "index", "round",
    "trunc", "floor", "ceil", "bytes", "fspath", "reversed", "contains", "enter", "exit", "await", "aiter", "aenter",
    "aexit",
)}  # fmt: skip
"""What a class may define and a handle cannot do: a test that needs it is not decided."""


def marks(kind: type) -> str:
    """What objects of a class can do, one letter each."""
    found = ""
    for letter, name in {"c": "__call__", "n": "__next__", "i": "__iter__", "l": "__len__", "g": "__getitem__"}.items():
        if any(name in vars(base) for base in type.mro(kind)):
            found += letter
    own_equality = any("__eq__" in vars(base) for base in type.mro(kind) if base is not object)
    if not any(name in vars(base) for base in type.mro(kind) for name in ("__bool__", "__len__")):
        found += "t"  # always true by the language's own rule: a match, a generator, a function
    if any(NOT_CARRIED & set(vars(base)) for base in type.mro(kind)):
        found += "o"
    return found + ("e" if own_equality else "")


PUBLIC_DUNDERS = ("__name__", "__qualname__", "__doc__", "__dict__", "__wrapped__")


class Handle:
    """An object of the other side."""

    __slots__ = ("_number", "_peer")

    def __init__(self, peer: Any, number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in PUBLIC_DUNDERS:
            raise AttributeError(name)
        return _ask(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "set", name, value)

    def __delattr__(self, name: str) -> None:
        _ask(self, "delete", name)

    def __str__(self) -> str:
        return _text(_ask(self, "str"))

    def __repr__(self) -> str:
        return _text(_ask(self, "repr"))

    def __format__(self, spec: str) -> str:
        return _text(_ask(self, "format", spec))

    def __hash__(self) -> int:
        if "e" in type(self)._flags:  # type: ignore[attr-defined]
            raise Unsupported("the hash of a candidate's own object")
        return hash((Handle, part(self, "number")))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Handle) and "e" in type(self)._flags + type(other)._flags:  # type: ignore[attr-defined]
            raise Unsupported("the candidate's own == between two of its objects")
        return False

    def __bool__(self) -> bool:
        if "t" in type(self)._flags:  # type: ignore[attr-defined]
            return True
        raise Unsupported(f"the truth value of a candidate's {type(self).__name__}")

    def __instancecheck__(self, value: object) -> bool:
        raise Unsupported(f"isinstance of a candidate's {type(self).__name__}")


def _ask(handle: Handle, op: str, *parts: Any) -> Any:
    return part(handle, "peer").ask(op, handle, *parts)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("not a text")
    return value


def _refuse(name: str) -> Any:
    def method(self: Handle, *others: Any) -> Any:
        raise Unsupported(f"{name} of a candidate's {type(self).__name__}")

    return method


def _operate(name: str) -> Any:
    def method(self: Handle, *others: Any) -> Any:
        return _ask(self, "operate", name, *others)

    return method


def _call(self: Handle, *args: Any, **kwargs: Any) -> Any:
    return _ask(self, "call", args, tuple(kwargs.items()))


def _next(self: Handle) -> Any:
    found = _ask(self, "next")
    if type(found) is not tuple or len(found) > 1:
        raise TypeError("not an item")
    if not found:
        raise StopIteration
    return found[0]


def _contains(self: Handle, value: object) -> bool:
    return any(one is value or one == value for one in iter(self))  # type: ignore[call-overload]


def _length(self: Handle) -> int:
    return _ask(self, "len")


_BY_MARK: dict[str, dict[str, Any]] = {
    "c": {"__call__": _call},
    "n": {"__next__": _next},
    "i": {"__iter__": lambda self: self if "n" in type(self)._flags else _ask(self, "iter"), "__contains__": _contains},
    "l": {"__len__": _length},
    "g": {
        "__getitem__": lambda self, key: _ask(self, "item", key),
        "__setitem__": lambda self, key, value: _ask(self, "setitem", key, value),
        "__delitem__": lambda self, key: _ask(self, "delitem", key),
    },
}
_ORDER = ("lt", "le", "gt", "ge")
_SUMS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "abs")
_cache: dict[tuple[str, str, bool], type[Handle]] = {}


def handle_class(name: str, flags: str, trusting: bool) -> type[Handle]:
    """The class of handles on objects of a class of this name with these marks."""
    key = name, flags, trusting
    if key not in _cache:
        body: dict[str, Any] = {"__slots__": (), "_flags": flags}
        for mark in flags:
            body |= _BY_MARK.get(mark, {})
        if "g" in flags and "i" not in flags:
            body["__iter__"] = lambda self: _ask(self, "iter")
        for one in NOT_CARRIED - set(body) if "o" in flags and not trusting else ():
            if one != "__contains__" or not set("gi") & set(flags):
                body[one] = _refuse(one.strip("_"))
        for one in _ORDER + _SUMS:
            body[f"__{one}__"] = _operate(one) if trusting else _refuse(one)
        if trusting:
            body["__bool__"] = lambda self: bool(_ask(self, "bool"))
            body["__eq__"] = lambda self, other: self is other or bool(_ask(self, "operate", "eq", other))
            body["__hash__"] = lambda self: hash((Handle, part(self, "number")))
        _cache[key] = type(name if name.isidentifier() else "object", (Handle,), body)
    return _cache[key]
