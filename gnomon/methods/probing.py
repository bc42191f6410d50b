"""Where to read: every site, position and kind of probe is scored on fit and tune, and one is chosen there.

Rows of `fit` are scored out of fold (grouped k-fold), rows of `tune` by the probe of all of `fit`. The selection score
is the AUROC over pairs within a fold, tune being one more fold: each row is scored by a model that did not see it, and
scores of different models are never compared. The same is done to label shuffles, so the sweep comes with its null:
a pooled p per candidate, Benjamini-Hochberg over all of them, and a max-statistic p. Test is never read here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from gnomon import nulls, stats
from gnomon.errors import UserError, unknown
from gnomon.methods.baselines import Columns, columns
from gnomon.methods.controls import Metric, metric_of
from gnomon.methods.folds import grouped_folds, map_threads
from gnomon.methods.linear import PENALTIES, fitter

Candidate = tuple[str, str]
"""(site, position)."""
Read = Callable[[Candidate, np.ndarray], np.ndarray]
"""Activations `[len(rows), d]` of a candidate at generation rows."""


@dataclass(frozen=True)
class Options:
    """How probes are fitted, selected and controlled; the defaults are the rules of evidence."""

    predictors: tuple[str, ...] = ("difference", "logistic")
    baselines: tuple[str, ...] | None = None
    permutations: int = 199
    logistic_permutations: int = 19
    random: int = 100
    draws: int = 2000
    folds: int = 5
    nested_below: int = 500
    select_on: str = "fit+tune"
    penalties: tuple[float, ...] = PENALTIES
    seed: int = 0

    def shuffles(self, predictor: str) -> int:
        """Label shuffles of a kind of probe: the ones that must be iterated get fewer."""
        return self.permutations if predictor == "difference" else self.logistic_permutations


@dataclass(frozen=True)
class Problem:
    """The labelled rows of a generation, `[n]` each; `rows` are generation rows, axis 0 of every array."""

    rows: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    split: np.ndarray
    difficulty: np.ndarray
    offered: Columns
    target: str = "correct"
    generation: str = ""

    @property
    def binary(self) -> bool:
        return bool(np.isin(self.y, (0, 1)).all())

    @property
    def metric(self) -> Metric:
        return metric_of(self.y)

    @property
    def level(self) -> np.ndarray | None:
        """Difficulty bins `[n]`; None where difficulty is unknown or the same for all."""
        known = self.difficulty[np.isfinite(self.difficulty)]
        return nulls.quantile_strata(self.difficulty) if len(known) and np.ptp(known) > 0 else None


def problem(table: pd.DataFrame, target: str = "correct", generation: str = "") -> Problem:
    """Rows with a target and a split. A target of two values is a class (the larger is true), of more a number.

    Raises UserError for an unknown column, for text, and for a class that fit cannot be trained on.
    """
    column = "label" if target == "correct" else target
    if column not in table:
        numeric = [c for c in table if pd.api.types.is_numeric_dtype(table[c]) or pd.api.types.is_bool_dtype(table[c])]
        raise unknown("target", target, ["correct", *map(str, numeric)])
    known = table[column].notna() & table["split"].isin(["fit", "tune", "test"])
    kept = table if bool(known.all()) else table.loc[known, :]
    try:
        y = np.asarray(kept[column].tolist(), dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"target {target!r} is not a number", "a column of true/false or of numbers") from None
    values = np.unique(y)
    if len(values) == 2:
        y = (y == values[1]).astype(np.float64)
    elif len(values) < 2 and target != "correct":
        raise UserError(f"target {target!r} has {len(values)} value(s)", "at least two")
    offered = columns(kept)
    return Problem(
        rows=np.asarray(kept["row"]),
        y=y,
        groups=np.asarray(kept["group"].astype(str)),
        split=np.asarray(kept["split"].astype(str)),
        difficulty=offered.get("difficulty", np.full(len(kept), np.nan)),
        offered=offered,
        target=target,
        generation=generation,
    )


def require_classes(of: Problem, folds: int, what: str = "probe") -> None:
    """Refuse fit rows that cannot be cross-validated: fewer than `folds` of a class, or of rows."""
    y = of.y[of.split == "fit"]
    counts = {"incorrect": int((y == 0).sum()), "correct": int((y == 1).sum())} if of.binary else {"labelled": len(y)}
    for name, count in counts.items():
        if count < folds:
            raise UserError(
                f"{what} has {count} {name} rows in split 'fit'", f"at least {folds}",
                "raise generate.n, or choose a task that the model sometimes gets right and sometimes wrong",
            )  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A candidate and kind of probe, as it did on rows that its models had not seen."""

    candidate: Candidate
    predictor: str
    value: float
    penalty: float
    scores: np.ndarray
    """`[n]` out-of-fold scores (of tune rows: by the model of all of fit)."""


