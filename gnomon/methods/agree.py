"""How well predicted changes of a target agree with measured ones, and whether the sources matter at all.

    slope = sum p m / sum p^2          R2 about zero = 1 - sum (m - p)^2 / sum m^2          sign: share of p m > 0

over held-out rows, p predicted (to first order) and m measured; intervals resample groups of rows. Agreement says that
the model is linear that far, not that a pathway matters: random latents agree too. What says that is the comparison
with random latents that are active as often:

    strength T = |mean m|,   ratio = T / mean T of its controls,   p = (1 + controls with a ratio as large) / (1 + all)

A control's ratio is taken over the other controls of its set, and the ratios of all sets are one null: they have no
unit, so that p can be small with few controls each. A latent that stands in several sets (a source reaches many
targets, and its controls are drawn once) is one control all the same: each of its ratios counts in part, since they
rise and fall together. That the pathway has one more control under the line than they have makes its ratio the less
extreme: p errs to the safe side. BH over the pathways. Source of p: Phipson & Smyth 2010.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gnomon.errors import UserError
from gnomon.nulls import benjamini_hochberg
from gnomon.stats import ends, group_weights, spearman

LEAST_SIGN = 0.75
"""Share of rows in which a validated pathway's measured change has the predicted sign, at least."""
FEWEST_ROWS = 3
"""Rows of a pathway under which nothing is said of it."""
FEWEST_CONTROLS = 2
NAMES = ("slope", "r2", "pearson", "spearman", "sign", "predicted", "measured")
"""What `agree` gives, and in this order `_statistics`."""


