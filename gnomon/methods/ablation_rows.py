"""Rows of the ablation tables: each condition's paired change from the unmodified model, and what was recovered.

    change    = mean over rows of (metric under the condition - metric without); rows resampled by group
    p         = by flipping the signs of whole groups
    recovered = (metric under the condition - under full ablation) / (unmodified - under full ablation)

`recovered` is given only where the full ablation's own change excludes 0: a share of nothing is no number. Where an
accuracy did not change on a single row, no resample differs; its interval is then +- Wilson's upper end of 0 out of the
groups. A control's row is the mean over its draws, with the lowest and highest draw beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from gnomon.methods.effects import compare, net, ratio, sign_flip_p, weights_of

METRICS = ("accuracy", "target_logprob", "projection")
ABLATIONS = pa.schema(
    [("space", pa.string()), ("condition", pa.string()), ("control", pa.string()), ("metric", pa.string()),
     ("split", pa.string()), *((name, pa.float64()) for name in (
         "base", "value", "change", "ci_low", "ci_high", "p")), ("n", pa.int64()),
     *((name, pa.float64()) for name in (
         "recovered", "recovered_low", "recovered_high", "lowest", "highest", "pairs")),
     ("draws", pa.int64()), ("note", pa.string())]
)  # fmt: skip
CURVE = pa.schema(
    [("cut", pa.float64()), ("series", pa.string()), ("metric", pa.string()), ("split", pa.string()),
     ("change", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("n", pa.int64()),
     ("chosen", pa.bool_())]
)  # fmt: skip
COMPARED = pa.schema(
    [("space", pa.string()), ("condition", pa.string()), ("control", pa.string()), ("metric", pa.string()),
     *((name, pa.float64()) for name in (
         "value", "ci_low", "ci_high", "control_mean", "control_low", "control_high", "excess", "excess_low",
         "excess_high", "p")), ("n", pa.int64()), ("controls", pa.int64()), ("verdict", pa.string())]
)  # fmt: skip
AGAINST = {
    ("output", "significant"): "random_pairs", ("output", "rank1"): "random_direction",
    ("output", "text"): "random_direction", ("model", "full"): "random_neurons",
    ("model", "significant"): "random_pairs",
}  # fmt: skip
"""Which control a condition is set beside."""

Values = Mapping[str, np.ndarray]
"""Metric -> `[n]`, or `[draws, n]` of a control; NaN where a row has no such value."""
Rows = list[dict[str, Any]]


class Table:
    """Makes the rows of one space on one set of test rows; `groups [n]`, bootstrap weights shared by all rows."""

    def __init__(self, space: str, split: str, base: Values, groups: np.ndarray, draws: int, seed: int) -> None:
        self.space, self.split, self.base = space, split, base
        self.groups, self.draws, self.seed = np.asarray(groups), draws, seed
        self.weights = weights_of(self.groups, draws, seed)
        self.full: Values | None = None

    def known(self, metric: str) -> np.ndarray:
        """Rows in which the unmodified metric has a value."""
        return np.isfinite(self.base[metric])

    def rows(self, condition: str, values: Values, pairs: float = np.nan, note: str = "") -> Rows:
        """One row a metric. The condition `full` comes first: `recovered` is measured from it."""
        if condition == "full":
            self.full = values
        return [self._row(condition, metric, values[metric], pairs, note) for metric in METRICS if metric in values]

    def control_rows(self, control: str, values: Values, pairs: float = np.nan) -> Rows:
        """A control's rows: values `[draws, n]` averaged over its draws."""
        out = []
        for metric in (m for m in METRICS if m in values):
            row = self._row(control, metric, values[metric].mean(0), pairs, "mean of the draws")
            each = np.nanmean(values[metric] - self.base[metric], axis=1)
            extra = {"control": "random", "lowest": each.min(), "highest": each.max(), "draws": len(each)}
            out.append(row | extra)
        return out

    def _row(self, condition: str, metric: str, after: np.ndarray, pairs: float, note: str) -> dict[str, Any]:
        here = self.known(metric)
        before, after = self.base[metric][here], after[here]
        value, low, high = self.interval(after - before, here, metric)
        p = float(sign_flip_p((after - before)[:, None], self.groups[here], self.draws, self.seed)[0])
        row = {
            "space": self.space, "condition": condition, "control": "", "metric": metric, "split": self.split,
            "base": before.mean(), "value": after.mean(), "change": value, "ci_low": low, "ci_high": high, "p": p,
            "n": int(here.sum()), "lowest": np.nan, "highest": np.nan, "pairs": pairs, "draws": 0, "note": note,
        }  # fmt: skip
        return row | self._recovered(condition, metric, after, here)

    def interval(self, change: np.ndarray, here: np.ndarray, metric: str) -> tuple[float, float, float]:
        """Mean change with its paired interval over groups; no interval for fewer than two groups."""
        if not len(change):
            return np.nan, np.nan, np.nan
        weights, one = self._own(here), np.ones((len(change), 1))
        found = net(change[:, None], weights) if metric == "accuracy" else ratio(change[:, None], one, weights)
        value, low, high = (float(v[0]) for v in found)
        return value, low, high

    def _own(self, here: np.ndarray) -> np.ndarray:
        return self.weights[:, here] if len(np.unique(self.groups[here])) > 1 else self.weights[:0, here]

    def _recovered(self, condition: str, metric: str, after: np.ndarray, here: np.ndarray) -> dict[str, Any]:
        nothing = {"recovered": np.nan, "recovered_low": np.nan, "recovered_high": np.nan}
        if self.full is None or condition == "full":
            return nothing
        ablated, before = self.full[metric][here], self.base[metric][here]
        drop, low, high = self.interval(before - ablated, here, metric)
        if not (low > 0 or high < 0):
            return nothing | {"note": "not recovered from anything: the full ablation's change does not exclude 0"}
        sign = np.sign(drop)
        top, bottom = sign * (after - ablated)[:, None], sign * (before - ablated)[:, None]
        value, low, high = (float(v[0]) for v in ratio(top, bottom, self._own(here)))
        return {"recovered": value, "recovered_low": low, "recovered_high": high}

    def compared(self, condition: str, values: Values, control: str, controls: Values) -> Rows:
        """A condition beside the draws of its control (at least 19, else no row): `effects.compare`."""
        out = []
        for metric in (m for m in METRICS if m in values and m in controls):
            here = self.known(metric)
            if len(controls[metric]) < 19 or not here.any():
                continue
            before = self.base[metric][here]
            c = compare(values[metric][here] - before, (controls[metric][:, here] - before).T, self._own(here))
            out.append({
                "space": self.space, "condition": condition, "control": control, "metric": metric, "value": c.value,
                "ci_low": c.low, "ci_high": c.high, "control_mean": c.control_mean, "control_low": c.control_low,
                "control_high": c.control_high, "excess": c.excess, "excess_low": c.excess_low,
                "excess_high": c.excess_high, "p": c.p, "n": c.n, "controls": c.controls, "verdict": c.verdict,
            })  # fmt: skip
        return out

    def curve_row(self, cut: float, series: str, metric: str, values: np.ndarray) -> dict[str, Any]:
        """One point: a condition's `[n]` with its interval, or a control's `[draws, n]`: mean, lowest and highest."""
        here = self.known(metric)
        before = self.base[metric][here]
        if values.ndim == 2:
            each = (values[:, here] - before).mean(1)
            change, low, high = each.mean(), each.min(), each.max()
        else:
            change, low, high = self.interval(values[here] - before, here, metric)
        if cut >= 1:  # everything is kept: the same numbers by construction
            low = high = change
        return {"cut": cut, "series": series, "metric": metric, "split": self.split, "change": change, "ci_low": low,
                "ci_high": high, "n": int(here.sum()), "chosen": False}  # fmt: skip


def all_rows(
    made: Table, single: dict[str, Values], random: dict[str, Values], pairs: dict[str, float]
) -> tuple[Rows, Rows]:
    """Every condition and control of one space, and the conditions beside their controls; `full` comes first."""
    rows = [row for name, values in single.items() for row in made.rows(name, values, pairs.get(name, np.nan))]
    rows += [row for name, values in random.items() for row in made.control_rows(name, values)]
    compared = []
    for (space, name), control in AGAINST.items():
        if space == made.space and name in single and control in random:
            compared += made.compared(name, single[name], control, random[control])
    return rows, compared
