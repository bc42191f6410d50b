"""Scores, effect sizes and intervals: numpy, vectorised over resamples, so that an interval costs milliseconds.

The unit of independence is the group (all samples and paraphrases of one problem), never the row. A bootstrap draw is
therefore a vector of group counts, spread over rows as weights `[draws, n]`, and every score here takes such weights:
2,000 intervals of an AUROC over 600 rows need one sort and a few passes over an array, not 2,000 calls.

Sources: AUROC = Mann-Whitney U / (n_pos n_neg), ties half (Hanley & McNeil 1982); Hedges 1981; Wilson 1927; percentile
and BCa bootstrap (Efron & Tibshirani 1993, ch. 13-14).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import special

from gnomon.errors import UserError

BLOCK = 500_000
"""Numbers of one block of resamples: memory stays that of some blocks, however many rows there are."""

MIN_CLASS = 20
"""Rows of a class under which no interval is given."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Weights `[b, n]` -> values `[b]`."""
Seed = int | Sequence[int] | np.random.Generator


@dataclass(frozen=True)
class Interval:
    """A value with its interval; `note` says why there is none (then both ends are NaN)."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    note: str = ""
    draws: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    @property
    def p_above_zero(self) -> float:
        """One-sided bootstrap p of "the value is at most 0": (1 + draws <= 0) / (1 + draws); NaN without draws."""
        draws = self.draws[np.isfinite(self.draws)]
        return (1 + int((draws <= 0).sum())) / (1 + len(draws)) if len(draws) else float("nan")


# ---------------------------------------------------------------- scores


def _binary(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.dtype != bool:
        if not np.isin(labels, (0, 1)).all():
            raise UserError("labels are not all true or false", "two classes; leave unparsed rows out")
        labels = labels.astype(bool)
    return labels


def _fold_index(folds: np.ndarray | None, n: int) -> np.ndarray:
    return np.zeros(n, dtype=np.int64) if folds is None else np.unique(np.asarray(folds), return_inverse=True)[1]


def auroc(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, folds: np.ndarray | None = None
) -> np.ndarray:
    """P(score of a true row > score of a false row), ties counting half.

    Args:
        scores: `[n]`, finite.
        labels: `[n]` bool.
        weights: `[b, n]` row weights (bootstrap counts); None means one draw of ones.
        folds: `[n]`; only pairs within one fold are compared, and all pairs of all folds count the same. Scores of
            different cross-validation models share no scale, and pooling them biases a null below .5.

    Returns `[b]` (a 0-d array without weights); NaN where a class is empty.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), _binary(labels)
    if not np.all(np.isfinite(scores)):
        raise UserError("scores hold NaN or infinite numbers", "finite scores")
    fold = _fold_index(folds, len(scores))
    if not len(scores):
        return np.full(() if weights is None else len(weights), np.nan)
    order = np.lexsort((scores, fold))
    s, f = scores[order], fold[order]
    new = np.r_[True, (s[1:] != s[:-1]) | (f[1:] != f[:-1])]
    starts, w = np.flatnonzero(new), np.ones((1, len(s))) if weights is None else np.asarray(weights)[:, order]
    positive = np.add.reduceat(np.where(labels[order], w, 0.0), starts, axis=1)
    negative = np.add.reduceat(np.where(labels[order], 0.0, w), starts, axis=1)
    fold_starts = np.searchsorted(f[starts], np.arange(f[-1] + 1))
    below = np.cumsum(negative, axis=1) - negative
    below = below - below[:, fold_starts][:, f[starts]]  # false rows under each value, of its own fold only
    wins = (positive * (below + 0.5 * negative)).sum(axis=1)
    pairs = (np.add.reduceat(positive, fold_starts, axis=1) * np.add.reduceat(negative, fold_starts, axis=1)).sum(
        axis=1
    )
    value = np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)
    return value[0] if weights is None else value


