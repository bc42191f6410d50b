"""Files of a study, read without trust: what a file claims is held against its size before anything is allocated.

Whoever sends a study may have made its files with another tool, or with intent. Only ordinary files inside the folder
are opened (no pipes, no links out of it), pickles never; every fault is a UserError that names the file.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gnomon.errors import UserError

MAX_JSON = 64 << 20
"""Bytes of a JSON file at most."""
MAX_HEADER = 10_000
"""Bytes of a .npy header at most; gnomon's have 118."""
CELLS, CELLS_A_BYTE = 20_000_000, 2_000
"""A table of more cells than the first may hold the second a byte at most: real ones were seen to hold 40."""
PLAIN, RATIO = 256 << 20, 1_000
"""Bytes that a table may always unpack to, and how many times its own size beyond that."""
KINDS = "biufcSU"
"""Of numpy types that may be read: numbers and texts of fixed width."""


def ordinary(path: Path, root: Path | None = None) -> int:
    """Bytes of an ordinary file; UserError for one that is missing, a folder, a pipe, a link out of `root`."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be opened ({getattr(error, 'strerror', None) or error})", "a file") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no ordinary file"
        raise UserError(f"{path} is {kind}", "a file that gnomon wrote")
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path} is a link that leads out of {root}", "a file inside that folder")
    return found.st_size


# ---------------------------------------------------------------- JSON


def read_json(path: Path, root: Path | None = None) -> Any:
    """Read strict JSON; a broken, huge or endlessly nested file, NaN and 1e999 are UserErrors that name it."""
    size = ordinary(path, root)
    if size > MAX_JSON:
        raise UserError(f"{path} has {size} bytes", f"JSON of at most {MAX_JSON}", "remake the step")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror or error})", "a file") from None
    return parse_json(data, path)


def parse_json(data: bytes, source: Path) -> Any:
    """JSON of a file that was read; a fault is a UserError that names `source`."""
    try:
        return json.loads(data.decode(), parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{source} is not readable JSON ({error})", "a file that gnomon wrote", "remake the step"
        ) from None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


# ---------------------------------------------------------------- arrays


def load_array(path: Path, root: Path | None = None) -> np.ndarray:
    """Memory-map a .npy read-only. UserError for pickled objects, another byte or axis order, a shape that lies."""
    size = ordinary(path, root)
    try:
        with open(path, "rb") as file:
            shape, fortran, dtype = _header(file)
            start = file.tell()
        if dtype.hasobject:
            raise ValueError("it holds pickled objects; nothing of it was run")
        if dtype.kind not in KINDS or dtype.byteorder == ">":
            raise ValueError(f"it holds {dtype.str}, not plain little-endian numbers")
        if fortran and len(shape) > 1:
            raise ValueError("it is in Fortran order")
        if min(shape, default=0) < 0 or start + math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"its shape {shape} of {dtype.str} does not fit its {size} bytes")
        if 0 in shape or not dtype.itemsize:  # no elements: those cannot be memory-mapped
            array = np.zeros(shape, dtype)
            array.setflags(write=False)
            return array
        return np.memmap(path, dtype, "r", start, shape)
    except (ValueError, OSError, EOFError, OverflowError, RecursionError, MemoryError) as error:
        raise UserError(
            f"{path} is not a plain .npy file ({error})", "", "gnomon show --verify names bad files"
        ) from None


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, type. The header's own length is looked at before it is read."""
    version = np.lib.format.read_magic(file)
    wide = {(1, 0): 2, (2, 0): 4}.get(version)
    if wide is None:
        raise ValueError(f"version {version[0]}.{version[1]}")
    begin = file.tell()
    length = int.from_bytes(file.read(wide), "little")
    if length > MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    file.seek(begin)
    reader = np.lib.format.read_array_header_1_0 if wide == 2 else np.lib.format.read_array_header_2_0
    try:
        return reader(file, max_header_size=MAX_HEADER)
    except (SyntaxError, TokenError) as error:
        raise ValueError(f"a header that is none: {error}") from None


# ---------------------------------------------------------------- tables


def table_schema(path: Path, root: Path | None = None) -> tuple[pa.Schema, int]:
    """Columns and number of rows of a parquet file, from its footer; UserError for a broken one, or for a bomb."""
    size = ordinary(path, root)
    try:
        with pq.ParquetFile(path) as file:
            about = file.metadata
            _refuse_bomb(path, about, size)
            return file.schema_arrow.remove_metadata(), about.num_rows
    except (pa.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        raise _unreadable(path, error) from None


def read_table(
    path: Path, columns: Sequence[str] | None = None, root: Path | None = None, filters: Any = None
) -> pa.Table:
    """Read a parquet file, its metadata left behind. UserError that names it: broken, a bomb, a column missing."""
    schema, _ = table_schema(path, root)
    missing = [name for name in columns or () if name not in schema.names]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]!r}", f"it has {', '.join(schema.names) or 'none'}",
                        "gnomon show --verify tells whether it is the file that was written")  # fmt: skip
    try:
        whole = pq.read_table(path, columns=None if columns is None else list(columns), filters=filters)
        return whole.replace_schema_metadata(None)
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read ({' '.join(str(error).split())[:200]})", "a parquet file",
                     "gnomon show --verify names bad files")  # fmt: skip


def _refuse_bomb(path: Path, about: Any, size: int) -> None:
    """A few bytes of parquet can stand for any number of rows, or repeat one long text: counted before it is read."""
    chunks = [about.row_group(i).column(j) for i in range(about.num_row_groups) for j in range(about.num_columns)]
    cells = max(about.num_rows, sum(chunk.num_values for chunk in chunks))
    plain = sum(chunk.total_uncompressed_size for chunk in chunks)
    if cells > max(CELLS, CELLS_A_BYTE * size) or plain > max(PLAIN, RATIO * size):
        raise UserError(f"{path} would grow from {size} bytes to {cells} cells", "a table that fits its file",
                        "this looks like a bomb; nothing of it was read")  # fmt: skip
    texts = {chunk.path_in_schema: 0 for chunk in chunks if chunk.physical_type.endswith("BYTE_ARRAY")}
    for chunk in chunks:
        if chunk.path_in_schema in texts:
            texts[chunk.path_in_schema] += chunk.num_values * chunk.total_uncompressed_size
    for name in (name for name, most in texts.items() if most > (PLAIN << 4)):
        grown = _text_bytes(path, name)
        if grown > max(PLAIN << 2, RATIO * size):
            raise UserError(f"{path} would grow from {size} bytes to {grown} in column {name!r} alone",
                            "a table that fits its file", "this looks like a bomb; it was not unpacked")  # fmt: skip


def _text_bytes(path: Path, name: str) -> int:
    """Bytes of a text column once every repetition is written out, found from its dictionary without doing so."""
    total = 0
    with pq.ParquetFile(path, read_dictionary=[name]) as file:
        for batch in file.iter_batches(1 << 16, columns=[name]):
            column = batch.column(0)
            while not pa.types.is_dictionary(column.type):
                if not pa.types.is_nested(column.type):
                    return total  # numbers, or a text without a dictionary: what is there is what it takes
                column = column.flatten() if pa.types.is_list(column.type) else column.field(0)
            lengths = pc.binary_length(column.dictionary.cast(pa.large_binary())).take(column.indices)  # type: ignore
            total += pc.sum(lengths).as_py() or 0  # type: ignore[attr-defined]
    return total
