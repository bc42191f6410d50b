"""Linear probes: difference in means, logistic and ridge, for many label columns at once.

    difference   d = mean(x | true) - mean(x | false); for a real-valued target its slope form, cov(x, y) / sd(y)
    logistic     min_w,b  sum log(1 + exp(-(2y - 1)(w.z + b))) + penalty/2 |w|^2, z standardised on the training rows
    ridge        min_w,b  sum (y - w.z - b)^2 + penalty |w|^2, z standardised on the training rows

`penalty` is 1/C of scikit-learn's LogisticRegression and alpha of its Ridge. A penalty on |w| does not change under
rotation and w lies in the span of the training rows, so the fit is done in their principal coordinates, [n, rank]
instead of [n, d], with the same solution. Label columns (the real one and its shuffles) and penalties are solved
together by Newton's method with preconditioned conjugate gradients: two matrix products a step for all of them.
Cost: O(min(n, d)^2 max(n, d)) once a site, then O(n rank columns) a product.

Sources: difference in means: Marks & Tegmark 2023 (arXiv 2310.06824); truncated Newton: Nocedal & Wright 2006, ch. 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import expit

PENALTIES = (10.0, 100.0, 1e3, 1e4, 1e5)
"""Default grid of L2 penalties for standardised activations (C = .1 ... 1e-5)."""
DIRECT = 3000
"""Above this many rows and dimensions the eigendecomposition costs more than it saves, and is left out."""


@dataclass(frozen=True)
class LinearProbe:
    """score(x) = x . vector + bias, in the units of the raw activations."""

    vector: np.ndarray
    bias: float

    def scores(self, x: np.ndarray) -> np.ndarray:
        """`[n]` for activations `[n, d]`."""
        return np.asarray(x, dtype=np.float64) @ self.vector + self.bias


class Fitter(Protocol):
    """One kind of probe at one site, ready to be fitted to any label columns of the same training rows."""

    def out_of_fold(self, y: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores `[n, m]` of rows by models that did not see their fold, and the penalty `[m]` chosen by them."""
        ...

    def held_out(self, x: np.ndarray, y: np.ndarray, penalty: np.ndarray) -> np.ndarray:
        """Scores `[n_new, m]` of new rows by models of all training rows."""
        ...

    def probe(self, y: np.ndarray, penalty: float) -> LinearProbe:
        """The model of all training rows for one label column `[n]`."""
        ...


def contrast(y: np.ndarray) -> np.ndarray:
    """Row weights `[n, m]` whose weighted sum of rows is the difference direction; zeros for a constant column."""
    y = np.asarray(y, dtype=np.float64)
    centred = y - y.mean(axis=0)
    spread = (centred**2).sum(axis=0)
    if _is_binary(y):  # y/n1 - (1 - y)/n0 is the centred label over n1 n0 / n
        scale = spread
    else:
        scale = np.sqrt(spread * len(y))
    return np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 0)


def difference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """mean(x | true) - mean(x | false), `[d]` float64, for activations `[n, d]` and labels `[n]`."""
    x = np.asarray(x, dtype=np.float64)
    return (x - x.mean(axis=0)).T @ contrast(y)


