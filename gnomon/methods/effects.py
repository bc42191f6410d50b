"""From outcomes to effects: what a condition changed, with paired group-bootstrap intervals, beside its controls.

    change     = mean over rows of (outcome under the edit - outcome without), rows resampled by group
    corrected  = share of the rows that were wrong and became right;  corrupted = right that became wrong
    p          = (1 + #{controls at least as far from the median of all}) / (1 + #controls)
    margin     = |observed - median| - 95th percentile of |control - median|

The median is taken over the controls and the observed one together, so that under the null (the direction is one of
its controls) p is exact. The margin's interval gives the verdict: wholly above 0 with p <= alpha is "supported",
wholly below 0 "not supported", else "undecided". Sources: permutation p Phipson & Smyth 2010; bootstrap Efron &
Tibshirani 1993.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gnomon.errors import UserError
from gnomon.stats import group_weights, wilson

ALPHA = 0.05
DRAWS = 1000
METRICS = (
    "target_logprob_change", "accuracy", "net_accuracy", "corrected_rate", "corrupted_rate", "answer_changed",
)  # fmt: skip


@dataclass(frozen=True)
class Outcomes:
    """What n rows did under k conditions.

    logprob `[n, k]`: log-probability of the right answer's text (nats; NaN where it is not known). right `[n, k]`
    bool. answer `[n, k]`: what would be written, as any comparable value.
    """

    logprob: np.ndarray
    right: np.ndarray
    answer: np.ndarray

    def __post_init__(self) -> None:
        if not self.logprob.shape == self.right.shape == self.answer.shape or self.right.ndim != 2:
            raise UserError(f"outcomes of shapes {self.logprob.shape}, {self.right.shape}, {self.answer.shape}")

    def column(self, index: int) -> Outcomes:
        """One condition alone."""
        part = slice(index, index + 1)
        return Outcomes(self.logprob[:, part], self.right[:, part], self.answer[:, part])


def ratio(top: np.ndarray, bottom: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """sum(top) / sum(bottom) of each column with its percentile interval: values, low, high, each `[k]`.

    Args:
        top, bottom: `[n, k]`; bottom `[n, 1]` serves all columns.
        weights: `[draws, n]` of `stats.group_weights`: one set for all columns, so that columns stay paired.
    """
    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)

    def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = np.broadcast_arrays(a, b)
        return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)

    value = divide(top.sum(0), bottom.sum(0))
    low = high = np.full(value.shape, np.nan)
    if len(weights):
        low, high = _quantiles(divide(weights @ top, weights @ bottom))
    return value, low, high


def share(top: np.ndarray, bottom: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`ratio` for a share of rows. Where every row is alike no resample differs, and the interval would have no width:

    then it is Wilson's, on the number of groups (rows that every draw weighs alike are taken for one group).
    """
    value, low, high = ratio(top, bottom, weights)
    bottom = np.broadcast_to(bottom, np.shape(top))
    for k in np.flatnonzero(((value == 0) | (value == 1)) & np.isfinite(low)):
        groups = len(np.unique(weights[:, bottom[:, k] > 0], axis=1).T)
        found = wilson(groups if value[k] == 1 else 0, groups)
        low[k], high[k] = found.low, found.high
    return value, low, high


