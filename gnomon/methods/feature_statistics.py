"""How a latent differs between right and wrong rows: separation, Welch's t, AUROC, F1 - for many latents and labels.

    c_i        = y_i / sum(y) - (1 - y_i) / sum(1 - y)                     y in [0, 1]: a label, or a pass rate
    separation = sum_i c_i [a_i > 1e-6] = f_correct - f_incorrect           f: share of a class in which it is active
    AUROC      = 1/2 + sum_i c_i rank(a_i) / n                              ties share their mean rank
    t (rows)   = (m1 - m0) / sqrt(v1 / n1 + v0 / n0)                        Welch 1947; the one that candidates rank by
    t (groups) = slope / sqrt(sum_g (sum_{i in g} v_i e_i)^2)               the one that is told, on fit and on test

In the last, e are the residuals of a on y and v_i = c_i / sqrt(1 - h_i), h the leverage (HC2, MacKinnon & White 1985;
summed by group as in Liang & Zeger 1986): with one row a group it is Welch's t exactly. Latents are columns of a sparse
matrix, and all but t (rows) are linear in c, so thousands of shuffled labels cost one product each. float64 throughout.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy import sparse

from gnomon.stats import auroc as auroc_of

Statistic = Literal["separation", "t", "auroc"]
Matrix = Any
"""A scipy.sparse array `[n, k]` (csc or csr), a latent a column: pyright knows little of them."""


def contrasts(y: np.ndarray) -> np.ndarray:
    """c of every label column of `[n, m]`: `[n, m]`; zeros for a column of one value."""
    y = np.asarray(y, dtype=np.float64)
    mean = y.mean(axis=0)
    scale = len(y) * mean * (1 - mean)
    return np.divide(y - mean, scale, out=np.zeros_like(y), where=scale > 1e-12)


def fired(latents: Matrix) -> Matrix:
    """1 where a latent is active."""
    return sparse.csc_array((np.ones_like(latents.data, dtype=np.float64), latents.indices, latents.indptr),
                            shape=latents.shape)  # fmt: skip


def ranks(latents: Matrix) -> Matrix:
    """Mean rank of every active entry within its column, less the rank that its zeros share (which then is 0)."""
    n, columns = int(latents.shape[0]), int(latents.shape[1])
    column = np.repeat(np.arange(columns), np.diff(latents.indptr))
    order = np.lexsort((latents.data, column))
    value, of = latents.data[order], column[order]
    new = np.r_[True, (value[1:] != value[:-1]) | (of[1:] != of[:-1])][: len(value)]
    starts = np.flatnonzero(new)
    ends = np.r_[starts[1:], len(value)]
    first = np.repeat(starts + ends, ends - starts) / 2 - latents.indptr[of]  # mean place among the active, from 0
    zeros = n - np.diff(latents.indptr)[of]
    out = np.empty(len(value))
    out[order] = zeros + first + 0.5 - (zeros + 1) / 2 * (zeros > 0)
    full = np.flatnonzero(np.diff(latents.indptr) == n)  # no zeros: any constant may be taken off
    if len(full):
        here = np.isin(column, full)
        out[here] -= (n + 1) / 2
    return sparse.csc_array((out, latents.indices, latents.indptr), shape=latents.shape)


def statistics(latents: Matrix, y: np.ndarray, kind: Statistic) -> np.ndarray:
    """One statistic of every latent (columns of `[n, k]`) under every label column of `[n, m]`: `[k, m]`.

    `auroc` is given as its distance from 1/2, so that 0 means nothing, and the sign says which class, for all three.
    """
    if kind == "separation":
        return fired(latents).T @ contrasts(y)
    if kind == "auroc":
        return (ranks(latents).T @ contrasts(y)) / len(y)
    return welch(latents, y)


def welch(latents: Matrix, y: np.ndarray) -> np.ndarray:
    """Welch's t of rows, true class minus false: `[k, m]`; 0 where a latent or a label does not vary."""
    y = np.asarray(y, dtype=np.float64)
    values: Any = latents.astype(np.float64)
    squares = values.multiply(values).tocsc()
    n1 = y.sum(axis=0)
    n0 = len(y) - n1
    total, total2 = (np.asarray(m.sum(axis=0)).reshape(-1, 1) for m in (values, squares))
    one, two = values.T @ y, squares.T @ y
    with np.errstate(divide="ignore", invalid="ignore"):
        m1, m0 = one / n1, (total - one) / n0
        v1 = np.maximum(two / n1 - m1**2, 0) * n1 / (n1 - 1)
        v0 = np.maximum((total2 - two) / n0 - m0**2, 0) * n0 / (n0 - 1)
        error = np.sqrt(v1 / n1 + v0 / n0)
        # a class in which nothing varies and the other neither: as far out as a number can say
        t = (m1 - m0) / np.maximum(error, 1e-6 * np.abs(m1 - m0))
    return np.where(np.isfinite(t), t, 0.0)


