"""Where results come from, beyond options and versions: the code itself, and the memory that workers took."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any


@cache
def source() -> dict[str, str]:
    """sha256 over gnomon's own Python files and, in a checkout, the commit that is checked out.

    The version alone does not tell: a checkout is edited. Two machines of one sha256 ran the same code.
    """
    import gnomon

    package = Path(gnomon.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    out = {"sha256": digest.hexdigest()}
    commit = _commit(package.parent / ".git")
    return out | ({"commit": commit} if commit else {})


def _commit(git: Path) -> str:
    """The commit that HEAD stands for, read from a repository's own files; "" where there is none."""
    with suppress(OSError, ValueError, StopIteration):
        if git.is_file():  # a worktree: its own HEAD, and the refs of the repository that it belongs to
            git = (git.parent / git.read_text().removeprefix("gitdir:").strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        shared = git / "commondir"
        root = (git / shared.read_text().strip()).resolve() if shared.is_file() else git
        name = head.removeprefix("ref: ")
        if (root / name).is_file():
            return (root / name).read_text().strip()
        lines = (root / "packed-refs").read_text().splitlines()
        return next(line.split()[0] for line in lines if line.endswith(f" {name}"))
    return ""


def worker_peak(markers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The most memory that a process had which made one of these shards, by their markers; {} where none tells."""
    peaks = [peak for marker in markers if isinstance(peak := marker.get("peak_memory_bytes"), int)]
    return {"peak_worker_memory_bytes": max(peaks)} if peaks else {}