class Difference:
    """Difference in means; nothing to tune. Where n < d, scores come from the Gram matrix of the rows."""

    def __init__(self, x: np.ndarray) -> None:
        x = np.asarray(x, dtype=np.float64)
        self.mean = x.mean(axis=0)
        self.x = x - self.mean
        self.gram = self.x @ self.x.T if len(x) < x.shape[1] else None

    def out_of_fold(self, y: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = np.zeros(y.shape)
        for k in np.unique(folds):
            test, train = np.flatnonzero(folds == k), np.flatnonzero(folds != k)
            weights = contrast(y[train])
            if self.gram is not None:
                out[test] = self.gram[np.ix_(test, train)] @ weights
            else:
                out[test] = self.x[test] @ (self.x[train].T @ weights)
        return out, np.zeros(y.shape[1])

    def held_out(self, x: np.ndarray, y: np.ndarray, penalty: np.ndarray) -> np.ndarray:
        return (np.asarray(x, dtype=np.float64) - self.mean) @ (self.x.T @ contrast(y))

    def probe(self, y: np.ndarray, penalty: float = 0.0) -> LinearProbe:
        vector = self.x.T @ contrast(y)
        return LinearProbe(vector, -float(self.mean @ vector))


class Reduced:
    """Standardised rows in their principal coordinates: z `[n, rank]`, and the way back to raw activations."""

    def __init__(self, x: np.ndarray) -> None:
        x = np.asarray(x, dtype=np.float64)
        self.mean, scale = x.mean(axis=0), x.std(axis=0)
        self.scale = np.where(scale > 1e-12 * np.maximum(np.abs(self.mean), 1e-300), scale, np.inf)  # constant: unused
        s = (x - self.mean) / self.scale
        n, d = s.shape
        self.basis: np.ndarray | None = None
        if min(n, d) > DIRECT:
            self.z = s
        elif n < d:
            values, u = np.linalg.eigh(s @ s.T)
            keep = values > 1e-11 * max(values[-1], 1e-300)
            root = np.sqrt(values[keep])
            self.z, self.basis = u[:, keep] * root, s.T @ (u[:, keep] / root)
        else:
            values, v = np.linalg.eigh(s.T @ s)
            self.basis = v[:, values > 1e-11 * max(values[-1], 1e-300)]
            self.z = s @ self.basis

    def project(self, x: np.ndarray) -> np.ndarray:
        """New rows `[m, d]` in the same coordinates `[m, rank]`."""
        s = (np.asarray(x, dtype=np.float64) - self.mean) / self.scale
        return s if self.basis is None else s @ self.basis

    def back(self, w: np.ndarray, b: float) -> LinearProbe:
        """A model of z as a model of raw activations."""
        vector = (w if self.basis is None else self.basis @ w) / self.scale
        return LinearProbe(vector, float(b - self.mean @ vector))


class _Penalised:
    """What logistic and ridge share: the penalty of each label column is the one with the least out-of-fold loss."""

    def __init__(self, x: np.ndarray, penalties: Sequence[float] = PENALTIES) -> None:
        self.reduced, self.penalties = Reduced(x), np.asarray(penalties, dtype=np.float64)

    def solve(self, z: np.ndarray, y: np.ndarray, penalty: np.ndarray, tol: float) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def loss(self, f: np.ndarray, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def out_of_fold(self, y: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n, m = y.shape
        z, k = self.reduced.z, len(self.penalties)
        f = np.zeros((n, k, m))
        for fold in np.unique(folds):
            test, train = folds == fold, folds != fold
            columns = np.broadcast_to(y[train][:, None, :], (int(train.sum()), k, m)).reshape(-1, k * m)
            w, b = self.solve(z[train], columns, np.repeat(self.penalties, m), 1e-3)
            f[test] = (z[test] @ w + b).reshape(-1, k, m)
        best = np.argmin(self.loss(f, y[:, None, :]), axis=0)
        return f[:, best, np.arange(m)], self.penalties[best]

    def held_out(self, x: np.ndarray, y: np.ndarray, penalty: np.ndarray) -> np.ndarray:
        w, b = self.solve(self.reduced.z, y, np.asarray(penalty, dtype=np.float64), 1e-5)
        return self.reduced.project(x) @ w + b

    def probe(self, y: np.ndarray, penalty: float) -> LinearProbe:
        w, b = self.solve(self.reduced.z, np.asarray(y)[:, None], np.array([penalty]), 1e-9)
        return self.reduced.back(w[:, 0], float(b[0]))


class Logistic(_Penalised):
    """Logistic regression, L2 by cross-validated log loss."""

    def solve(self, z: np.ndarray, y: np.ndarray, penalty: np.ndarray, tol: float) -> tuple[np.ndarray, np.ndarray]:
        return logistic(z, y, penalty, tol)

    def loss(self, f: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (np.logaddexp(0.0, f) - y * f).sum(axis=0)


class Ridge(_Penalised):
    """Ridge regression, L2 by cross-validated squared error."""

    def solve(self, z: np.ndarray, y: np.ndarray, penalty: np.ndarray, tol: float) -> tuple[np.ndarray, np.ndarray]:
        return ridge(z, y, penalty)

    def loss(self, f: np.ndarray, y: np.ndarray) -> np.ndarray:
        return ((f - y) ** 2).sum(axis=0)


def ridge(z: np.ndarray, y: np.ndarray, penalty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Closed form for rows `[n, r]`, targets `[n, m]`, penalties `[m]`: weights `[r, m]` and intercepts `[m]`."""
    centre, y0 = z.mean(axis=0), y.mean(axis=0)
    zc = z - centre
    values, v = np.linalg.eigh(zc.T @ zc)
    w = v @ ((v.T @ (zc.T @ (y - y0))) / (np.maximum(values, 0.0)[:, None] + penalty))
    return w, y0 - centre @ w


def logistic(z: np.ndarray, y: np.ndarray, penalty: np.ndarray, tol: float = 1e-6) -> tuple[np.ndarray, np.ndarray]:
    """Fit every column of labels `[n, m]` (0 or 1) with its own penalty `[m]` on rows `[n, r]`.

    Returns weights `[r, m]` and intercepts `[m]`; a column of one class only gets zeros. Stops where the gradient is
    `tol` times its size at w = 0. The intercept is not penalised.
    """
    y = np.asarray(y, dtype=np.float64)
    w, b = np.zeros((z.shape[1], y.shape[1])), np.zeros(y.shape[1])
    share = y.mean(axis=0)
    active = np.flatnonzero((share > 0) & (share < 1))
    b[active] = np.log(share[active] / (1 - share[active]))
    square, first = (z**2).sum(axis=0)[:, None], np.zeros(0)
    for step in range(60):
        ya, pa = y[:, active], penalty[active]
        f = z @ w[:, active] + b[active]
        p = expit(f)
        grad, grad_b = z.T @ (p - ya) + pa * w[:, active], (p - ya).sum(axis=0)
        size = np.sqrt((grad**2).sum(axis=0) + grad_b**2)
        if step == 0:
            first = np.maximum(size, 1e-12)
        left = size > tol * first
        if not left.any():
            break
        active, first, f, p, ya, pa = active[left], first[left], f[:, left], p[:, left], ya[:, left], pa[left]
        dw, db = _newton(z, p * (1 - p), pa, grad[:, left], grad_b[left], square, np.sqrt(size[left] / first))
        move = z @ dw + db
        w0, loss0 = w[:, active], _objective(f, ya, w[:, active], pa)
        t = np.ones(len(active))
        for _ in range(30):  # the objective is convex: a short enough step always goes down
            worse = _objective(f + t * move, ya, w0 + t * dw, pa) > loss0 + 1e-9 * np.abs(loss0)
            if not worse.any():
                break
            t[worse] /= 2
        w[:, active], b[active] = w0 + t * dw, b[active] + t * db
    return w, b


def _objective(f: np.ndarray, y: np.ndarray, w: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    return (np.logaddexp(0.0, f) - y * f).sum(axis=0) + 0.5 * penalty * (w**2).sum(axis=0)


def _newton(z, curvature, penalty, grad, grad_b, square, relative) -> tuple[np.ndarray, np.ndarray]:
    """Solve (Z'AZ + penalty) dw = -grad, intercept along, to a share of the gradient that shrinks as it does."""
    total = curvature.sum(axis=0)
    pre, pre_b = square * (total / len(z)) + penalty, np.maximum(total, 1e-12)
    x, x_b = np.zeros_like(grad), np.zeros_like(grad_b)
    r, r_b = -grad, -grad_b
    s, s_b = r / pre, r_b / pre_b
    p, p_b, rho = s, s_b, (r * s).sum(axis=0) + r_b * s_b
    goal = np.minimum(0.1, relative) ** 2 * ((grad**2).sum(axis=0) + grad_b**2)
    for _ in range(200):
        a = curvature * (z @ p + p_b)
        q, q_b = z.T @ a + penalty * p, a.sum(axis=0)
        alpha = rho / np.maximum((p * q).sum(axis=0) + p_b * q_b, 1e-300)
        x, x_b, r, r_b = x + alpha * p, x_b + alpha * p_b, r - alpha * q, r_b - alpha * q_b
        if ((r**2).sum(axis=0) + r_b**2 <= goal).all():
            break
        s, s_b = r / pre, r_b / pre_b
        new = (r * s).sum(axis=0) + r_b * s_b
        p, p_b, rho = s + new / np.maximum(rho, 1e-300) * p, s_b + new / np.maximum(rho, 1e-300) * p_b, new
    return x, x_b


def _is_binary(y: np.ndarray) -> bool:
    return bool(np.isin(y, (0.0, 1.0)).all())


FITTERS = {"difference": Difference, "logistic": Logistic, "ridge": Ridge}


def fitter(predictor: str, x: np.ndarray, penalties: Sequence[float] = PENALTIES) -> Fitter:
    """The probe kind of that name over training activations `[n, d]`."""
    return Difference(x) if predictor == "difference" else FITTERS[predictor](x, penalties)
