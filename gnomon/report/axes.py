"""What every chart shares: series and their looks, labels, axes, the text alternative and the data table.

Colours are tokens ("@s0", "@muted"); the page's script fills them in from the theme, light or dark. Series differ
by dash and marker as well as by colour. Controls (shuffled, random, ...) are grey: the eye goes to the claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from gnomon.blocks import Figure
from gnomon.report.escape import chart_text, clip
from gnomon.report.formats import interval, is_missing, number
from gnomon.report.rows import column, keep, plain, records
from gnomon.report.tables import is_numeric, words

COLOURS = 7
DASHES = ("solid", "dash", "dot", "dashdot")
CONTROL_DASHES = ("dot", "dash", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "star")
CONTROL = re.compile(
    r"shuffled|random|sign.?flip|orthogonal|prevalence|chance|null|control|majority|isotropic|permut", re.IGNORECASE
)
DATA_ROWS = 400
UNNAMED = {"control": "claim", "": "none"}


@dataclass(frozen=True)
class Chart:
    """A chart ready for the page: plotly `data` and `layout`, a text alternative, and its data as a table."""

    data: list[dict[str, Any]]
    layout: dict[str, Any]
    description: str
    headers: list[str]
    rows: list[list[str]] = field(default_factory=list)
    total: int = 0
    source: str = ""
    height: int = 340
    note: str = ""
    """What of the rows is drawn, where it is not all of them."""


@dataclass(frozen=True)
class Series:
    """Rows of one colour: `style` picks colour, dash and marker; controls are grey."""

    name: str
    rows: pd.DataFrame
    style: int
    control: bool

    @property
    def colour(self) -> str:
        return "@muted" if self.control else f"@s{self.style % COLOURS}"

    @property
    def dash(self) -> str:
        dashes = CONTROL_DASHES if self.control else DASHES
        return dashes[self.style % len(dashes)]

    @property
    def faint(self) -> str:
        return self.colour + "-faint"


def floats(values: Iterable[Any]) -> list[float | None]:
    """Numbers at six significant digits (the page need not carry seventeen), None where missing."""
    return [None if is_missing(v) else float(f"{float(v):.6g}") for v in values]


def places(values: pd.Series) -> list[Any]:
    return floats(values) if is_numeric(values) else [chart_text(label("", v), 40) for v in values]


def label(column: str, value: Any) -> str:
    value = plain(value)
    if value is None or value == "":
        return UNNAMED.get(column, UNNAMED[""])
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return number(value, "", column) if isinstance(value, int | float) else words(value)


def split_series(block: Figure, rows: pd.DataFrame) -> list[Series]:
    if not block.color:
        return [Series("", rows, 0, False)]
    out: list[Series] = []
    claims = 0
    for value in dict.fromkeys(plain(v) for v in column(rows, block.color)):
        mask = column(rows, block.color).isna() if value is None else column(rows, block.color) == value
        name = label(block.color, value)
        control = bool(CONTROL.search(name)) and name != UNNAMED["control"]
        out.append(Series(name, keep(rows, mask), len(out) - claims if control else claims, control))
        claims += not control
    if all(s.control for s in out):  # nothing to set them apart from: they are what the figure is about
        return [Series(s.name, s.rows, i, False) for i, s in enumerate(out)]
    return sorted(out, key=lambda s: s.control)


def hover(block: Figure, series: Series) -> list[str]:
    texts = []
    for r in records(series.rows):
        ends = f" {interval(r[block.low], r[block.high], row=r)}" if block.low and block.high else ""
        name = f"{chart_text(series.name)}<br>" if series.name else ""
        x, y = chart_text(label(block.x, r[block.x]), 80), number(r[block.y], "", block.y)
        texts.append(f"{name}{chart_text(x_title(block), 40)} {x}<br>{chart_text(y_title(block), 40)} {y}{ends}")
    return texts


def x_title(block: Figure) -> str:
    return block.x_title or block.x.replace("_", " ")


def y_title(block: Figure) -> str:
    return block.y_title or block.y.replace("_", " ")


def finish(block: Figure, rows: pd.DataFrame, all_series: list[Series], data: list[dict[str, Any]], source: str,
            upright: bool = False) -> Chart:  # fmt: skip
    """Axes, the reference line (`upright`: across the other way), the description and the data table."""
    axis = {"gridcolor": "@grid", "zerolinecolor": "@grid", "linecolor": "@grid", "automargin": True,
            "tickfont": {"color": "@muted-text", "size": 12}}  # fmt: skip
    title = {"font": {"color": "@muted-text", "size": 13}, "standoff": 10}
    along, up = chart_text(x_title(block), 80), chart_text(y_title(block), 80)
    sideways = upright and block.kind == "bar"
    layout: dict[str, Any] = {
        "xaxis": {**axis, "title": {**title, "text": up if sideways else along}, "showgrid": sideways,
                  "zeroline": sideways},
        "yaxis": {**axis, "title": {**title, "text": "" if sideways else up}, "showgrid": not sideways},
        "showlegend": len(all_series) > 1 and block.color != block.x, "shapes": [], "annotations": [],
    }  # fmt: skip
    if block.reference is not None:
        measured = column(rows, block.x if block.kind == "histogram" else block.y)
        _refer(layout, block, upright, not rows.empty and block.reference > (measured.min() + measured.max()) / 2)
    columns = list(dict.fromkeys(c for c in (block.color, block.x, block.y, block.value, block.low, block.high) if c))
    table = [[_datum(block, r, c) for c in columns] for r in records(rows.head(DATA_ROWS))]
    return Chart(data, layout, describe(block, rows, all_series), columns, table, len(rows), source)


def _datum(block: Figure, record: dict[str, Any], name: str) -> str:
    """One cell of the data table under a figure."""
    if name in (block.low, block.high) and is_missing(record[name]):
        return interval(None, None, row=record)
    return clip(label(name, record[name]) if name in (block.color, block.x) else number(record[name], "", name), 120)


def _refer(layout: dict[str, Any], block: Figure, upright: bool, beyond: bool) -> None:
    """Draw the reference line with its label beside it, on the side that leaves it inside the plot."""
    along, across = ("x", "y") if upright else ("y", "x")
    line = {f"{along}0": block.reference, f"{along}1": block.reference, f"{along}ref": along}
    line |= {f"{across}0": 0, f"{across}1": 1, f"{across}ref": "paper"}
    layout["shapes"] = [{"type": "line", "line": {"color": "@text", "width": 1.2, "dash": "dot"}, **line}]
    if not block.reference_label:
        return
    label_at: dict[str, Any] = {"x": 1, "xanchor": "right", "yanchor": "bottom", "y": block.reference}
    if upright:
        label_at = {"x": block.reference, "xanchor": "right" if beyond else "left", "xshift": -5 if beyond else 5,
                    "y": 1, "yanchor": "top"}  # fmt: skip
    layout["annotations"] = [{
        "text": chart_text(block.reference_label), "showarrow": False, "font": {"color": "@muted-text", "size": 12},
        f"{along}ref": along, f"{across}ref": "paper", **label_at,
    }]  # fmt: skip


def describe(block: Figure, rows: pd.DataFrame, all_series: list[Series]) -> str:
    """The chart in a sentence, for those who cannot see it."""
    kind = {"bar": "Bar chart", "line": "Line chart", "scatter": "Scatter plot", "histogram": "Histogram",
            "heatmap": "Heat map"}[block.kind]  # fmt: skip
    measured = block.x if block.kind == "histogram" else block.value if block.kind == "heatmap" else block.y
    what = f"{kind} of {measured.replace('_', ' ')}"
    if block.kind == "heatmap":
        what += f" over {x_title(block)} and {y_title(block)}"
    elif block.kind != "histogram":
        what = f"{kind} of {y_title(block)} over {x_title(block)}"
    if len(all_series) > 1:
        what += f", {len(all_series)} series ({clip(', '.join(s.name for s in all_series), 160)})"
    if rows.empty:
        return f"{what}: no data."
    values = column(rows, measured)
    text = f"{what}: {len(rows):,} points from {number(values.min())} to {number(values.max())}"
    if block.kind in ("line", "bar"):
        best = records(rows.iloc[[int(np.nanargmax(values))]])[0]
        of = f" ({label(block.color, best[block.color])})" if len(all_series) > 1 else ""
        text += f", highest at {clip(label(block.x, best[block.x]), 60)}{of}"
    if block.low and block.high:
        text += ", with intervals"
    return text + "."
