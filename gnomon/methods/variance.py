"""What predictions explain of held-out rows, block by block: shares of variance or deviance, beside their controls.

    R2         1 - squared error / variance about the mean, of a number
    deviance   1 - log loss / log loss of the best constant, of two classes (McFadden 1974); 0 for knowing nothing,
               below 0 for a prediction that is worse than the constant

All under weights `[b, n]`, so that increments of one block over others are paired over resamples of groups. Folds of a
cross-validation share training rows: half-widths are then multiplied by sqrt(1 + k / (k - 1)) (Nadeau & Bengio 2003).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gnomon import nulls, stats
from gnomon.methods.baselines import residuals
from gnomon.methods.controls import spread
from gnomon.methods.folds import widening
from gnomon.methods.increment import knows_more
from gnomon.methods.surface import Explained, Setting

SWAPS = 199
"""Times that finished predictions are swapped between groups."""


def deviance(logits: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of the best constant's log loss that predictions save; `weights [b, n]` -> `[b]`, NaN for one class."""
    y = np.asarray(y, dtype=np.float64)
    w = np.ones((1, len(y))) if weights is None else np.asarray(weights, dtype=np.float64)
    loss, n, hits = w @ (np.logaddexp(0.0, logits) - y * logits), w.sum(axis=1), w @ y
    p = np.clip(hits / np.maximum(n, 1e-300), 1e-300, 1)
    q = np.clip(1 - p, 1e-300, 1)
    least = -(hits * np.log(p) + (n - hits) * np.log(q))
    value = np.where((hits > 0) & (hits < n), 1 - loss / np.where(least > 0, least, 1.0), np.nan)
    return value[0] if weights is None else value


def explained(predicted: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """R2 of a number, the share of deviance of a class: `[b]` under weights `[b, n]`."""
    return (deviance if np.isin(y, (0, 1)).all() else stats.r2)(predicted, y, weights)


def explained_columns(predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`explained` of each column of predictions `[n, m]`: `[m]`."""
    target = y[:, None]
    if np.isin(y, (0, 1)).all():
        share = float(np.clip(y.mean(), 1e-300, 1 - 1e-16))
        least = -len(y) * (share * np.log(share) + (1 - share) * np.log(1 - share))
        return 1 - (np.logaddexp(0.0, predicted) - target * predicted).sum(axis=0) / least
    return 1 - ((predicted - target) ** 2).sum(axis=0) / max(float(((y - y.mean()) ** 2).sum()), 1e-300)


def score_rows(of: Explained, setting: Setting, split: str) -> list[dict[str, Any]]:
    """Lines of the table: by block and kind (alone, together, adds, partial), each with interval, control and p."""
    widen = widening(setting.folds) if split == "cv" else 1.0
    note = stats.thin_class(of.y > 0, "all" if split == "cv" else split, "surface") if of.binary else ""
    truth = of.y > 0 if of.binary else of.y
    loss = "deviance" if of.binary else "r2"
    weights = stats.group_weights(of.groups, setting.draws, [setting.seed, 37])
    metrics: dict[str, Callable[[np.ndarray, np.ndarray | None], np.ndarray]] = {
        loss: lambda f, w: explained(f, of.y, w)
    }
    columns: dict[str, Callable[[np.ndarray], np.ndarray]] = {loss: lambda f: explained_columns(f, of.y)}
    if of.binary:
        columns["auroc"] = lambda f: nulls.auroc_columns(f, of.y, of.folds)
        metrics["auroc"] = lambda f, w: stats.auroc(f, truth, w, of.folds)
    order = nulls.permuted(np.arange(len(of.y)), of.groups, SWAPS, [setting.seed, 41], of.folds)
    out = []

    def line(block: str, kind: str, metric: str, value: float, draws: np.ndarray, null: np.ndarray) -> None:
        good, low, high = draws[np.isfinite(draws)], np.nan, np.nan
        if not note and len(good) >= len(draws) / 2:
            low, high = value + widen * (np.quantile(good, (0.025, 0.975)) - value)
        known = spread(null)
        out.append({
            "block": block, "kind": kind, "metric": metric, "value": value, "ci_low": float(low),
            "ci_high": float(high), "control": known.value, "control_high": known.high,
            "p": float(nulls.p_value(value, null)), "n": len(of.y), "n_pos": int(truth.sum()) if of.binary else None,
            "groups": len(np.unique(of.groups)), "split": split, "note": note,
        })  # fmt: skip

    for metric, score in metrics.items():
        before: tuple[float, np.ndarray] | None = None
        for name in of.order:
            value, drawn = float(score(of.alone[name], None)), score(of.alone[name], weights)
            line(name, "alone", metric, value, drawn, columns[metric](of.alone[name][order]))
            whole, wholes = float(score(of.together[name], None)), score(of.together[name], weights)
            line(name, "together", metric, whole, wholes, columns[metric](of.together[name][order]))
            nulled = columns[metric](of.swapped[name])
            if before is not None:
                line(name, "adds", metric, whole - before[0], wholes - before[1], nulled - before[0])
            elif metric == loss:  # over the best constant, which explains nothing
                line(name, "adds", metric, whole, wholes, nulled)
            before = whole, wholes
    if of.combined is not None:
        s, e = residuals(of.combined, of.y)
        line("internal", "partial", "partial", float(_correlation(s, e)), _correlation(s, e, weights), np.zeros(0))
    return out


def _correlation(s: np.ndarray, e: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Correlation about 0 of residuals `[n]`, `[b]` under weights."""
    w = np.ones((1, len(s))) if weights is None else weights
    top, bottom = w @ (s * e), np.sqrt((w @ s**2) * (w @ e**2))
    value = np.divide(top, bottom, out=np.full(len(w), np.nan), where=bottom > 0)
    return value[0] if weights is None else value


def verdict(adds: Mapping[str, float], partial: Mapping[str, float], smallest: float) -> str:
    """What the internal block's increment says: `beyond`, `nothing` or `undecided`, by `increment.knows_more`."""
    return {"yes": "beyond", "no": "nothing", "undecided": "undecided"}[knows_more(adds, partial, smallest)]
