"""What a bare interpreter reads: its binary, its standard library without site-packages, the shared libraries."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass

_ASK = """
import json, os, sys, sysconfig
for name in ("ctypes", "_decimal", "_hashlib", "_ssl", "zlib", "_bz2", "_lzma", "_sqlite3", "_uuid", "unicodedata"):
    try: __import__(name)
    except ImportError: pass
maps = {line.split(maxsplit=5)[5].strip() for line in open("/proc/self/maps") if line.count("/") and "r-xp" in line}
print(json.dumps({"maps": sorted(p for p in maps if os.path.isfile(p)), "path": [p for p in sys.path if p],
                  "stdlib": [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]}))
"""
FLAGS = ("-s", "-S", "-P", "-B", "-X", "utf8")
"""As `-I`, but that the environment (which is ours) may fix the hash seed; without site-packages; nothing cached."""
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "TZ": "UTC"}
PACKAGES = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Layout:
    """Paths of the interpreter, all absolute and resolved."""

    python: str
    stdlib: tuple[str, ...]
    libraries: tuple[str, ...]
    files: tuple[str, ...]

    def readable(self) -> list[str]:
        """What Landlock lets a child read: each entry of the library's folders but installed packages."""
        inside = [
            os.path.join(folder, name) for folder in self.stdlib for name in os.listdir(folder) if name not in PACKAGES
        ]
        return [*inside, *self.libraries, *self.files]


@functools.cache
def interpreter() -> str:
    """The interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@functools.cache
def layout() -> Layout:
    """Ask a bare interpreter once what it reads. Linux only. OSError or ValueError where it does not start."""
    done = subprocess.run([interpreter(), *FLAGS, "-c", _ASK], capture_output=True, env=ENVIRONMENT, timeout=60,
                          cwd="/", stdin=subprocess.DEVNULL)  # fmt: skip
    if done.returncode:
        raise OSError(f"{interpreter()} does not start alone: {done.stderr.decode(errors='replace')[-300:]}")
    said = json.loads(done.stdout)
    stdlib = {os.path.realpath(p) for p in said["stdlib"] + said["path"] if os.path.isdir(p)}
    stdlib = {p for p in stdlib if not any(p != q and p.startswith(q + "/") for q in stdlib)}
    maps = {os.path.realpath(p) for p in said["maps"]}
    own = {p for p in maps if any(p.startswith(folder + "/") for folder in stdlib)}
    system = ("/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/")
    folders = {os.path.dirname(p) for p in maps - own if p.startswith(system)}
    folders -= {"/usr/lib", "/lib", *stdlib}
    single = {p for p in maps - own if os.path.dirname(p) not in folders}
    extra = [p for p in ("/etc/ld.so.cache", "/usr/share/zoneinfo") if os.path.exists(p)]
    archives = [p for p in said["path"] if os.path.isfile(p)]
    return Layout(interpreter(), tuple(sorted(stdlib)), tuple(sorted(folders)),
                  (*sorted(single | {interpreter()}), *extra, *archives))  # fmt: skip
