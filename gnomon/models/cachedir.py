"""The user's cache folder: converted models, made once and safely by however many processes want them; file hashes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_dir

from gnomon.errors import UserError


def cache_folder() -> Path:
    """`$GNOMON_CACHE`, or gnomon's folder in the user's cache; made where it is missing. UserError where it cannot."""
    folder = Path(os.environ.get("GNOMON_CACHE") or user_cache_dir("gnomon")).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the cache folder {folder} ({error.strerror})", "a writable folder", "set GNOMON_CACHE"
        ) from None
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` (made where missing); a second process waits here."""
    with open(path, "a") as handle:
        # a network disk may refuse flock; the rename in `made_once` is atomic without it, only work is done twice
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return `folder`, letting `make` fill a temporary folder beside it first where it does not exist yet.

    The folder appears by one rename, complete or not at all; UserError where the disk is full or not writable.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(folder.name + ".lock")):
            if folder.is_dir():
                return folder
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                make(partial)
                partial.chmod(0o755)
                if not folder.is_dir():
                    partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write {folder} ({error.strerror or error})", "a writable disk with room", "set GNOMON_CACHE"
        ) from None
    return folder


def sha256(path: Path) -> str:
    """sha256 of a file's content, read once: remembered in the cache folder by path, size and time of change."""
    path = path.resolve()
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    table = _table()
    known = table.get(str(path))
    if known and known[:2] == stamp:
        return str(known[2])
    digest = digest_of(path)
    _remember(str(path), [*stamp, digest])
    return digest


def digest_of(path: Path) -> str:
    """sha256 of a file, always read from disk."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _table() -> dict[str, list[int | str]]:
    try:
        return json.loads((cache_folder() / "hashes.json").read_text())
    except (OSError, ValueError):
        return {}  # no file yet, or one cut short: the hashes are computed again


def _remember(path: str, entry: list[int | str]) -> None:
    folder = cache_folder()
    with suppress(OSError), locked(folder / "hashes.lock"):
        table = {p: e for p, e in _table().items() if Path(p).exists()} | {path: entry}
        handle, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "w") as file:
            json.dump(table, file)
        os.replace(name, folder / "hashes.json")
