"""Selective prediction: how many answers are wrong among those that confidence would keep.

    risk(c)  share of wrong answers among the share c of rows with the highest confidence
    AURC     mean of risk(k / n) over k = 1..n (El-Yaniv & Wiener 2010; Geifman & El-Yaniv 2017). A confidence that
             knows nothing has the error rate; the best possible one, which puts every right answer first, has
             the sum over the e wrong ones, sum_{j=1..e} j / (n - e + j) / n
    excess   AURC - that of the best possible (E-AURC; Geifman, Uziel & El-Yaniv 2019)

Rows of equal confidence count as in a random order of them, on average; nothing depends on the order of the rows. With
H the harmonic numbers a block of m equal values with e wrong ones after N rows with E wrong ones contributes
e + (E - N e / m) (H(N + m) - H(N)) to n AURC, for weights (bootstrap counts) as well.
"""

from __future__ import annotations

import numpy as np
from scipy.special import digamma

Weights = np.ndarray | None


def _blocks(confidence: np.ndarray, wrong: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Weight and wrong weight of each distinct confidence, highest first: two `[b, values]`."""
    confidence, wrong = np.asarray(confidence, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    w = np.ones((1, len(wrong))) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(-confidence, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(confidence[order]) != 0])
    w = w[:, order]
    return np.add.reduceat(w, starts, axis=1), np.add.reduceat(w * wrong[order], starts, axis=1)


def _harmonic(count: np.ndarray) -> np.ndarray:
    return digamma(count + 1.0) + np.euler_gamma


def aurc(confidence: np.ndarray, y: np.ndarray, weights: Weights = None) -> np.ndarray:
    """Area under the risk-coverage curve of `confidence [n]` (any scale): `[b]`, or a 0-d array; NaN without rows."""
    if not len(confidence):
        return np.full(() if weights is None else len(weights), np.nan)
    mass, wrong = _blocks(confidence, 1 - np.asarray(y, dtype=np.float64), weights)
    after, errors = np.cumsum(mass, axis=1), np.cumsum(wrong, axis=1)
    before, errors = after - mass, errors - wrong
    rate = np.divide(wrong, mass, out=np.zeros_like(mass), where=mass > 0)
    area = wrong + (errors - before * rate) * (_harmonic(after) - _harmonic(before))
    value = _share(area.sum(axis=1), after[:, -1])
    return value[0] if weights is None else value


def best_aurc(y: np.ndarray, weights: Weights = None) -> np.ndarray:
    """AURC of a confidence that puts every right answer above every wrong one; what is above it is the excess."""
    return aurc(np.asarray(y, dtype=np.float64), y, weights)


def risk_at(confidence: np.ndarray, y: np.ndarray, coverage: np.ndarray, weights: Weights = None) -> np.ndarray:
    """Share of wrong answers among the `coverage [c]` (0 to 1) surest rows: `[b, c]`, or `[c]` without weights."""
    mass, wrong = _blocks(confidence, 1 - np.asarray(y, dtype=np.float64), weights)
    edge = np.zeros((len(mass), 1))
    kept, errors = (np.concatenate([edge, np.cumsum(v, axis=1)], axis=1) for v in (mass, wrong))
    coverage = np.asarray(coverage, dtype=np.float64)
    at = coverage * kept[:, -1:]
    found = np.stack([np.interp(x, k, e) for x, k, e in zip(at, kept, errors, strict=True)])
    value = _share(found, at)
    return value[0] if weights is None else value


def _share(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
