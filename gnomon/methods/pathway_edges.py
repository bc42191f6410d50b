"""From traces prompt by prompt to the table of edges: means, intervals over prompts, shares, and what it all cost.

    attribution = mean_p A_p     gradient = sum_p A_p / sum_p z_p     share = attribution / mean_p z_v,p

The interval resamples the target's prompts, one of each group. Plain percentiles are too narrow for so few, and are
widened as Student's t is (Hesterberg 2015, arXiv 1411.5279, "expanded percentile"):

    quantiles q and 1 - q,  q = Phi(-sqrt(n / (n - 1)) t(.975; n - 1)),  n groups

It tells how far the prompts agree; the edges were chosen for being strong in these same prompts, so what they are worth
elsewhere is for `replay` on held-out rows to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.latents import Latent
from gnomon.methods.chain_tables import FLAG, NUMBER, PATHWAYS, TEXT, WHOLE
from gnomon.stats import group_weights

FEWEST = 5
"""Prompts below which there is no interval."""
EDGES = pa.schema(
    [*PATHWAYS, ("target_activation", NUMBER), ("active_prompts", WHOLE), ("source_activation", NUMBER),
     ("listed", FLAG)]
)  # fmt: skip
"""PATHWAYS, and: the target's mean activation; in how many of its prompts the source is active; the source's activation
summed over positions, mean over prompts; whether the source is among the separations too."""
TARGETS = pa.schema(
    [("target_name", TEXT), ("target_site", TEXT), ("target_layer", WHOLE), ("activation", NUMBER), ("prompts", WHOLE),
     ("candidates", WHOLE), ("kept", WHOLE), ("strongest", TEXT), ("share", NUMBER), ("kept_share", NUMBER)]
)  # fmt: skip
"""One row a target. candidates: sources active in any of its prompts; kept_share: sum of |share| over the kept."""
LAYERS = pa.schema([("source_site", TEXT), ("target_site", TEXT), ("kind", TEXT), ("edges", WHOLE), ("value", NUMBER)])
"""One row a pair of sites and kind: how many edges are kept, and their mean |share|."""
COST = pa.schema(
    [("what", TEXT), ("features", WHOLE), ("pathways", WHOLE), ("seconds", NUMBER), ("peak_bytes", WHOLE),
     ("shelf_bytes", WHOLE), ("loads", WHOLE), ("device", TEXT), ("note", TEXT)]
)  # fmt: skip
FULL = (1550, 25)
"""Features (50 of each of 31 layers) and pathways of each to which the cost is extrapolated."""


def edges(
    traces: pd.DataFrame, traced: pd.DataFrame, groups: Mapping[int, str], listed: set[str], kinds: Sequence[str],
    draws: int, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """Table `pathways`: one row a kept edge and kind.

    Args:
        traces, traced: as the workers wrote them.
        groups: of each row; listed: names of the separations' latents.
        kinds: those that are written.
    """
    parts: list[pd.DataFrame] = []
    wanted = traces.loc[traces["kind"].isin(kinds).to_numpy()]
    by_target = {str(target): part for target, part in wanted.groupby("target", sort=False)}
    for target, mine in traced.groupby("target", sort=False):
        rows, now = mine["row"].tolist(), mine["activation"].to_numpy(dtype=np.float64)
        own = by_target.get(str(target))
        if own is not None:
            weights = _weights(np.array([groups[int(r)] for r in rows]), draws, seed)
            parts.append(_edges_of(Latent.parse(str(target)), own, rows, now, weights, listed))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=EDGES.names)


def _weights(groups: np.ndarray, draws: int, seed: int) -> tuple[np.ndarray, float] | None:
    """Draws of the groups, and the quantile at which an interval of their means begins; None for too few."""
    from scipy.stats import norm, t

    n = len(np.unique(groups))
    if n < FEWEST:
        return None
    return group_weights(groups, draws, seed), float(norm.cdf(-((n / (n - 1)) ** 0.5) * t.ppf(0.975, n - 1)))


def _edges_of(
    target: Latent, own: pd.DataFrame, rows: Sequence[int], now: np.ndarray,
    weights: tuple[np.ndarray, float] | None, listed: set[str],
) -> pd.DataFrame:  # fmt: skip
    """Edges of one target: every (source, kind) has a line for each of its rows."""
    place = {row: i for i, row in enumerate(rows)}
    own = own.assign(place=[place[int(r)] for r in own["row"]]).sort_values(["rank", "kind", "place"])
    shape = (-1, len(rows))
    a, z = (own[c].to_numpy(dtype=np.float64).reshape(shape) for c in ("attribution", "source_activation"))
    first = own.iloc[:: len(rows)]
    mean, active, sources = a.mean(1), z > 0, [Latent.parse(str(name)) for name in first["source_name"]]
    low, high = np.full((2, len(a)), np.nan)
    if weights is not None:
        drawn, tail = weights
        low, high = np.quantile((drawn @ a.T) / drawn.sum(1, keepdims=True), [tail, 1 - tail], axis=0)
    agree = (np.sign(a) == np.sign(mean)[:, None]) & active
    return pd.DataFrame({
        "source_site": [str(s.site) for s in sources], "source": [s.index for s in sources],
        "source_name": [str(s) for s in sources], "source_layer": [s.site.layer for s in sources],
        "target_site": str(target.site), "target": target.index, "target_name": str(target),
        "target_layer": target.site.layer, "kind": first["kind"].tolist(), "gradient": a.sum(1) / z.sum(1),
        "attribution": mean, "ci_low": low, "ci_high": high, "share": mean / now.mean(), "rank": first["rank"].tolist(),
        "prompts": len(rows), "same_sign": agree.sum(1) / active.sum(1), "target_activation": now.mean(),
        "active_prompts": active.sum(1), "source_activation": z.mean(1), "listed": [str(s) in listed for s in sources],
    }, columns=EDGES.names)  # fmt: skip


def target_rows(found: pd.DataFrame, traced: pd.DataFrame) -> pd.DataFrame:
    """Table `targets`."""
    out = []
    for name, mine in traced.groupby("target", sort=False):
        latent = Latent.parse(str(name))
        own = found.loc[np.asarray((found["target_name"] == name) & (found["kind"] == "total"))].sort_values("rank")
        out.append({
            "target_name": str(name), "target_site": str(latent.site), "target_layer": latent.site.layer,
            "activation": float(mine["activation"].to_numpy(dtype=np.float64).mean()), "prompts": len(mine),
            "candidates": int(mine["candidates"].iloc[0]), "kept": len(own),
            "strongest": str(own["source_name"].iloc[0]) if len(own) else "",
            "share": own["share"].tolist()[0] if len(own) else np.nan,
            "kept_share": float(np.abs(own["share"].to_numpy(dtype=np.float64)).sum()),
        })  # fmt: skip
    return pd.DataFrame(out, columns=TARGETS.names)


def layer_rows(found: pd.DataFrame) -> pd.DataFrame:
    """Table `layers`."""
    out = []
    for key, part in found.groupby(["source_site", "target_site", "kind"], sort=True):
        s, t, k = (str(v) for v in cast("tuple[Any, ...]", key))
        value = float(np.abs(part["share"].to_numpy(dtype=np.float64)).mean())
        out.append({"source_site": s, "target_site": t, "kind": k, "edges": len(part), "value": value})
    return pd.DataFrame(out, columns=LAYERS.names)


def cost_rows(infos: Sequence[Mapping[str, Any]], top: int, device: str, targets: int) -> pd.DataFrame:
    """Table `cost`: measured, all `targets` of the study, a thousand features, and the full run of FULL.

    Time grows with the number of targets (each has as many prompts); peak memory does not, for they are traced a chunk
    at a time.
    """
    features = sum(int(i["features"]) for i in infos)
    seconds = float(sum(float(i["seconds"]) for i in infos))
    peak, shelf = (max((int(i[k]) for i in infos), default=0) for k in ("peak_bytes", "shelf_bytes"))
    loads = sum(int(i["loads"]) for i in infos)
    each = seconds / max(features, 1)
    note = "extrapolated with this study's model, dictionaries and prompts: seconds by the number of targets"
    counts = {"measured": (features, top), "all targets": (targets, top), "1,000 features": (1000, top),
              "full run": FULL}  # fmt: skip
    return pd.DataFrame([
        {"what": what, "features": n, "pathways": n * k, "seconds": n * each, "peak_bytes": peak, "shelf_bytes": shelf,
         "loads": loads if what == "measured" else None, "device": device, "note": "" if what == "measured" else note}
        for what, (n, k) in counts.items()
    ], columns=COST.names).astype({"loads": "Int64"})  # fmt: skip
