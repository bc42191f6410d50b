"""Nulls and families: label permutation by group, max-statistic and pooled nulls, BH and Holm, what n can detect.

Sources: permutation p = (1 + hits) / (1 + draws) (Phipson & Smyth 2010); whole-block exchangeability (Winkler et al.
2015); Westfall & Young's max-T (1993); Benjamini & Hochberg 1995; Holm 1979; the variance of AUROC is Hanley & McNeil's
(1982). numpy and scipy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from scipy import special

BLOCK = 500_000
"""Numbers of one block of draws: memory is that of the labels and some blocks."""


def permuted(
    labels: np.ndarray,
    groups: np.ndarray,
    draws: int,
    seed: int | Sequence[int] | np.random.Generator = 0,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """Labels shuffled by group: `[n, draws]`.

    Groups swap their whole label vectors with groups of the same size (and of the same stratum), so that the
    dependence inside a group and the class balance stay as they are. A group that shares its size with nobody keeps
    its labels, which only makes the null harder to beat.

    Args:
        labels: `[n]`, any dtype.
        groups: `[n]`.
        strata: `[n]`; a group belongs to the stratum of its first row (splits, difficulty bins, or both joined).
    """
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    out = np.repeat(labels[:, None], draws, axis=1)
    for rows in blocks(groups, strata):
        for start in range(0, draws, max(1, BLOCK // rows.size)):
            some = min(draws - start, max(1, BLOCK // rows.size))
            order = rng.permuted(np.broadcast_to(np.arange(len(rows)), (some, len(rows))), axis=1)
            out[rows.reshape(-1), start : start + some] = labels[rows[order]].reshape(some, -1).T
    return out


def blocks(groups: np.ndarray, strata: np.ndarray | None = None) -> list[np.ndarray]:
    """Sets of groups that may swap: a list of row indices `[n_groups, size]`, by stratum and size."""
    _, which = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(which.max(initial=-1) + 2))
    sizes = np.diff(starts)
    level = np.zeros(len(which), dtype=np.int64) if strata is None else np.unique(strata, return_inverse=True)[1]
    first = level[order[starts[:-1]]] if len(sizes) else np.zeros(0, dtype=np.int64)
    out = []
    for stratum, size in sorted(set(zip(first.tolist(), sizes.tolist(), strict=True))):
        members = np.flatnonzero((first == stratum) & (sizes == size))
        out.append(order[starts[members][:, None] + np.arange(size)])
    return out


def movable(groups: np.ndarray, strata: np.ndarray | None = None) -> float:
    """Share of rows whose group can swap labels with another one; a null is weak where this is small."""
    return sum(b.size for b in blocks(groups, strata) if len(b) > 1) / max(len(groups), 1)


def quantile_strata(values: np.ndarray, bins: int = 5) -> np.ndarray:
    """Stratum `[n]` of each value by quantiles (its own stratum for NaN); few distinct values are kept apart."""
    values = np.asarray(values, dtype=np.float64)
    known = values[np.isfinite(values)]
    distinct = np.unique(known)
    if len(distinct) <= bins:
        edges = (distinct[1:] + distinct[:-1]) / 2
    else:
        edges = np.unique(np.quantile(known, np.arange(1, bins) / bins))
    return np.where(np.isfinite(values), np.searchsorted(edges, values, side="right"), -1).astype(np.int64)


def auroc_columns(scores: np.ndarray, labels: np.ndarray, folds: np.ndarray | None = None) -> np.ndarray:
    """AUROC of every column within folds -> `[m]`; scores and labels are `[n, m]`, or `[n]` for all columns."""
    from scipy.stats import rankdata  # slow to import, and few callers need it

    scores, labels = (v[:, None] if v.ndim == 1 else v for v in map(np.asarray, (scores, labels)))
    n, m = len(scores), max(scores.shape[1], labels.shape[1])
    fold = np.zeros(n, dtype=np.int64) if folds is None else np.unique(folds, return_inverse=True)[1]
    wins, pairs, width = np.zeros(m), np.zeros(m), max(1, BLOCK // max(n, 1))
    for k in range(fold.max(initial=-1) + 1):
        here = np.flatnonzero(fold == k)
        alone = rankdata(scores[here], axis=0) if scores.shape[1] == 1 else None  # one ranking serves all labels
        for start in range(0, m, width):
            at = slice(start, start + width)
            ranks = alone if alone is not None else rankdata(scores[here, at], axis=0)
            y = (labels if labels.shape[1] == 1 else labels[:, at])[here].astype(np.float64)
            n_pos = y.sum(axis=0)
            wins[at] += (ranks * y).sum(axis=0) - n_pos * (n_pos + 1) / 2
            pairs[at] += n_pos * (len(y) - n_pos)
    return np.divide(wins, pairs, out=np.full(m, np.nan), where=pairs > 0)


def p_value(observed: float, null: np.ndarray, side: Literal["greater", "two-sided"] = "greater") -> float:
    """(1 + null draws at least as extreme) / (1 + draws); two-sided is about the null's own mean."""
    null = np.asarray(null, dtype=np.float64)
    null = null[np.isfinite(null)]
    if not np.isfinite(observed) or not len(null):
        return float("nan")
    if side == "two-sided":
        observed, null = abs(observed - null.mean()), np.abs(null - null.mean())
    return (1 + int((null >= observed - 1e-12).sum())) / (1 + len(null))


