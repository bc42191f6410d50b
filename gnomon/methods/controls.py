"""Scores of one probe or direction on held-out rows, each beside its controls: the rows of `scores.parquet`.

    auroc                 of the score; interval by bootstrap over groups; p by shuffling labels among groups
    control "shuffled"    the same after training on shuffled labels (metric `auroc_strata`: shuffled within difficulty)
    control "random"      isotropic random directions at the same site, each turned to agree with the fit labels
    baselines             each alone, and combined; prevalence: the best constant answer
    increment             AUROC(baselines and score) - AUROC(baselines), paired; with the partial correlation beside it

`direction.direction_controls` sends any given direction through all of it, `probing.evaluate` the probes it fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gnomon import nulls, stats
from gnomon.methods.baselines import SHARES, Basis, Columns, Combined, Sparse, residuals

COLUMNS = (
    "generation", "target", "site", "position", "predictor", "control", "split", "metric",
    "value", "ci_low", "ci_high", "n", "n_pos", "p", "q", "selected", "note",
)  # fmt: skip
SHUFFLED, RANDOM = "shuffled", "random"


@dataclass(frozen=True)
class Setting:
    """How intervals and nulls are drawn."""

    draws: int = 2000
    permutations: int = 1999
    seed: int = 0
    widen: float = 1.0
    """Factor on the half-widths of intervals: the folds of a cross-validation share training rows."""
    what: str = "probe"


@dataclass(frozen=True)
class Held:
    """One probe on held-out rows: n rows, R random directions, P shuffles. Folds are compared within themselves."""

    y: np.ndarray
    groups: np.ndarray
    scores: np.ndarray
    folds: np.ndarray
    predicted: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Yes or no `[n]` by the threshold that maximises `f1`, and the one that maximises `accuracy`, before test."""
    calibrated: np.ndarray | None = None
    """Predictions on the scale of a real-valued target."""
    combined: Combined | None = None
    singles: Mapping[str, np.ndarray] = field(default_factory=dict)
    random: np.ndarray | None = None
    shuffled: tuple[np.ndarray, np.ndarray] | None = None
    """Scores `[n, P]` after training on shuffled labels, and those labels `[n, P]`."""
    strata: tuple[np.ndarray, np.ndarray] | None = None
    """The same, shuffled within difficulty."""
    null: str = "refits on labels shuffled by group"
    """What a draw of these two is."""

    @property
    def binary(self) -> bool:
        return bool(np.isin(self.y, (0, 1)).all())


@dataclass(frozen=True)
class Metric:
    """The score that ranks: AUROC for two classes, Spearman's rank correlation for a real-valued target."""

    name: str
    one: Callable[..., np.ndarray]
    columns: Callable[..., np.ndarray]
    chance: float


def spearman_columns(scores: np.ndarray, target: np.ndarray, folds: np.ndarray | None = None) -> np.ndarray:
    """Spearman's correlation of each column of `[n, m]` with that column of the target, within folds: `[m]`."""
    target = np.asarray(target).reshape(len(scores), -1)
    scores, target = (
        np.broadcast_arrays(scores, target) if 1 in (scores.shape[1], target.shape[1]) else (scores, target)
    )
    return np.array([float(stats.spearman(s, y, folds=folds)) for s, y in zip(scores.T, target.T, strict=True)])


def shuffled_labels(
    y: np.ndarray, groups: np.ndarray, draws: int, seed: Sequence[int], strata: np.ndarray | None = None
) -> np.ndarray:
    """`nulls.permuted`, in bytes where the target has two classes: thousands of draws of thousands of rows fit."""
    small = np.asarray(y).astype(np.int8) if np.isin(y, (0, 1)).all() else y
    return nulls.permuted(small, groups, draws, seed, strata)


def metric_of(y: np.ndarray) -> Metric:
    """The ranking metric that fits the target."""
    if np.isin(y, (0, 1)).all():
        return Metric("auroc", stats.auroc, nulls.auroc_columns, 0.5)
    return Metric("spearman", stats.spearman, spearman_columns, 0.0)


