"""Where the graph of features draws each of them: sites as rows, low layers at the bottom; across, by Cohen's d.

    x = 1/2 + d / (2 max|d|)        the second class's features to the left, the first's to the right

and no two of a site nearer than a gap: the nearest places (in least squares) that keep the order, by isotonic
regression. Features whose d no step says stand in the middle. With more features than gaps they are evenly spaced.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gnomon.methods.integrate import NODES
from gnomon.sites import Site

GAP = 0.085
"""Nearest that two of a site stand, where there is room: names of a row of twelve can be read."""


def place(d: np.ndarray, reach: float | None = None, gap: float = GAP) -> np.ndarray:
    """Places from 0 to 1 of the features of one site, `[n]`, in the order of `d` (NaN counts as 0); `reach` is the
    |d| that stands at an end."""
    from sklearn.isotonic import isotonic_regression

    values = np.nan_to_num(np.asarray(d, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    n = len(values)
    if not n:
        return values
    most = float(np.abs(values).max()) if reach is None else reach
    wanted = np.clip(0.5 + values / (2 * most), 0, 1) if most > 0 else np.full(n, 0.5)
    order = np.argsort(wanted, kind="stable")
    step = min(gap, 1 / (n - 1)) if n > 1 else 0.0
    room = np.arange(n) * step
    spread = isotonic_regression(wanted[order] - room, y_min=0.0, y_max=max(1 - room[-1], 0.0))
    out = np.empty(n)
    out[order] = np.clip(np.asarray(spread) + room, 0, 1)
    return out


def node_rows(features: pd.DataFrame, classes: tuple[str, str]) -> pd.DataFrame:
    """Table `nodes` of the table of features."""
    sites = sorted({str(s) for s in features["site"]}, key=lambda s: Site.parse(s))
    d = np.asarray(features["d"], dtype=np.float64)
    joined = np.asarray(features[["upstream", "downstream"]].fillna(0).sum(axis=1) > 0)
    reach = float(np.nanmax(np.abs(d))) if np.isfinite(d).any() else 0.0
    x, near = np.full(len(d), np.nan), np.full(len(d), np.nan)
    for site in sites:
        here = np.asarray(features["site"] == site)
        x[here] = place(d[here], reach)
        near[here & joined] = place(d[here & joined], reach)
    out: Any = features[["name", "site", "layer", "feature", "d", "is_causal", "upstream", "downstream"]].copy()
    out["class"] = [classes[0] if v > 0 else classes[1] if v < 0 else None for v in d]
    out["row"] = [sites.index(str(s)) for s in features["site"]]
    out["x"], out["x_connected"] = x, near
    return out.reindex(columns=NODES.names)
