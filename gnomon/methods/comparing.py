"""Two models' answers to the same questions: differences b - a that share their bootstrap draws, and their null.

    difference   s(b) - s(a) of a score s, both sides of a draw with the same groups (paired bootstrap)
    swapped      in each group a fair coin says which of the two answers is called b: what the difference is worth
                 where they are exchangeable; p = (1 + as far from 0) / (1 + draws), two-sided (Fisher's test)
    ECE          is too large by construction: its intervals are of `calibration_gaps`, not percentiles
    McNemar      exact: gained ~ Binomial(gained + lost, 1/2) where no answer of either model is better (McNemar 1947)

Scores take weights `[b, n]` as those of `stats` and `calibration` do. numpy and scipy only; no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, rankdata

from gnomon import nulls, stats
from gnomon.methods import calibration
from gnomon.methods import calibration_gaps as gaps

Score = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
"""(confidence `[n]`, right `[n]`, weights) -> `[b]`."""
COLUMNS = ("metric", "signal", "rows", "side", "control", "value", "ci_low", "ci_high", "p", "n", "groups", "note")
SIDES = ("a", "b", "difference")


@dataclass(frozen=True)
class Setting:
    """Bootstrap draws, coin flips, seed."""

    draws: int = 2000
    permutations: int = 999
    seed: int = 0


@dataclass(frozen=True)
class Pair:
    """One quantity of both models on the same rows: confidence (or any score) and right or wrong, `[n]` each."""

    c_a: np.ndarray
    y_a: np.ndarray
    c_b: np.ndarray
    y_b: np.ndarray
    groups: np.ndarray

    def at(self, rows: np.ndarray) -> Pair:
        """The rows of a mask, or of indices."""
        return Pair(*(v[rows] for v in (self.c_a, self.y_a, self.c_b, self.y_b, self.groups)))


def accuracy(c: np.ndarray, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
    """Share of right answers."""
    return stats.mean(y, w)


def mean(c: np.ndarray, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
    """Mean confidence."""
    return stats.mean(c, w)


def auroc(c: np.ndarray, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
    """Does confidence tell right from wrong?"""
    return stats.auroc(c, y.astype(bool), w)


CALIBRATION: dict[str, Score] = {"ece": calibration.ece, "brier": calibration.brier}
"""Scores of a confidence that claims to be a probability."""


def compared(metric: str, score: Score, of: Pair, setting: Setting, signal: str = "", rows: str = "all",
             thin: bool = False) -> list[dict[str, Any]]:  # fmt: skip
    """Lines of one score: side a, side b, their difference, and the difference of swapped sides (COLUMNS).

    `thin` applies the rule of thin classes: no interval where a class of either side has fewer than 20 rows.
    """
    common = {"metric": metric, "signal": signal, "rows": rows, "n": len(of.groups),
              "groups": len(np.unique(of.groups)), "p": np.nan, "control": ""}  # fmt: skip
    notes = (
        [stats.thin_class(y.astype(bool), "compared rows", signal or metric) for y in (of.y_a, of.y_b)] if thin else []
    )
    note = next((n for n in notes if n), "")
    sides: list[tuple[str, stats.Statistic]] = [
        ("a", lambda w: score(of.c_a, of.y_a, w)),
        ("b", lambda w: score(of.c_b, of.y_b, w)),
        ("difference", lambda w: score(of.c_b, of.y_b, w) - score(of.c_a, of.y_a, w)),
    ]
    lines = []
    for side, statistic in sides:
        if note or not len(of.groups):
            one = statistic(np.ones((1, len(of.groups)))) if len(of.groups) else [np.nan]
            found = stats.Interval(float(one[0]), note=note or "no rows")
        elif score is calibration.ece:
            found = _ece(side, of, setting)
        else:
            found = stats.bootstrap(statistic, of.groups, setting.draws, [setting.seed, 41])
        lines.append(common | {"side": side, "value": found.value, "ci_low": found.low, "ci_high": found.high,
                               "note": found.note})  # fmt: skip
    if len(of.groups):
        observed, null = swapped(score, of, setting)
        p = nulls.p_value(observed, null, "two-sided")
        lines[-1]["p"] = p
        known = null[np.isfinite(null)]
        middle, low, high = (known.mean(), *np.quantile(known, (0.025, 0.975))) if len(known) else (np.nan,) * 3
        lines.append(common | {"side": "difference", "control": "swapped", "value": float(middle),
                               "ci_low": float(low), "ci_high": float(high),
                               "note": f"{setting.permutations} times a fair coin a group"})  # fmt: skip
    return lines


def _ece(side: str, of: Pair, setting: Setting) -> stats.Interval:
    given: dict[str, Any] = {"draws": setting.draws, "seed": [setting.seed, 41]}
    if side == "difference":
        return gaps.ece_difference((of.c_a, of.y_a), (of.c_b, of.y_b), of.groups, **given)
    c, y = (of.c_a, of.y_a) if side == "a" else (of.c_b, of.y_b)
    return gaps.ece_interval(c, y, of.groups, **given)


def swapped(score: Score, of: Pair, setting: Setting) -> tuple[float, np.ndarray]:
    """The difference, and what it is where a coin a group says which answer is called b: `[permutations]`.

    Both sides are stacked and told apart by weights, so that bins are those of all confidences together.
    """
    c, y = np.concatenate([of.c_a, of.c_b]), np.concatenate([of.y_a, of.y_b])
    names, which = np.unique(of.groups, return_inverse=True)
    coin = np.random.default_rng([setting.seed, 43]).integers(0, 2, size=(setting.permutations, len(names)))
    flip = np.vstack([np.zeros((1, len(names)), dtype=np.int64), coin])[:, which].astype(np.float64)
    values = []
    for start in range(0, len(flip), block := max(1, 2_000_000 // max(len(c), 1))):
        part = flip[start : start + block]
        values.append(score(c, y, np.hstack([part, 1 - part])) - score(c, y, np.hstack([1 - part, part])))
    every = np.concatenate(values)
    return float(every[0]), every[1:]


def flips(right_a: np.ndarray, right_b: np.ndarray, groups: np.ndarray, setting: Setting) -> list[dict[str, Any]]:
    """Shares of rows gained (a wrong, b right) and lost, with intervals, and McNemar's exact test of the two."""
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    k = len(np.unique(groups))
    out = []
    for metric, here in (("gained", ~a & b), ("lost", a & ~b)):
        found = stats.mean_interval(here.astype(np.float64), groups, draws=setting.draws, seed=[setting.seed, 41])
        out.append(_line(metric, "b", found, len(a), k) | {"rows": "all"})
    gained, changed = int((~a & b).sum()), int((a ^ b).sum())
    p = float(binomtest(gained, changed, 0.5).pvalue) if changed else 1.0
    note = "" if k == len(a) else "takes rows for independent, which rows of one group are not: see the swapped p"
    value = stats.Interval(gained / changed if changed else float("nan"), note=note)
    out.append(_line("gained_of_changed", "b", value, changed, k) | {"rows": "changed", "p": p})
    return out


