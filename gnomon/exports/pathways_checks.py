"""data_validation.json of layout pathways: the older counts, and the checks of our own tables behind `validated`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gnomon.methods.chain_audit import patch_checks, pathway_checks, separation_checks


def validation(
    causal: pd.DataFrame, responses: pd.DataFrame, separations: pd.DataFrame, edges: pd.DataFrame | None
) -> dict[str, Any]:
    """causal_by_layer, joinable_features, validated (some feature joins and no check fails), and each check.

    joinable_features: causal features with responses, joined by exact name. A failed or empty join is no validation.
    """
    rows = causal.loc[np.asarray(causal["is_causal"].fillna(False), dtype=bool)]
    by_layer = rows.groupby("layer", sort=True).size()
    answered = {str(n) for n in responses["name"] if n}
    joined = sorted(str(n) for n in rows["name"] if n in answered)
    checks = [
        *separation_checks("features", separations),
        *patch_checks("patch_features", causal, responses, separations),
        *(pathway_checks("pathways", edges, separations, causal) if edges is not None else ()),
    ]
    own = responses.loc[np.asarray(responses["kind"] != "control")]
    trials = own.groupby(["name", "condition"])["trial"].nunique()
    return {
        "causal_by_layer": {str(layer): int(n) for layer, n in by_layer.items()},
        "joinable_features": joined,
        "validated": bool(joined) and not any(c.level == "fail" for c in checks),
        "features": len(causal), "causal_features": len(rows),
        "conditions": sorted(str(c) for c in own["condition"].unique()),
        "trials": {"least": int(trials.min()), "median": float(trials.median()), "most": int(trials.max())}
        if len(trials) else None,
        "checks": [c.row() for c in checks],
    }  # fmt: skip
