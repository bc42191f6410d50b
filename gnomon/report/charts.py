"""Figure blocks as plotly specifications: line with a band, bars, scatter, histogram, heat map."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from gnomon.blocks import Figure
from gnomon.errors import UserError
from gnomon.report.axes import (
    DATA_ROWS,
    SYMBOLS,
    Chart,
    Series,
    finish,
    floats,
    hover,
    label,
    places,
    split_series,
    x_title,
    y_title,
)
from gnomon.report.escape import chart_text
from gnomon.report.formats import number
from gnomon.report.rows import column, keep, plain, require, select
from gnomon.report.tables import SIZES, is_numeric
from gnomon.store import Artifact

POINTS = 4000
BARS = 120
"""Rows that a figure draws at most: a page is read, not mined."""


def chart(block: Figure, artifact: Artifact) -> Chart:
    """Draw a Figure block. A column that is not there, or one that should hold numbers and does not, is a UserError."""
    wanted = [n for n in (block.x, block.y, block.color, block.low, block.high, block.value) if n]
    require(artifact, block.table, wanted)
    rows = select(artifact, block.table, block.where, [*wanted, *SIZES])
    measured = block.x if block.kind == "histogram" else block.value if block.kind == "heatmap" else block.y
    if not measured or not is_numeric(column(rows, measured)):
        raise UserError(
            f"figure {block.title or block.kind!r} of {artifact.name}/{block.table} draws {measured!r}",
            "a column of numbers",
        )
    source = f"{artifact.name}/{block.table}"
    rows = keep(rows, column(rows, measured).notna())
    limit = {"line": POINTS, "scatter": POINTS, "bar": BARS}.get(block.kind, len(rows))
    if len(rows) <= limit:
        return DRAW[block.kind](block, rows, source)
    chosen = np.arange(limit) if block.kind == "bar" else np.linspace(0, len(rows) - 1, limit).round().astype(int)
    drawn = DRAW[block.kind](block, rows.iloc[chosen], source)
    which = "the first of the table" if block.kind == "bar" else "evenly chosen along the table"
    return replace(drawn, total=len(rows), note=f"{limit:,} of {len(rows):,} rows are drawn, {which}.")


def _errors(block: Figure, rows: pd.DataFrame, colour: str) -> dict[str, Any]:
    y = column(rows, block.y).to_numpy(dtype=float)
    return {
        "type": "data", "symmetric": False, "color": colour, "thickness": 1.4, "width": 4,
        "array": floats(np.maximum(column(rows, block.high).to_numpy(dtype=float) - y, 0)),
        "arrayminus": floats(np.maximum(y - column(rows, block.low).to_numpy(dtype=float), 0)),
    }  # fmt: skip


def _line(block: Figure, rows: pd.DataFrame, source: str) -> Chart:
    data: list[dict[str, Any]] = []
    if is_numeric(column(rows, block.x)):
        rows = rows.sort_values(block.x, kind="stable")
    all_series = split_series(block, rows)
    for s in all_series:
        if block.low and block.high and is_numeric(column(rows, block.x)):
            data.append(_band(block, s))
    for s in all_series:
        dotted = len(s.rows) <= 60 and not s.control
        trace = {
            "type": "scatter", "mode": "lines+markers" if dotted else "lines", "name": chart_text(s.name),
            "legendgroup": chart_text(s.name), "x": places(column(s.rows, block.x)),
            "y": floats(column(s.rows, block.y)),
            "hovertext": hover(block, s), "hoverinfo": "text", "connectgaps": False,
            "line": {"color": s.colour, "width": 1.6 if s.control else 2.2,
                     "dash": s.dash},
            "marker": {"color": s.colour, "size": 6, "symbol": SYMBOLS[s.style % len(SYMBOLS)]},
        }  # fmt: skip
        if block.low and block.high and not is_numeric(column(rows, block.x)):
            trace["error_y"] = _errors(block, s.rows, s.colour)
        data.append(trace)
    return finish(block, rows, all_series, data, source)


def _band(block: Figure, s: Series) -> dict[str, Any]:
    """The interval as closed polygons, one for each run of points that have one: a gap stays a gap."""
    ring_x: list[float | None] = []
    ring_y: list[float | None] = []
    points = list(
        zip(
            floats(column(s.rows, block.x)),
            floats(column(s.rows, block.low)),
            floats(column(s.rows, block.high)),
            strict=True,
        )
    )
    run: list[tuple[Any, Any, Any]] = []
    for point in [*points, (None, None, None)]:
        if None not in point:
            run.append(point)
            continue
        if run:
            ring_x += [p[0] for p in run] + [p[0] for p in reversed(run)] + [None]
            ring_y += [p[1] for p in run] + [p[2] for p in reversed(run)] + [None]
        run = []
    return {
        "type": "scatter", "mode": "lines", "x": ring_x[:-1], "y": ring_y[:-1], "fill": "toself", "hoverinfo": "skip",
        "showlegend": False, "legendgroup": chart_text(s.name), "name": chart_text(s.name),
        "fillcolor": s.faint, "line": {"color": s.faint, "width": 1},
    }  # fmt: skip


def _bar(block: Figure, rows: pd.DataFrame, source: str) -> Chart:
    all_series = split_series(block, rows)
    names = list(dict.fromkeys(label(block.x, v) for v in column(rows, block.x)))
    across = len(names) > 9 or max((len(n) for n in names), default=0) > 16
    data: list[dict[str, Any]] = []
    for s in all_series:
        x, y = [chart_text(label(block.x, v), 40) for v in column(s.rows, block.x)], floats(column(s.rows, block.y))
        trace: dict[str, Any] = {
            "type": "bar", "name": chart_text(s.name), "x": y if across else x, "y": x if across else y,
            "orientation": "h" if across else "v", "hovertext": hover(block, s), "hoverinfo": "text",
            "textposition": "none", "marker": {"color": s.colour, "line": {"width": 0}},
        }  # fmt: skip
        if len(all_series) > 1:
            shapes = ("/", "\\", ".", "x") if s.control else ("", "/", "\\", ".")
            trace["marker"]["pattern"] = {
                "shape": shapes[s.style % 4], "fillmode": "overlay", "fgcolor": "@paper", "fgopacity": 0.7, "size": 7,
                "solidity": 0.22,
            }  # fmt: skip
        if block.low and block.high:
            trace["error_x" if across else "error_y"] = _errors(block, s.rows, "@text")
        data.append(trace)
    done = finish(block, rows, all_series, data, source, across)
    category = [chart_text(n, 40) for n in names]
    done.layout["yaxis" if across else "xaxis"].update(type="category", categoryorder="array", categoryarray=category)
    done.layout.update(barmode="group", bargap=0.35, bargroupgap=0.08)
    if across:
        done.layout["yaxis"]["autorange"] = "reversed"
    height = max(260, 90 + len(names) * max(26, 18 * len(all_series))) if across else 340
    return replace(done, height=height)


def _scatter(block: Figure, rows: pd.DataFrame, source: str) -> Chart:
    all_series = split_series(block, rows)
    data: list[dict[str, Any]] = []
    for s in all_series:
        trace: dict[str, Any] = {
            "type": "scatter", "mode": "markers", "name": chart_text(s.name), "x": places(column(s.rows, block.x)),
            "y": floats(column(s.rows, block.y)), "hovertext": hover(block, s), "hoverinfo": "text",
            "marker": {"color": s.colour, "size": 7, "opacity": 0.7 if len(rows) > 150 else 0.85,
                       "symbol": SYMBOLS[s.style % len(SYMBOLS)], "line": {"width": 0.5, "color": "@paper"}},
        }  # fmt: skip
        if block.low and block.high:
            trace["error_y"] = _errors(block, s.rows, s.colour)
        data.append(trace)
    return finish(block, rows, all_series, data, source)


def _histogram(block: Figure, rows: pd.DataFrame, source: str) -> Chart:
    """Counts in bins shared by all series (Freedman-Diaconis over all values, 8 to 40 bins)."""
    values = column(rows, block.x).to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return finish(block, rows.iloc[:0], [], [], source)
    count = int(np.clip(len(np.histogram_bin_edges(values, bins="fd")) - 1 if np.ptp(values) else 8, 8, 40))
    edges = np.histogram_bin_edges(values, bins=count)
    all_series = split_series(block, rows)
    data, table = [], []
    for s in all_series:
        own = column(s.rows, block.x).to_numpy(dtype=float)
        heights = np.histogram(own[np.isfinite(own)], bins=edges)[0]
        ranges = [f"{number(float(a))} to {number(float(b))}" for a, b in pairwise(edges)]
        name = f"{chart_text(s.name)}<br>" if s.name else ""
        data.append(
            {"type": "bar", "name": chart_text(s.name), "x": floats((edges[:-1] + edges[1:]) / 2),
             "y": heights.tolist(), "width": float(edges[1] - edges[0]), "hoverinfo": "text", "textposition": "none",
             "hovertext": [f"{name}{r}: {h}" for r, h in zip(ranges, heights, strict=True)],
             "marker": {"color": s.colour, "opacity": 0.7 if len(all_series) > 1 else 1,
                        "line": {"width": 1, "color": "@paper"}}}
        )  # fmt: skip
        table += [[*([s.name] if block.color else []), r, str(h)] for r, h in zip(ranges, heights, strict=True)]
    done = finish(block, rows, all_series, data, source, upright=True)
    done.layout.update(barmode="overlay", bargap=0)
    done.layout["yaxis"]["title"]["text"] = chart_text(block.y_title or "count")
    headers = [*([block.color] if block.color else []), x_title(block), "count"]
    return replace(done, headers=headers, rows=table[:DATA_ROWS], total=len(table))


def _heatmap(block: Figure, rows: pd.DataFrame, source: str) -> Chart:
    xs, ys = (_axis(column(rows, c)) for c in (block.x, block.y))
    grid: list[list[float | None]] = [[None] * len(xs) for _ in ys]
    x_at, y_at = {v: i for i, v in enumerate(xs)}, {v: i for i, v in enumerate(ys)}
    for x, y, z in zip(column(rows, block.x), column(rows, block.y), floats(column(rows, block.value)), strict=True):
        i, j = y_at[plain(y)], x_at[plain(x)]
        if grid[i][j] is not None:
            raise UserError(
                f"figure {block.title!r} of {source} has several rows at {block.x}={x}, {block.y}={y}",
                "one row a cell", "add a condition to where",
            )  # fmt: skip
        grid[i][j] = z
    seen = [z for line in grid for z in line if z is not None]
    middle = block.reference if block.reference is not None else 0.0 if min(seen, default=0) < 0 else None
    texts = [
        [f"{chart_text(x_title(block))} {chart_text(label(block.x, x))}<br>{chart_text(y_title(block))} "
         f"{chart_text(label(block.y, y))}<br>{chart_text(block.value)} {number(grid[i][j], '', block.value)}"
         for j, x in enumerate(xs)] for i, y in enumerate(ys)
    ]  # fmt: skip
    trace: dict[str, Any] = {
        "type": "heatmap", "z": grid, "x": [chart_text(label(block.x, x), 40) for x in xs],
        "y": [chart_text(label(block.y, y), 40) for y in ys], "hovertext": texts, "hoverinfo": "text", "xgap": 1,
        "ygap": 1, "colorscale": "@diverging" if middle is not None else "@sequential",
        "colorbar": {"thickness": 10, "outlinewidth": 0, "tickfont": {"color": "@muted-text", "size": 11}},
    }  # fmt: skip
    if middle is not None and seen:
        reach = max(abs(z - middle) for z in seen) or 1.0
        trace.update(zmin=middle - reach, zmax=middle + reach)
    done = finish(block, rows, [], [trace], source)
    done.layout["xaxis"].update(type="category", showgrid=False)
    done.layout["yaxis"].update(type="category", showgrid=False, autorange="reversed")
    done.layout["shapes"], done.layout["annotations"] = [], []
    return replace(done, height=int(min(820, max(240, 110 + 20 * len(ys)))))


def _axis(column: pd.Series) -> list[Any]:
    values = list(dict.fromkeys(plain(v) for v in column))
    return sorted(values) if is_numeric(column) else values


DRAW = {"line": _line, "bar": _bar, "scatter": _scatter, "histogram": _histogram, "heatmap": _heatmap}
