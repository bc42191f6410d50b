"""Plain data as JSON, for two processes that do not trust each other: no pickle, no code, limits on size and depth.

A node is a JSON scalar or a list that begins with its tag. Containers that can change get a number, in the order in
which they are met, so that cycles, shared references and changes in place survive the way. Subclasses of plain types
are read through the base class's own methods: what an object says about itself is never asked.
"""

from __future__ import annotations

import base64
import json
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

DEPTH = 150
NODES = 2_000_000
BYTES = 16 * 2**20
"""What one message may hold."""


class Unsupported(Exception):
    """A value or an operation that cannot be carried over: the test is then not decided."""


class Garbled(Exception):
    """Bytes that no honest peer sends."""


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(node: Any) -> bytes:
    return base64.b64decode(node, validate=True)


VIEWS: dict[type, str] = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}
MUTABLE = (list, set, bytearray, deque, dict)
_DICTS: dict[str, type] = {"dict": dict, "ordered": OrderedDict, "counter": Counter, "default": defaultdict}


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


class Decoder:
    """Turns nodes into values; anything malformed is Garbled. `adopt(node)` reads the nodes that `export` made."""

    def __init__(self, adopt: Callable[[list[Any]], Any], known: Iterable[Any] = ()) -> None:
        self.adopt = adopt
        self.objects: list[Any] = list(known)

    def value(self, node: Any) -> Any:
        """The value of one node, read as strictly as it comes from a stranger."""
        try:
            return self._value(node)
        except (Garbled, Unsupported, MemoryError):
            raise
        except Exception as error:
            raise Garbled(f"{type(error).__name__}: {error}") from None

    def _value(self, node: Any) -> Any:
        if type(node) is not list:
            if type(node) is dict:
                raise Garbled("a JSON object")
            return node
        tag = node[0]
        if tag == "t":
            return tuple([self._value(v) for v in node[1:]])
        if tag in ("l", "S", "B", "q", "d"):
            return self._container(*node)
        if tag == "@":
            return self.objects[_index(node[1])]
        if tag == "fs":
            return frozenset([self._value(v) for v in node[1:]])
        if tag == "v":
            items = [self._value(v) for v in node[2:]]
            if node[1] == "keys":
                return dict.fromkeys(items).keys()
            return dict(enumerate(items)).values() if node[1] == "values" else dict(items).items()
        simple = _SIMPLE.get(tag)
        return self.adopt(node) if simple is None else simple(self._value, *node[1:])

    def _container(self, tag: str, number: int, extra: Any, body: Any) -> Any:
        if number != len(self.objects):
            raise Garbled("containers out of order")
        kind = extra[0] if type(extra) is list else extra
        made: Any
        if tag == "d":
            made = _DICTS[kind]()
        elif tag == "q":
            made = deque(maxlen=extra)
        else:
            made = {"l": list, "S": set, "B": bytearray}[tag]()
        self.objects.append(made)
        if kind == "default":
            made.default_factory = self._value(extra[1])
        refill(made, self.contents(tag, body))
        return made

    def contents(self, tag: str, body: Any) -> Any:
        """What a container is to hold: a list of values, for a dict its keys and values in turn."""
        if tag == "B":
            return _bytes(body)
        if tag == "l" and type(body) is str:
            packed = array({"q": "q", "d": "d"}[body[0]])
            packed.frombytes(_bytes(body[1:]))
            return packed.tolist()
        if type(body) is not list:
            raise Garbled("a body that is no list")
        return [self._value(v) for v in body]


def refill(target: Any, contents: Any) -> None:
    """Make a container hold just this, in place, through the base class's own methods."""
    if isinstance(target, list):
        list.__setitem__(target, slice(None), contents)
    elif isinstance(target, bytearray):
        bytearray.__setitem__(target, slice(None), contents)
    elif isinstance(target, set):
        fresh = set(contents)
        if fresh != target or len(fresh) != len(target):
            set.clear(target)
            set.update(target, contents)
    elif isinstance(target, deque):
        deque.clear(target)
        deque.extend(target, contents)
    else:
        pairs = list(zip(contents[::2], contents[1::2], strict=True))
        base = OrderedDict if isinstance(target, OrderedDict) else dict
        base.clear(target)
        for key, value in pairs:
            base.__setitem__(target, key, value)


def tag_of(value: Any) -> str:
    """The tag of a container."""
    return next(tag for tag, kind in zip("lSBqd", MUTABLE, strict=True) if isinstance(value, kind))


def _index(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise Garbled("a bad reference")
    return number


def _zone(shift: float | None) -> timezone | None:
    return None if shift is None else timezone(timedelta(seconds=shift))


def _floating(value: Callable[[Any], Any], text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise Garbled("a bad float")
    return float(text)


_SIMPLE: dict[str, Callable[..., Any]] = {
    "i": lambda value, text: int(text, 16),
    "f": _floating,
    "s": lambda value, text: _bytes(text).decode("utf-8", "surrogatepass"),
    "b": lambda value, text: _bytes(text),
    "c": lambda value, real, imag: complex(value(real), value(imag)),
    "...": lambda value: ...,
    "r": lambda value, *parts: range(*map(value, parts)),
    "D": lambda value, text: Decimal(text),
    "F": lambda value, over, under: Fraction(value(over), value(under)),
    "td": lambda value, *parts: timedelta(*parts),
    "dt": lambda value, shift, fold, *parts: datetime(*parts, fold=fold, tzinfo=_zone(shift)),
    "tm": lambda value, shift, fold, *parts: time(*parts, fold=fold, tzinfo=_zone(shift)),
    "da": lambda value, *parts: date(*parts),
}


def dump(message: Any) -> bytes:
    """A message as bytes."""
    data = json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(data) > BYTES:
        raise Unsupported(f"more than {BYTES // 2**20} MiB at once")
    return data


def load(data: bytes) -> Any:
    """The message in these bytes."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Garbled(str(error)) from None
