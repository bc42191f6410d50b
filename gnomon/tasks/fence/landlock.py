"""Which files a fenced process may read (it may write none), by Landlock; no TCP, no signals or sockets to others."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

CREATE, ADD, RESTRICT = 444, 445, 446  # the same on every machine
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FS_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many file rights a version of the interface knows."""


def _syscall(*args: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.syscall(*args)
    if found < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    return found


def version() -> int:
    """The version of the interface; 0 where the kernel has none."""
    try:
        return _syscall(CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    except OSError:
        return 0


def ruleset(readable: Iterable[str], listable: Iterable[str] = ()) -> int:
    """A descriptor of rules that let these paths be read, and those directories be listed; nothing else."""
    abi = version()
    rights = (1 << max(n for v, n in FS_RIGHTS.items() if v <= abi)) - 1
    attributes = struct.pack("<QQQ", rights, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    rules = _syscall(CREATE, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    for paths, wanted in ((readable, READ_FILE | READ_DIR), (listable, READ_DIR)):
        for path in paths:
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue  # what is not there needs no rule
            folder = stat.S_ISDIR(os.fstat(fd).st_mode)
            rule = struct.pack("<Qi", wanted if folder else wanted & READ_FILE, fd)
            if folder or wanted & READ_FILE:
                _syscall(ADD, ctypes.c_int(rules), ctypes.c_int(1), rule, ctypes.c_uint32(0))
            os.close(fd)
    return rules


def restrict(rules: int) -> None:
    """Put this process under the rules, for good."""
    _syscall(RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0))
