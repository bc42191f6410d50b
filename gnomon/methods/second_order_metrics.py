"""Measures of how concentrated second-order effects are, each with its interval and what chance would give.

    half            the smallest share of rows that hold half of a neuron's squared centred effect (normal: 12.4 %)
    concentration   kept layers' mass / all layers' mass, mass = sum over neurons of mean |phi|; beside all layer sets
                    of the same size (every one where there are few, else draws)
    allowed share   read off a functional curve: the smallest share of rows whose effects must be kept so that accuracy
                    stays within a tolerance. Its interval inverts the curve's: from the first share that the data do
                    not exclude to the first that they do not leave in doubt
    outlying        max over neurons of |z| of a row against the right rows, leaving the row itself out; p is its rank
                    among the right rows'

Source: arXiv 2406.04341 for sparsity and layers, as chosen cuts; the measured forms and their nulls are ours. Cost: a
sort of each neuron's rows, and draws * rows * neurons for the interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from scipy import special

from gnomon.methods.verdict import verdict
from gnomon.stats import Interval, bootstrap

SETS = 20_000
"""Up to this many layer sets of one size are all looked at; beyond, as many are drawn."""
NORMAL_HALF = float(special.chdtrc(1, special.chdtri(3, 0.5)))
"""Share of a normal variable's largest values that holds half of its square: P(z^2 > m), m the median of chi^2(3)."""


def half_share(squares: np.ndarray, weights: np.ndarray | None = None, part: float = 0.5) -> np.ndarray:
    """Smallest share of rows holding `part` of each neuron's `squares [S, n]`: `[b, S]`, NaN for a neuron of zeros.

    Args:
        squares: |phi - mean|^2, 0 or more.
        weights: `[b, n]` bootstrap counts; None is one draw of ones.
    """
    squares = np.asarray(squares, dtype=np.float64)
    w = np.ones((1, squares.shape[1])) if weights is None else np.asarray(weights, dtype=np.float64)
    out = np.full((len(w), len(squares)), np.nan)
    for s, own in enumerate(squares):
        order = np.argsort(-own, kind="stable")
        counts = w[:, order]
        values = counts * own[order]
        held, rows = np.cumsum(values, axis=1), np.cumsum(counts, axis=1)
        whole, at = held[:, -1], np.arange(len(w))
        need = part * whole * (1 - 1e-12)
        first = np.argmax(held >= need[:, None], axis=1)
        before = rows[at, first] - counts[at, first]
        size = np.maximum(own[order][first], 1e-300)
        copies = np.ceil((need - held[at, first] + values[at, first]) / size)  # of a row that a draw holds twice
        share = (before + np.minimum(copies, counts[at, first])) / rows[:, -1]
        out[:, s] = np.where(whole > 0, share, np.nan)
    return out


@dataclass(frozen=True)
class Concentration:
    """value: the kept layers' share; expected: mean over layer sets of that size; p: share of sets with as much."""

    value: float
    expected: float
    p: float
    sets: int
    exact: bool


def concentration(mass: np.ndarray, kept: np.ndarray, seed: int = 0) -> Concentration:
    """The kept layers' share of all mass, beside layer sets of equal size; NaN where no mass was computed."""
    mass, kept = np.asarray(mass, dtype=np.float64), np.asarray(kept, dtype=bool)
    known = np.isfinite(mass)
    mass, kept = mass[known], kept[known]
    k, total = int(kept.sum()), mass.sum()
    if not len(mass) or not total > 0 or k < 1:
        return Concentration(np.nan, np.nan, np.nan, 0, False)
    value = float(mass[kept].sum() / total)
    exact = comb(len(mass), k) <= SETS
    if exact:
        shares = np.array([mass[list(some)].sum() for some in combinations(range(len(mass)), k)]) / total
        p = float((shares >= value - 1e-12).mean())
    else:
        rng = np.random.default_rng(seed)
        shares = np.array([mass[rng.permutation(len(mass))[:k]].sum() for _ in range(SETS)]) / total
        p = (1 + int((shares >= value - 1e-12).sum())) / (1 + SETS)
    return Concentration(value, float(shares.mean()), p, len(shares), exact)


