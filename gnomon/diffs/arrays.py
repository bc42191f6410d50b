"""Arrays of two folders: those of equal hashes are not opened, the others are told by their largest difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.reading import load_array
from gnomon.store import Artifact

BLOCK = 4_000_000
"""Numbers of two arrays that are held at once."""


@dataclass(frozen=True)
class ArrayDiff:
    """Arrays of one name (the shards of activations at a site together) whose bytes differ."""

    array: str
    shapes: tuple[Any, Any]
    largest: float | None = None
    """The largest |B - A|; None where shapes differ, or a side was left out of a pack."""


def hashes(artifact: Artifact, name: str, suffix: str) -> list[str]:
    files = artifact.meta["files"]
    return [files[f]["sha256"] for f in sorted(files) if f == f"{name}{suffix}" or f.rpartition("/")[0] == name]


def compare_arrays(a: Artifact, b: Artifact, tolerance: float) -> list[ArrayDiff]:
    """Arrays whose bytes differ, activations of a site together."""
    names = sorted({name for x in (a, b) for f in x.meta["files"] if f.endswith(".npy") for name in [_array(f)]})
    out = []
    for name in names:
        if hashes(a, name, ".npy") == hashes(b, name, ".npy"):
            continue
        if any(file.startswith(f"{name}/") for x in (a, b) for file in x.left_out):
            out.append(ArrayDiff(name, ("left out" if a.left_out else "", "left out" if b.left_out else "")))
            continue
        parts = [_parts(x, name) for x in (a, b)]
        shapes = [[sum(map(len, part)), *part[0].shape[1:]] if part and part[0].ndim else [] if part else None
                  for part in parts]  # fmt: skip
        largest = None
        if shapes[0] == shapes[1] and [p.shape for p in parts[0]] == [p.shape for p in parts[1]]:
            largest, inside = _largest(parts[0], parts[1], tolerance)
            if inside:
                continue
        out.append(ArrayDiff(name, (shapes[0], shapes[1]), largest))
    return out


def _array(file: str) -> str:
    folder, _, name = file.rpartition("/")
    return folder if name[:-4].isdigit() and folder else file[:-4]


def _parts(artifact: Artifact, name: str) -> list[np.ndarray]:
    whole = artifact.path / f"{name}.npy"
    paths = [whole] if whole.is_file() else sorted((artifact.path / name).glob("*.npy"))
    return [load_array(path, artifact.path) for path in paths]


def _largest(a: Sequence[np.ndarray], b: Sequence[np.ndarray], tolerance: float) -> tuple[float | None, bool]:
    """The largest difference of two arrays, a block at a time, and whether all lie within the tolerance."""
    most, inside = 0.0, tolerance > 0
    for x, y in zip(a, b, strict=True):
        if x.dtype.kind not in "iufb" or y.dtype.kind not in "iufb":
            return None, False
        x, y = np.atleast_1d(x), np.atleast_1d(y)
        step = max(1, BLOCK // max(1, int(np.prod(x.shape[1:]))))
        for i in range(0, len(x), step):
            p, q = x[i : i + step].astype(np.float64), y[i : i + step].astype(np.float64)
            with np.errstate(invalid="ignore"):
                gap = np.where((p == q) | ((p != p) & (q != q)), 0.0, np.abs(p - q))
            gap[np.isnan(gap)] = np.inf  # NaN on one side only
            most = max(most, float(gap.max(initial=0.0)))
            inside = (
                inside
                and most < np.inf
                and bool(
                    (gap <= tolerance * np.fmax(np.abs(p), np.abs(q), where=gap > 0, out=np.zeros_like(gap))).all()
                )
            )
    return most, inside
