"""Two models site by site: how alike their activations are, and whether a probe of one reads the other.

    similarity   debiased CKA and cosines of the same rows (`methods.similarity`), on fit and tune
    within       a probe of a's activations and labels, read on a's held-out rows; likewise b
    transfer     the same probe read on the other model's activations of the same held-out rows, against that model's
                 labels; its loss is transfer minus the reader's own probe, paired over rows
    nested       under `nested_below` groups the test rows are those of each outer fold in turn, and the site is chosen
                 inside the others; AUROC then compares rows of one fold only

The site is the one with the highest mean of both within-scores on rows that are not tested. Right and wrong are told by
difference in means or logistic regression and AUROC, a confidence by the former's slope form or ridge and Spearman.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import rankdata

from gnomon import nulls, stats
from gnomon.methods.comparing import Setting
from gnomon.methods.folds import grouped_folds
from gnomon.methods.linear import fitter

PATHS = (("a", "a"), ("a", "b"), ("b", "b"), ("b", "a"))
"""(fitted on, read on)."""
READ = {"aa": "a", "ab": "b", "bb": "b", "ba": "a"}


@dataclass(frozen=True)
class Question:
    """What is predicted on paired rows, of each model: right or wrong, or a number."""

    of: str
    """Whose activations: `answers`, or a confidence pass."""
    target: str
    y_a: np.ndarray
    y_b: np.ndarray
    groups: np.ndarray
    split: np.ndarray

    @property
    def binary(self) -> bool:
        return bool(np.isin(self.y_a, (0, 1)).all() and np.isin(self.y_b, (0, 1)).all())

    def y(self, side: str) -> np.ndarray:
        return self.y_a if side == "a" else self.y_b


@dataclass
class Held:
    """What every site gives: within-scores of the sweep and of each outer fold's own rows, and outer scores."""

    site: str
    position: str
    sweep: dict[str, np.ndarray]
    """Path -> out-of-fold scores of the fit and tune rows."""
    inner: dict[int, float]
    """Outer fold -> mean of both within-scores on the rows outside of it."""
    outer: dict[str, np.ndarray] = field(default_factory=dict)
    """Path -> scores `[n]` of the tested rows (NaN elsewhere), by probes that did not see them."""


@dataclass(frozen=True)
class Plan:
    """Which rows test what: `outer [n]` is the fold a row is tested in, -1 where it is never tested."""

    outer: np.ndarray
    inner: np.ndarray
    """Folds of the cross-validations within."""
    searched: np.ndarray
    """Rows of the sweep: fit and tune."""
    nested: bool

    @property
    def tested(self) -> np.ndarray:
        return self.outer >= 0


def plan(of: Question, folds: int, nested_below: int, seed: int) -> Plan:
    """Test rows as they are, or nested folds over all rows where there are fewer groups than `nested_below`."""
    nested = len(np.unique(of.groups)) < nested_below
    inner = grouped_folds(of.groups, folds, seed)
    test = of.split == "test"
    outer = grouped_folds(of.groups, folds, seed + 1) if nested else np.where(test, 0, -1)
    return Plan(outer, inner, ~test, nested)


def measure(
    of: Question, where: Plan, site: str, position: str, x_a: np.ndarray, x_b: np.ndarray, predictor: str
) -> Held:
    """Everything one site says, for activations `[n, d]` of the paired rows."""
    x = {"a": np.asarray(x_a, dtype=np.float64), "b": np.asarray(x_b, dtype=np.float64)}
    held = Held(site, position, _out_of_fold(of, x, where.searched, where.inner, predictor), {})
    held.outer = {f + r: np.full(len(of.groups), np.nan) for f, r in PATHS}
    for fold in np.unique(where.outer[where.tested]):
        test, train = where.outer == fold, where.outer != fold
        if not where.nested:
            found = held.sweep
        else:
            found = _out_of_fold(of, x, train, where.inner, predictor, ("aa", "bb"))
        held.inner[int(fold)] = float(np.mean([_value(of, found[p], where.inner, train, p) for p in ("aa", "bb")]))
        for path, scores in _fitted(of, x, np.flatnonzero(train), np.flatnonzero(test), predictor).items():
            held.outer[path][test] = scores
    return held


