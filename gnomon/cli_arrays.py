"""`gnomon show --arrays`: shape, type and size of every array of a step or study, and what is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.reading import load_array
from gnomon.store import META, Artifact, Study
from gnomon.text import size, table

BLOCK = 32_000_000
"""Bytes that are read at once."""


def arrays(path: str | Path) -> list[dict[str, Any]]:
    """A line an array of a step (STUDY/STEP) or of all steps of a study; every number is read, a block at a time.

    shape (rows of all shards together), dtype, bytes, shards, not_finite (how many numbers are NaN or infinite; null
    for whole numbers), low and high (of the finite ones). UserError for a file that is no .npy.
    """
    folder = Path(path)
    steps = [Artifact(folder)] if (folder / META).is_file() else list(Study(folder))
    return [_line(step, name, files) for step in steps for name, files in _files(step)]


def _files(step: Artifact) -> Iterator[tuple[str, list[Path]]]:
    """Arrays of a step by name: single files, then folders of shards (activations among them)."""
    for file in sorted(step.path.glob("*.npy")):
        yield file.stem, [file]
    inside = (p for p in step.path.rglob("*") if p.is_dir() and any(p.glob("*.npy")))
    for folder in sorted(inside, key=_place):
        yield folder.relative_to(step.path).as_posix(), sorted(folder.glob("*.npy"))


def _place(folder: Path) -> tuple[Any, ...]:
    """resid_post.2 before resid_post.10."""
    return tuple(
        (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in folder.name.replace("@", ".").split(".")
    )


def _line(step: Artifact, name: str, files: list[Path]) -> dict[str, Any]:
    parts = [load_array(file) for file in files]
    bad, low, high, real = 0, np.inf, -np.inf, parts[0].dtype.kind == "f"
    for part in parts:
        rows = max(1, BLOCK // max(1, part.nbytes // max(len(part), 1))) if part.ndim else 1
        for start in range(0, len(part) if part.ndim else 1, rows):
            block = np.asarray(part[start : start + rows] if part.ndim else part)
            good = block[np.isfinite(block)] if real else block
            bad += block.size - good.size
            if good.size and good.dtype.kind in "fiub":
                low, high = min(low, float(good.min())), max(high, float(good.max()))
    shape = (sum(map(len, parts)), *parts[0].shape[1:]) if parts[0].ndim else ()
    return {
        "step": step.name, "name": name, "shape": list(shape), "dtype": str(parts[0].dtype), "shards": len(parts),
        "bytes": sum(file.stat().st_size for file in files), "not_finite": bad if real else None,
        "low": low if np.isfinite(low) else None, "high": high if np.isfinite(high) else None,
    }  # fmt: skip


def render(lines: list[dict[str, Any]]) -> str:
    """The lines as a table, and one sentence on what is not finite."""
    if not lines:
        return "no arrays"
    rows = [
        (f"{x['step']}/{x['name']}", " x ".join(map(str, x["shape"])) or "one number", x["dtype"], size(x["bytes"]),
         str(x["shards"]), "" if x["not_finite"] is None else str(x["not_finite"]),
         "" if x["low"] is None else f"{x['low']:.4g}", "" if x["high"] is None else f"{x['high']:.4g}")
        for x in lines
    ]  # fmt: skip
    headers = ("array", "shape", "type", "size", "shards", "not finite", "least", "largest")
    bad = [f"{x['step']}/{x['name']}" for x in lines if x["not_finite"]]
    said = f"not finite somewhere: {', '.join(bad)}" if bad else "every number is finite"
    total = size(sum(x["bytes"] for x in lines))
    return f"arrays\n{table(rows, headers, '  ')}\n{len(lines)} arrays, {total}; {said}"
