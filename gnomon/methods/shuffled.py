"""Shuffled-label directions: the matched control of an ablation.

    d = mean(x | true) - mean(x | false),    d_k = mean(x' | true_k) - mean(x' | false_k)

with labels permuted by group, and x' = x less the mean of its true class. To remove an isotropic random direction
removes almost nothing (1/d of the variance), so it controls for nothing. A difference of means under shuffled labels
points where activations really vary (on SmolLM2 it carries 29-90 times the variance of an isotropic one), and knows
nothing of the labels. Without taking off the class means it would know of them: where the classes lie far apart, their
difference is a large part of the variance, and shuffles of x itself are little but copies of d (|cosine| .7 in
simulation), beside which no cause could ever be shown.
"""

from __future__ import annotations

import numpy as np

from gnomon.errors import UserError
from gnomon.nulls import permuted

MASSIVE = 5.0
"""A token whose norm is over this many times the median is a massive activation (attention sinks), left out."""


def difference(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """mean(x | true) - mean(x | false), `[d]` float32, of `x [n, d]` and `labels [n]` bool; UserError for one class."""
    return shuffled_differences(x, labels, None, 0)[0]


def shuffled_differences(
    x: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, n: int, seed: int = 0
) -> np.ndarray:
    """The true difference of means, then `n` under shuffled labels, class means taken off: `[1 + n, d]` float32.

    Args:
        x: `[rows, d]`.
        labels: `[rows]` bool.
        groups: `[rows]`; all rows of a group move together (None: every row is its own group).
        n: how many shuffles.
        seed: of the shuffles.

    Raises:
        UserError: where a class is empty.
    """
    labels = np.asarray(labels, dtype=bool)
    if labels.all() or not labels.any():
        raise UserError(
            f"a difference in means of {int(labels.sum())} true and {int((~labels).sum())} false rows",
            "rows of both classes", "raise generate.n, or choose another target",
        )  # fmt: skip
    x = np.asarray(x, dtype=np.float64)
    means = np.stack([x[~labels].mean(axis=0), x[labels].mean(axis=0)])
    true = means[1] - means[0]
    if not n:
        return true[None].astype(np.float32)
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    y = permuted(labels, groups, n, seed).astype(np.float64)
    within = x - means[labels.astype(np.int64)]
    made = (y / y.sum(0)).T @ within - ((1 - y) / (1 - y).sum(0)).T @ within
    return np.concatenate([true[None], made]).astype(np.float32)


def unmasked(x: np.ndarray, factor: float = MASSIVE) -> tuple[np.ndarray, float]:
    """Which tokens of `x [tokens, d]` are not massive (norm <= factor * median), and the median norm of those."""
    norms = np.linalg.norm(np.asarray(x, dtype=np.float64), axis=-1)
    if not len(norms):
        raise UserError("no tokens to measure", "at least one token of the fit split")
    keep = norms <= factor * np.median(norms)
    return keep, float(np.median(norms[keep]))


def energy_removed(x: np.ndarray, directions: np.ndarray, to: np.ndarray | float = 0.0) -> np.ndarray:
    """Share of `x`'s squared norm that setting x . u to `to` changes: `[k]` for `x [n, d]`, `directions [k, d]`.

    sum (x . u - to)^2 / sum |x|^2. With `to` the mean of x . u it is a share of what varies.
    """
    x = np.asarray(x, dtype=np.float64)
    along = x @ _units(directions).T - to
    return (along**2).sum(0) / max(float((x**2).sum()), 1e-300)


def variance_share(x: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Share of the variance of `x [n, d]` that lies along each direction: `[k]`; 1/d is what an isotropic x has."""
    x = np.asarray(x, dtype=np.float64)
    x = x - x.mean(0)
    return ((x @ _units(directions).T) ** 2).sum(0) / max(float((x**2).sum()), 1e-300)


def _units(directions: np.ndarray) -> np.ndarray:
    directions = np.atleast_2d(np.asarray(directions, dtype=np.float64))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)
