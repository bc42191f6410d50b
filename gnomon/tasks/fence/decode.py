"""Nodes (`codec`) as values, read as strictly as they come from a stranger; and what an object is made to hold."""

from __future__ import annotations

import base64
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

from gnomon.tasks.fence.codec import Garbled, Unsupported

_DICTS: dict[str, type] = {"dict": dict, "ordered": OrderedDict, "counter": Counter, "default": defaultdict}


def _bytes(node: Any) -> bytes:
    return base64.b64decode(node, validate=True)


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
            made = deque(maxlen=extra if type(extra) is int else None)
        else:
            made = {"l": list, "S": set, "B": bytearray}[tag]()
        self.objects.append(made)
        if type(extra) is list:
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