def scan(
    x: np.ndarray, fit: np.ndarray, folds: np.ndarray, labels: dict[str, np.ndarray], used: np.ndarray, options: Options
) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Score one candidate `x [n, d]` with every kind of probe, for several label columns at once.

    Args:
        fit: `[n]` mask of rows that are cross-validated; the others are scored by the model of all of them.
        folds: `[n]` fold of each row (the others' own number, too).
        labels: by predictor, `[n, m]`; column 0 holds the true ones.
        used: `[n]` mask of rows that count in the score.

    Returns by predictor: score of each label column `[m]`, scores of the rows `[n]` and penalty for column 0.
    """
    out = {}
    for predictor, y in labels.items():
        model, s = fitter(predictor, x[fit], options.penalties), np.empty(y.shape)
        s[fit], penalty = model.out_of_fold(y[fit], folds[fit])
        if not fit.all():
            s[~fit] = model.held_out(x[~fit], y[fit], penalty)
        values = metric_of(y[:, 0]).columns(s[used], y[used], folds[used])
        out[predictor] = (values, s[:, 0], float(penalty[0]))
    return out


def kinds(of: Problem, options: Options) -> tuple[str, ...]:
    """The predictors for this target: a real-valued one takes ridge in the place of logistic."""
    if of.binary:
        return tuple(p for p in options.predictors if p != "ridge") or ("logistic",)
    return tuple(dict.fromkeys("ridge" if p == "logistic" else p for p in options.predictors))


def best(found: Sequence[Choice]) -> Choice:
    """The largest score; the first of equals; an undefined score loses."""
    return max(found, key=lambda c: c.value if np.isfinite(c.value) else -np.inf)


@dataclass(frozen=True)
class Sweep:
    """Every candidate on fit and tune: a table of scores, the null's draws, and the best of each kind."""

    table: pd.DataFrame
    null: pd.DataFrame
    choices: dict[str, Choice]
    dev: np.ndarray
    """Indices into the problem's rows: fit and tune."""
    folds: np.ndarray
    """`[len(dev)]`: fold of fit rows, `options.folds` for tune."""
    every: list[Choice] = field(default_factory=list)

    @property
    def headline(self) -> Choice:
        return best(list(self.choices.values()))


def sweep(
    of: Problem, read: Read, candidates: Sequence[Candidate], options: Options, done: Callable[[int], Any] | None = None
) -> Sweep:
    """Score every candidate and kind of probe on fit and tune, with intervals, nulls and FDR, and choose."""
    dev = np.flatnonzero(np.isin(of.split, ("fit", "tune")))
    fit, y, groups = of.split[dev] == "fit", of.y[dev], of.groups[dev]
    level = of.level[dev] if of.level is not None else None
    folds = np.where(fit, grouped_folds(groups, options.folds, options.seed, level), options.folds)
    used = {"fit": fit, "tune": ~fit}.get(options.select_on, np.ones(len(dev), dtype=bool))
    if options.select_on == "tune" and (~fit).sum() < 2 * stats.MIN_CLASS:
        raise UserError(f"split 'tune' has {(~fit).sum()} rows", "40 to select on", "set select_on: fit+tune")
    most = max(options.permutations, options.logistic_permutations)
    shuffled = nulls.permuted(y, groups, most, [options.seed, 1], of.split[dev])
    labels = {k: np.column_stack([y, shuffled[:, : options.shuffles(k)]]) for k in kinds(of, options)}
    metric = of.metric

    def work(candidate: Candidate) -> list[tuple[Choice, np.ndarray, stats.Interval]]:
        x = np.asarray(read(candidate, of.rows[dev]))
        out = []
        for kind, (values, scores, penalty) in scan(x, fit, folds, labels, used, options).items():
            s, t, f = scores[used], (y > 0 if of.binary else y)[used], folds[used]
            interval = stats.bootstrap(
                lambda w, s=s, t=t, f=f: metric.one(s, t, w, f), groups[used], options.draws // 4, options.seed
            )
            out.append((Choice(candidate, kind, float(values[0]), penalty, scores), values[1:], interval))
        return out

    found = [entry for part in map_threads(work, candidates, done) for entry in part]
    table, null = _tables(of, found, int(used.sum()), int((y[used] > 0).sum()) if of.binary else 0, options.select_on)
    every = [choice for choice, _, _ in found]
    choices = {k: best([c for c in every if c.predictor == k]) for k in labels}
    return Sweep(table, null, choices, dev, folds, every)


def _tables(
    of: Problem, found: list[tuple[Choice, np.ndarray, stats.Interval]], n: int, n_pos: int, split: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows, draws = [], []
    several = len({_component(c.candidate[0]) for c, _, _ in found}) > 1
    for kind in dict.fromkeys(c.predictor for c, _, _ in found):
        mine = [entry for entry in found if entry[0].predictor == kind]
        observed, null = np.array([c.value for c, _, _ in mine]), np.stack([v for _, v, _ in mine], axis=1)
        pooled, largest = nulls.pooled(observed, null), nulls.max_statistic(observed, null)
        draws += [(kind, i, float(v)) for i, v in enumerate(null.max(axis=1))]
        for (choice, values, interval), p, p_max in zip(mine, pooled, largest, strict=True):
            site, position = choice.candidate
            series = f"{kind} at {position}" + (f", {_component(site)}" if several else "")
            common = {
                "site": site, "component": _component(site), "layer": layer_of(site), "position": position,
                "predictor": kind, "split": split, "metric": of.metric.name, "n": n, "n_pos": n_pos,
            }  # fmt: skip
            low, high = np.quantile(values, (0.025, 0.975)) if len(values) else (np.nan, np.nan)
            rows.append(common | {"series": series, "control": "", "value": choice.value, "ci_low": interval.low,
                        "ci_high": interval.high, "penalty": choice.penalty, "p": p, "p_max": p_max})  # fmt: skip
            if kind == "difference" or len({c.predictor for c, _, _ in found}) == 1:
                middle = float(values.mean()) if len(values) else np.nan
                shuffled = {"series": f"shuffled labels, {series}", "control": "shuffled", "value": middle}
                rows.append(common | shuffled | {"ci_low": low, "ci_high": high})
    table = pd.DataFrame(rows).astype({"penalty": "float64", "p": "float64", "p_max": "float64"})
    table["q"] = nulls.benjamini_hochberg(table["p"].to_numpy(np.float64))
    return table, pd.DataFrame(draws, columns=["predictor", "draw", "value"])


def _component(site: str) -> str:
    return site.split(".")[0]


def layer_of(site: str) -> int:
    """The site's layer; -1 for the embedding, which comes before layer 0."""
    parts = site.split(".")
    return int(parts[1]) if len(parts) > 1 else -1