def agree(
    predicted: np.ndarray, measured: np.ndarray, groups: np.ndarray, draws: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Agreement of `predicted [n]` with `measured [n]`: every one of NAMES, and NAME_low, NAME_high by group bootstrap.

    predicted and measured are the means. NaN: correlations of fewer than 3 rows or of what never varies; slope where
    nothing is predicted, R2 where nothing changed; intervals of fewer than 2 groups. UserError for unequal lengths or
    numbers that are not finite.
    """
    p, m = (np.asarray(v, dtype=np.float64) for v in (predicted, measured))
    if p.shape != m.shape or p.ndim != 1 or len(p) != len(groups):
        raise UserError(f"{p.shape} predicted, {m.shape} measured, {len(groups)} groups", "one of each a row")
    if not (np.isfinite(p).all() and np.isfinite(m).all()):
        raise UserError("predicted or measured changes that are not finite", "finite numbers")
    if not len(p):
        return dict.fromkeys((n + end for n in NAMES for end in ("", "_low", "_high")), float("nan"))
    values = _statistics(p, m, np.ones((1, len(p))))[:, 0]
    out = {name: float(v) for name, v in zip(NAMES, values, strict=True)}
    drawn = np.full((len(NAMES), 1), np.nan)
    if draws and len(np.unique(groups)) > 1:
        rng, block = np.random.default_rng(seed), max(1, 2_000_000 // len(p))
        sizes = [min(block, draws - start) for start in range(0, draws, block)]
        drawn = np.concatenate([_statistics(p, m, group_weights(groups, size, rng)) for size in sizes], axis=1)
    for name, some in zip(NAMES, drawn, strict=True):
        out[f"{name}_low"], out[f"{name}_high"] = ends(some)
    return out


def _statistics(p: np.ndarray, m: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Every one of NAMES under weights `w [b, n]`: `[7, b]`."""
    total = w.sum(1)
    pp, mm, pm = w @ p**2, w @ m**2, w @ (p * m)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(pp > 0, pm / pp, np.nan)
        r2 = np.where(mm > 0, 1 - (w @ (m - p) ** 2) / mm, np.nan)
        sign = (w @ ((p * m > 0) | ((p == 0) & (m == 0)))) / total
        means = w @ p / total, w @ m / total
        spread = [np.maximum(s / total - mean**2, 0) for s, mean in ((pp, means[0]), (mm, means[1]))]
        flat = (spread[0] <= 1e-18 * pp / total) | (spread[1] <= 1e-18 * mm / total) | (len(p) < 3)
        pearson = np.where(flat, np.nan, (pm / total - means[0] * means[1]) / np.sqrt(spread[0] * spread[1]))
    rank = np.where(flat, np.nan, spearman(p, m, weights=w))
    return np.stack([slope, r2, np.clip(pearson, -1, 1), rank, sign, *means])


@dataclass(frozen=True)
class Against:
    """Pathways beside their matched random latents: all `[pathways]`.

    control: mean strength of a pathway's controls; ratio: its own over that; controls: how many; p, q: see above.
    drawn: how many different random latents the null is of, so that no p is under 1 / (1 + drawn).
    """

    control: np.ndarray
    ratio: np.ndarray
    controls: np.ndarray
    p: np.ndarray
    q: np.ndarray
    drawn: int

    def fewest(self, alpha: float) -> int:
        """How many pathways have to stand above all random latents for BH to find them at level alpha."""
        tested = int(np.isfinite(self.p).sum())
        return math.ceil(tested / (alpha * (1 + self.drawn)) - 1e-9)


def against_controls(
    strength: np.ndarray, controls: Sequence[np.ndarray], names: Sequence[Sequence[object]] | None = None
) -> Against:
    """Test `strength [pathways]` (NaN: not replayed) against the strengths of each one's controls.

    names: which latent each control is; all are different ones unless given. A pathway with fewer than FEWEST_CONTROLS
    has no p and is in no family.
    """
    strength = np.asarray(strength, dtype=np.float64)
    finite = [np.isfinite(np.asarray(c, dtype=np.float64)) for c in controls]
    known = [np.asarray(c, dtype=np.float64)[on] for c, on in zip(controls, finite, strict=True)]
    counts = np.array([len(c) for c in known], dtype=np.int64)
    means = np.array([c.mean() if len(c) else np.nan for c in known], dtype=np.float64)
    usable = (counts >= FEWEST_CONTROLS) & np.isfinite(strength)
    ratio = np.where(usable, _ratio(strength, means), np.nan)
    places = np.flatnonzero(usable)
    null = np.concatenate([np.zeros(0), *(_ratio(known[i], (known[i].sum() - known[i]) / (counts[i] - 1))
                                          for i in places)])  # fmt: skip
    given = names if names is not None else [[(i, k) for k in range(len(c))] for i, c in enumerate(controls)]
    latents = [name for i in places.tolist() for name, on in zip(given[i], finite[i], strict=True) if on]
    often = Counter(latents)
    order = np.argsort(null)
    weights = np.array([1 / often[name] for name in latents], dtype=np.float64)[order]
    above = np.concatenate([np.cumsum(weights[::-1])[::-1], [0.0]])
    as_large = above[np.searchsorted(null[order], ratio * (1 - 1e-12), side="left")]
    p = np.where(usable, np.minimum((1 + as_large) / (1 + len(often)), 1.0), np.nan)
    return Against(means, ratio, counts, p, benjamini_hochberg(p), len(often))


def _ratio(value: np.ndarray, other: np.ndarray) -> np.ndarray:
    """value / other; 0 where both are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(value) == 0, 0.0, value / other)


def validated(
    q: np.ndarray, sign: np.ndarray, rows: np.ndarray, low: np.ndarray, high: np.ndarray, alpha: float = 0.05
) -> np.ndarray:
    """Which pathways change their target more than random latents do, and the way they are predicted to: `[pathways]`.

    q at most alpha, LEAST_SIGN of at least FEWEST_ROWS rows with the predicted sign, and 0 outside the interval from
    `low` to `high` of the mean change.
    """
    q, sign, low, high = (np.asarray(v, dtype=np.float64) for v in (q, sign, low, high))
    return (q <= alpha) & (sign >= LEAST_SIGN) & (np.asarray(rows) >= FEWEST_ROWS) & ((low > 0) | (high < 0))