def _out_of_fold(
    of: Question, x: dict[str, np.ndarray], rows: np.ndarray, folds: np.ndarray, predictor: str,
    paths: Sequence[str] = ("aa", "ab", "bb", "ba"),
) -> dict[str, np.ndarray]:  # fmt: skip
    """Scores `[n]` of the masked rows by probes of the other folds among them (NaN elsewhere), by path."""
    out = {path: np.full(len(of.groups), np.nan) for path in paths}
    for fold in np.unique(folds[rows]):
        test, train = np.flatnonzero(rows & (folds == fold)), np.flatnonzero(rows & (folds != fold))
        for path, scores in _fitted(of, x, train, test, predictor, paths).items():
            out[path][test] = scores
    return out


def _fitted(
    of: Question, x: dict[str, np.ndarray], train: np.ndarray, test: np.ndarray, predictor: str,
    paths: Sequence[str] = ("aa", "ab", "bb", "ba"),
) -> dict[str, np.ndarray]:  # fmt: skip
    """Scores `[len(test)]` by path of probes fitted on the rows `train`; no path where a side has one class only."""
    kind = {"difference": "difference", "logistic": "logistic" if of.binary else "ridge"}[predictor]
    out = {}
    for side in ("a", "b"):
        y = of.y(side)[train].astype(np.float64)
        readers = [p for p in paths if p[0] == side]
        if np.ptp(y) == 0 or not readers:
            continue
        fit = fitter(kind, x[side][train])
        penalty = np.zeros(1)
        if kind != "difference":
            _, penalty = fit.out_of_fold(y[:, None], grouped_folds(of.groups[train], 3, 0))
        for path in readers:
            other = x[path[1]]
            if other.shape[1] == x[side].shape[1]:
                out[path] = fit.held_out(other[test], y[:, None], penalty)[:, 0]
    return out


def score(of: Question, values: np.ndarray, y: np.ndarray, folds: np.ndarray | None, weights: Any = None) -> np.ndarray:
    """AUROC, or Spearman's correlation of a number."""
    if of.binary:
        return stats.auroc(values, y.astype(bool), weights, folds)
    return stats.spearman(values, y, weights, folds)


def _value(of: Question, values: np.ndarray, folds: np.ndarray, rows: np.ndarray, path: str) -> float:
    known = rows & np.isfinite(values)
    return float(score(of, values[known], of.y(READ[path])[known], folds[known])) if known.any() else float("nan")


# ---------------------------------------------------------------- lines of the tables


def sweep_lines(of: Question, where: Plan, held: Held, setting: Setting) -> list[dict[str, Any]]:
    """Within and transfer of one site on fit and tune rows, with intervals."""
    lines = []
    for path, scores in held.sweep.items():
        known = np.flatnonzero(where.searched & np.isfinite(scores))
        line = _common(of, held.site, held.position, path)
        if len(known):
            y, folds = of.y(READ[path])[known], where.inner[known]
            found = stats.bootstrap(
                lambda w, s=scores[known], y=y, f=folds: score(of, s, y, f, w), of.groups[known],
                min(setting.draws, 200), [setting.seed, 45],
            )  # fmt: skip
            lines.append(line | _ends(found, len(known), of.groups[known]))
    return lines


def chosen(sites: Sequence[Held], fold: int) -> Held | None:
    """The site with the highest mean within-score outside an outer fold; None where nowhere is one."""
    known = [h for h in sites if np.isfinite(h.inner.get(fold, np.nan))]
    return max(known, key=lambda h: h.inner[fold]) if known else None


