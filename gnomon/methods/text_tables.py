"""What the text decomposition writes: schemas, what is measured of each neuron, and its tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.methods.sparse_text import Sparse
from gnomon.nulls import permuted

PHRASES = pa.schema(
    [("index", pa.int64()), ("layer", pa.int64()), ("neuron", pa.int64()), ("order", pa.int64()),
     ("phrase_index", pa.int64()), ("phrase", pa.string()), ("coefficient", pa.float64()), ("cosine", pa.float64())]
)  # fmt: skip
NEURONS = pa.schema(
    [("index", pa.int64()), ("layer", pa.int64()), ("neuron", pa.int64()), ("phrases", pa.string()),
     ("cosine", pa.float64()), ("random_cosine", pa.float64()), ("random_high", pa.float64()),
     ("mixed_cosine", pa.float64()), ("mixed_high", pa.float64()), ("p_mixed", pa.float64()),
     ("q_mixed", pa.float64()), ("needed", pa.int64()), ("test_share", pa.float64()), ("ci_low", pa.float64()),
     ("ci_high", pa.float64()), ("mixed_test_share", pa.float64()), ("agreement", pa.float64()),
     ("agreement_other", pa.float64()), ("p", pa.float64()), ("q", pa.float64()), ("evr", pa.float64()),
     ("clusters", pa.int64()), ("silhouette", pa.float64()), ("null_silhouette", pa.float64()),
     ("p_clusters", pa.float64()), ("q_clusters", pa.float64()), ("largest_cluster", pa.float64()),
     ("polysemantic", pa.bool_()), ("zero", pa.bool_()), ("n", pa.int64())]
)  # fmt: skip
OVERALL = pa.schema(
    [("measure", pa.string()), ("against", pa.string()), ("value", pa.float64()), ("ci_low", pa.float64()),
     ("ci_high", pa.float64()), ("control", pa.float64()), ("control_low", pa.float64()),
     ("control_high", pa.float64()), ("p", pa.float64()), ("neurons", pa.int64()), ("n", pa.int64()),
     ("m", pa.int64()), ("lexicon", pa.int64())]
)  # fmt: skip
COUNTS = pa.schema([("what", pa.string()), ("neurons", pa.int64()), ("of", pa.int64())])
PROMPTS = pa.schema(
    [("index", pa.int64()), ("layer", pa.int64()), ("neuron", pa.int64()), ("order", pa.int64()), ("row", pa.int64()),
     ("example_id", pa.string()), ("label", pa.bool_()), ("projection", pa.float64()), ("cosine", pa.float64()),
     ("prompt", pa.string())]
)  # fmt: skip
SHOWN = 5
"""Top-activating prompts that are kept for each neuron."""


@dataclass
class Measured:
    """What is measured neuron by neuron: agreement `[S, n]` with its top marks, and per-neuron columns."""

    cosine: np.ndarray
    top: np.ndarray
    along: np.ndarray
    """Projection of test rows' effects on the unit text reconstruction `[S, n]`."""
    mixed: np.ndarray
    """Share of test effects along each mixed reconstruction `[draws, S]`."""
    columns: dict[str, np.ndarray]
    silhouettes: np.ndarray

    @staticmethod
    def empty(neurons: int, n: int, draws: int) -> Measured:
        names = ("agreement", "p", "silhouette", "clusters", "largest_cluster")
        columns = {name: np.full(neurons, np.nan) for name in names}
        zeros = (np.zeros((neurons, n)), np.zeros((neurons, n), dtype=bool), np.zeros((neurons, n)))
        return Measured(*zeros, np.full((draws, neurons), np.nan), columns, np.full((neurons, draws), np.nan))


