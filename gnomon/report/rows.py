"""Rows of a step's tables: read once, chosen by conditions, handed on as columns or plain records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from gnomon.errors import unknown
from gnomon.report.formats import is_missing
from gnomon.store import Artifact

_READ: WeakKeyDictionary[Artifact, dict[tuple[str, ...], pd.DataFrame]] = WeakKeyDictionary()
_COLUMNS: WeakKeyDictionary[Artifact, dict[str, list[str]]] = WeakKeyDictionary()


def columns(artifact: Artifact, table: str) -> list[str]:
    """Column names of a table, from the header of its first file alone; an unknown table is a UserError.

    Read once for each open artifact: a report asks for them at every number.
    """
    names = _COLUMNS.setdefault(artifact, {})
    if table not in names:
        names[table] = list(artifact.schema(table).names)
    return list(names[table])


def read(artifact: Artifact, table: str, names: Iterable[str] | None = None) -> pd.DataFrame:
    """A table of a step, or those of `names` that it has; read once for each open artifact, which never changes.

    A table of answers may hold gigabytes of logits: what a block does not show is not read.
    """
    have = columns(artifact, table)
    wanted = have if names is None else [name for name in have if name in set(names)]
    tables = _READ.setdefault(artifact, {})
    key = (table, *wanted)
    if key not in tables:
        tables[key] = artifact.table(table, wanted)
    return tables[key]


def column(rows: pd.DataFrame, name: str) -> pd.Series:
    """One column, by name."""
    return cast(pd.Series, rows[name])


def keep(rows: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """The rows where `mask` is true."""
    return cast(pd.DataFrame, rows[mask])


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries of plain Python values, None where missing."""
    names = [str(c) for c in rows.columns]
    columns = [[plain(v) for v in rows.iloc[:, i]] for i in range(len(names))]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def plain(cell: Any) -> Any:
    """A table cell as Python holds it: numpy scalars become numbers, arrays lists, what is missing None."""
    if isinstance(cell, np.ndarray):
        return [plain(v) for v in cell.tolist()]
    if isinstance(cell, np.generic):
        cell = cell.item()
    return None if is_missing(cell) else cell


def require(artifact: Artifact, table: str, names: Iterable[str]) -> None:
    """Refuse column names that the table lacks, with the nearest one."""
    known = columns(artifact, table)
    for name in names:
        if name not in known:
            raise unknown(f"column of {artifact.name}/{table}", name, known)


def select(
    artifact: Artifact, table: str, where: Mapping[str, Any], names: Iterable[str] | None = None
) -> pd.DataFrame:
    """Rows of `table` where every column of `where` has that value (None: is missing; a list: is one of).

    `names` are the columns wanted beside those of `where`, where the table has them; None is all.
    """
    require(artifact, table, list(where))
    rows = read(artifact, table, None if names is None else [*names, *where])
    for name, wanted in where.items():
        rows = keep(rows, matches(column(rows, name), wanted))
    return rows


def matches(values: pd.Series, wanted: Any) -> np.ndarray:
    """Where a column has a value: `[rows]` bool."""
    if isinstance(wanted, list | tuple | set | frozenset):
        found = values.isin([w for w in wanted if not is_missing(w)]).to_numpy(dtype=bool)
        return found | values.isna().to_numpy() if any(is_missing(w) for w in wanted) else found
    if is_missing(wanted):
        return values.isna().to_numpy(dtype=bool)
    held = values.to_numpy() if isinstance(values.dtype, np.dtype) else None
    if held is not None and held.dtype.kind in "biuf" and isinstance(wanted, int | float | np.number):
        return held == wanted  # in the column's own width: 0.1 finds 0.1 in a float32 column
    return np.array([not is_missing(v) and bool(np.all(v == wanted)) for v in values], dtype=bool)