def transfer_lines(
    of: Question, where: Plan, sites: Sequence[Held], setting: Setting
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines of the tested rows at the chosen sites (with controls and losses), and which site each fold chose."""
    n = len(of.groups)
    scores = {f + r: np.full(n, np.nan) for f, r in PATHS}
    choices = []
    for fold in np.unique(where.outer[where.tested]).tolist():
        best = chosen(sites, fold)
        if best is None:
            continue
        here = where.outer == fold
        for path in scores:
            scores[path][here] = best.outer[path][here]
        choices.append({"of": of.of, "target": of.target, "fold": fold if where.nested else -1, "site": best.site,
                        "position": best.position, "value": best.inner[fold]})  # fmt: skip
    site = choices[0]["site"] if len({c["site"] for c in choices}) == 1 else "chosen in each fold"
    position = choices[0]["position"] if len({c["position"] for c in choices}) == 1 else ""
    folds = where.outer if where.nested else np.zeros(n, dtype=np.int64)
    out: list[dict[str, Any]] = []
    for path in scores:
        line = _common(of, site, position, path)
        known = np.flatnonzero(where.tested & np.isfinite(scores[path]))
        out += _tested(of, line, scores[path], known, folds, setting)
    for path, own in (("ab", "bb"), ("ba", "aa")):
        known = np.flatnonzero(where.tested & np.isfinite(scores[path]) & np.isfinite(scores[own]))
        line = _common(of, site, position, path) | {"metric": "loss"}
        y = of.y(READ[path])[known]
        one, two, f = scores[path][known], scores[own][known], folds[known]
        found = _interval(
            of, y, of.groups[known],
            lambda w, a=one, b=two, y=y, f=f: score(of, a, y, f, w) - score(of, b, y, f, w), setting,
        )  # fmt: skip
        out.append(line | _ends(found, len(known), of.groups[known]))
    return out, choices


def _tested(
    of: Question, line: dict[str, Any], values: np.ndarray, known: np.ndarray, folds: np.ndarray, setting: Setting
) -> list[dict[str, Any]]:
    """A path's value on the tested rows, and beside it labels shuffled by group within the folds."""
    y, groups, f, s = of.y(line["read_on"])[known], of.groups[known], folds[known], values[known]
    found = _interval(of, y, groups, lambda w: score(of, s, y, f, w), setting)
    if not len(known):
        return [line | _ends(found, 0, groups)]
    null = shuffled(of, s, y, groups, f, setting)
    low, high = np.nanquantile(null, (0.025, 0.975)) if np.isfinite(null).any() else (np.nan, np.nan)
    p = nulls.p_value(found.value, null) if np.isfinite(found.value) else np.nan
    control = stats.Interval(float(np.nanmean(null)) if np.isfinite(null).any() else np.nan, float(low), float(high),
                             f"{len(null)} shuffles of the labels, by group")  # fmt: skip
    return [line | _ends(found, len(known), groups) | {"p": p},
            line | _ends(control, len(known), groups) | {"control": "shuffled"}]  # fmt: skip


def shuffled(
    of: Question, values: np.ndarray, y: np.ndarray, groups: np.ndarray, folds: np.ndarray, setting: Setting
) -> np.ndarray:
    """The score under labels shuffled by group within the folds: `[draws]`."""
    count, seed = min(setting.permutations, 499), [setting.seed, 46]
    if of.binary:
        return nulls.auroc_columns(values, nulls.permuted(y, groups, count, seed, folds), folds)
    left, right = centred_ranks(values, folds), centred_ranks(y, folds)  # ranks within a fold move with their rows
    scale = np.sqrt((left**2).sum() * (right**2).sum())
    return left @ nulls.permuted(right, groups, count, seed, folds) / scale if scale > 0 else np.full(count, np.nan)


def centred_ranks(values: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Mid-ranks within each fold over its size, about their mean: `[n]`; their products are Spearman's."""
    out = np.zeros(len(values))
    for fold in np.unique(folds):
        here = folds == fold
        out[here] = (rankdata(values[here]) - (here.sum() + 1) / 2) / here.sum()
    return out


def _interval(
    of: Question, y: np.ndarray, groups: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], setting: Setting
) -> stats.Interval:
    if not len(y):
        return stats.Interval(float("nan"), note="no tested rows, or one class only, or sides of another width")
    if of.binary:
        seeded: dict[str, Any] = {"draws": setting.draws, "seed": [setting.seed, 47]}
        return stats.class_interval(statistic, y.astype(bool), groups, "test", f"transfer of {of.of}", **seeded)
    return stats.bootstrap(statistic, groups, setting.draws, [setting.seed, 47])


def _common(of: Question, site: str, position: str, path: str) -> dict[str, Any]:
    return {"of": of.of, "target": of.target, "site": site, "position": position, "fitted_on": path[0],
            "read_on": path[1], "metric": "auroc" if of.binary else "spearman", "control": "", "p": np.nan}  # fmt: skip


def _ends(found: stats.Interval, n: int, groups: np.ndarray) -> dict[str, Any]:
    return {"value": found.value, "ci_low": found.low, "ci_high": found.high, "n": n,
            "groups": len(np.unique(groups)), "note": found.note}  # fmt: skip
