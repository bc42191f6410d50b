"""L1-penalised least squares for many designs: penalty by grouped cross-validation, classes calibrated out of fold.

    values    min_w,b  |y - X w - b|^2 / 2n + penalty |w|_1,  X standardised on the training rows
    classes   the same least-squares classifier, then logit = a + c f by logistic regression (Platt 1999) on its
              out-of-fold f: a share of deviance needs probabilities. c below 0 means that f knows nothing: c = 0

Coordinate descent on Gram matrices (scikit-learn's enet_path; Friedman, Hastie & Tibshirani 2010): for 240 rows of 40
features 2 ms a number and 4 ms a class, a quarter of `baselines.Sparse` for classes. A swap makes a new design, so
there are hundreds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gnomon.methods.baselines import SHARES
from gnomon.methods.linear import logistic

GRID = SHARES[::2]
"""L1 penalties tried, as shares of the one that drops every feature."""


class Lasso:
    """One regression of `y [n]` on `x [n, k]`; `folds [n]` keep groups whole."""

    def __init__(self, x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> None:
        y = np.asarray(y, dtype=np.float64)
        self.mean, scale = x.mean(axis=0), x.std(axis=0)
        known = scale > 1e-9 * np.maximum(np.abs(x).max(axis=0, initial=0), 1e-300)
        self.scale = np.where(known, scale, np.inf)
        z = (x - self.mean) / self.scale
        grid = np.abs(z.T @ (y - y.mean())).max(initial=0.0) / len(y) * GRID
        early = np.zeros((len(y), len(grid)))
        for fold in np.unique(folds):
            held = folds == fold
            w, b = _path(z[~held], y[~held], grid)
            early[held] = z[held] @ w + b
        best = int(np.argmin(((early - y[:, None]) ** 2).sum(axis=0)))
        w, b = _path(z, y, grid)
        self.w, self.b = w[:, best], float(b[best])
        self.offset, self.slope = 0.0, 1.0
        if np.isin(y, (0, 1)).all():
            self.offset, self.slope = _calibrated(early[:, best], y)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Values, or logits of classes, of rows `[n, k]`: `[n]`."""
        return self.offset + self.slope * ((x - self.mean) / self.scale @ self.w + self.b)


def _path(z: np.ndarray, y: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[k, m]` and intercepts `[m]` for descending penalties `[m]`."""
    from sklearn import config_context
    from sklearn.linear_model import enet_path

    mean, centre = y.mean(), z.mean(axis=0)
    if not z.shape[1] or not grid.max(initial=0) > 0:
        return np.zeros((z.shape[1], len(grid))), np.full(len(grid), mean)
    x = np.asfortranarray(z - centre)
    known: dict[str, Any] = {"precompute": x.T @ x, "Xy": x.T @ (y - mean), "alphas": grid, "check_input": False}
    with config_context(skip_parameter_validation=True):  # it takes twice the time of the descent
        _, w, _ = enet_path(x, y - mean, l1_ratio=1.0, tol=1e-3, **known)
    return w, mean - centre @ w


def _calibrated(f: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Offset and slope of the logits of `f [n]`; of one class, or of an f that knows nothing: the base rate."""
    share = float(np.clip(y.mean(), 1e-3, 1 - 1e-3))
    base = float(np.log(share / (1 - share)))
    spread = float(f.std())
    if not spread > 1e-12 or not 0 < y.mean() < 1:
        return base, 0.0
    w, b = logistic((f[:, None] - f.mean()) / spread, y[:, None], np.array([1e-3]))
    slope = float(w[0, 0]) / spread
    return (float(b[0]) - slope * float(f.mean()), slope) if slope > 0 else (base, 0.0)