def unit(x: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.divide(x, size, out=np.zeros(x.shape), where=size > 0)


def mean_of(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def ends(values: np.ndarray, name: str) -> dict[str, float]:
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (float("nan"), float("nan"))
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def others(measured: Measured) -> np.ndarray:
    """Mean cosine of each neuron's reconstruction with the top rows of the other neurons: `[S]`."""
    live = measured.top.any(1)
    sums = measured.cosine @ measured.top.T / np.maximum(measured.top.sum(1), 1)
    np.fill_diagonal(sums, 0.0)
    others = live.sum() - live
    return np.where(live & (others > 0), sums[:, live].sum(1) / np.maximum(others, 1), np.nan)


def agreement_draws(measured: Measured, live: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Bootstrap draws of the mean agreement over neurons."""
    if not len(weights):
        return np.zeros(0)
    top = measured.top[live].astype(np.float64)
    bottom = weights @ top.T
    ratio = np.divide(weights @ (top * measured.cosine[live]).T, bottom, out=np.zeros(bottom.shape), where=bottom > 0)
    return ratio.sum(1) / np.maximum((bottom > 0).sum(1), 1)


def agreement_null(
    measured: Measured, live: np.ndarray, groups: np.ndarray, draws: int, seed: int
) -> np.ndarray:  # fmt: skip
    """Mean agreement over neurons when rows are shuffled by group, the same shuffle for every neuron."""
    order = permuted(np.arange(len(groups)), groups, draws, [seed, 61])
    top, cosine = measured.top[live], measured.cosine[live]
    total = np.maximum(top.sum(1), 1)
    return np.array([((top[:, order[:, d]] * cosine).sum(1) / total).mean() for d in range(draws)])


def named(found: Sparse, i: int, phrases: list[str], most: int = 4) -> str:
    """The first phrases with their signs: `+ the total cost; - without`."""
    pairs = [(p, c) for p, c in zip(found.phrases[i], found.coefficients[i], strict=True) if p >= 0][:most]
    return "; ".join(f"{'+' if c > 0 else '-'} {phrases[p]}" for p, c in pairs)


def phrase_rows(neurons: pd.DataFrame, phrases: list[str], found: Sparse) -> pd.DataFrame:
    s, m = np.nonzero(found.phrases >= 0)
    chosen = found.phrases[s, m]
    return pd.DataFrame({
        "index": np.asarray(neurons["index"])[s], "layer": np.asarray(neurons["layer"])[s],
        "neuron": np.asarray(neurons["neuron"])[s], "order": m + 1, "phrase_index": chosen,
        "phrase": [phrases[c] for c in chosen], "coefficient": found.coefficients[s, m], "cosine": found.cosine[s, m],
    })  # fmt: skip


def counts(table: pd.DataFrame, max_evr: float, many: int, alpha: float) -> pd.DataFrame:
    live = table.loc[~table["zero"]]
    needed = live["needed"]
    found: dict[str, Any] = {
        "agreement": live["q"] <= alpha, "beyond mixtures": live["q_mixed"] <= alpha,
        "clusters": live["q_clusters"] <= alpha, "low PC1": live["evr"] < max_evr,
        "many phrases": needed.isna() | (needed.fillna(0) > many), "reached": needed.notna(),
        "polysemantic": live["polysemantic"],
    }  # fmt: skip
    rows = [{"what": what, "neurons": int(np.asarray(mask, dtype=bool).sum())} for what, mask in found.items()]
    rows.append({"what": "zero", "neurons": int(table["zero"].to_numpy().sum())})
    return pd.DataFrame(rows).assign(of=len(live))


def prompt_rows(
    neurons: pd.DataFrame, rows: pd.DataFrame, projection: np.ndarray, measured: Measured,
    generations: pd.DataFrame | None,
) -> pd.DataFrame:  # fmt: skip
    """The test rows of largest projection, best first, with their prompts where the generations are known."""
    text = {} if generations is None else dict(zip(generations["row"], generations["prompt"], strict=True))
    out = []
    for i, neuron in enumerate(neurons.to_dict("records")):
        if neuron["zero"]:
            continue
        for order, at in enumerate(np.argsort(-projection[i], kind="stable")[:SHOWN].tolist()):
            row = rows.iloc[at]
            out.append({
                "index": neuron["index"], "layer": neuron["layer"], "neuron": neuron["neuron"], "order": order + 1,
                "row": int(row["row"]), "example_id": row["example_id"], "label": bool(row["label"]),
                "projection": float(projection[i, at]), "cosine": float(measured.cosine[i, at]),
                "prompt": text.get(int(row["row"]), ""),
            })  # fmt: skip
    return pd.DataFrame(out, columns=PROMPTS.names)
