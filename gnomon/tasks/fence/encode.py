"""Values as nodes (`codec`). Subclasses of plain types are read through the base class's own methods: what an object
says about itself is never asked.
"""

from __future__ import annotations

import base64
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

from gnomon.tasks.fence.codec import BYTES, DEPTH, MUTABLE, NODES, Unsupported

VIEWS: dict[type, str] = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


class Encoder:
    """Turns values into nodes. `export(value)` gives the node of what is not plain data.

    Args:
        export: called for anything that is not plain.
        known: containers that the receiver has already, in their order.
    """

    def __init__(self, export: Callable[[Any], Any], known: Iterable[Any] = ()) -> None:
        self.export = export
        self.objects: list[Any] = list(known)
        self.numbers = {id(value): number for number, value in enumerate(self.objects)}
        self.nodes = 0

    def node(self, value: Any, depth: int = 0) -> Any:
        """The node of one value."""
        kind = type(value)
        if value is None or kind is bool:
            return value
        self.nodes += 1
        if self.nodes > NODES:
            raise Unsupported(f"more than {NODES} values at once")
        if kind is int or kind is float or kind is str:
            return _scalar(value)
        if depth > DEPTH:
            raise Unsupported(f"data nested deeper than {DEPTH} levels")
        if issubclass(kind, MUTABLE):
            number = self.numbers.get(id(value))
            if number is not None:
                return ["@", number]
            number = self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
            tag, extra = self._shape(value, depth)
            return [tag, number, extra, self.body(value, depth)]
        if issubclass(kind, tuple):
            return ["t", *[self.node(v, depth + 1) for v in tuple.__iter__(value)]]
        if issubclass(kind, frozenset):
            return ["fs", *[self.node(v, depth + 1) for v in frozenset.__iter__(value)]]
        if kind in VIEWS:
            return ["v", VIEWS[kind], *[self.node(v, depth + 1) for v in value]]
        if kind is range:
            return ["r", *[_scalar(v) for v in (value.start, value.stop, value.step)]]
        plain = _immutable(value, kind)
        return self.export(value) if plain is None else plain

    def _shape(self, value: Any, depth: int) -> tuple[str, Any]:
        kind = type(value)
        if issubclass(kind, list):
            return "l", None
        if issubclass(kind, set):
            return "S", None
        if issubclass(kind, bytearray):
            return "B", None
        if issubclass(kind, deque):
            return "q", deque.maxlen.__get__(value)  # type: ignore[attr-defined]
        if issubclass(kind, defaultdict):
            factory = defaultdict.default_factory.__get__(value)  # type: ignore[attr-defined]
            return "d", ["default", self.node(factory, depth + 1)]
        return "d", "counter" if issubclass(kind, Counter) else "ordered" if issubclass(kind, OrderedDict) else "dict"

    def body(self, value: Any, depth: int = 0) -> Any:
        """What a container holds now."""
        kind = type(value)
        if issubclass(kind, list):
            items = list.__getitem__(value, slice(None))
            return self._packed(items) or [self.node(v, depth + 1) for v in items]
        if issubclass(kind, set):
            return [self.node(v, depth + 1) for v in set.__iter__(value)]
        if issubclass(kind, bytearray):
            return self._sized(bytearray.__getitem__(value, slice(None)))
        if issubclass(kind, deque):
            return [self.node(v, depth + 1) for v in deque.__iter__(value)]
        pairs = OrderedDict.items(value) if issubclass(kind, OrderedDict) else dict.items(value)
        return [self.node(v, depth + 1) for pair in pairs for v in pair]

    def _packed(self, items: list[Any]) -> str | None:
        """A long list of small ints, or of floats, as the bytes of an array; None for any other."""
        if len(items) < 32:
            return None
        kinds = set(map(type, items))
        if len(kinds) != 1 or not kinds <= {int, float}:
            return None
        code = "q" if kinds == {int} else "d"
        try:
            packed = array(code, items)
        except OverflowError:
            return None
        return code + self._sized(packed.tobytes())

    def _sized(self, data: bytes | bytearray) -> str:
        if len(data) > BYTES:
            raise Unsupported(f"more than {BYTES // 2**20} MiB at once")
        return _text(bytes(data))


def _scalar(value: Any) -> Any:
    if type(value) is int:
        return value if -(2**63) <= value < 2**63 else ["i", hex(_small(value))]
    if type(value) is float:
        return value if value - value == 0 else ["f", repr(value)]
    if len(value) > BYTES:
        raise Unsupported(f"a text of more than {BYTES} characters")
    if value.isascii():
        return value
    try:
        value.encode()
        return value
    except UnicodeEncodeError:  # lone surrogates, two of which JSON would join
        return ["s", _text(value.encode("utf-8", "surrogatepass"))]


def _small(value: int) -> int:
    if value.bit_length() > 8 * BYTES // 4:
        raise Unsupported(f"an integer of {value.bit_length()} bits")
    return value


def _immutable(value: Any, kind: type) -> Any:
    """The node of a plain value that holds no others, subclasses included; None for anything else."""
    if issubclass(kind, int):
        return _scalar(int.__pos__(value))
    if issubclass(kind, float):
        return _scalar(float.__pos__(value))
    if issubclass(kind, str):
        return _scalar(str.__str__(value))
    if issubclass(kind, complex):
        exact = complex.__pos__(value)
        return ["c", _scalar(exact.real), _scalar(exact.imag)]
    if issubclass(kind, bytes):
        if bytes.__len__(value) > BYTES:
            raise Unsupported(f"more than {BYTES} bytes")
        return ["b", _text(bytes.__getitem__(value, slice(None)))]
    if value is Ellipsis:
        return ["..."]
    if issubclass(kind, Decimal):
        return ["D", Decimal.__str__(value)]
    if kind is Fraction:
        return ["F", _scalar(int(value.numerator)), _scalar(int(value.denominator))]
    if kind is timedelta:
        return ["td", value.days, value.seconds, value.microseconds]
    if kind is datetime or kind is time:
        zone = value.tzinfo
        if zone is not None and type(zone) is not timezone:
            return None
        shift = None if zone is None else zone.utcoffset(None).total_seconds()
        day = [value.year, value.month, value.day] if kind is datetime else []
        fields = [*day, value.hour, value.minute, value.second, value.microsecond]
        return ["dt" if kind is datetime else "tm", shift, value.fold, *fields]
    if kind is date:
        return ["da", value.year, value.month, value.day]
    return None