def net(change: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of changes that are -1, 0 or 1 `[n, k]` (right before and after), with its interval.

    Where no row changed no resample differs either: the interval is then +- Wilson's upper end of 0 out of the groups.
    """
    value, low, high = ratio(change, np.ones((len(change), 1)), weights)
    still = ~np.any(change, axis=0) & np.isfinite(low)
    if still.any():
        reach = wilson(0, len(np.unique(weights, axis=1).T)).high
        low, high = np.where(still, -reach, low), np.where(still, reach, high)
    return value, low, high


def _quantiles(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2.5 and 97.5 percentiles over draws `[b, k]`; NaN where more than half of the draws are undefined."""
    low, high = np.full(draws.shape[1], np.nan), np.full(draws.shape[1], np.nan)
    for k in np.flatnonzero(np.isfinite(draws).mean(0) >= 0.5):
        column = draws[:, k]
        low[k], high[k] = np.quantile(column[np.isfinite(column)], [0.025, 0.975])
    return low, high


def weights_of(groups: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Bootstrap weights `[draws, n]`; none at all (so no interval) for fewer than two groups."""
    groups = np.asarray(groups)
    return group_weights(groups, draws, seed) if len(np.unique(groups)) > 1 else np.zeros((0, len(groups)))


def effects(
    base: Outcomes, after: Outcomes, weights: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """Every metric of k conditions against the one without an edit, on the same rows.

    Args:
        base: one column.
        after: k columns.
        weights: `[draws, n]`.

    Returns:
        metric -> (values `[k]`, low `[k]`, high `[k]`, rows in the denominator).
    """
    before, now = base.right.astype(np.float64), after.right.astype(np.float64)
    known = np.isfinite(base.logprob[:, 0]) & np.isfinite(after.logprob).all(1)
    change = np.where(known[:, None], after.logprob - base.logprob, 0.0)
    one = np.ones((len(before), 1))
    parts = {
        "target_logprob_change": (change, known[:, None].astype(np.float64)),
        "accuracy": (now, one),
        "corrected_rate": (now * (1 - before), 1 - before),
        "corrupted_rate": ((1 - now) * before, before),
        "answer_changed": ((after.answer != base.answer).astype(np.float64), one),
    }
    out = {
        name: (*(ratio if name == "target_logprob_change" else share)(top, bottom, weights), int(bottom.sum()))
        for name, (top, bottom) in parts.items()
    }
    out["net_accuracy"] = (*net(now - before, weights), len(now))
    return {name: out[name] for name in METRICS if name in out}


def rank_p(observed: float, controls: np.ndarray) -> float:
    """Two-sided p of one value among matched controls `[m]`: exact when the observed one is one of their kind."""
    controls = np.asarray(controls, dtype=np.float64)
    controls = controls[np.isfinite(controls)]
    if not len(controls) or not np.isfinite(observed):
        return float("nan")
    middle = np.median(np.append(controls, observed))
    far, mine = np.abs(controls - middle), abs(observed - middle)
    return (1 + int((far >= mine - 1e-12).sum())) / (1 + len(controls))


@dataclass(frozen=True)
class Comparison:
    """One condition beside its controls. All in the unit of the change; intervals are paired over rows."""

    value: float
    low: float
    high: float
    control_mean: float
    control_low: float
    control_high: float
    """Smallest and largest control."""
    excess: float
    excess_low: float
    excess_high: float
    """The change beyond the mean of the controls."""
    margin: float
    margin_low: float
    margin_high: float
    """How much farther from the median than the 95th percentile of the controls."""
    p: float
    n: int
    controls: int

    @property
    def verdict(self) -> str:
        """supported | not supported | undecided, by the interval of the margin and the rank among the controls."""
        if self.p <= ALPHA and self.margin_low > 0:
            return "supported"
        if self.margin_high < 0:
            return "not supported"
        return "undecided"


def compare(change: np.ndarray, controls: np.ndarray, weights: np.ndarray) -> Comparison:
    """Set the mean of `change [n]` beside the means of `controls [n, m]` on the same rows.

    UserError for fewer than 19 controls: with fewer, no p can reach .05.
    """
    controls = np.asarray(controls, dtype=np.float64)
    if controls.ndim != 2 or controls.shape[1] < 19:
        raise UserError(f"controls of shape {controls.shape}", "at least 19 controls of the same rows")
    both = np.column_stack([np.asarray(change, dtype=np.float64), controls])
    means = both.mean(0)
    nan = np.full(2, np.nan)
    bounds = {"value": nan, "excess": nan, "margin": nan}
    if len(weights):
        drawn = (weights @ both) / weights.sum(1, keepdims=True)
        bounds = {
            "value": np.quantile(drawn[:, 0], [0.025, 0.975]),
            "excess": np.quantile(drawn[:, 0] - drawn[:, 1:].mean(1), [0.025, 0.975]),
            "margin": np.quantile(_margin(drawn), [0.025, 0.975]),
        }
    ends = {f"{name}_{side}".removeprefix("value_"): float(b) for name, pair in bounds.items()
            for side, b in zip(("low", "high"), pair, strict=True)}  # fmt: skip
    return Comparison(
        value=float(means[0]), control_mean=float(means[1:].mean()), control_low=float(means[1:].min()),
        control_high=float(means[1:].max()), excess=float(means[0] - means[1:].mean()),
        margin=float(_margin(means[None])[0]), p=rank_p(float(means[0]), means[1:]), n=len(both),
        controls=controls.shape[1], **ends,
    )  # fmt: skip


def _margin(means: np.ndarray) -> np.ndarray:
    """Margin `[b]` of column 0 of `means [b, 1 + m]` over the other columns."""
    away = np.abs(means - np.median(means, axis=1, keepdims=True))
    return away[:, 0] - np.quantile(away[:, 1:], 0.95, axis=1)


def sign_flip_p(change: np.ndarray, groups: np.ndarray, draws: int = 999, seed: int = 0) -> np.ndarray:
    """Two-sided p that the mean change of each column of `[n, k]` is 0: signs of whole groups are flipped, `[k]`.

    Exact where a change is as likely as its opposite (Fisher 1935); groups, not rows, are the unit.
    """
    change = np.asarray(change, dtype=np.float64)
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((len(names), change.shape[1]))
    np.add.at(sums, which, change)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, len(names)))
    null = np.abs(signs @ sums)
    return (1 + (null >= np.abs(sums.sum(0)) - 1e-12).sum(0)) / (1 + draws)


def choose_coefficient(
    coefficients: np.ndarray,
    change: np.ndarray,
    control: np.ndarray,
    damage: np.ndarray,
    bound: float,
    aim: str = "either",
) -> int:
    """Which signed coefficient of a sweep on tune goes to test: `[k]` arrays in, an index out.

    Among those whose neutral-text loss rises by at most `bound` nats a token: the largest |change - mean change of
    random directions at that size|; with aim "right" the largest change minus that mean. Where none stays under the
    bound: the one with the least damage.
    """  # fmt: skip
    coefficients, excess = np.asarray(coefficients), np.asarray(change) - np.asarray(control)
    excess = np.abs(excess) if aim == "either" else excess
    allowed = np.asarray(damage) <= bound
    if not allowed.any():
        return int(np.lexsort((np.abs(coefficients), damage))[0])
    # equal excess: the smaller push
    order = np.lexsort((np.abs(coefficients), -np.where(allowed, excess, -np.inf)))
    return int(order[0])