def agreement(c_a: np.ndarray, c_b: np.ndarray, groups: np.ndarray, setting: Setting) -> list[dict[str, Any]]:
    """Rank correlation of both models' confidences over the questions, and of partners shuffled by group."""
    k = len(np.unique(groups))
    found = stats.bootstrap(lambda w: stats.spearman(c_a, c_b, w), groups, setting.draws, [setting.seed, 41])
    count = min(setting.permutations, 499)
    ranks = [rankdata(c) - (len(c) + 1) / 2 for c in (c_a, c_b)]
    scale = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    moved = nulls.permuted(ranks[1], groups, count, [setting.seed, 44])
    null = ranks[0] @ moved / scale if scale > 0 else np.full(count, np.nan)
    known = null[np.isfinite(null)]
    middle, low, high = (known.mean(), *np.quantile(known, (0.025, 0.975))) if len(known) else (np.nan,) * 3
    line = _line("agreement", "both", found, len(c_a), k) | {"rows": "all", "p": nulls.p_value(found.value, null)}
    control = stats.Interval(float(middle), float(low), float(high), f"{len(null)} shuffles of the pairing")
    return [line, _line("agreement", "both", control, len(c_a), k) | {"rows": "all", "control": "shuffled"}]


def follows(of: Pair, setting: Setting) -> dict[str, Any]:
    """Mean shift of confidence where the answer became right minus where it became wrong: does it follow the answer?"""
    shift, gained = of.c_b - of.c_a, (of.y_a == 0) & (of.y_b == 1)
    lost = (of.y_a == 1) & (of.y_b == 0)
    k = len(np.unique(of.groups[gained | lost]))
    if gained.sum() < 5 or lost.sum() < 5:
        note = f"{int(gained.sum())} answers gained and {int(lost.sum())} lost: too few (5 of each)"
        return _line(
            "follows", "difference", stats.Interval(float("nan"), note=note), int((gained | lost).sum()), k
        ) | {"rows": "changed"}
    found = stats.bootstrap(
        lambda w: stats.mean(shift[gained], w[:, gained]) - stats.mean(shift[lost], w[:, lost]),
        of.groups, setting.draws, [setting.seed, 41],
    )  # fmt: skip
    return _line("follows", "difference", found, int((gained | lost).sum()), k) | {"rows": "changed"}


def signal_lines(name: str, of: Pair, probability: bool, setting: Setting) -> list[dict[str, Any]]:
    """Everything about one signal: its mean (of all rows, and by what became of the answer), AUROC, calibration where
    it claims to be a probability, agreement, and whether its shift follows the answers."""
    if not len(of.groups):
        return []
    out = compared("confidence", mean, of, setting, name)
    kinds = {"kept right": (1, 1), "kept wrong": (0, 0), "gained": (0, 1), "lost": (1, 0)}
    for kind, (y_a, y_b) in kinds.items():
        here = (of.y_a == y_a) & (of.y_b == y_b)
        if here.any():
            out += compared("confidence", mean, of.at(here), setting, name, kind)
    out += compared("auroc", auroc, of, setting, name, thin=True)
    for metric, score in CALIBRATION.items() if probability else ():
        out += compared(metric, score, of, setting, name)
    return out + [
        line | {"signal": name} for line in (*agreement(of.c_a, of.c_b, of.groups, setting), follows(of, setting))
    ]


def _line(metric: str, side: str, found: stats.Interval, n: int, groups: int) -> dict[str, Any]:
    return {"metric": metric, "signal": "", "rows": "", "side": side, "control": "", "value": found.value,
            "ci_low": found.low, "ci_high": found.high, "p": np.nan, "n": n, "groups": groups,
            "note": found.note}  # fmt: skip
