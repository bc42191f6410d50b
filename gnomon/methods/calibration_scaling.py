"""Confidence made calibrated: temperature scaling and Platt's sigmoid, fitted on rows that are not scored.

temperature  p' = sigmoid(logit(p) / T), T >= 0 by maximum likelihood (Guo et al. 2017, arXiv 1706.04599): order and
             AUROC stay, a confidence of .5 stays .5
options      p' = max softmax(scores / T) over an item's options, T by the likelihood of the right option
platt        p' = sigmoid(a s + b) of any score s, by maximum likelihood against the targets
             (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) instead of 1 and 0 (Platt 1999): a separable score keeps a finite
             slope
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_softmax, softmax

from gnomon.errors import UserError
from gnomon.methods.calibration import LIMIT

COLDEST = 100.0
"""Largest 1 / T: where every row is right on its side of one half, no finite one is best."""


@dataclass(frozen=True)
class Scaling:
    """p' = sigmoid(slope * x + offset), x a score, or the logit of a probability (`logits`)."""

    method: str
    slope: float
    offset: float = 0.0
    logits: bool = False
    n: int = 0

    @property
    def temperature(self) -> float:
        """1 / slope; infinite where nothing is left of the confidence."""
        return 1 / self.slope if self.slope else float("inf")

    def note(self, right: int) -> str:
        """What a reader must know of a fit on rows of which `right` were right; "" where nothing is odd."""
        if right in (0, self.n):
            return f"all rows of the scaling are {'right' if right else 'wrong'}, so it says nothing of which are"
        if self.method == "temperature" and self.slope <= 0:
            return "confidence lies on the wrong side of one half there, so no temperature helps"
        return "surer rows are not more often right there" if self.slope <= 0 else ""

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of scores or probabilities `[n]`; NaN stays."""
        values = np.asarray(values, dtype=np.float64)
        return expit(self.slope * (logit(values) if self.logits else values) + self.offset)


def logit(p: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of probabilities kept `LIMIT` away from 0 and 1."""
    p = np.clip(np.asarray(p, dtype=np.float64), LIMIT, 1 - LIMIT)
    return np.log(p) - np.log1p(-p)


def fit_temperature(p: np.ndarray, y: np.ndarray) -> Scaling:
    """The temperature that makes probabilities `[n]` likeliest; T is infinite where surer rows are not more often
    right. UserError without rows."""
    z, y = logit(p), np.asarray(y, dtype=np.float64)
    _rows(len(z))
    beta = _root(lambda b: float((z * (expit(b * z) - y)).mean()))
    return Scaling("temperature", beta, 0.0, True, len(z))


def fit_options(scores: np.ndarray, right: np.ndarray) -> Scaling:
    """The temperature of option scores `[n, k]` (-inf where an item has fewer) by the likelihood of option `right [n]`.

    Apply it by `options_confidence`.
    """
    scores, right = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=np.int64)
    _rows(len(scores))
    known = np.where(np.isfinite(scores), scores, 0.0)
    own = np.take_along_axis(known, right[:, None], axis=1)[:, 0]

    def slope(beta: float) -> float:
        p = softmax(np.where(np.isfinite(scores), beta * known, -np.inf), axis=1)
        return float(((p * known).sum(axis=1) - own).mean())

    return Scaling("options", _root(slope), n=len(scores))


def options_confidence(scaling: Scaling, scores: np.ndarray) -> np.ndarray:
    """Probability of the likeliest option at the fitted temperature: `[n]`."""
    scores = np.asarray(scores, dtype=np.float64)
    z = np.where(np.isfinite(scores), scaling.slope * np.where(np.isfinite(scores), scores, 0.0), -np.inf)
    return np.exp(log_softmax(z, axis=1).max(axis=1))


def fit_platt(scores: np.ndarray, y: np.ndarray) -> Scaling:
    """Platt's sigmoid of scores `[n]` (any scale); Newton's method with halving, as in Lin, Lin & Weng 2007."""
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(y, dtype=bool)
    _rows(len(s))
    n1, n0 = int(y.sum()), int((~y).sum())
    target = np.where(y, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    centre, spread = s.mean(), s.std()
    start = np.log((n1 + 1) / (n0 + 1))
    if not spread > 1e-12 * max(abs(centre), 1e-300):
        return Scaling("platt", 0.0, float(start), n=len(s))
    x = np.column_stack([(s - centre) / spread, np.ones(len(s))])

    def loss(w: np.ndarray) -> float:
        f = x @ w
        return float((np.logaddexp(0, f) - target * f).sum())

    w = np.array([0.0, start])
    now = loss(w)
    for _ in range(100):
        p = expit(x @ w)
        gradient = x.T @ (p - target)
        if np.abs(gradient).max() < 1e-10 * len(s):
            break
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-12 * np.eye(2)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while loss(w - size * step) > now and size > 1e-12:
            size /= 2
        w = w - size * step
        now = loss(w)
    return Scaling("platt", float(w[0] / spread), float(w[1] - w[0] * centre / spread), n=len(s))


def _root(slope: Callable[[float], float]) -> float:
    """Where the growing function `slope` of beta >= 0 is 0; 0 or COLDEST where it is not between them."""
    from scipy.optimize import root_scalar

    if slope(0.0) >= 0:
        return 0.0
    if slope(COLDEST) <= 0:
        return COLDEST
    return float(root_scalar(slope, bracket=(0.0, COLDEST), xtol=1e-12).root)


def _rows(n: int) -> None:
    if not n:
        raise UserError("no rows to fit a calibration on", "graded rows in split tune")
