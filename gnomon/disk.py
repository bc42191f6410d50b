"""Bytes on disk: written under a temporary name, synced, renamed; encoded in one fixed way."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gnomon.errors import UserError

FLOAT16_MAX = 65504.0


NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS, errno.EACCES, errno.EISDIR)
"""What a system answers that cannot sync a folder: there a rename is as safe as it can be."""


def sync_folder(path: Path) -> None:
    """fsync a directory, so that a rename in it survives a power cut; UserError where the disk fails."""
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise disk_error(path, error) from error


def sync_folders(root: Path, files: Iterable[str]) -> None:
    """fsync every folder on the way from `root` to some files in it, the inner ones first."""
    inside = {folder for name in files for folder in Path(name).parents}
    for folder in sorted(inside | {Path()}, key=lambda p: len(p.parts), reverse=True):
        sync_folder(root / folder)


def sync_file(path: Path) -> None:
    """fsync a file that a library wrote."""
    try:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(path, error) from error


Chunks = bytes | memoryview | Iterable[bytes | memoryview]


def write_bytes(path: Path, data: Chunks) -> tuple[int, str]:
    """Write under a temporary name, fsync, rename; returns (bytes, sha256). A full disk leaves no half file."""
    chunks = [data] if isinstance(data, bytes | memoryview) else data
    digest, size = hashlib.sha256(), 0
    # two hosts may have one pid, and one shard, when a node that was given up writes on
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise disk_error(path, error) from error
        raise
    return size, digest.hexdigest()


def disk_error(path: Path, error: OSError) -> UserError:
    """Name a full disk, a missing right or a read-only folder; finished shards stay where they are."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}",
        "a writable folder with space left",
        "finished shards are kept: free some space or choose --out, and run the same command again",
    )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Within: what the disk refuses is a UserError that names the file, or `path`."""
    try:
        yield
    except OSError as error:
        raise disk_error(Path(error.filename or path), error) from error


def file_size(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def write_json(path: Path, value: Any) -> tuple[int, str]:
    """Write strict JSON (NaN is refused) atomically."""
    return write_bytes(path, (json.dumps(value, indent=2, allow_nan=False, default=plain) + "\n").encode())


def plain(value: Any) -> Any:
    """What json.dumps cannot write itself: numpy scalars and arrays, paths, sites, pydantic models."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path) or type(value).__name__ == "Site":
        return str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON")


def array_bytes(array: np.ndarray) -> list[bytes | memoryview]:
    """The bytes of a .npy file of `array` (header, then the data uncopied): C order, little-endian, no objects."""
    array = np.ascontiguousarray(array)
    if array.dtype.hasobject:
        raise TypeError("object arrays are never written")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(array))
    return [buffer.getvalue(), array.reshape(-1).view(np.uint8).data if array.size else b""]


def table_bytes(table: pd.DataFrame | pa.Table, schema: pa.Schema | None = None) -> bytes:
    """The bytes of a parquet file; `schema` pins types so that an all-null first shard reads like the others."""
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    elif schema is not None:
        table = table.cast(schema)
    table = table.replace_schema_metadata(None)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=3, version="2.6", data_page_version="1.0")
    return sink.getvalue()


def fit_dtype(values: np.ndarray, dtype: str, what: str) -> np.ndarray:
    """Cast to the storage dtype; a float16 overflow or a NaN is refused by name, never written."""
    if not np.all(np.isfinite(values)):
        raise UserError(f"{what} holds NaN or infinite numbers", "finite activations", "try dtype: float32")
    peak = float(np.abs(values).max(initial=0.0)) if dtype in ("float16", "float32") else 0.0
    if dtype == "float16" and peak > FLOAT16_MAX:
        raise UserError(
            f"{what} has |x| = {peak:.0f}, over float16's {FLOAT16_MAX:.0f}", "", "set capture.dtype: float32"
        )
    if peak > float(np.finfo(np.float32).max):
        raise UserError(f"{what} has |x| = {peak:.3g}, over float32's largest number", "finite float32 values")
    return np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<"))


def file_sha256(path: Path) -> str:
    """sha256 of a file, streamed."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
