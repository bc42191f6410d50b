"""Two models site by site: how alike their activations are, and whether a probe of one reads the other.

    similarity   debiased CKA and cosines of the same rows (`methods.similarity`), on fit and tune
    within       a probe of a's activations and labels, read on a's held-out rows; likewise b
    transfer     the same probe read on the other model's activations of the same held-out rows, against that model's
                 labels; its loss is transfer minus the reader's own probe, paired over rows
    nested       under `nested_below` groups the test rows are those of each outer fold in turn, and the site is chosen
                 inside the others; AUROC then compares rows of one fold only

The site is the one with the highest mean of both within-scores on rows that are not tested. Right and wrong are told by
difference in means or logistic regression and AUROC, a confidence by the former's slope form or ridge and Spearman.
`comparing_transfer` makes tables of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gnomon import stats
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

    @property
    def widen(self) -> float:
        """Factor of the half-widths of what probes of several folds score."""
        return widened(self.outer[self.tested]) if self.nested else 1.0


def widened(folds: np.ndarray) -> float:
    """sqrt(1 + k n_test / n_train) of k equal folds; 1 of a single one."""
    k = len(np.unique(folds))
    return float(np.sqrt(1 + k / (k - 1))) if k > 1 else 1.0


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
        for path, scores in probed(of, x, train, test, predictor).items():
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
        for path, scores in probed(of, x, train, test, predictor, paths).items():
            out[path][test] = scores
    return out


def probed(
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
