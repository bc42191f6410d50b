"""A .tar.zst of plain files, written and read as a stream; nothing in it but files with plain names.

Layout: POSIX ustar, one entry a file, mode 0644, no owner, time 0, so that the same files give the same bytes; one zstd
stream around it. Reading knows regular files only: links, devices, folders, long-name extensions are refused unread.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from gnomon.errors import UserError
from gnomon.reading import ordinary
from gnomon.recorded import plain_path

BLOCK = 512
CHUNK = 1 << 20
MAGIC = b"\x28\xb5\x2f\xfd"
"""How a zstd stream begins."""
KINDS = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"5": "a folder", b"6": "a pipe"}
BOMB = "this looks like a bomb; nothing was unpacked"


@contextmanager
def writing(path: Path) -> Iterator[Any]:
    """Within: a stream whose bytes are compressed into a file; it is on disk when it is left."""
    stream = pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd")
    try:
        yield stream
    except BaseException:
        _close(stream)
        raise
    stream.close()
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _close(stream: Any) -> None:
    """Close a stream whose file is thrown away anyhow."""
    with suppress(OSError, pa.ArrowException):
        stream.close()


def put(stream: Any, name: str, size: int, chunks: Iterable[bytes]) -> None:
    """One file. UserError for a name that the format cannot say, and for other than `size` bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    try:
        stream.write(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
    except ValueError as error:
        raise UserError(f"{name} cannot be packed ({error})", "names of at most 100 characters below their folder"
                        ) from None  # fmt: skip
    written = 0
    for chunk in chunks:
        written += len(chunk)
        stream.write(chunk)
    if written != size:
        raise UserError(f"{name} has {written} bytes, {size} were expected", "a study that nobody writes to")
    stream.write(bytes(-size % BLOCK))


def finish(stream: Any) -> None:
    """The end of the archive."""
    stream.write(bytes(2 * BLOCK))


class Unpacked:
    """The bytes of an archive, decompressed as they are asked for, and never more than `most` of them."""

    def __init__(self, path: Path, most: int) -> None:
        size = ordinary(path)
        self.path, self.most, self.read_so_far = path, most, 0
        with open(path, "rb") as file:
            if file.read(4) != MAGIC:
                raise UserError(f"{path} is no .tar.zst", "a file that gnomon pack made")
        self.size = size
        self._stream = pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd")

    def __enter__(self) -> Unpacked:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes (at most CHUNK); UserError where the archive ends before, or grows past the limit."""
        parts, missing = [], count
        while missing:
            try:
                part = self._stream.read(missing)
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{self.path} is damaged ({error})", "a file that gnomon pack made") from None
            if not part:
                raise UserError(f"{self.path} ends in the middle", "the whole file", "copy it again")
            self.read_so_far += len(part)
            if self.read_so_far > self.most:
                raise UserError(f"{self.path} grows from {self.size} to more than {self.most} bytes",
                                "a pack within the limit", f"{BOMB}; raise --most-gb if you trust it")  # fmt: skip
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def entries(self) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        """(name, bytes, chunks) of each file, in order; the chunks must be used up before the next is asked for."""
        while True:
            head = self.take(BLOCK)
            if head == bytes(BLOCK):
                return
            name, size = self._header(head)
            yield name, size, self._chunks(size)
            self.take(-size % BLOCK)

    def _chunks(self, size: int) -> Iterator[bytes]:
        while size:
            chunk = self.take(min(size, CHUNK))
            size -= len(chunk)
            yield chunk

    def _header(self, head: bytes) -> tuple[str, int]:
        """Name and size of a plain file's header; UserError for anything else."""
        try:
            if int(head[148:156].rstrip(b"\0 ") or b"x", 8) != sum(head[:148]) + 8 * 32 + sum(head[156:]):
                raise ValueError("a wrong checksum")
            size = int(head[124:136].rstrip(b"\0 ") or b"x", 8)
            name, prefix = (head[a:b].split(b"\0")[0].decode() for a, b in ((0, 100), (345, 500)))
        except ValueError as error:
            raise UserError(
                f"{self.path} is no archive of gnomon pack ({error})", "a file that gnomon pack made"
            ) from None
        if head[156:157] not in (b"0", b"\0"):
            kind = KINDS.get(head[156:157], "something else than a file")
            raise UserError(f"{self.path} holds {kind}: {name!r:.80}", "plain files only",
                            "it was not made by gnomon pack; nothing was unpacked")  # fmt: skip
        return plain_path(f"{prefix}/{name}" if prefix else name, self.path), size
