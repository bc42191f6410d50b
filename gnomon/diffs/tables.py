"""Which cells of a table moved between two folders of the same step.

Rows are matched by key columns: from the left, every column of names, whole numbers or settings that tells more rows
apart, until each row is one of a kind on both sides (rows that stay alike are matched in their order). A cell moved
where it is not equal; it is outside where the value of B lies outside A's interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.diffs.cells import changed_cells, far, interval_of, key_columns, matched, plain
from gnomon.store import Artifact

LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_struct, pa.types.is_map)


@dataclass(frozen=True)
class Move:
    """One cell that moved."""

    where: Mapping[str, Any]
    column: str
    a: Any
    b: Any
    interval: tuple[float, float] | None = None
    """A's, where the column has one."""
    outside: bool | None = None
    """B lies outside A's interval; None without one."""


@dataclass(frozen=True)
class TableDiff:
    """One table of both folders, or of one."""

    table: str
    rows: tuple[int | None, int | None]
    only_a: int = 0
    """Rows of A that B lacks."""
    only_b: int = 0
    columns: tuple[str, ...] = ()
    """Columns of one side alone."""
    keys: tuple[str, ...] = ()
    cells: int = 0
    """Compared, keys aside."""
    moved: int = 0
    outside: int = 0
    moves: list[Move] = field(default_factory=list)

    @property
    def same(self) -> bool:
        return not (self.moved or self.only_a or self.only_b or self.columns or None in self.rows)


def compare_tables(a: Artifact, b: Artifact, name: str, tolerance: float = 0.0, most: int = 20) -> TableDiff:
    """Match the rows of table `name`, and count the cells that differ; columns of lists are read one at a time."""
    schemas = [side.schema(name) for side in (a, b)]
    shared = [column for column in schemas[0].names if column in schemas[1].names]
    lone = tuple(sorted(set(schemas[0].names) ^ set(schemas[1].names)))
    flat = [c for c in shared if not any(is_list(s.field(c).type) for s in schemas for is_list in LISTS)]
    one, two = (x.table(name, flat) if flat else pd.DataFrame(index=range(x.outline(name)[0])) for x in (a, b))
    keys = key_columns([one, two])
    ia, ib = matched(one, two, keys)
    ends = {end for column in flat for end in interval_of(column, flat)}
    cells, moved, outside, moves = 0, 0, 0, []
    for column in (c for c in shared if c not in keys):
        x = (one if column in flat else a.table(name, [column]))[column].iloc[ia]
        y = (two if column in flat else b.table(name, [column]))[column].iloc[ib]
        where = np.flatnonzero(changed_cells(x, y, tolerance))
        bounds = _bounds(one, interval_of(column, flat), ia[where])
        pairs = list(zip(x.iloc[where].tolist(), y.iloc[where].tolist(), strict=True))
        point = np.array([_number(value) for _, value in pairs], dtype=float)
        beyond = (point < bounds[:, 0]) | (point > bounds[:, 1])
        cells, moved, outside = cells + len(x), moved + len(where), outside + int(beyond.sum())
        sizes = [far(*pair) for pair in pairs]
        for i in sorted(range(len(pairs)), key=lambda i: (not beyond[i], -sizes[i]))[:most]:
            known = not np.isnan(bounds[i]).any()
            labels = {key: plain(one[key].iloc[ia[where[i]]]) for key in keys}
            interval = (float(bounds[i, 0]), float(bounds[i, 1])) if known else None
            before, after = pairs[i]
            move = Move(labels, column, plain(before), plain(after), interval, bool(beyond[i]) if known else None)
            moves.append((not beyond[i], column in ends, -sizes[i], len(moves), move))
    return TableDiff(name, (len(one), len(two)), len(one) - len(ia), len(two) - len(ib), lone, tuple(keys), cells,
                     moved, outside, [move for *_, move in sorted(moves)[:most]])  # fmt: skip


def _bounds(table: pd.DataFrame, names: tuple[str, str], places: np.ndarray) -> np.ndarray:
    """Intervals `[n, 2]` of some rows; NaN where there are none."""
    if not names[0]:
        return np.full((len(places), 2), np.nan)
    columns = [np.array([_number(v) for v in table[name].iloc[places].tolist()], dtype=float) for name in names]
    return np.stack(columns, axis=1).reshape(-1, 2)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float | np.number) else np.nan
