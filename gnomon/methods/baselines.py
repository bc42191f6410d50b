"""The cheap explanations of a probe's success, and what the probe adds to them.

    increment = AUROC_test(logistic[baselines, s]) - AUROC_test(logistic[baselines])

s is the probe's score. The combiner is fitted on out-of-fold s: in-sample scores separate the training rows almost
perfectly (n < d), the combiner then trusts s alone, and the increment comes out far too low (-.1 where it is 0).

Two ways in which a probe could win without knowing anything new are closed. A bend: each baseline enters with its rank
and squares, so that a U-shaped or saturating effect of difficulty is the baselines' own. Overfitting: of few rows, many
baselines are combined badly, and a score that merely repeats them well would help; so the combination is sparse (L1, by
grouped cross-validation), and the increment comes with a partial correlation that is 0 when s repeats the baselines,
however badly they were combined:

    partial = corr(s - E[s | baselines], y - P(y | baselines)) on test, both expectations learned on fit

(a Neyman-orthogonal score: errors of the two expectations enter as their product; Chernozhukov et al. 2018).
In simulation (172 fit rows, 13 baselines of equal weight, activations that encode their sum) the increment alone
claims knowledge in 90% of runs, with the partial correlation in 7%.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from gnomon.errors import unknown
from gnomon.methods.linear import logistic

CONFIDENCE = ("max_prob", "entropy", "margin")
AFTER = ("mean_logprob", "response_len")
"""Known only once the response is written: baselines of a probe that reads there, not of one on the prompt."""
SHARES = np.logspace(0, -2.4, 8)
"""L1 penalties tried, as shares of the one that drops every feature."""


Columns = dict[str, np.ndarray]
"""Baselines by name, each `[n]` float64, NaN where unknown."""


def columns(table: pd.DataFrame) -> Columns:
    """Every baseline that a generations table offers."""
    out: Columns = {}
    for name in ("difficulty", "prompt_len", *CONFIDENCE, "mean_logprob", "temperature", "round"):
        if name in table:
            out[name] = _numbers(table[name])
    if "token_ids" in table and "prompt_len" in table:
        out["response_len"] = np.array([len(t) for t in table["token_ids"]]) - _numbers(table["prompt_len"])
    if "condition" in table:
        conditions = table["condition"].astype(str).to_numpy()
        values = sorted(set(conditions))
        if len(values) <= 12:
            out |= {f"condition={value}": (conditions == value).astype(np.float64) for value in values[1:]}
    if "baselines" in table:
        features = pd.DataFrame([json.loads(t) if t else {} for t in table["baselines"]])
        out = {str(name): _numbers(features[name]) for name in features} | out
    return out


def _numbers(values: Any) -> np.ndarray:
    return np.asarray(pd.to_numeric(pd.Series(np.asarray(values)), errors="coerce"), dtype=np.float64)


def take(of: Mapping[str, np.ndarray], rows: np.ndarray) -> Columns:
    """Those rows (a mask or indices) of every column; a DataFrame will do as well."""
    return {str(name): np.asarray(values, dtype=np.float64)[rows] for name, values in of.items()}


def choose(
    offered: Columns, names: Sequence[str] | None, target: str, after_response: bool
) -> tuple[Columns, list[str]]:
    """The baselines to use, and a line for each one left out.

    `names` None takes all that are known where the probe reads (see AFTER); given names are taken as they are. Left
    out: the target itself, a column that is constant or empty, one that repeats an earlier one.
    """
    for name in names or ():
        if name not in offered:
            raise unknown("baseline", name, offered)
    wanted = list(names) if names is not None else [c for c in offered if after_response or c not in AFTER]
    kept: Columns = {}
    dropped: list[str] = []
    for name in wanted:
        values = offered[name]
        known = values[np.isfinite(values)]
        if name == target:
            dropped.append(f"{name}: it is the target")
        elif not len(known) or (np.ptp(known) == 0 and len(known) == len(values)):
            dropped.append(f"{name}: {'the same everywhere' if len(known) else 'unknown everywhere'}")
        elif twin := next((k for k, v in kept.items() if _same(v, values)), None):
            dropped.append(f"{name}: repeats {twin}")
        else:
            kept[name] = values
    return kept, dropped


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """True where one column is a linear function of the other."""
    known = np.isfinite(a)
    if not np.array_equal(known, np.isfinite(b)) or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return False
    return abs(float(np.corrcoef(a[known], b[known])[0, 1])) > 1 - 1e-9


@dataclass(frozen=True)
class Basis:
    """Baselines as features, by medians, scales and rank tables learned on fit rows."""

    names: tuple[str, ...]
    known: tuple[np.ndarray, ...]
    """Sorted known values of each baseline in the fit rows."""

    @classmethod
    def learn(cls, fit: Columns) -> Basis:
        return cls(tuple(fit), tuple(np.sort(v[np.isfinite(v)]) for v in fit.values()))

    def features(self, table: Columns, n: int) -> np.ndarray:
        """`[n, k]`: value, a flag where it is missing; rank in the fit rows and both squared, from 5 values on."""
        out = []
        for name, known in zip(self.names, self.known, strict=True):
            v = table[name]
            missing = ~np.isfinite(v)
            v = np.where(missing, np.median(known) if len(known) else 0.0, v)
            out += [v, missing.astype(np.float64)]
            if len(np.unique(known)) > 4:
                rank = np.searchsorted(known, v, "left") + np.searchsorted(known, v, "right")
                rank = rank / len(known) - 1
                out += [rank, rank**2, np.clip((v - known.mean()) / known.std(), -3, 3) ** 2]
        return np.stack(out, axis=1) if out else np.zeros((n, 0))


class Sparse:
    """L1-penalised regression (logistic where `y` is 0 or 1) on standardised features, penalty by cross-validation."""

    def __init__(self, x: np.ndarray, y: np.ndarray, folds: np.ndarray, shares: np.ndarray = SHARES) -> None:
        y = np.asarray(y, dtype=np.float64)
        self.binary = bool(np.isin(y, (0, 1)).all())
        self.mean, scale = x.mean(axis=0), x.std(axis=0)
        self.scale = np.where(scale > 1e-9 * np.maximum(np.abs(x).max(axis=0, initial=0), 1e-300), scale, np.inf)
        z, names = (x - self.mean) / self.scale, np.unique(folds)
        grid = np.abs(z.T @ (y - y.mean())).max(initial=0.0) * shares
        train = np.repeat((folds[:, None] != names).astype(np.float64), len(grid), axis=1)  # [n, folds * grid]
        w, b = _lasso(z, y, np.tile(grid, len(names)) * train.mean(axis=0), train, self.binary)
        f, target = z @ w + b, y[:, None]
        loss = ((np.logaddexp(0, f) - target * f if self.binary else (f - target) ** 2) * (1 - train)).sum(axis=0)
        best = int(np.argmin(loss.reshape(len(names), -1).sum(axis=0)))
        self.w, self.b = _lasso(z, y, grid[[best]], np.ones((len(y), 1)), self.binary)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Logits (or values) of rows `[n, k]`: `[n]`."""
        return ((x - self.mean) / self.scale @ self.w + self.b)[:, 0]