def _sum(weights: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    """Weighted sum of `rows [n]`: `[b]`, or a 0-d array without weights."""
    rows = np.asarray(rows, dtype=np.float64)
    return rows.sum() if weights is None else np.asarray(weights) @ rows


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted mean of `values [n]`; accuracy is the mean of "right"."""
    total = _sum(weights, np.ones(len(values)))
    return np.divide(_sum(weights, values), total, out=np.full(np.shape(total), np.nan), where=np.asarray(total) > 0)


def accuracy(predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of rows where prediction and label agree."""
    return mean(_binary(predicted) == _binary(labels), weights)


def majority(labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Accuracy of always giving the more common answer: the chance level that accuracy must beat."""
    share = mean(_binary(labels), weights)
    return np.maximum(share, 1 - share)


def f1(predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """F1 of the true class, 2 TP / (2 TP + FP + FN); 0 where neither predictions nor labels hold a true row."""
    p, y = _binary(predicted), _binary(labels)
    hit, wrong = _sum(weights, p & y), _sum(weights, p ^ y)
    return np.divide(2 * hit, 2 * hit + wrong, out=np.zeros(np.shape(hit)), where=np.asarray(2 * hit + wrong) > 0)


def f1_majority(labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """F1 of the true class by the best constant answer, 2 pi / (1 + pi): what an F1 must beat.

    Where true rows are the majority this is "always the majority". Where they are the minority, always the majority
    would score 0, a floor that anything passes; answering "true" always is the constant that is hard to beat.
    """
    return f1(np.ones(len(labels), dtype=bool), labels, weights)


def cohens_d(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(mean of true rows - mean of false rows) / pooled standard deviation (n - 1 in each class)."""
    x, y = np.asarray(scores, dtype=np.float64), _binary(labels)
    x = x - x.mean() if len(x) else x  # sums of squares of far-off numbers would cancel
    n1, n0 = _sum(weights, y), _sum(weights, ~y)
    with np.errstate(divide="ignore", invalid="ignore"):
        m1, m0 = _sum(weights, x * y) / n1, _sum(weights, x * ~y) / n0
        squares = _sum(weights, x * x * y) - n1 * m1**2 + _sum(weights, x * x * ~y) - n0 * m0**2
        return np.asarray((m1 - m0) / np.sqrt(squares / (n1 + n0 - 2)))


def hedges_g(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Cohen's d with the small-sample correction 1 - 3 / (4 (n1 + n0) - 9)."""
    n = _sum(weights, np.ones(len(scores)))
    return cohens_d(scores, labels, weights) * (1 - 3 / (4 * n - 9))


def r2(predicted: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """1 - squared error / variance about the mean; NaN for a constant target."""
    p, y = np.asarray(predicted, dtype=np.float64), np.asarray(target, dtype=np.float64)
    y = y - (shift := y.mean() if len(y) else 0.0)
    total = _sum(weights, y * y) - _sum(weights, y) ** 2 / np.maximum(_sum(weights, np.ones(len(y))), 1e-300)
    error = _sum(weights, (p - shift - y) ** 2)
    return 1 - np.divide(error, total, out=np.full(np.shape(total), np.nan), where=np.asarray(total) > 1e-300)


def spearman(
    a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None, folds: np.ndarray | None = None
) -> np.ndarray:
    """Rank correlation, mid-ranks at ties; with folds, ranks and centres are of the row's own fold."""
    fold = _fold_index(folds, len(a))
    w = np.ones((1, len(a))) if weights is None else np.asarray(weights, dtype=np.float64)
    top = left = right = np.zeros(len(w))
    for k in range(fold.max(initial=-1) + 1):
        here = fold == k
        wk = w[:, here]
        total = np.maximum(wk.sum(axis=1, keepdims=True), 1e-300)
        x, y = (_midranks(np.asarray(v, dtype=np.float64)[here], wk) / total for v in (a, b))
        x, y = (v - (wk * v).sum(axis=1, keepdims=True) / total for v in (x, y))
        top, left, right = top + (wk * x * y).sum(1), left + (wk * x * x).sum(1), right + (wk * y * y).sum(1)
    scale = np.sqrt(left * right)
    value = np.divide(top, scale, out=np.full(len(w), np.nan), where=scale > 1e-12)
    return value[0] if weights is None else value


def _midranks(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted mid-ranks `[b, n]` of `x [n]`: the weight below plus half the weight at the same value."""
    values, which = np.unique(x, return_inverse=True)
    order = np.argsort(which, kind="stable")
    blocks = np.add.reduceat(w[:, order], np.searchsorted(which[order], np.arange(len(values))), axis=1)
    return (np.cumsum(blocks, axis=1) - 0.5 * blocks)[:, which]


# ---------------------------------------------------------------- intervals


def wilson(k: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's interval of a share k / n of independent rows; NaN for n = 0."""
    if n == 0:
        return Interval(float("nan"), note="no rows")
    z = float(special.ndtri(0.5 + confidence / 2))
    centre, half = k + z * z / 2, z * np.sqrt(k * (n - k) / n + z * z / 4)
    return Interval(
        k / n, max(0.0, float((centre - half) / (n + z * z))), min(1.0, float((centre + half) / (n + z * z)))
    )


def group_weights(groups: np.ndarray, draws: int, seed: Seed = 0) -> np.ndarray:
    """How often each row counts in each draw of groups with replacement: `[draws, n]`."""
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    k = len(names)
    drawn = np.random.default_rng(seed).integers(0, max(k, 1), size=(draws, k))
    counts = np.bincount((drawn + k * np.arange(draws)[:, None]).reshape(-1), minlength=draws * k).reshape(draws, k)
    return counts[:, which].astype(np.float64)


def bootstrap(
    statistic: Statistic,
    groups: np.ndarray,
    draws: int = 2000,
    seed: Seed = 0,
    confidence: float = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
) -> Interval:
    """Interval of `statistic(weights [b, n]) -> [b]` by resampling groups.

    A statistic that is a difference of two scores on the same rows gives the paired bootstrap. `bca` corrects bias and
    skewness with a jackknife over groups. A draw in which the statistic is undefined (an empty class) is left out.
    """
    groups = np.asarray(groups)
    value = float(statistic(np.ones((1, len(groups))))[0])
    if len(np.unique(groups)) < 2:
        return Interval(value, note="fewer than two groups: no interval")
    rng, block = np.random.default_rng(seed), max(1, BLOCK // len(groups))
    sizes = [min(block, draws - start) for start in range(0, draws, block)]
    samples = np.concatenate([statistic(group_weights(groups, size, rng)) for size in sizes])
    good = samples[np.isfinite(samples)]
    if len(good) < draws / 2:
        return Interval(value, note="undefined in most resamples: no interval")
    tail = np.array([0.5 - confidence / 2, 0.5 + confidence / 2])
    if method == "bca":
        tail = _bca_tail(statistic, groups, value, good, tail)
    low, high = np.quantile(good, tail)
    return Interval(value, float(low), float(high), draws=samples)


def _bca_tail(statistic: Statistic, groups: np.ndarray, value: float, good: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """Quantiles corrected by bias z0 and acceleration a (Efron & Tibshirani 1993, eq. 14.9-14.15)."""
    names, which = np.unique(groups, return_inverse=True)
    chunks = np.array_split(np.arange(len(names)), 1 + len(names) * len(groups) // BLOCK)
    left = np.concatenate([statistic((which != part[:, None]).astype(np.float64)) for part in chunks])
    left = left[np.isfinite(left)]
    deviation = left.mean() - left
    spread = (deviation**2).sum() ** 1.5
    acceleration = (deviation**3).sum() / (6 * spread) if spread > 0 else 0.0
    share = ((good < value).sum() + 0.5 * (good == value).sum()) / len(good)
    z0 = special.ndtri(np.clip(share, 1 / (2 * len(good)), 1 - 1 / (2 * len(good))))
    z = z0 + special.ndtri(tail)
    return special.ndtr(z0 + z / (1 - acceleration * z))


def ends(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The central share of the defined draws of a null or a bootstrap; NaN where most are undefined."""
    good = values[np.isfinite(values)]
    if len(good) < max(len(values) / 2, 1):
        return float("nan"), float("nan")
    low, high = np.quantile(good, (0.5 - confidence / 2, 0.5 + confidence / 2))
    return float(low), float(high)


def paired_bootstrap(a: np.ndarray, b: np.ndarray, groups: np.ndarray, **options) -> Interval:
    """Interval of mean(b - a) over rows that share examples and seeds; options as in `bootstrap`."""
    return mean_interval(np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64), groups, **options)


def mean_interval(values: np.ndarray, groups: np.ndarray, **options) -> Interval:
    """Interval of a mean (an accuracy, a rate) over groups; options as in `bootstrap`."""
    values = np.asarray(values, dtype=np.float64)
    return bootstrap(lambda w: mean(values, w), groups, **options)


def thin_class(labels: np.ndarray, split: str, what: str = "probe", minimum: int = MIN_CLASS) -> str:
    """Why there is no interval: names the class with fewer than `minimum` rows; "" where both have enough."""
    y = _binary(labels)
    for name, count in (("incorrect", int((~y).sum())), ("correct", int(y.sum()))):
        if count < minimum:
            return (
                f"{what} has {count} {name} rows in split {split!r}; "
                f"{minimum} are needed for an interval; raise generate.n"
            )
    return ""


def thin_notes(notes: Iterable[str]) -> list[str]:
    """The distinct sentences of `thin_class` in a table's notes, without what else a note says."""
    mark = "raise generate.n"
    return list(dict.fromkeys(n.partition(mark)[0] + mark for n in notes if "are needed for an interval" in n))


def class_interval(
    statistic: Statistic, labels: np.ndarray, groups: np.ndarray, split: str = "test", what: str = "probe", **options
) -> Interval:
    """`bootstrap` under the rule of thin classes: below 20 rows of a class there is the value, a note, no interval."""
    note = thin_class(labels, split, what)
    if note:
        return Interval(float(statistic(np.ones((1, len(groups))))[0]), note=note)
    return bootstrap(statistic, groups, **options)
