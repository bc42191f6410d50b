"""Rows of a table by the values of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def pick(table: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The rows in which every named column has that value, or one of those values."""
    keep = np.ones(len(table), dtype=bool)
    for column, value in where.items():
        one_of = value if isinstance(value, list | tuple | set) else (value,)
        keep &= np.asarray(table[column].isin(list(one_of)), dtype=bool)
    return table.loc[keep]


def has(table: pd.DataFrame, **where: Any) -> bool:
    """True where there is such a row."""
    return len(pick(table, **where)) > 0


def records(table: pd.DataFrame, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Rows as dictionaries, all columns or some."""
    names = [str(c) for c in table.columns] if columns is None else list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*(table[c].tolist() for c in names), strict=True)]


def first(table: pd.DataFrame, **where: Any) -> dict[str, Any]:
    """The first such row by column; KeyError where there is none."""
    found = pick(table, **where)
    if found.empty:
        raise KeyError(where)
    return records(found.head(1))[0]
