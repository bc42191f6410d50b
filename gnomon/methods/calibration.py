"""Calibration: does a confidence p mean what it says? Scores of probabilities `p [n]` against outcomes `y [n]`.

    ECE       sum_b (n_b / n) |mean y - mean p| over 10 bins of equal mass (Naeini et al. 2015; Nguyen & O'Connor 2015).
              It is above 0 of perfectly calibrated p too, the more so the fewer rows there are; so it stands beside its
              values under y ~ Bern(p) (the consistency resampling of Broecker & Smith 2007)
    Brier     mean (p - y)^2 (Brier 1950) = reliability - resolution + uncertainty (Murphy 1973) + within-bin variance
              - within-bin covariance: with bins it adds up exactly by these two (Stephenson, Coelho & Jolliffe 2008)
    NLL       mean of -log p of what came about
    AUROC     of confidence against correctness, "type 2": `stats.auroc`

Every score takes weights `[b, n]`, bootstrap counts, like those of `stats`. numpy only; no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gnomon import stats
from gnomon.errors import UserError

BINS = 10
LIMIT = 1e-6
"""Probabilities nearer to 0 or 1 than this are moved to it where a logarithm is taken: one that says 1 and is wrong
would cost infinitely much."""
Weights = np.ndarray | None


def checked(p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and outcomes as float64 `[n]`; UserError where p leaves 0..1 or y has other values than 0 and 1."""
    p, y = np.asarray(p, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if p.shape != y.shape or p.ndim != 1:
        raise UserError(f"{p.shape} probabilities for {y.shape} outcomes", "one of each a row")
    if not ((p >= 0) & (p <= 1)).all():
        raise UserError("confidences are missing or not between 0 and 1", "probabilities; scores need a Platt fit")
    if not np.isin(y, (0, 1)).all():
        raise UserError("outcomes are not all right or wrong", "two classes; leave unparsed rows out")
    return p, y


def equal_mass_bins(p: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Bin 0, 1, ... of each row: about n / bins rows each, equal values always together.

    A block of equal values goes where its middle rank falls, so the bins do not depend on the order of the rows; of
    many equal values there are fewer bins. Without ties sizes differ by one at most.
    """
    _, which, count = np.unique(np.asarray(p, dtype=np.float64), return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2
    return np.unique(np.floor(bins * middle / max(len(which), 1)), return_inverse=True)[1][which]


@dataclass(frozen=True)
class Bins:
    """Rows in bins: sums over the rows of each bin, of weights `[b, n]` or of ones."""

    which: np.ndarray

    @classmethod
    def of(cls, p: np.ndarray, bins: int | np.ndarray = BINS) -> Bins:
        """Bins of equal mass, or those given `[n]`. A bootstrap must keep the bins of the whole sample: give them."""
        return cls(equal_mass_bins(p, bins) if isinstance(bins, int) else np.unique(bins, return_inverse=True)[1])

    @property
    def count(self) -> int:
        return int(self.which.max(initial=-1)) + 1

    def sums(self, rows: np.ndarray, weights: Weights) -> np.ndarray:
        """`[b, bins]`: weighted sum of `rows [n]` in each bin."""
        weights = np.ones((1, len(rows))) if weights is None else np.asarray(weights, dtype=np.float64)
        member = self.which[:, None] == np.arange(self.count)
        return weights @ (member * np.asarray(rows, dtype=np.float64)[:, None])


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, np.nan), where=bottom > 0)


def ece(p: np.ndarray, y: np.ndarray, weights: Weights = None, bins: int | np.ndarray = BINS) -> np.ndarray:
    """Expected calibration error: `[b]`, or a 0-d array without weights; bins of equal mass, or given `[n]`."""
    p, y = checked(p, y)
    by = Bins.of(p, bins)
    value = _ratio(np.abs(by.sums(p - y, weights)).sum(axis=1), by.sums(np.ones(len(p)), weights).sum(axis=1))
    return value[0] if weights is None else value


def brier(p: np.ndarray, y: np.ndarray, weights: Weights = None) -> np.ndarray:
    """Mean squared error of probabilities: `[b]`, or a 0-d array without weights."""
    p, y = checked(p, y)
    return stats.mean((p - y) ** 2, weights)


def nll(p: np.ndarray, y: np.ndarray, weights: Weights = None) -> np.ndarray:
    """Mean negative log-likelihood in nats: `[b]`, or a 0-d array; probabilities kept `LIMIT` away from 0 and 1."""
    p, y = checked(p, y)
    p = np.clip(p, LIMIT, 1 - LIMIT)
    return stats.mean(-np.where(y > 0, np.log(p), np.log1p(-p)), weights)


TERMS = {"reliability": 1, "resolution": -1, "uncertainty": 1, "within_variance": 1, "within_covariance": -1}
"""Terms of the Brier score and their signs."""


def decomposition(
    p: np.ndarray, y: np.ndarray, weights: Weights = None, bins: int | np.ndarray = BINS
) -> dict[str, np.ndarray]:
    """The five terms of the Brier score by name, each `[b]` (0-d without weights); with the signs of TERMS they sum
    to it exactly.

    reliability: how far bins' confidence is from their accuracy (lower is better); resolution: how far bins' accuracy
    is from the mean (higher is better); uncertainty: of a constant base rate.
    """
    p, y = checked(p, y)
    by = Bins.of(p, bins)
    n, sp, sy = (by.sums(v, weights) for v in (np.ones(len(p)), p, y))
    total = n.sum(axis=1, keepdims=True)
    kept = np.where(n > 0, n, 1.0)
    mp, my = sp / kept, sy / kept
    base = _ratio(sy.sum(axis=1, keepdims=True), total)
    share = _ratio(n, total)
    square, cross = (by.sums(v, weights) / kept for v in (p * p, p * y))
    out = {
        "reliability": (share * (mp - my) ** 2).sum(axis=1),
        "resolution": (share * (my - base) ** 2).sum(axis=1),
        "uncertainty": (base * (1 - base))[:, 0],
        "within_variance": (share * (square - mp**2)).sum(axis=1),
        "within_covariance": 2 * (share * (cross - mp * my)).sum(axis=1),
    }
    return {name: value[0] if weights is None else value for name, value in out.items()}


# ---------------------------------------------------------------- under perfect calibration


def calibrated_outcomes(p: np.ndarray, groups: np.ndarray, draws: int = 1000, seed: stats.Seed = 0) -> np.ndarray:
    """Outcomes `[draws, n]` as they would be if p were right: y = (u < p), one uniform u a group.

    Rows of one group share it, which is the most that they can depend on each other: of groups of one row these are
    independent coin flips, of larger ones the range they give is the widest, and no miscalibration is made up.
    """
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    u = np.random.default_rng(seed).random((draws, len(names)))
    return u[:, which] < np.asarray(p, dtype=np.float64)


def expected_ece(
    p: np.ndarray, groups: np.ndarray, draws: int = 1000, seed: stats.Seed = 0, bins: int | np.ndarray = BINS
) -> np.ndarray:
    """ECE `[draws]` of the same confidences under perfect calibration; its mean is what ECE is worth at least."""
    p = np.asarray(p, dtype=np.float64)
    member = Bins.of(p, bins)
    gaps = calibrated_outcomes(p, groups, draws, seed) - p
    return np.abs(member.sums(np.ones(len(p)), gaps)).sum(axis=1) / max(len(p), 1)


@dataclass(frozen=True)
class Reliability:
    """One bin of a reliability diagram."""

    bin: int
    rows: np.ndarray
    """Indices of its rows."""
    confidence: float
    accuracy: float
    expected_low: float
    """95% range of its accuracy under perfect calibration."""
    expected_high: float


def reliability(
    p: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    bins: int | np.ndarray = BINS,
    draws: int = 1000,
    seed: stats.Seed = 0,
) -> list[Reliability]:
    """Bins in ascending order of confidence."""
    p, y = checked(p, y)
    by = Bins.of(p, bins)
    drawn = calibrated_outcomes(p, groups, draws, seed)
    out = []
    for i in range(by.count):
        rows = np.flatnonzero(by.which == i)
        low, high = np.quantile(drawn[:, rows].mean(axis=1), (0.025, 0.975))
        out.append(Reliability(i, rows, float(p[rows].mean()), float(y[rows].mean()), float(low), float(high)))
    return out
