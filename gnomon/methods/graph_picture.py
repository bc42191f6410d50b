"""The graph of features as one static SVG, for the report: the same places, colours and dashes as the page."""

from __future__ import annotations

import math
from html import escape

import numpy as np
import pandas as pd

from gnomon.methods.integrate import main_kind

WIDTH, LEFT, RIGHT, ROW, TOP, FOOT = 1000, 130, 30, 84, 34, 54
LABELS = 14
"""Features of a row whose names are written; in fuller rows only the causal ones."""
STYLE = """
svg { font: 11px system-ui, sans-serif; --paper: #fffefb; --text: #1f1d1a; --muted: #68635a; --rule: #e4dfd4;
 --first: #1f66ad; --second: #d9730d; --none: #8f8a80; --up: #1f66ad; --down: #b65a10 }
@media (prefers-color-scheme: dark) { svg { --paper: #1a1b21; --text: #eae7e0; --muted: #a39e94; --rule: #30323a;
 --first: #6aaef0; --second: #f59b45; --none: #8b8780; --up: #6aaef0; --down: #f0a052 } }
.paper { fill: var(--paper) } text { fill: var(--text); paint-order: stroke; stroke: var(--paper); stroke-width: 3px }
.quiet { fill: var(--muted) } .rule { stroke: var(--rule) }
.edge { fill: none; opacity: .75 } .up { stroke: var(--up) } .down { stroke: var(--down) }
.no { stroke-dasharray: 6 4; opacity: .45 } .open { stroke-dasharray: 1.5 4; opacity: .45 }
.first { fill: var(--first) } .second { fill: var(--second) } .none { fill: var(--none) }
.ring { fill: none; stroke: var(--text); stroke-width: 2 }
"""


def picture(nodes: pd.DataFrame, edges: pd.DataFrame, classes: tuple[str, str], strongest: int) -> str:
    """SVG of the features that have a pathway (of all, where none has) and the strongest pathways by |attribution|."""
    joined = nodes.loc[np.asarray(nodes["x_connected"].notna())]
    shown, column = (joined, "x_connected") if len(joined) else (nodes, "x")
    rows = sorted({int(r) for r in shown["row"]})
    height = TOP + ROW * max(len(rows), 1) + FOOT
    place = {
        str(r["name"]): (LEFT + float(r[column]) * (WIDTH - LEFT - RIGHT), _y(rows, int(r["row"])))
        for r in shown.to_dict("records")
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img"><style>{STYLE}</style><rect class="paper" width="{WIDTH}" height="{height}"/>'
    ]
    for row in rows:
        site = str(shown.loc[np.asarray(shown["row"] == row), "site"].iloc[0])
        y = _y(rows, row)
        parts.append(f'<line class="rule" x1="{LEFT - 12}" x2="{WIDTH - 12}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="quiet" x="12" y="{y + 4}">{escape(site)}</text>')
    parts += _edges(edges, place, strongest)
    rings = sorted(shown.to_dict("records"), key=_is_causal)  # last, over their neighbours
    for r in rings:
        parts += _node(r, place[str(r["name"])], classes, int((shown["row"] == r["row"]).sum()) <= LABELS)
    foot = height - 16
    parts.append(f'<text class="second" x="{LEFT}" y="{foot}">\u2190 more active in {escape(classes[1])}</text>')
    parts.append(
        f'<text class="first" x="{WIDTH - RIGHT}" y="{foot}" text-anchor="end">'
        f"more active in {escape(classes[0])} \u2192</text>"
    )
    return "".join(parts) + "</svg>\n"


def _y(rows: list[int], row: int) -> float:
    """Low layers stand at the bottom."""
    return TOP + ROW * (len(rows) - 1 - rows.index(row)) + ROW / 2


def _edges(edges: pd.DataFrame, place: dict[str, tuple[float, float]], strongest: int) -> list[str]:
    mine = edges.loc[np.asarray(edges["kind"] == main_kind(edges))]
    size = np.abs(np.nan_to_num(np.asarray(mine["attribution"], dtype=np.float64)))
    order = np.argsort(-size, kind="stable")[:strongest][::-1]  # the strongest are drawn last, on top
    most = float(size.max(initial=0.0)) or 1.0
    out = []
    for i in order:
        r = mine.iloc[int(i)]
        (x0, y0), (x1, y1) = place[str(r["source_name"])], place[str(r["target_name"])]
        middle = (y0 + y1) / 2
        how = " open" if pd.isna(r["validated"]) else "" if r["validated"] else " no"
        sign = "up" if r["attribution"] >= 0 else "down"
        width = 0.7 + 4.5 * math.sqrt(size[i] / most)
        out.append(
            f'<path class="edge {sign}{how}" stroke-width="{width:.2f}" '
            f'd="M{x0:.1f} {y0:.1f}C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"/>'
        )
    return out


def _is_causal(row: dict) -> bool:
    return not pd.isna(row["is_causal"]) and bool(row["is_causal"])


def _node(row: dict, at: tuple[float, float], classes: tuple[str, str], named: bool) -> list[str]:
    x, y = at
    tone = {classes[0]: "first", classes[1]: "second"}.get(row["class"], "none")
    out = [f'<circle class="{tone}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>']
    causal = _is_causal(row)
    if causal:
        out.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="9.5"/>')
    if causal or named:
        out.append(f'<text x="{x:.1f}" y="{y + 23:.1f}" text-anchor="middle">{escape(str(row["name"]))}</text>')
    return out