def concentration_interval(mass: np.ndarray, kept: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Percentile interval of the concentration over rows, of `mass [layers, rows]` and `weights [draws, rows]`."""
    mass = np.nan_to_num(np.asarray(mass, dtype=np.float64))
    drawn = weights @ mass.T
    shares = drawn[:, np.asarray(kept, dtype=bool)].sum(1) / drawn.sum(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def allowed_share(
    cuts: np.ndarray, change: np.ndarray, low: np.ndarray, high: np.ndarray, tolerance: float
) -> Interval:
    """The smallest share kept whose change is at least -tolerance, with its inverted interval.

    Low end: the first share whose `high` reaches -tolerance (what the data do not exclude). High end: the first from
    which on every `low` does. A curve that ends at 1, where nothing changes, always has one.
    """
    order = np.argsort(cuts)
    cuts, change, low, high = (np.asarray(v, dtype=np.float64)[order] for v in (cuts, change, low, high))
    if not len(cuts) or not np.isfinite(change).all():
        return Interval(float("nan"), note="no curve")

    def first(reached: np.ndarray) -> float:
        """The first share from which on all reach it."""
        onwards = np.logical_and.accumulate(reached[::-1])[::-1]
        return float(cuts[np.argmax(onwards)]) if onwards.any() else float("nan")

    value = first(change >= -tolerance)
    return Interval(value, min(first(high >= -tolerance), value), max(first(low >= -tolerance), value))


def median_interval(values: np.ndarray, drawn: np.ndarray) -> Interval:
    """Median over neurons of `values [S]`, with the percentile interval of the draws' medians `[b, S]`."""
    known = np.isfinite(values)
    if not known.any():
        return Interval(float("nan"), note="no neuron has an effect")
    middle = np.median(drawn[:, known], axis=1) if len(drawn) else np.zeros(0)
    middle = middle[np.isfinite(middle)]
    low, high = np.quantile(middle, [0.025, 0.975]) if len(middle) else (np.nan, np.nan)
    return Interval(float(np.median(values[known])), float(low), float(high))


def over_neurons(values: np.ndarray, statistic: Any, draws: int = 1000, seed: int = 0) -> Interval:
    """`statistic` (np.mean, np.median) of finite `values [S]`, with its bootstrap interval over neurons."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return Interval(float(values[0]) if len(values) else float("nan"), note="fewer than two neurons")
    drawn = statistic(values[np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))], axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(statistic(values)), float(low), float(high))


def correlation_interval(a: np.ndarray, b: np.ndarray, draws: int = 1000, seed: int = 0) -> Interval:
    """Pearson correlation over neurons of `a, b [S]` with its bootstrap interval; NaN where one is constant."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Interval(float("nan"), note="constant, or fewer than three")

    def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
        scale = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
        return np.divide((x * y).sum(-1), scale, out=np.full(np.shape(scale), np.nan), where=scale > 0)

    pick = np.random.default_rng(seed).integers(0, len(a), (draws, len(a)))
    drawn = pearson(a[pick], b[pick])
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Interval(float(pearson(a, b)), float(low), float(high))


def difference(
    values: np.ndarray, labels: np.ndarray, groups: Sequence[Any] | np.ndarray, draws: int, seed: int
) -> Interval:
    """mean over right rows - mean over wrong rows, resampled by group."""
    values, labels = np.asarray(values, dtype=np.float64), np.asarray(labels, dtype=bool)

    def statistic(w: np.ndarray) -> np.ndarray:
        top, low = w @ (values * labels), w @ (values * ~labels)
        n1, n0 = w @ labels.astype(float), w @ (~labels).astype(float)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((n1 > 0) & (n0 > 0), top / n1 - low / n0, np.nan)

    return bootstrap(statistic, np.asarray(groups), draws=draws, seed=seed)


def outlying(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z `[N, S]` of each row's scores against the right rows (itself left out), and p `[N]` of its largest |z|.

    Args:
        scores: `[N, S]`; right: `[N]` bool.

    p of a wrong row is (1 + right rows with a largest |z| as large) / (1 + right rows): exact, up to the
    row left out, where wrong rows are like right ones. NaN for right rows, and for all where fewer than 3 are right.
    """
    x, right = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    n = int(right.sum())
    if n < 3:
        return np.full(x.shape, np.nan), np.full(len(x), np.nan)
    total, squares = x[right].sum(0), (x[right] ** 2).sum(0)
    own = right[:, None].astype(np.float64)
    count = n - own
    mean = (total - own * x) / count
    variance = np.maximum((squares - own * x**2) / count - mean**2, 0) * count / (count - 1)
    z = np.divide(x - mean, np.sqrt(variance), out=np.zeros_like(x), where=variance > 1e-18)
    largest = np.abs(z).max(1)
    p = (1 + (largest[right][None] >= largest[:, None] - 1e-12).sum(1)) / (1 + n)
    return z, np.where(right, np.nan, p)


def judged(row: Mapping[str, Any], goal: float | None, sense: str = "") -> dict[str, Any]:
    """The row with its goal and verdict: by the interval; "" without a goal, "not measured" without a value."""
    measured = np.isfinite(row["value"])
    word = "not measured" if not measured else ""
    if measured and goal is not None:
        word = verdict({sense: goal}, float(row["ci_low"]), float(row["ci_high"]))
    return {**row, "goal": np.nan if goal is None else goal, "sense": sense, "verdict": word}