def best_threshold(scores: np.ndarray, y: np.ndarray, metric: str = "f1") -> float:
    """The threshold (score > threshold says yes) with the largest F1, or accuracy; the lowest of equals."""
    order = np.argsort(-scores, kind="stable")
    s, hit = scores[order], np.cumsum(y[order])
    count = np.arange(1, len(s) + 1)
    value = 2 * hit / (count + y.sum()) if metric == "f1" else (2 * hit - count + (1 - y).sum()) / len(s)
    last = np.r_[s[1:] != s[:-1], True]
    value, at = np.where(last, value, -1.0), len(s) - 1
    at -= int(np.argmax(value[::-1]))
    if metric != "f1" and (1 - y).sum() / len(s) > value[at]:
        return float(s[0])  # never yes is best
    return float((s[at] + s[at + 1]) / 2) if at + 1 < len(s) else float(np.nextafter(s[at], -np.inf))


class Rows:
    """Collects rows of the scores table for one held-out set."""

    def __init__(self, held: Held, where: Mapping[str, Any], setting: Setting) -> None:
        self.held, self.where, self.setting, self.rows = held, dict(where), setting, []

    def interval(self, statistic: stats.Statistic, share: bool = True) -> stats.Interval:
        """Bootstrap over groups under the rule of thin classes, widened where folds share training rows.

        A `share` of exactly 0 or 1 is so in every resample: Wilson's interval, on the groups of the smaller class.
        """
        held, s = self.held, self.setting
        note = stats.thin_class(held.y > 0, str(self.where.get("split", "test")), s.what) if held.binary else ""
        if note:
            return stats.Interval(float(statistic(np.ones((1, len(held.y))))[0]), note=note)
        found = stats.bootstrap(statistic, held.groups, s.draws, s.seed)
        if share and held.binary and found.value in (0.0, 1.0):
            n = min(len(np.unique(held.groups[held.y == c])) for c in (0, 1))
            return stats.wilson(n if found.value else 0, n)
        low, high = (found.value + s.widen * (end - found.value) for end in (found.low, found.high))
        return replace(found, low=low, high=high, draws=found.value + s.widen * (found.draws - found.value))

    def add(self, predictor: str, metric: str, value: stats.Interval, **more: Any) -> None:
        row = {
            **dict.fromkeys(COLUMNS, ""), "p": np.nan, "q": np.nan, "selected": False, **self.where,
            "predictor": predictor, "metric": metric, "value": float(value.value), "ci_low": float(value.low),
            "ci_high": float(value.high), "n": len(self.held.y),
            "n_pos": int((self.held.y > 0).sum()) if self.held.binary else 0, "note": value.note,
        }  # fmt: skip
        self.rows.append(row | more)

    def ranked(self, scores: np.ndarray) -> stats.Interval:
        held = self.held
        metric = metric_of(held.y)
        target = held.y > 0 if held.binary else held.y
        return self.interval(lambda w: metric.one(scores, target, w, held.folds))


def held_out_rows(
    held: Held, predictor: str, where: Mapping[str, Any], setting: Setting, increment: str = "increment"
) -> list[dict[str, Any]]:
    """All rows of one probe on held-out data: its scores, its nulls, the increment (under that name).

    Rows of the baselines themselves: `baseline_rows`.
    """
    out, metric = Rows(held, where, setting), metric_of(held.y)
    main = out.ranked(held.scores)
    note = main.note
    refit = metric.columns(*held.shuffled, held.folds) if held.shuffled is not None else np.zeros(0)
    if len(np.unique(held.folds)) > 1:
        p, how = nulls.p_value(main.value, refit), f"p of {len(refit)} refits on shuffled labels"
    else:
        labels = shuffled_labels(held.y, held.groups, setting.permutations, [setting.seed, 11])
        p = nulls.p_value(main.value, metric.columns(held.scores[:, None], labels, None))
        how = f"p of {setting.permutations} shuffles of the held-out labels by group"
    out.add(predictor, metric.name, main, p=p, note="; ".join(t for t in (note, str(where.get("note", "")), how) if t))
    if held.binary:
        y = held.y > 0
        for name, score in (("f1", stats.f1), ("accuracy", stats.accuracy)):
            if name in held.predicted:
                guess = held.predicted[name]
                out.add(predictor, name, out.interval(lambda w, g=guess, f=score: f(g, y, w)))
        scale = _within_fold(held.scores, held.folds)
        out.add(predictor, "cohens_d", out.interval(lambda w: stats.cohens_d(scale, y, w), share=False))
    elif held.calibrated is not None:
        guess = held.calibrated
        out.add(predictor, "r2", out.interval(lambda w: stats.r2(guess, held.y, w)))
    for null, name, within in ((held.shuffled, "", ""), (held.strata, "_strata", " within difficulty")):
        if null is not None:
            values = metric.columns(*null, held.folds)
            note = f"mean and 95% range of {len(values)} {held.null}{within}"
            p = nulls.p_value(main.value, values)
            out.add(predictor, metric.name + name, spread(values), control=SHUFFLED, p=p, note=note)
    if held.random is not None:
        values = metric.columns(held.random, held.y, held.folds)
        note = f"mean and 95% range of {len(values)} isotropic directions at the site, signed on fit"
        p = nulls.p_value(main.value, values)
        out.add(predictor, metric.name, spread(values), control=RANDOM, p=p, note=note)
    if held.combined is not None:
        _increment_rows(out, held, held.combined, predictor, increment)
    return out.rows


