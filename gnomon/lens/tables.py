"""Tables of the second-order step: schemas, the summary of each neuron, masses, comparisons of directions, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.methods.effects import ratio
from gnomon.methods.logit_lens import cosine
from gnomon.methods.second_order_metrics import correlation_interval, half_share

ROWS = pa.schema(
    [("index", pa.int64()), ("row", pa.int64()), ("example_id", pa.string()), ("group", pa.string()),
     ("split", pa.string()), ("label", pa.bool_()), ("target_token", pa.int64()), ("read_at", pa.int64()),
     ("token_start", pa.int64()), ("tokens", pa.int64())]
)  # fmt: skip
NEURONS = pa.schema(
    [("index", pa.int64()), ("layer", pa.int64()), ("slot", pa.int64()), ("neuron", pa.int64()), ("rank", pa.int64())]
)
HEADS = pa.schema([("layer", pa.int64()), ("index", pa.int64()), ("head_layer", pa.int64()), ("head", pa.int64())])
LAYERS = pa.schema(
    [("layer", pa.int64()), ("kept", pa.bool_()), ("which", pa.string()), ("mass", pa.float64()),
     ("share", pa.float64()), ("neurons", pa.int64()), ("rows", pa.int64())]
)  # fmt: skip
SUMMARY = pa.schema(
    [("direction", pa.string()), ("layer", pa.int64()), ("neuron", pa.int64()), ("mean", pa.float64()),
     ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("sd", pa.float64()), ("second", pa.float64()),
     ("share_of_mass", pa.float64()), ("sparsity", pa.float64()), ("direct", pa.float64()), ("total", pa.float64()),
     ("fit_second", pa.float64()), ("fit_rank", pa.int64()), ("ablation_r", pa.float64()), ("selected", pa.bool_()),
     ("n", pa.int64())]
)  # fmt: skip
COMPARED = pa.schema(
    [("a", pa.string()), ("b", pa.string()), ("cosine", pa.float64()), ("random_sd", pa.float64()),
     ("correlation", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("neurons", pa.int64())]
)  # fmt: skip
COSTS = pa.schema(
    [("stage", pa.string()), ("seconds", pa.float64()), ("peak_bytes", pa.int64()), ("bytes", pa.int64()),
     ("materialised_bytes", pa.float64()), ("materialised_seconds", pa.float64()), ("speedup", pa.float64()),
     ("rows", pa.int64()), ("neurons", pa.int64()), ("note", pa.string())]
)  # fmt: skip
SCORES = {
    "second": "second-order", "direct": "direct", "first_and_second": "direct + second-order", "total": "all-order",
    "grad_act": "gradient x activation",
}  # fmt: skip
"""Scores by their name in the tables, as the report calls them."""
FACTS = pa.schema([("fact", pa.string()), ("value", pa.float64()), ("text", pa.string())])


def summary_rows(
    name: str,
    layer: int,
    scores: np.ndarray,
    direct: np.ndarray,
    total: np.ndarray | None,
    fit: np.ndarray,
    test: np.ndarray,
    weights: np.ndarray,
    selected: Sequence[int],
    ablation_r: float,
) -> pd.DataFrame:
    """One direction's rows of a layer: order by mean |score| on fit, everything else measured on test rows.

    Args:
        scores, direct, total: `[N, d_mlp]`.
        fit, test: `[N]` bool.
        weights: bootstrap weights `[draws, test rows]`.
        ablation_r: the layer's correlation with real ablations, repeated on every row: what its scores are worth.
    """
    fit_second = np.abs(scores[fit]).mean(0)
    x = scores[test].astype(np.float64)
    value, low, high = ratio(x, np.ones((len(x), 1)), weights)
    second = np.abs(x).mean(0)
    rank = np.empty(len(second), dtype=np.int64)
    rank[np.argsort(-fit_second, kind="stable")] = np.arange(1, len(second) + 1)
    n = scores.shape[1]
    return pd.DataFrame({
        "direction": name, "layer": layer, "neuron": np.arange(n), "mean": value, "ci_low": low, "ci_high": high,
        "sd": x.std(0), "second": second, "share_of_mass": second / max(float(second.sum()), 1e-300),
        "sparsity": half_share(((x - x.mean(0)) ** 2).T)[0], "direct": np.abs(direct[test]).mean(0),
        "total": np.nan if total is None else np.abs(total[test]).mean(0), "fit_second": fit_second, "fit_rank": rank,
        "ablation_r": ablation_r, "selected": np.isin(np.arange(n), list(selected)), "n": len(x),
    })  # fmt: skip


def layer_rows(n_layers: int, kept: Sequence[int], masses: np.ndarray | None, d_mlp: int) -> pd.DataFrame:
    """Every layer's sum over neurons of mean |phi|, of `masses [n_layers, rows]`, and its share of all."""
    sums = np.full(n_layers, np.nan) if masses is None else masses.astype(np.float64).mean(1)
    return pd.DataFrame({
        "layer": range(n_layers), "kept": [a in kept for a in range(n_layers)],
        "which": ["kept layers" if a in kept else "other layers" for a in range(n_layers)], "mass": sums,
        "share": sums / sums.sum(),
        "neurons": d_mlp, "rows": 0 if masses is None else masses.shape[1],
    })  # fmt: skip


def compared(
    names: Sequence[str], vectors: Sequence[np.ndarray], means: Sequence[np.ndarray], draws: int, seed: int
) -> pd.DataFrame:
    """Every pair of directions: cosine (beside the spread of random ones, 1/sqrt(d)), and the correlation over neurons
    of the mean scores that they give, with its interval over neurons."""
    rows = []
    for i, a in enumerate(names):
        for j in range(i + 1, len(names)):
            found = correlation_interval(means[i], means[j], draws, seed)
            rows.append({
                "a": a, "b": names[j], "cosine": cosine(vectors[i], vectors[j]), "random_sd": len(vectors[i]) ** -0.5,
                "correlation": found.value, "ci_low": found.low, "ci_high": found.high, "neurons": len(means[i]),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=COMPARED.names)


def facts(known: Mapping[str, Any]) -> pd.DataFrame:
    """Settings and counts, one a row, for the report to point at."""
    rows = [
        {"fact": k, "value": None, "text": v} if isinstance(v, str) else {"fact": k, "value": float(v), "text": ""}
        for k, v in known.items()
    ]
    return pd.DataFrame(rows, columns=FACTS.names)
