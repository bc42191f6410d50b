"""How well a score says what really happens: correlations and slope against real ablations, with intervals.

Setting a neuron to zero takes its effect away, so a score s is compared with -change, what was taken away: Pearson,
Spearman, and the least-squares slope of -change on s (1 where the score has the size of the real effect, and not only
its order). Intervals resample whole texts, since neurons of one text share its rounding and its context.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from gnomon.errors import UserError
from gnomon.stats import group_weights, spearman

CHECKS = pa.schema(
    [("direction", pa.string()), ("layer", pa.int64()), ("chosen", pa.string()), ("score", pa.string()),
     ("measure", pa.string()), ("value", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()),
     ("n", pa.int64()), ("texts", pa.int64()), ("neurons", pa.int64())]
)  # fmt: skip
"""direction: what the readout is; chosen: random or rank; score: which one; n: pairs of a text and a neuron."""

Measured = tuple[float, float, float]


def agreement(
    score: np.ndarray, change: np.ndarray, texts: np.ndarray, draws: int = 1000, seed: int = 0
) -> dict[str, Measured]:
    """pearson, spearman and slope of a score against -change, each (value, low, high).

    Args:
        score, change: `[pairs]`; change is the readout after the ablation minus before.
        texts: `[pairs]`, which text each pair is of.

    A score or change that never varies has NaN. UserError for arrays of different length, or fewer than 3 pairs.
    """
    s, y = np.asarray(score, dtype=np.float64), -np.asarray(change, dtype=np.float64)
    if s.shape != y.shape or s.ndim != 1 or len(s) < 3:
        raise UserError(f"{s.shape} scores beside {y.shape} changes", "one of each for 3 pairs or more")
    groups = np.asarray(texts)
    weights = np.ones((1, len(s)))
    if draws and len(np.unique(groups)) > 1:
        weights = np.concatenate([weights, group_weights(groups, draws, seed)])
    pearson, slope = _moments(s, y, weights)
    return {"pearson": _interval(pearson), "spearman": _interval(_spearman(s, y, weights)), "slope": _interval(slope)}


def _moments(s: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted Pearson correlation and slope of y on s, `[draws]` each."""
    total = weights.sum(1)
    ms, my = weights @ s / total, weights @ y / total
    spread = np.maximum(weights @ s**2 / total - ms**2, 0), np.maximum(weights @ y**2 / total - my**2, 0)
    shared = weights @ (s * y) / total - ms * my
    flat = (spread[0] <= 1e-24 * (1 + ms**2)) | (spread[1] <= 1e-24 * (1 + my**2))
    with np.errstate(invalid="ignore", divide="ignore"):
        pearson = np.where(flat, np.nan, shared / np.sqrt(spread[0] * spread[1]))
        return pearson, np.where(flat, np.nan, shared / spread[0])


def _spearman(s: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if np.ptp(s) == 0 or np.ptp(y) == 0:
        return np.full(len(weights), np.nan)
    return np.asarray(spearman(s, y, weights=weights))


def _interval(values: np.ndarray) -> Measured:
    """The first value, and the 2.5 and 97.5 percentiles of the others (NaN where there are none)."""
    drawn = values[1:][np.isfinite(values[1:])]
    if len(drawn) < 0.5 * max(len(values) - 1, 1) or not len(drawn):
        return float(values[0]), float("nan"), float("nan")
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(values[0]), float(low), float(high)
