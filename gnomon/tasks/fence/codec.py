"""Plain data as JSON, for two processes that do not trust each other: no pickle, no code, limits on size and depth.

A node is a JSON scalar or a list that begins with its tag. Containers that can change get a number, in the order in
which they are met, so that cycles, shared references and changes in place survive the way. `encode` makes nodes of
values, `decode` values of nodes; here is what both know, and the bytes.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

DEPTH = 150
NODES = 2_000_000
BYTES = 16 * 2**20
"""What one message may hold."""
MUTABLE = (list, set, bytearray, deque, dict)


class Unsupported(Exception):
    """A value or an operation that cannot be carried over: the test is then not decided."""


class Garbled(Exception):
    """Bytes that no honest peer sends."""


def tag_of(value: Any) -> str:
    """The tag of a container."""
    return next(tag for tag, kind in zip("lSBqd", MUTABLE, strict=True) if isinstance(value, kind))


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
