"""One end of the talk between a candidate and its tests: requests, replies, and handles on what stays on its side.

A request carries plain data and handles; the reply carries the result and what the containers among the arguments
hold now, which is put into the caller's own objects. While it waits for a reply an end serves the other's requests.
"""

from __future__ import annotations

import operator
import os
import struct
import threading
from errno import ENOENT
from typing import Any

from gnomon.tasks.fence.codec import BYTES, Garbled, Unsupported, dump, load, tag_of
from gnomon.tasks.fence.decode import Decoder, refill
from gnomon.tasks.fence.encode import Encoder
from gnomon.tasks.fence.handles import Handle, handle_class, marks, part
from gnomon.tasks.fence.raised import Remote, nearest_exception, read
from gnomon.tasks.fence.shared import find_shared, shared_name

EXPORTS = 100_000
"""How many objects of one side the other may hold."""
OPERATORS = {"eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "abs"}


class Gone(Exception):
    """The other end has closed."""


class Peer:
    """One end on the descriptor `fd`. Subclasses say what the other side may do here."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.table: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.handles: dict[int, Any] = {}
        self.owner = threading.get_ident()

    # ------------------------------------------------------------ bytes

    def send(self, message: Any) -> None:
        """Write one message."""
        data = dump(message)
        rest = memoryview(struct.pack("<I", len(data)) + data)
        try:
            while rest:
                rest = rest[os.write(self.fd, rest) :]
        except (BrokenPipeError, ConnectionError):
            raise Gone from None

    def receive(self) -> list[Any]:
        """Read one message."""
        size = struct.unpack("<I", self._read(4))[0]
        if size > BYTES:
            raise Garbled("a message over the limit")
        message = load(self._read(size))
        if type(message) is not list or not message:
            raise Garbled("no message")
        return message

    def _read(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            try:
                got = os.read(self.fd, min(count - len(parts), 2**20))
            except ConnectionError:
                got = b""
            if not got:
                raise Gone
            parts += got
        return bytes(parts)

    # ------------------------------------------------------------ requests

    def ask(self, op: str, *parts: Any) -> Any:
        """Send a request and return its result; the caller's containers are brought up to date."""
        if threading.get_ident() != self.owner:
            raise RuntimeError("only the main thread may use what the tests passed")
        encoder = Encoder(self.export)
        self.send(["?", op, [encoder.node(one) for one in parts]])
        while (message := self.receive())[0] == "?":
            self.serve(message)
        return self._reply(message, encoder.objects)

    def _reply(self, message: list[Any], objects: list[Any]) -> Any:
        if len(message) != 3 or type(message[2]) is not list:
            raise Garbled("no reply")
        decoder = Decoder(self.adopt, objects)
        kind, node, bodies = message
        info: dict[str, Any] = {}
        result = None
        if kind == "error":
            info = read(node, decoder.value)
        elif kind == "ok":
            result = decoder.value(node)
        else:
            raise Unsupported(str(node)[:200])
        if len(bodies) != len(objects):
            raise Garbled("another number of containers")
        held = []
        for target, body in zip(objects, bodies, strict=True):
            try:
                held.append(decoder.contents(tag_of(target), body))
            except (Unsupported, Garbled, MemoryError):
                raise
            except Exception as error:
                raise Garbled(str(error)) from None
        for target, contents in zip(objects, held, strict=True):
            try:
                refill(target, contents)
            except (TypeError, ValueError) as error:
                raise Garbled(str(error)) from None
        if kind == "error":
            self.raise_error(info)
        return result

    def serve(self, message: list[Any]) -> None:
        """Answer one request."""
        if len(message) != 3 or type(message[2]) is not list:
            raise Garbled("no request")
        decoder = Decoder(self.adopt)
        parts = [decoder.value(node) for node in message[2]]
        known = list(decoder.objects)
        try:
            kind, result = "ok", self.do(message[1], parts)
        except (Gone, Garbled):
            raise
        except BaseException as error:
            kind, result = "error", error
        try:
            encoder = Encoder(self.export, known)
            node = self.describe(result, encoder) if kind == "error" else encoder.node(result)
            self.send([kind, node, [encoder.body(one) for one in known]])
        except Unsupported as error:
            self.send(["unsupported", str(error), []])
        except (MemoryError, RecursionError) as error:
            encoder = Encoder(self.export)
            self.send(["error", self.describe(error, encoder), [None] * len(known)])

    def describe(self, error: BaseException, encoder: Encoder) -> list[Any]:
        """An exception as nodes, in the order of ERROR."""
        kind = type(error)
        names = [base.__name__ for base in type.mro(kind) if base not in (object, BaseException)]
        own = None if kind.__module__ == "builtins" else encoder.export(kind)
        try:
            text = str(error)[:500]
        except Exception:
            text = ""
        try:
            args = encoder.node(tuple(error.args))
        except Unsupported:
            args = ["t"]
        errno, path = getattr(error, "errno", None), getattr(error, "filename", None)
        unnamed = path is None and errno == ENOENT  # tempfile, openpty
        path = str.__str__(path) if isinstance(path, str) else "/" if unnamed or isinstance(path, bytes) else ""
        return [["t", *names], own, args, text if _clean(text) else ascii(text),
                errno if type(errno) is int else None, self.trace(error), path.startswith("/")]  # fmt: skip

    def trace(self, error: BaseException) -> str:
        """The traceback that the other side may see."""
        return ""

    def raise_error(self, info: dict[str, Any]) -> None:
        """Raise what the other side raised."""
        raise Remote(info)

    # ------------------------------------------------------------ handles

    def export(self, value: Any) -> list[Any]:
        """The node of what is not plain data."""
        if isinstance(value, Handle) and part(value, "peer") is self:
            return ["H", part(value, "number")]
        own = vars(value).get("_remote_number") if isinstance(value, type) else None
        if own is not None:
            return ["H", own]
        shared = shared_name(value)
        if shared is not None:
            return shared
        number = self.numbers.get(id(value))
        if number is None:
            if len(self.table) >= EXPORTS:
                raise Unsupported(f"more than {EXPORTS} objects held by the other side")
            number = self.numbers[id(value)] = len(self.table)
            self.table.append(value)
        mro = None
        if isinstance(value, type) and issubclass(value, BaseException):
            mro = [base.__name__ for base in type.mro(value)]
        kind = type(value)
        return ["h", number, str(kind.__name__)[:80], marks(kind), mro]

    def adopt(self, node: list[Any]) -> Any:
        """The value of a node that `export` made there."""
        tag = node[0]
        if tag == "H":
            return self.table[_natural(node[1])]
        if tag == "g":
            return find_shared(node[1], node[2])
        if tag == "m":
            return self.module(node[1])
        if tag != "h":
            raise Garbled(f"unknown tag {str(tag)[:20]!r}")
        _, number, name, flags, mro = node
        known = self.handles.get(_natural(number))
        if known is not None:
            return known
        if len(self.handles) >= EXPORTS:
            raise Unsupported(f"more than {EXPORTS} objects held")
        if mro is not None:
            made: Any = self.exception_class(number, [str(one)[:80] for one in mro])
        else:
            made = handle_class(str(name)[:80], str(flags)[:20], self.trusting)(self, number)
        self.handles[number] = made
        return made

    trusting = False
    """Whether handles here may ask the other side for truth values and comparisons."""

    def module(self, name: Any) -> Any:
        """A module that the other side named."""
        raise Unsupported(f"the module {str(name)[:80]} as a value")

    def exception_class(self, number: int, mro: list[str]) -> type[BaseException]:
        """A local class for the other side's own exception: its nearest builtin base, under its name."""
        base = nearest_exception(mro[1:])
        return type(mro[0], (base,), {"_remote_number": number, "__module__": "candidate"})

    def do(self, op: Any, parts: list[Any]) -> Any:
        """Carry out a request of the other side on an object of this one; the first part is the object."""
        target, rest = parts[0], parts[1:]
        if op == "call":
            return target(*rest[0], **dict(rest[1]))
        if op == "next":
            end = object()
            found = next(target, end)
            return () if found is end else (found,)
        simple = _DO.get(op)
        if simple is None:
            raise Garbled(f"unknown request {str(op)[:20]!r}")
        return simple(target, *rest)


def _natural(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise Garbled("a bad number")
    return number


def _clean(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _operate(target: Any, name: str, *rest: Any) -> Any:
    if name not in OPERATORS:
        raise Garbled("unknown operator")
    found = getattr(operator, name)(target, *rest)
    return bool(found) if found is NotImplemented else found


_DO: dict[str, Any] = {
    "get": getattr,
    "set": setattr,
    "delete": delattr,
    "iter": iter,
    "len": len,
    "item": lambda target, key: target[key],
    "setitem": lambda target, key, value: target.__setitem__(key, value),
    "delitem": lambda target, key: target.__delitem__(key),
    "str": lambda target: str.__str__(str(target)),
    "repr": lambda target: str.__str__(repr(target)),
    "format": lambda target, spec: str.__str__(format(target, spec)),
    "bool": bool,
    "operate": _operate,
    "contains": lambda target, value: value in target,
}