def grouped_t(latents: Matrix, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """t of the difference with variance clustered by group: `[k]`; 0 where a latent does not vary."""
    y = np.asarray(y, dtype=np.float64)
    values: Any = latents.astype(np.float64)
    n, centred = len(y), y - y.mean()
    spread = float((centred**2).sum())
    if spread <= 1e-12:
        return np.zeros(latents.shape[1])
    c = centred / spread
    v = c / np.sqrt(np.maximum(1 - 1 / n - centred**2 / spread, 1e-12))
    which = np.unique(np.asarray(groups), return_inverse=True)[1]
    by_group: Any = sparse.csr_array((v, (which, np.arange(n))), shape=(which.max() + 1, n))
    ones, ys = by_group.sum(axis=1), by_group @ centred
    slope, mean = values.T @ c, np.asarray(values.sum(axis=0)) / n
    along = (by_group @ values).tocsc()
    square = np.asarray(along.multiply(along).sum(axis=0)).reshape(-1)
    a_one, a_y = along.T @ ones, along.T @ ys
    variance = square + mean**2 * (ones @ ones) + slope**2 * (ys @ ys)
    variance = variance - 2 * mean * a_one - 2 * slope * a_y + 2 * mean * slope * (ones @ ys)
    error = np.sqrt(np.maximum(variance, 0))
    return np.divide(slope, np.maximum(error, 1e-6 * np.abs(slope)), out=np.zeros(len(slope)), where=slope != 0)


def rates(latents: Matrix, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f_correct and f_incorrect of every latent, `[k]` each; NaN for an empty class."""
    on, y = fired(latents), np.asarray(y, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (on.T @ y) / y.sum(), (on.T @ (1 - y)) / (1 - y).sum()


def firing_f1(f_true: np.ndarray, f_false: np.ndarray, share: float) -> np.ndarray:
    """F1 of "the class is true where the latent is active", at the natural `share` of the class."""
    hit = f_true * share
    said = hit + f_false * (1 - share)
    return np.divide(2 * hit, said + share, out=np.zeros_like(hit), where=said + share > 0)


# ---------------------------------------------------------------- one latent, under bootstrap weights [b, n]


def soft_separation(on: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Separation of `on [n]` (0 or 1) with row weights `[b, n]`: `[b]`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights @ (y * on)) / (weights @ y) - (weights @ ((1 - y) * on)) / (weights @ (1 - y))


def soft_rate(on: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of a class (`y` its membership, 0 to 1) in which a latent is active: `[b]`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights @ (y * on)) / (weights @ y)


def soft_auroc(a: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC of `a [n]`: every row counts y times as right and 1 - y times as wrong: `[b]`."""
    labels = np.repeat([True, False], len(a))
    return auroc_of(np.concatenate([a, a]), labels, np.concatenate([weights * y, weights * (1 - y)], axis=1))


def soft_t(a: np.ndarray, y: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`grouped_t` of one latent `a [n]` with weights `[b, n]` that are the same for all rows of a group: `[b]`.

    A group of weight 2 is two groups; NaN where a label or the latent does not vary.
    """
    a, y = np.asarray(a, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _, first, which = np.unique(groups, return_index=True, return_inverse=True)
    order, sizes = np.argsort(which, kind="stable"), np.bincount(which)
    starts = np.cumsum(sizes) - sizes
    n = weights.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        centred = y - (weights @ y)[:, None] / n
        spread = (weights * centred**2).sum(axis=1, keepdims=True)
        slope = ((weights * centred) @ a)[:, None] / spread
        left = a - (weights @ a)[:, None] / n - slope * centred
        v = centred / spread / np.sqrt(np.maximum(1 - 1 / n - centred**2 / spread, 1e-12))
        sums = np.add.reduceat((v * left)[:, order], starts, axis=1)
        error = np.sqrt((weights[:, first] * sums**2).sum(axis=1))
        t = slope[:, 0] / np.maximum(error, 1e-6 * np.abs(slope[:, 0]))
    return np.where(np.isfinite(t), t, np.nan)


def soft_f1(said: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """F1 of `said [n]` (bool) for the class `y [n]`: `[b]`; 0 where there is nothing of either."""
    hit, total = weights @ (said * y), weights @ said.astype(np.float64) + weights @ y
    return np.divide(2 * hit, total, out=np.zeros(len(hit)), where=total > 0)


def active_threshold(a: np.ndarray, y: np.ndarray, metric: str = "f1", floor: float = 1e-6) -> float:
    """The threshold at or above `floor` (a > threshold says yes) with the largest F1, or accuracy, of the class `y`.

    A latent that is not active never says yes, so that always-yes is not among the choices: it stands beside them.
    The lowest of equals. Cost: one sort.
    """
    on = a > floor
    edges, which = np.unique(a[on], return_inverse=True)
    cuts = np.r_[floor, (edges[1:] + edges[:-1]) / 2]
    said, hit = (
        np.cumsum(np.bincount(which, weights=w, minlength=len(edges))[::-1])[::-1] if len(edges) else np.zeros(1)
        for w in (np.ones(len(which)), y[on])
    )  # above each cut
    if metric != "f1":
        cuts, said, hit = np.r_[cuts, edges[-1:]], np.r_[said, 0.0], np.r_[hit, 0.0]  # never yes
    value = 2 * hit / np.maximum(said + y.sum(), 1e-300) if metric == "f1" else 2 * hit - said
    return float(cuts[int(np.argmax(value[: len(cuts)]))])
