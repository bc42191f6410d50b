"""What runs in a candidate's process: its code, then the tests' requests. Nothing here knows a test."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

from gnomon.tasks.fence.codec import Unsupported
from gnomon.tasks.fence.encode import Encoder
from gnomon.tasks.fence.peer import Gone, Peer
from gnomon.tasks.fence.raised import Remote, nearest_exception

NAME = "solution"
HEADROOM = 1000
"""Frames that the candidate may nest, as in a program of its own."""


class CandidatePeer(Peer):
    """The candidate's end: the tests may do anything to what it has shown them."""

    trusting = True

    def __init__(self, fd: int, module: types.ModuleType) -> None:
        super().__init__(fd)
        self.module_ = module

    def do(self, op: Any, parts: list[Any]) -> Any:
        """As a program would that had the tests at its end; `global` looks a name up."""
        if op == "global":
            space = vars(self.module_)
            return (space[parts[0]],) if parts[0] in space else ()
        return super().do(op, parts)

    def export(self, value: Any) -> list[Any]:
        """As any peer; what only an event loop of the same process can run is not carried."""
        if isinstance(value, types.CoroutineType | types.AsyncGeneratorType):
            raise Unsupported("a coroutine")
        return super().export(value)

    def trace(self, error: BaseException) -> str:
        """The end of the traceback, the candidate's own frames only."""
        return traceback_of(error)

    def raise_error(self, info: dict[str, Any]) -> None:
        """An error of a function that the tests passed, as the builtin of its name."""
        kind = nearest_exception(list(info["mro"]))
        try:
            error = kind(*info["args"])
        except Exception:
            error = RuntimeError(info["text"])
        raise error from Remote(info)


def traceback_of(error: BaseException) -> str:
    """At most 2,000 characters of the traceback through the candidate's code; empty where it cannot be had."""
    import traceback

    try:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == f"<{NAME}>"]
        text = "".join([*traceback.format_list(frames[-8:]), *traceback.format_exception_only(error)])
        return text[-2000:].encode("utf-8", "backslashreplace").decode()
    except BaseException:
        return ""


def run(fd: int, code: str, forget: tuple[str, ...]) -> None:
    """Run the code, say how it went, then serve until the tests close. `forget`: modules it may not find."""
    import linecache
    import random

    module = types.ModuleType(NAME)
    for name in forget:
        sys.modules.pop(name, None)
    sys.modules[NAME] = module
    linecache.cache[f"<{NAME}>"] = (len(code), None, code.splitlines(True), f"<{NAME}>")
    random.seed(0)
    peer = CandidatePeer(fd, module)
    depth = 0
    frame = sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    sys.setrecursionlimit(HEADROOM + depth + 4)
    error: BaseException | None = None
    try:
        exec(compile(code, f"<{NAME}>", "exec", dont_inherit=True), vars(module))
    except BaseException as raised:
        error = raised
    try:
        if error is None:
            peer.send(["loaded"])
        else:
            peer.send(["failed", peer.describe(error, Encoder(peer.export))])
        while True:
            peer.serve(peer.receive())
    except Gone:
        os._exit(0)