def max_statistic(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Family-wise p of each of `observed [m]` against the largest of each draw of `null [draws, m]` (max-T)."""
    largest = np.nanmax(np.asarray(null, dtype=np.float64), axis=1)
    return np.array([p_value(float(v), largest) for v in np.asarray(observed)])


def pooled(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """p of each of `observed [m]` against all draws of all members: for families whose members share one null."""
    draws = np.asarray(null, dtype=np.float64).reshape(-1)
    return np.array([p_value(float(v), draws) for v in np.asarray(observed)])


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p (q) that controls the false discovery rate under independence or positive dependence; NaN stays."""
    return _step(p, lambda m: m / np.arange(1, m + 1), from_top=True)


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p that controls the family-wise error without assumptions; NaN stays."""
    return _step(p, lambda m: m - np.arange(m), from_top=False)


def _step(p: np.ndarray, factors, from_top: bool) -> np.ndarray:
    p = np.asarray(p, dtype=np.float64)
    out, known = np.full(p.shape, np.nan), np.isfinite(p)
    values = p[known]
    order = np.argsort(values, kind="stable")
    scaled = values[order] * factors(len(values))
    scaled = np.minimum.accumulate(scaled[::-1])[::-1] if from_top else np.maximum.accumulate(scaled)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(scaled, 1.0)
    out[known] = adjusted
    return out


# ---------------------------------------------------------------- what a number of rows can show


def auroc_se(area: float, n_pos: int, n_neg: int) -> float:
    """Standard error of an AUROC by Hanley & McNeil; sqrt((n_pos + n_neg + 1) / (12 n_pos n_neg)) at .5."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (n_pos - 1) * (q1 - area**2) + (n_neg - 1) * (q2 - area**2)
    return float(np.sqrt(max(variance, 0.0) / (n_pos * n_neg)))


def detectable_auroc(n_pos: int, n_neg: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest AUROC above .5 that a two-sided test at `alpha` finds with `power`; NaN where none below 1 is."""
    if min(n_pos, n_neg) < 2:
        return float("nan")
    z_alpha, z_power = float(special.ndtri(1 - alpha / 2)), float(special.ndtri(power))
    se0 = auroc_se(0.5, n_pos, n_neg)

    def short(area: float) -> float:
        return area - 0.5 - z_alpha * se0 - z_power * auroc_se(area, n_pos, n_neg)

    return _root(short, 0.5, 1.0) if short(1.0) > 0 else float("nan")


def detectable_difference(
    n: int, base: float = 0.5, power: float = 0.8, alpha: float = 0.05, disagree: float | None = None
) -> float:
    """Smallest accuracy difference that `n` rows a condition find.

    Unpaired: two shares, the lower one `base` (two-proportion z test). Paired (`disagree` given): the same rows twice,
    `disagree` the share on which the two conditions differ (McNemar). NaN where no difference up to 1 is enough.
    """
    if n < 2:
        return float("nan")
    z_alpha, z_power = float(special.ndtri(1 - alpha / 2)), float(special.ndtri(power))

    def short(change: float) -> float:
        if disagree is not None:
            spread0, spread1 = np.sqrt(disagree / n), np.sqrt(max(disagree - change**2, 0.0) / n)
        else:
            other, middle = base + change, base + change / 2
            spread0 = np.sqrt(2 * middle * (1 - middle) / n)
            spread1 = np.sqrt((base * (1 - base) + other * (1 - other)) / n)
        return change - z_alpha * spread0 - z_power * spread1

    largest = min(disagree, 1.0) if disagree is not None else 1.0 - base
    if largest <= 0 or short(largest) <= 0:
        return float("nan")
    return _root(short, 0.0, largest)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import root_scalar

    return float(root_scalar(function, bracket=(low, high)).root)