def _increment_rows(out: Rows, held: Held, combined: Combined, predictor: str, name: str) -> None:
    target, metric = held.y > 0 if held.binary else held.y, metric_of(held.y)

    def gain(w: np.ndarray) -> np.ndarray:
        both, base = (metric.one(s, target, w, held.folds) for s in (combined.both, combined.base))
        return both - base

    def partial(w: np.ndarray) -> np.ndarray:
        top, bottom = w @ (s * e), np.sqrt((w @ s**2) * (w @ e**2))
        return np.divide(top, bottom, out=np.full(len(w), np.nan), where=bottom > 0)

    s, e = residuals(combined, held.y)
    out.add(f"baselines+{predictor}", metric.name, out.ranked(combined.both))
    for kind, statistic, note in (
        (metric.name, gain, f"of {predictor} over the baselines, paired"),
        ("partial", partial, f"correlation of {predictor} and target given the baselines"),
    ):
        found = out.interval(statistic, share=False)
        note = f"{found.note}; {note}" if found.note else note
        headline = bool(out.where.get("selected")) and kind != "partial"
        out.add(name, kind, found, p=found.p_above_zero, note=note, selected=headline)


def baseline_rows(held: Held, where: Mapping[str, Any], setting: Setting) -> list[dict[str, Any]]:
    """The baselines combined, each alone, and the best constant answer."""
    out, metric = Rows(held, where, setting), metric_of(held.y)
    if held.combined is not None:
        out.add("baselines", metric.name, out.ranked(held.combined.base), note="all baselines together: L1 logistic")
    for name, scores in held.singles.items():
        out.add(name, metric.name, out.ranked(scores))
    if held.binary:
        y = held.y > 0
        out.add("prevalence", "accuracy", out.interval(lambda w: stats.majority(y, w)), note="the more common class")
        out.add("prevalence", "f1_majority", out.interval(lambda w: stats.f1_majority(y, w)), note="always yes")
    return out.rows


def single_baselines(fit: Columns, y: np.ndarray, folds: np.ndarray, test: Columns) -> dict[str, np.ndarray]:
    """Predictions of held-out rows by each baseline alone, its bends included: name -> `[n_test]`."""
    out = {}
    for name, values in fit.items():
        basis = Basis.learn({name: values})
        model = Sparse(basis.features(fit, len(y)), y, folds, SHARES[-1:])  # never dropped: it is shown as it is
        out[name] = model.predict(basis.features(test, len(test[name])))
    return out


def signed(fit_scores: np.ndarray, y: np.ndarray, test_scores: np.ndarray) -> np.ndarray:
    """Turn each column so that it agrees with the target on fit rows: held-out scores `[n_test, R]`."""
    metric = metric_of(y)
    return test_scores * np.where(metric.columns(fit_scores, y) < metric.chance, -1.0, 1.0)


def spread(values: np.ndarray) -> stats.Interval:
    """Mean and central 95% of the draws of a null."""
    good = values[np.isfinite(values)]
    if not len(good):
        return stats.Interval(float("nan"))
    low, high = np.quantile(good, (0.025, 0.975))
    return stats.Interval(float(good.mean()), float(low), float(high))


def _within_fold(scores: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Scores centred and scaled within their fold."""
    out = np.array(scores, dtype=np.float64)
    for k in np.unique(folds):
        here = folds == k
        out[here] = (out[here] - out[here].mean()) / max(float(out[here].std()), 1e-300)
    return out
