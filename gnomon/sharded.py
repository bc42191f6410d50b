"""Shards of activations: read and held against each other, and several arrays on disk as one."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.errors import UserError
from gnomon.reading import load_array
from gnomon.sites import RAGGED

BLOCK = 1 << 18
"""Bytes that are looked at before others are read."""
WORDS: dict[int, tuple[np.dtype, np.dtype, int, int]] = {
    2: (np.dtype("<i2"), np.dtype("<u2"), 0x7C00, 0xFC00),
    4: (np.dtype("<i4"), np.dtype("<u4"), 0x7F800000, 0xFF800000),
    8: (np.dtype("<i8"), np.dtype("<u8"), 0x7FF0000000000000, 0xFFF0000000000000),
}
"""By bytes a float has: its bits as numbers with and without sign, and the bits of inf and -inf.

Read without sign, every -inf and negative NaN is the largest there is; read with it, +inf and positive NaN are. Two
maxima then decide, without a temporary array: as fast as memory is read, where numpy's isfinite of float16 takes 25
times as long.
"""


class ShardedArray:
    """Axis 0 of several memory maps as one read-only array; indexing copies only what is asked for.

    What is read is finite: UserError names the file that holds NaN or an infinite number, which gnomon never writes.
    Only what is asked for is looked at, in pieces that the processor's cache holds: it costs no memory.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.files = [str(getattr(part, "filename", None) or "an array") for part in parts]
        self.parts = [np.asarray(part) for part in parts]  # still mapped; a plain array is indexed ten times as fast
        self.starts = np.cumsum([0, *[len(p) for p in self.parts]])
        self._begins = self.starts.tolist()
        width = self.parts[0].shape[1:] if self.parts else (0,)
        self.shape = (int(self.starts[-1]), *width)
        self.dtype = self.parts[0].dtype if self.parts else np.dtype("<f4")
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self._slice(0, len(self))
        return whole.astype(dtype) if dtype is not None else whole

    def __iter__(self) -> Iterator[np.ndarray]:
        for part in self.parts:
            rows = _rows(part)
            for i in range(0, len(part), rows):
                yield from self._finite(part[i : i + rows])

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, tuple):
            first, rest = index[0], index[1:]
            return self[first][rest if isinstance(first, int | np.integer) else (slice(None), *rest)]
        if isinstance(index, int | np.integer):
            i = int(index) + (len(self) if index < 0 else 0)
            if not 0 <= i < len(self):
                raise IndexError(f"row {index} of {len(self)}")
            part = bisect_right(self._begins, i) - 1
            return self._finite(self.parts[part][i - self._begins[part]])
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._slice(start, max(start, stop))
            index = np.arange(start, stop, step)
        index = np.asarray(index)
        if index.dtype == bool:
            if len(index) != len(self):
                raise IndexError(f"a mask of {len(index)} over {len(self)} rows")
            index = np.flatnonzero(index)
        elif len(index) and index.dtype.kind not in "iu":
            raise IndexError(f"rows are whole numbers, not {index.dtype}")
        index = np.where(index < 0, index + len(self), index).astype(np.int64)
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"rows {index.min()} to {index.max()} of {len(self)}")
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        which = np.searchsorted(self.starts, index, side="right") - 1
        for part in np.unique(which):
            here = which == part
            out[here] = self.parts[part][index[here] - self.starts[part]]
        return self._finite(out)

    def _slice(self, start: int, stop: int) -> np.ndarray:
        """A copy of rows start to stop, looked at a piece at a time while it is in the cache."""
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        at = start
        for part, begin in zip(self.parts, self._begins[:-1], strict=True):
            end = min(stop, begin + len(part))
            rows = _rows(part)
            while begin <= at < end:
                upto = min(end, at + rows)
                piece = out[at - start : upto - start]
                piece[...] = part[at - begin : upto - begin]
                self._finite(piece)
                at = upto
        return out

    def _finite(self, read: np.ndarray) -> np.ndarray:
        """The same numbers, once they are known to be finite."""
        if _is_finite(read):
            return read
        name = next((file for file, part in zip(self.files, self.parts, strict=True) if not _is_finite(part)), "")
        raise UserError(f"{name} holds NaN or infinite numbers", "finite activations, as gnomon writes them",
                        "gnomon show --verify tells whether it is the file that was written")  # fmt: skip


def _rows(part: np.ndarray) -> int:
    """How many rows are looked at together."""
    return max(1, BLOCK // max(1, part.dtype.itemsize * math.prod(part.shape[1:])))


def _is_finite(values: np.ndarray) -> bool:
    """Whether no float is NaN or infinite; True of other types."""
    if values.dtype.kind != "f" or not values.size:
        return True
    if values.dtype.itemsize not in WORDS:
        return bool(np.isfinite(values).all())
    rows = _rows(values)
    if values.ndim and len(values) > rows:
        return all(_is_finite(values[i : i + rows]) for i in range(0, len(values), rows))
    signed, plain, most, least = WORDS[values.dtype.itemsize]
    return bool(values.view(signed).max() < most and values.view(plain).max() < least)


def read_shard(path: Path, position: str, root: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values `[n, d]`, rows `[m]` and offsets `[m + 1]` of one shard (a dense position's vectors count one a row).

    UserError that names the file: wrong axes or types, offsets that fall or pass the end, rows that do not fit.
    """
    folder, name = path.parent.parent, path.name
    values = load_array(path, root)
    rows = np.asarray(load_array(folder / f"rows@{position}" / name, root))
    offsets = np.arange(len(values) + 1 if values.ndim else 1)
    if position in RAGGED:
        offsets = np.asarray(load_array(folder / f"offsets@{position}" / name, root))
    beside = f"rows@{position}" + (f" and offsets@{position}" if position in RAGGED else "")
    for array, axes, kind, what in (
        (values, 2, "f", path), (rows, 1, "i", f"rows@{position} of {path}"),
        (offsets, 1, "i", f"offsets@{position} of {path}"),
    ):  # fmt: skip
        if array.ndim != axes or array.dtype.kind != kind:
            wanted = "floats [n, d]" if kind == "f" else "whole numbers [n]"
            raise UserError(f"{what} is {array.dtype} {list(array.shape)}", wanted)
    falls = len(offsets) == 0 or offsets[0] != 0 or bool(np.any(offsets[1:] < offsets[:-1]))
    if falls or len(offsets) != len(rows) + 1 or offsets[-1] != len(values):
        raise UserError(f"{path} holds {len(values)} vectors, which do not fit {beside} ({len(rows)} rows)",
                        "offsets that begin at 0, never fall and end at the number of vectors")  # fmt: skip
    return values, rows, offsets


def fitting(folder: Path, values: Sequence[np.ndarray], rows: np.ndarray, width: Any = None) -> None:
    """UserError where shards differ in width or type, rows repeat or fall, or a vector has not the model's `width`."""
    kinds = {(part.shape[1], part.dtype.str) for part in values}
    if len(kinds) > 1:
        raise UserError(f"the shards of {folder} are of {len(kinds)} kinds: {sorted(kinds)}", "one width and type")
    if np.any(rows[1:] <= rows[:-1]) or (len(rows) and rows[0] < 0):
        raise UserError(f"the rows of {folder} are not ascending", "each row once, in order")
    if values and isinstance(width, int) and values[0].shape[1] != width:
        raise UserError(f"{folder} holds vectors of {values[0].shape[1]} numbers", f"{width}, the model's d_model")
