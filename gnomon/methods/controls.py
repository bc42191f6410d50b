"""Scores of one probe or direction on held-out rows, each beside its controls: the rows of `scores.parquet`.

    auroc                 of the score; interval by bootstrap over groups; p by shuffling labels among groups
    control "shuffled"    the same after training on shuffled labels (metric `auroc_strata`: shuffled within difficulty)
    control "random"      isotropic random directions at the same site, each turned to agree with the fit labels
    baselines             each alone, and combined; prevalence: the best constant answer
    increment             AUROC(baselines and score) - AUROC(baselines), paired; with the partial correlation beside it

`direction_controls` sends any given direction through all of it; `probing.evaluate` the probes that it fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from gnomon import nulls, stats
from gnomon.methods.baselines import Combined, Sparse, combine, residuals
from gnomon.methods.baselines import Basis as BaselineBasis
from gnomon.methods.folds import grouped_folds

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
    """Factor on the half-widths of intervals: cross-validation folds share training rows, and so are not independent."""
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
    target = np.broadcast_to(np.asarray(target).reshape(len(scores), -1), scores.shape)
    return np.array([float(stats.spearman(s, y, folds=folds)) for s, y in zip(scores.T, target.T, strict=True)])


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

    def interval(self, statistic: stats.Statistic) -> stats.Interval:
        """Bootstrap over groups under the rule of thin classes, widened where folds share training rows."""
        held, s = self.held, self.setting
        options = {"draws": s.draws, "seed": s.seed}
        split = str(self.where.get("split", "test"))
        if held.binary:
            found = stats.class_interval(statistic, held.y > 0, held.groups, split, s.what, **options)
        else:
            found = stats.bootstrap(statistic, held.groups, **options)
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


def held_out_rows(held: Held, predictor: str, where: Mapping[str, Any], setting: Setting) -> list[dict[str, Any]]:
    """All rows of one probe on held-out data: its scores, its nulls, the increment. Baselines: `baseline_rows`."""
    out, metric = Rows(held, where, setting), metric_of(held.y)
    main = out.ranked(held.scores)
    note = main.note
    refit = metric.columns(*held.shuffled, held.folds) if held.shuffled is not None else np.zeros(0)
    if len(np.unique(held.folds)) > 1:
        p, how = nulls.p_value(main.value, refit), f"p of {len(refit)} refits on shuffled labels"
    else:
        labels = nulls.permuted(held.y, held.groups, setting.permutations, [setting.seed, 11])
        null = metric.columns(np.broadcast_to(held.scores[:, None], labels.shape), labels)
        p, how = (
            nulls.p_value(main.value, null),
            f"p of {setting.permutations} shuffles of the held-out labels by group",
        )
    out.add(predictor, metric.name, main, p=p, note="; ".join(t for t in (note, str(where.get("note", "")), how) if t))
    if held.binary:
        y = held.y > 0
        for name, score in (("f1", stats.f1), ("accuracy", stats.accuracy)):
            if name in held.predicted:
                guess = held.predicted[name]
                out.add(predictor, name, out.interval(lambda w, g=guess, f=score: f(g, y, w)))
        scale = _within_fold(held.scores, held.folds)
        out.add(predictor, "cohens_d", out.interval(lambda w: stats.cohens_d(scale, y, w)))
    elif held.calibrated is not None:
        guess = held.calibrated
        out.add(predictor, "r2", out.interval(lambda w: stats.r2(guess, held.y, w)))
    for null, name in ((held.shuffled, metric.name), (held.strata, f"{metric.name}_strata")):
        if null is not None:
            values = metric.columns(*null, held.folds)
            out.add(predictor, name, spread(values), control=SHUFFLED, p=nulls.p_value(main.value, values),
                    note=f"{len(values)} refits on labels shuffled by group"
                    + (" within difficulty" if null is held.strata else "") + "; 95% range of the shuffles")  # fmt: skip
    if held.random is not None:
        values = metric.columns(held.random, held.y, held.folds)
        out.add(predictor, metric.name, spread(values), control=RANDOM, p=nulls.p_value(main.value, values),
                note=f"{len(values)} isotropic directions at the site, signed on fit; their 95% range")  # fmt: skip
    if held.combined is not None:
        _increment_rows(out, held, held.combined, predictor, metric)
    return out.rows


def _increment_rows(out: Rows, held: Held, combined: Combined, predictor: str, metric: Metric) -> None:
    target = held.y > 0 if held.binary else held.y
    out.add(f"baselines+{predictor}", metric.name, out.ranked(combined.both))

    def gain(w: np.ndarray) -> np.ndarray:
        return metric.one(combined.both, target, w, held.folds) - metric.one(combined.base, target, w, held.folds)

    found = out.interval(gain)
    out.add("increment", metric.name, found, p=found.p_above_zero,
            note="; ".join(t for t in (found.note, f"of {predictor} over the baselines") if t))  # fmt: skip
    s, e = residuals(combined, held.y)
    found = out.interval(lambda w: _ratio(w @ (s * e), np.sqrt((w @ s**2) * (w @ e**2))))
    out.add("increment", "partial", found, p=found.p_above_zero,
            note="; ".join(t for t in (found.note, f"correlation of {predictor} and target, given the baselines") if t))  # fmt: skip


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


def direction_controls(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    splits: np.ndarray,
    baselines: pd.DataFrame | None = None,
    *,
    difficulty: np.ndarray | None = None,
    random_scores: np.ndarray | None = None,
    fit_scores: np.ndarray | None = None,
    split: str = "test",
    predictor: str = "given",
    where: Mapping[str, Any] | None = None,
    setting: Setting | None = None,
) -> pd.DataFrame:
    """Send one fixed direction through every control: rows of the scores table (COLUMNS), for rows of `split`.

    Args:
        scores: `[n]`, activations times the direction; larger means the target is true, as the claim has it.
        labels: `[n]`, bool or real; leave unparsed rows out.
        groups, splits: `[n]`; thresholds, signs and combinations are learned on rows of `fit`, thresholds on `tune` too.
        baselines: `[n]` rows of named baselines (`baselines.choose`); None leaves out the increment.
        difficulty: `[n]`, for the shuffles within difficulty.
        random_scores: `[n, R]`, activations times random directions (`Direction.random_controls`).
        fit_scores: `[n]` to be used for fit rows instead of `scores`: out-of-fold ones, where the direction was itself
            fitted on these rows. Without them such a direction's increment comes out too low.
        where: constant columns (generation, target, site, position, selected).

    The direction is not refitted, so its shuffled null shuffles the labels of the held-out rows.
    """
    setting, y = setting or Setting(what="direction"), np.asarray(labels, dtype=np.float64)
    groups, splits = np.asarray(groups), np.asarray(splits)
    held_out, fit, early = splits == split, splits == "fit", np.isin(splits, ("fit", "tune"))
    s_fit = np.asarray(scores if fit_scores is None else fit_scores, dtype=np.float64)
    used = np.where(fit, s_fit, scores)
    held = Held(y[held_out], groups[held_out], np.asarray(scores, np.float64)[held_out], np.zeros(held_out.sum(), int))
    metric = metric_of(y)
    if metric.name == "auroc" and early.any():
        cuts = {m: best_threshold(used[early], y[early], m) for m in ("f1", "accuracy")}
        held = replace(held, predicted={m: held.scores > c for m, c in cuts.items()})
    if baselines is not None:
        folds = grouped_folds(groups[fit], 5, setting.seed)
        combined = combine(baselines[fit], y[fit], folds, s_fit[fit], baselines[held_out], held.scores)
        held = replace(
            held, combined=combined, singles=single_baselines(baselines[fit], y[fit], folds, baselines[held_out])
        )
    if random_scores is not None:
        held = replace(held, random=signed(random_scores[fit], y[fit], random_scores[held_out]))
    shuffle = nulls.permuted(held.y, held.groups, setting.permutations, [setting.seed, 12])
    held = replace(held, shuffled=(np.broadcast_to(held.scores[:, None], shuffle.shape), shuffle))
    if difficulty is not None and np.isfinite(difficulty[held_out]).any():
        level = nulls.quantile_strata(np.asarray(difficulty, dtype=np.float64)[held_out])
        within = nulls.permuted(held.y, held.groups, setting.permutations, [setting.seed, 13], level)
        held = replace(held, strata=(np.broadcast_to(held.scores[:, None], within.shape), within))
    fixed = {"split": split} | dict(where or {})
    found = held_out_rows(held, predictor, fixed, setting)
    for row in found:
        row["note"] = row["note"].replace("refits on labels shuffled", "shuffles of held-out labels")
    return pd.DataFrame(found + baseline_rows(held, fixed, setting), columns=list(COLUMNS))


def single_baselines(fit: pd.DataFrame, y: np.ndarray, folds: np.ndarray, test: pd.DataFrame) -> dict[str, np.ndarray]:
    """Predictions of held-out rows by each baseline alone, its bends included: name -> `[n_test]`."""
    out = {}
    for name in fit.columns:
        basis = BaselineBasis.learn(fit[[name]])
        out[str(name)] = Sparse(basis.features(fit), y, folds).predict(basis.features(test))
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
    return stats.Interval(float(good.mean()), *(float(q) for q in np.quantile(good, (0.025, 0.975))))


def _within_fold(scores: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Scores centred and scaled within their fold."""
    out = np.array(scores, dtype=np.float64)
    for k in np.unique(folds):
        here = folds == k
        out[here] = (out[here] - out[here].mean()) / max(float(out[here].std()), 1e-300)
    return out


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)
