"""Rows of two tables matched by the columns that name them, and cells held against each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

SETTINGS = ("temperature", "coefficient", "strength", "alpha", "penalty", "threshold", "quantile")
"""Columns of fractions that name a row."""
LATE = ("row", "example_index", "unit", "index", "draw", "rank")
"""Numbers of rows: only where names do not tell them apart, since another n numbers them anew."""
FOUND = re.compile(
    r"n|n_\w+|count|value|text|answer\w*|label\w*|reason\w*|note|detail|level|verdict|why|finish|selected|chosen|prompt|"
    r"messages|meta|greedy|baselines|prompt_hash|seed|cell"
)
"""Columns of what was found, not of what it was found about: keys only where nothing else is left."""


def key_columns(tables: Sequence[pd.DataFrame]) -> list[str]:
    """The columns that name the rows of all tables, which have the same columns."""
    columns = list(tables[0].columns)

    def order(name: str) -> tuple[int, int]:
        fraction = any(t[name].dtype.kind == "f" for t in tables) and name not in SETTINGS
        rank = 3 if fraction else 2 if FOUND.fullmatch(name) else 1 if name in LATE else 0
        return rank, columns.index(name)

    keys: list[str] = []
    counts = [min(len(t), 1) for t in tables]
    for name in sorted(columns, key=order):
        if all(c == len(t) for c, t in zip(counts, tables, strict=True)) or order(name)[0] > 2:
            break
        more = [int((~t.duplicated([*keys, name])).sum()) for t in tables]
        if any(m > c for m, c in zip(more, counts, strict=True)):
            keys, counts = [*keys, name], more
    return keys


def matched(a: pd.DataFrame, b: pd.DataFrame, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Places in A and in B of the rows that both have."""
    frames = []
    for table, place in ((a, "_a"), (b, "_b")):
        frame = pd.DataFrame({key: table[key] for key in keys}, index=table.index)
        for key in keys:
            if a[key].dtype != b[key].dtype:
                frame[key] = frame[key].astype(str)
        frame["_again"] = frame.groupby(list(keys), dropna=False).cumcount() if keys else np.arange(len(table))
        frame[place] = np.arange(len(table))
        frames.append(frame)
    both = frames[0].merge(frames[1], on=[*keys, "_again"], how="inner").sort_values("_a")
    return both["_a"].to_numpy(dtype=np.int64), both["_b"].to_numpy(dtype=np.int64)


def interval_of(column: str, columns: Sequence[str]) -> tuple[str, str]:
    """Names of the columns that hold a column's interval; ("", "") where it has none.

    X_low and X_high are X's; ci_low and ci_high are those of `value`, or else of the column before them.
    """
    for low, high in ((f"{column}_low", f"{column}_high"), (f"{column}_ci_low", f"{column}_ci_high")):
        if low in columns and high in columns:
            return low, high
    if "ci_low" in columns and "ci_high" in columns:
        main = "value" if "value" in columns else list(columns)[max(list(columns).index("ci_low") - 1, 0)]
        if column == main:
            return "ci_low", "ci_high"
    return "", ""


def changed_cells(x: pd.Series, y: pd.Series, tolerance: float) -> np.ndarray:
    """Which cells differ; two missing ones do not."""
    if x.dtype.kind in "iuf" and y.dtype.kind in "iuf":
        a, b = x.to_numpy(), y.to_numpy()
        same = (a == b) | ((a != a) & (b != b))
        with np.errstate(invalid="ignore"):
            near = np.isfinite(a) & np.isfinite(b)  # no share of infinity is small
            return (
                ~(same | near & (np.abs(b - a) <= tolerance * np.maximum(np.abs(a), np.abs(b)))) if tolerance else ~same
            )
    if x.dtype.kind == "b" and y.dtype.kind == "b":
        return x.to_numpy() != y.to_numpy()
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    return np.fromiter((not alike(a, b, tolerance) for a, b in pairs), bool, len(x))


def alike(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, np.ndarray | list | tuple) and isinstance(b, np.ndarray | list | tuple):
        return len(a) == len(b) and all(alike(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray | list | tuple) or isinstance(b, np.ndarray | list | tuple):
        return False
    if isinstance(a, float | np.floating) and isinstance(b, float | np.floating):
        most = max(abs(a), abs(b))
        return bool(a == b or (a != a and b != b) or (most < np.inf and abs(a - b) <= tolerance * most))
    return a is b or (missing(a) and missing(b)) or bool(a == b)


def missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def far(a: Any, b: Any) -> float:
    """|b - a| over the larger of them; 0 for what is no number."""
    if isinstance(a, int | float | np.number) and isinstance(b, int | float | np.number) and a == a and b == b:
        return abs(float(b) - float(a)) / max(abs(float(a)), abs(float(b)), 1e-300)
    return 0.0


def plain(value: Any) -> Any:
    """A cell as JSON has it."""
    if missing(value):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, int | float | str | bool) else str(value)