def _lasso(z, y, penalty, rows, binary, steps: int = 300, tol: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """FISTA with restarts (Beck & Teboulle 2009; O'Donoghue & Candes 2015), a column per penalty and set of rows."""
    curve = 0.25 if binary else 1.0
    lipschitz = curve * max(float(np.linalg.eigvalsh(z.T @ z)[-1]) if z.shape[1] else 0.0, float(len(y)))
    w, share = np.zeros((z.shape[1], len(penalty))), (rows * y[:, None]).sum(axis=0) / rows.sum(axis=0)
    share = np.clip(share, 1e-3, 1 - 1e-3) if binary else share
    b = np.log(share / (1 - share)) if binary else share
    v, v_b, t, small = w, b, 1.0, tol * (1.0 if binary else max(float(y.std()), 1e-300))
    threshold, target, across = penalty / lipschitz, y[:, None], np.ascontiguousarray(z.T)
    for _ in range(steps):
        error = z @ v
        error += v_b
        if binary:
            expit(error, out=error)
        error -= target
        error *= rows
        new = v - across @ error / lipschitz
        new -= np.clip(new, -threshold, threshold)
        new_b = v_b - error.sum(axis=0) / lipschitz
        moved = max(np.abs(new - w).max(initial=0.0), np.abs(new_b - b).max())
        t_new = (1 + np.sqrt(1 + 4 * t * t)) / 2
        if ((v - new) * (new - w)).sum() > 0:
            t, t_new = 1.0, 1.0
        v, v_b = new + (t - 1) / t_new * (new - w), new_b + (t - 1) / t_new * (new_b - b)
        w, b, t = new, new_b, t_new
        if moved < small:
            break
    return w, b


@dataclass(frozen=True)
class Combined:
    """What the baselines, and the baselines with the score, say of held-out rows: arrays `[n]`."""

    base: np.ndarray
    both: np.ndarray
    score: np.ndarray
    """The score in units of its spread on fit rows, so that folds can be put together."""
    expected: np.ndarray
    """E[score | baselines], in those units."""


def combine(
    fit: Columns,
    y: np.ndarray,
    folds: np.ndarray,
    score: np.ndarray,
    test: Columns,
    test_score: np.ndarray,
    base: np.ndarray | None = None,
) -> Combined:
    """Learn the combinations on fit rows (grouped `folds [n_fit]`), apply them to held-out ones.

    `score [n_fit]` must be out-of-fold, or of a direction that never saw these rows. `base` is what an earlier call
    with the same baselines, rows and folds found for the baselines alone.
    """
    basis = Basis.learn(fit)
    x, x_test = basis.features(fit, len(y)), basis.features(test, len(test_score))
    centre, spread = score.mean(), max(float(score.std()), 1e-300)
    s, s_test = (score - centre) / spread, (test_score - centre) / spread
    both = Sparse(np.column_stack([x, s]), y, folds)
    return Combined(
        base=Sparse(x, y, folds).predict(x_test) if base is None else base,
        both=both.predict(np.column_stack([x_test, s_test])),
        score=s_test,
        expected=Sparse(x, s, folds).predict(x_test),
    )


def residuals(combined: Combined, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """score - E[score | baselines] and y - P(y | baselines) on held-out rows, each rescaled there: two `[n]`."""
    y = np.asarray(y, dtype=np.float64)
    x = np.column_stack([combined.base, combined.expected])
    scale = x.std(axis=0)
    z = (x - x.mean(axis=0)) / np.where(scale > 1e-12, scale, np.inf)
    if np.isin(y, (0, 1)).all():
        w, b = logistic(z, y[:, None], np.array([1e-3]))
        p = expit(z @ w + b)[:, 0]
        root = np.sqrt(p * (1 - p))
    else:
        design = np.column_stack([np.ones(len(y)), z])
        p, root = design @ np.linalg.lstsq(design, y, rcond=None)[0], np.ones(len(y))
    design = np.column_stack([np.ones(len(y)), z])
    slope = np.linalg.lstsq(design * root[:, None], combined.score * root, rcond=None)[0]
    return combined.score - design @ slope, y - p
