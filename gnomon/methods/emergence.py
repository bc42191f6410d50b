"""At which layer something can first be read, and which of two things can be read first.

    curve      score_l of a cross-validated linear probe of layer l, each row scored without its fold: AUROC for two
               classes, Spearman's rank correlation for a number (both are linear in the rank sum, so shares of a peak
               compare)
    null       the same after shuffling the target by group; a_l = score_l - mean null_l
    rises      the largest score of all layers beats the largest of each shuffle (max-T, Westfall & Young 1993)
    emergence  the first layer with a_l >= share * max a (share .9)
    lag        emergence of one target minus that of another, in layers; negative: it leads

Intervals resample groups over the out-of-fold scores, and every target takes the same resamples: the lag's are paired.
A weak target's curve is noisy, its peak is then found too high and its emergence too late; the interval of the lag
allows for it (in simulation, equal curves of unequal noise are told apart in 0 to 3% of runs), the point does not.

One kind of probe serves all targets: ridge, of classes the least-squares classifier, whose direction is that of linear
discriminant analysis (Hastie, Tibshirani & Friedman 2009, 4.2). Cost: one eigendecomposition [n, n] or [d, d] a layer
and fold, whatever the number of targets and shuffles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gnomon import nulls, stats
from gnomon.methods.controls import Metric, metric_of
from gnomon.methods.folds import map_threads
from gnomon.methods.linear import PENALTIES, fitter

Read = Callable[[int], np.ndarray]
"""Activations `[n, d]` of the i-th layer."""


@dataclass(frozen=True)
class Setting:
    """How curves are fitted, and how intervals and nulls are drawn."""

    share: float = 0.9
    permutations: int = 99
    draws: int = 1000
    classes: str = "ridge"
    """The probe of a target of two classes: ridge or logistic."""
    penalties: tuple[float, ...] = PENALTIES
    level: float = 0.05
    """Largest max-T p at which a target counts as read at all."""
    seed: int = 0
    split: str = "all"
    """What notes call the rows."""


@dataclass(frozen=True)
class Target:
    """What is read: `y [n]`, NaN where unknown; 0 and 1 are classes, anything else a number."""

    name: str
    y: np.ndarray
    text: str = ""

    @property
    def rows(self) -> np.ndarray:
        """Indices of the rows where it is known."""
        return np.flatnonzero(np.isfinite(self.y))

    @property
    def binary(self) -> bool:
        return bool(np.isin(self.y[self.rows], (0, 1)).all())

    @property
    def metric(self) -> Metric:
        return metric_of(self.y[self.rows])


@dataclass(frozen=True)
class Curve:
    """A target at every layer, L of them, on its own m rows."""

    target: Target
    scores: np.ndarray
    """`[L, m]` out-of-fold."""
    folds: np.ndarray
    values: np.ndarray
    """`[L]` AUROC or rank correlation, pairs compared within folds."""
    null: np.ndarray
    """`[L, permutations]`, the same of shuffled targets."""

    @property
    def floor(self) -> np.ndarray:
        """Mean of the null at each layer, `[L]`."""
        return self.null.mean(axis=1)

    @property
    def p(self) -> np.ndarray:
        """Permutation p of each layer, `[L]`."""
        return np.array([nulls.p_value(float(v), n) for v, n in zip(self.values, self.null, strict=True)])

    @property
    def p_max(self) -> float:
        """p of the largest score against the largest of each shuffle."""
        return float(nulls.p_value(float(np.nanmax(self.values)), self.null.max(axis=0)))

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """Scores `[b, L]` under row weights `[b, n]` of all rows (the target's own are taken).

        The rank correlation of a constant score (the embedding of one and the same token, say) is 0, as in `ranked`.
        """
        w, y = weights[:, self.target.rows], self.target.y[self.target.rows]
        y = y > 0 if self.target.binary else y
        drawn = np.stack([self.target.metric.one(s, y, w, self.folds) for s in self.scores], axis=1)
        return drawn if self.target.binary else np.nan_to_num(drawn, nan=0.0)


def curves(
    read: Read,
    layers: int,
    targets: Sequence[Target],
    groups: np.ndarray,
    folds: np.ndarray,
    setting: Setting,
    done: Callable[[int], object] | None = None,
) -> list[Curve]:
    """Every target's curve. Rows `[n]` are in `groups`, of which `folds` keeps each one whole.

    Targets with the same known rows share their decompositions; shuffles are columns beside the target itself.
    """
    together: dict[tuple[bytes, str], list[int]] = {}
    for i, target in enumerate(targets):
        kind = setting.classes if target.binary else "ridge"
        together.setdefault((np.isfinite(target.y).tobytes(), kind), []).append(i)
    columns = [_columns(t, groups, [setting.seed, 11, i], setting) for i, t in enumerate(targets)]

    def layer(number: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        x, out = np.asarray(read(number)), {}
        for (_, kind), members in together.items():
            rows = targets[members[0]].rows
            fold = folds[rows]
            y = np.concatenate([columns[i] for i in members], axis=1)
            scores, _ = fitter(kind, x[rows], setting.penalties).out_of_fold(y, fold)
            for k, i in enumerate(members):
                at = slice(k * (1 + setting.permutations), (k + 1) * (1 + setting.permutations))
                out[i] = scores[:, at][:, 0], ranked(scores[:, at], y[:, at], fold, targets[i].binary)
        return out

    found = map_threads(layer, range(layers), done)
    made = []
    for i, target in enumerate(targets):
        values = np.stack([part[i][1] for part in found])
        scores = np.stack([part[i][0] for part in found])
        made.append(Curve(target, scores, folds[target.rows], values[:, 0], values[:, 1:]))
    return made


def _columns(target: Target, groups: np.ndarray, seed: list[int], setting: Setting) -> np.ndarray:
    """The target and its shuffles by group, `[m, 1 + permutations]`."""
    rows = target.rows
    y = target.y[rows]
    return np.column_stack([y, nulls.permuted(y, groups[rows], setting.permutations, seed)])


def ranked(scores: np.ndarray, y: np.ndarray, folds: np.ndarray, binary: bool) -> np.ndarray:
    """AUROC, or Spearman's correlation, of every column of `[n, m]` within folds: `[m]`."""
    if binary:
        return nulls.auroc_columns(scores, y, folds)
    from scipy.stats import rankdata

    top, left, right = (np.zeros(scores.shape[1]) for _ in range(3))
    for k in np.unique(folds):
        here = folds == k
        a, b = (rankdata(v[here], axis=0) / here.sum() for v in (scores, y))
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        top, left, right = top + (a * b).sum(axis=0), left + (a * a).sum(axis=0), right + (b * b).sum(axis=0)
    scale = np.sqrt(left * right)
    return np.divide(top, scale, out=np.zeros_like(top), where=scale > 1e-12)  # a constant score ranks nothing


def first_at(above: np.ndarray, share: float = 0.9) -> np.ndarray:
    """Index of the first layer with `share` of the peak of curves `above [b, L]`: `[b]`, NaN where none is above 0."""
    above = np.atleast_2d(np.asarray(above, dtype=np.float64))
    peak = np.nanmax(above, axis=1)
    return np.where(peak > 0, np.argmax(above >= share * peak[:, None], axis=1), np.nan)


@dataclass(frozen=True)
class Emergence:
    """Where one target emerges. Intervals are NaN where it does not rise above its null."""

    curve: Curve
    rises: bool
    first: float
    """Index of the layer of emergence; NaN where it does not rise."""
    interval: stats.Interval
    """Of the layer's number, with its draws."""
    peak: int
    """Index of the largest score."""
    low: np.ndarray
    """`[L]` 95% interval of each layer's score."""
    high: np.ndarray
    note: str = ""
    halves: float = np.nan
    """Mean distance, in layers, between the layers of emergence in two random halves of the groups."""


def emergence(
    curve: Curve, numbers: np.ndarray, weights: np.ndarray, halves: np.ndarray, setting: Setting
) -> Emergence:
    """Layer of emergence, in the layers' own `numbers [L]`, with its interval over resamples `weights [draws, n]`.

    `halves [k, n]` marks the rows of k random halves of the groups.
    """
    y = curve.target.y[curve.target.rows]
    note = stats.thin_class(y > 0, setting.split, "emergence") if curve.target.binary else ""
    drawn = curve.resampled(weights)
    low, high = np.nanquantile(drawn, (0.025, 0.975), axis=0) if not note else np.full((2, len(numbers)), np.nan)
    peak, rises = int(np.nanargmax(curve.values)), curve.p_max <= setting.level
    if not rises:
        return Emergence(curve, False, np.nan, stats.Interval(np.nan, note="never above its null"), peak, low, high,
                         note or "never above its null")  # fmt: skip
    first = float(first_at(curve.values - curve.floor, setting.share)[0])
    layers, one, two = (
        _numbered(first_at(d - curve.floor, setting.share), numbers)
        for d in (drawn, curve.resampled(halves), curve.resampled(1 - halves))
    )
    apart, value = float(np.nanmean(np.abs(one - two))), float(numbers[int(first)])
    if note:
        return Emergence(curve, True, first, stats.Interval(value, note=note), peak, low, high, note, apart)
    ends = np.nanquantile(layers, (0.025, 0.975), method="closest_observation")
    found = stats.Interval(value, float(ends[0]), float(ends[1]), draws=layers)
    return Emergence(curve, True, first, found, peak, low, high, "", apart)


def _numbered(at: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(at), numbers[np.nan_to_num(at).astype(np.int64)], np.nan)


def half_weights(groups: np.ndarray, draws: int, seed: stats.Seed) -> np.ndarray:
    """Ones for the rows of a random half of the groups, else zeros: `[draws, n]`."""
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    order = np.random.default_rng(seed).permuted(np.broadcast_to(np.arange(len(names)), (draws, len(names))), axis=1)
    return (order < len(names) / 2)[:, which].astype(np.float64)


def lag(a: Emergence, b: Emergence) -> tuple[stats.Interval, float, str]:
    """Layers by which `a` emerges after `b`: interval (paired resamples), two-sided p, and which one leads.

    `first`, `second` (the whole interval lies on one side of 0), or `undecided`; `none` where one of them never rises.
    """
    if not (a.rises and b.rises):
        lost = " and ".join(e.curve.target.name for e in (a, b) if not e.rises)
        return stats.Interval(np.nan, note=f"{lost} never above its null"), np.nan, "none"
    value = a.interval.value - b.interval.value
    if not (len(a.interval.draws) and len(b.interval.draws)):
        return stats.Interval(value, note=a.interval.note or b.interval.note), np.nan, "undecided"
    draws = a.interval.draws - b.interval.draws
    good = draws[np.isfinite(draws)]
    if len(good) < len(draws) / 2:
        return stats.Interval(value, note="undefined in most resamples: no interval"), np.nan, "undecided"
    low, high = map(float, np.quantile(good, (0.025, 0.975), method="closest_observation"))
    p = min(1.0, 2 * (1 + min(int((good >= 0).sum()), int((good <= 0).sum()))) / (1 + len(good)))
    which = "first" if high < 0 else "second" if low > 0 else "undecided"
    return stats.Interval(value, low, high, draws=draws), p, which


def held_out(
    x: np.ndarray, y: np.ndarray, new: np.ndarray, folds: np.ndarray, shuffles: np.ndarray, kind: str,
    penalties: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Scores `[m]` of new rows by the probe of rows `x [n, d]`, and `[m, P]` by probes of shuffled targets `[n, P]`."""
    model = fitter(kind, x, penalties)
    columns = np.column_stack([y, shuffles])
    _, penalty = model.out_of_fold(columns, folds)
    scores = model.held_out(new, columns, penalty)
    return scores[:, 0], scores[:, 1:]
