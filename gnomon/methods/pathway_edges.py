"""From traces prompt by prompt to the table of edges: means, intervals over prompts, shares, and what it all cost.

    attribution = mean_p A_p     gradient = sum_p A_p / sum_p z_p     share = attribution / mean_p z_v,p

The interval resamples the target's prompts, one of each group. It tells how far the prompts agree; the edges were
chosen for being strong in these same prompts, so what they are worth elsewhere is for `replay` on held-out rows to say.
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
    out: list[dict[str, Any]] = []
    for target, mine in traced.groupby("target", sort=False):
        rows, now = mine["row"].to_numpy(), mine["activation"].to_numpy(dtype=np.float64)
        own = traces.loc[np.asarray(traces["target"] == target)]
        own = own.loc[own["kind"].isin(kinds).to_numpy()]
        if not len(own):
            continue
        weights = _weights(np.array([groups[int(r)] for r in rows]), draws, seed)
        for key, line in own.groupby(["rank", "kind"], sort=True):
            rank, kind = cast("tuple[Any, ...]", key)
            by_row = line.set_index("row").loc[rows.tolist()]
            a, z = (by_row[c].to_numpy(dtype=np.float64) for c in ("attribution", "source_activation"))
            first = by_row.iloc[0]
            out.append(_edge(Latent.parse(str(target)), first, str(kind), int(rank), a, z, now, weights)
                       | {"listed": str(first["source_name"]) in listed})  # fmt: skip
    return pd.DataFrame(out, columns=EDGES.names)


def _weights(groups: np.ndarray, draws: int, seed: int) -> np.ndarray | None:
    return group_weights(groups, draws, seed) if len(np.unique(groups)) >= FEWEST else None


def _edge(
    target: Latent, first: Any, kind: str, rank: int, a: np.ndarray, z: np.ndarray, now: np.ndarray,
    weights: np.ndarray | None,
) -> dict[str, Any]:  # fmt: skip
    mean, active = float(a.mean()), z > 0
    low, high = (np.nan, np.nan)
    if weights is not None:
        low, high = np.quantile(weights @ a / weights.sum(1), [0.025, 0.975])
    source = Latent.parse(str(first["source_name"]))
    return {
        "source_site": str(source.site), "source": source.index, "source_name": str(source),
        "source_layer": source.site.layer, "target_site": str(target.site), "target": target.index,
        "target_name": str(target), "target_layer": target.site.layer, "kind": kind,
        "gradient": float(a.sum() / z.sum()), "attribution": mean, "ci_low": float(low), "ci_high": float(high),
        "share": mean / float(now.mean()), "rank": rank, "prompts": len(a),
        "same_sign": float(np.mean(np.sign(a[active]) == np.sign(mean))), "target_activation": float(now.mean()),
        "active_prompts": int(active.sum()), "source_activation": float(z.mean()),
    }  # fmt: skip


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


def cost_rows(infos: Sequence[Mapping[str, Any]], top: int, device: str) -> pd.DataFrame:
    """Table `cost`: measured, a thousand features, and the full run of FULL.

    Time grows with the number of targets (each has as many prompts); peak memory does not, for they are traced a chunk
    at a time.
    """
    features = sum(int(i["features"]) for i in infos)
    seconds = float(sum(float(i["seconds"]) for i in infos))
    peak, shelf = (max((int(i[k]) for i in infos), default=0) for k in ("peak_bytes", "shelf_bytes"))
    loads = sum(int(i["loads"]) for i in infos)
    each, note = seconds / max(features, 1), "extrapolated: seconds by the number of targets, memory as measured"
    rows = [("measured", features, top, seconds, loads, ""), ("1,000 features", 1000, top, 1000 * each, None, note),
            ("full run", FULL[0], FULL[1], FULL[0] * each, None, note)]  # fmt: skip
    return pd.DataFrame([
        {"what": what, "features": n, "pathways": n * k, "seconds": s, "peak_bytes": peak, "shelf_bytes": shelf,
         "loads": m, "device": device, "note": said} for what, n, k, s, m, said in rows
    ], columns=COST.names).astype({"loads": "Int64"})  # fmt: skip
