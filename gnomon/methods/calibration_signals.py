"""What each confidence signal is worth on held-out rows, beside its controls: the rows of `signals.parquet`.

    auroc            of the signal against correctness; control "shuffled": labels shuffled by group
    aurc, excess     risk and coverage; controls "random order" (the error rate) and "best possible"
    ece              of probabilities, as they are and scaled; control "calibrated": y ~ Bern(p), mean and 95% range
    brier, nll       control "base rate": the share of right answers before test, said of every row
    brier_skill      1 - Brier / that of the base rate
    overconfidence   mean confidence - accuracy
    reliability, resolution, ...   the terms of the Brier score
    brier_change, nll_change       scaled minus as it is, paired

A signal without the meaning of a probability (a margin, an entropy, a difficulty) has the first two as it is, and the
others once Platt's sigmoid has turned it into one. Intervals: bootstrap over groups, all metrics on the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon import nulls, stats
from gnomon.methods import calibration as cal
from gnomon.methods import calibration_gaps as gaps
from gnomon.methods.calibration_risk import aurc, best_aurc, risk_at
from gnomon.methods.calibration_scaling import Scaling, fit_platt, fit_temperature

NONE, PERFECT = "none", "perfect (control)"
"""`scaled` of a signal as it is; and the signal name of the diagonal in reliability diagrams."""
DRAWN = ("shuffled", "calibrated")
"""Controls whose range is of draws, not of a bootstrap."""
COVERAGES = np.arange(1, 21) / 20


@dataclass(frozen=True)
class Column:
    """A signal: one value a row, larger means surer, NaN where unknown."""

    name: str
    text: str
    kind: str
    probability: bool
    values: np.ndarray
    fitted_on_fit: bool = False
    """A probe: what it says of fit rows is no guide to what it says of others."""


@dataclass(frozen=True)
class Setting:
    """How bins, intervals and nulls are made."""

    bins: int = cal.BINS
    draws: int = 2000
    permutations: int = 999
    simulations: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Graded:
    """Rows with their outcome: `[n]` each."""

    y: np.ndarray
    groups: np.ndarray

    def take(self, rows: np.ndarray) -> Graded:
        return Graded(self.y[rows], self.groups[rows])

    @property
    def facts(self) -> dict[str, int]:
        return {"n": len(self.y), "n_pos": int(self.y.sum()), "groups": len(np.unique(self.groups))}


def intervals(
    named: Mapping[str, stats.Statistic], groups: np.ndarray, draws: int, seed: stats.Seed
) -> dict[str, stats.Interval]:
    """`stats.bootstrap` of several statistics on the same draws of groups, which are made once."""
    ones = np.ones((1, len(groups)))
    values = {name: float(statistic(ones)[0]) for name, statistic in named.items()}
    if len(np.unique(groups)) < 2:
        return {name: stats.Interval(v, note="fewer than two groups: no interval") for name, v in values.items()}
    rng, block = np.random.default_rng(seed), max(1, 4_000_000 // len(groups))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in named}
    for start in range(0, draws, block):
        weights = stats.group_weights(groups, min(block, draws - start), rng)
        for name, statistic in named.items():
            parts[name].append(statistic(weights))
    out = {}
    for name, value in values.items():
        samples = np.concatenate(parts[name])
        good = samples[np.isfinite(samples)]
        if len(good) < draws / 2:
            out[name] = stats.Interval(value, note="undefined in most resamples: no interval")
        else:
            low, high = np.quantile(good, (0.025, 0.975))
            out[name] = stats.Interval(value, float(low), float(high), draws=samples)
    return out


def minus(a: stats.Interval, b: stats.Interval) -> stats.Interval:
    """The paired difference of two statistics that were asked for together."""
    value, draws = a.value - b.value, a.draws - b.draws
    good = draws[np.isfinite(draws)]
    if not len(good):
        return stats.Interval(value, note=a.note or b.note)
    low, high = np.quantile(good, (0.025, 0.975))
    return stats.Interval(value, float(low), float(high), draws=draws)


class Lines:
    """Collects lines of one signal on one set of rows."""

    def __init__(self, where: Mapping[str, Any], of: Graded, setting: Setting) -> None:
        self.where, self.of, self.setting = dict(where), of, setting
        self.rows: list[dict[str, Any]] = []
        self.thin = stats.thin_class(of.y, str(where.get("split", "test")), "calibration")

    def add(self, metric: str, found: stats.Interval, control: str = "", note: str = "", p: float = np.nan) -> None:
        thin = self.thin if control not in DRAWN else ""
        low, high = (np.nan, np.nan) if thin else (found.low, found.high)
        notes = dict.fromkeys(t for t in (thin or found.note, note) if t)
        self.rows.append({
            **self.where, "metric": metric, "control": control, "value": float(found.value), "ci_low": float(low),
            "ci_high": float(high), "p": p, "q": np.nan, **self.of.facts, "note": "; ".join(notes),
        })  # fmt: skip

    def many(self, named: Mapping[str, tuple[stats.Statistic, str, str]]) -> dict[str, stats.Interval]:
        """Add each metric with its (statistic, control, note); names may end in `@` and anything, which is cut."""
        s = self.setting
        draws = s.draws if not self.thin else 1
        found = intervals({k: v[0] for k, v in named.items()}, self.of.groups, draws, s.seed)
        for name, (_, control, note) in named.items():
            self.add(name.partition("@")[0], found[name], control, note)
        return found


def ranking_lines(values: np.ndarray, of: Graded, where: Mapping[str, Any], setting: Setting) -> list[dict[str, Any]]:
    """AUROC and risk-coverage of finite values `[n]`, beside their controls."""
    out, y = Lines(where, of, setting), of.y
    if not len(y) or y.all() or not y.any():
        which = "no rows" if not len(y) else "all right" if y.all() else "all wrong"
        out.add("auroc", stats.Interval(np.nan, note=f"{which}: no pair to compare"))
        return out.rows
    found = out.many({
        "auroc": (lambda w: stats.auroc(values, y, w), "", ""),
        "aurc": (lambda w: aurc(values, y, w), "", ""),
        "aurc@random": (lambda w: 1 - stats.mean(y, w), "random order", "the error rate"),
        "aurc@best": (lambda w: best_aurc(y, w), "best possible", "every right answer above every wrong one"),
    })  # fmt: skip
    out.add("excess_aurc", minus(found["aurc"], found["aurc@best"]), "", "AURC above the best possible")
    labels = nulls.permuted(y.astype(np.int8), of.groups, setting.permutations, [setting.seed, 31])
    null = nulls.auroc_columns(values[:, None], labels)
    p = nulls.p_value(found["auroc"].value, null)
    out.rows[0]["p"] = p
    out.add("auroc", spread(null), "shuffled", f"mean and 95% range of {len(null)} shuffles of labels by group", p)
    return out.rows


def probability_lines(
    p: np.ndarray, of: Graded, base: float, where: Mapping[str, Any], setting: Setting, before: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Calibration of probabilities `[n]`; `base`: the share of right answers before test; `before`: unscaled ones."""
    out, y, s = Lines(where, of, setting), of.y, setting
    bins = cal.equal_mass_bins(p, s.bins)
    null = cal.expected_ece(p, of.groups, s.simulations, [s.seed, 37], bins)
    found = gaps.ece_interval(p, y, of.groups, bins, s.draws, s.seed)
    tail = nulls.p_value(found.value, null)
    out.add("ece", found, "", f"{bins.max() + 1} bins; interval of the error itself, its upward bias taken off", tail)
    told = f"mean and 95% range of {s.simulations} draws of y from p"
    out.add("ece", spread(null), "calibrated", told, tail)
    constant = np.full(len(p), np.clip(base, cal.LIMIT, 1 - cal.LIMIT))
    flat = (constant - y) ** 2

    def skill(w: np.ndarray) -> np.ndarray:
        bottom = stats.mean(flat, w)
        return 1 - np.divide(cal.brier(p, y, w), bottom, out=np.full(len(w), np.nan), where=bottom > 0)

    def term(name: str) -> Callable[[np.ndarray], np.ndarray]:
        return lambda w: cal.decomposition(p, y, w, bins)[name]

    plain = [name for name in cal.TERMS if name not in ("reliability", "resolution")]
    for name, rows in (("reliability", p - y), ("resolution", y.astype(np.float64))):
        square = gaps.gap_interval(rows, of.groups, bins, 2, name == "resolution", s.draws, s.seed)
        out.add(name, square, "", "term of the Brier score; upward bias taken off the interval")
    share = f"the share of right answers before test, {base:.3f}, said of every row"
    named: dict[str, tuple[stats.Statistic, str, str]] = {
        "brier": (lambda w: cal.brier(p, y, w), "", ""),
        "brier@base": (lambda w: stats.mean(flat, w), "base rate", share),
        "brier_skill": (skill, "", "1 - Brier / that of the base rate"),
        "nll": (lambda w: cal.nll(p, y, w), "", _clipped(p)),
        "nll@base": (lambda w: cal.nll(constant, y, w), "base rate", share),
        "overconfidence": (lambda w: stats.mean(p - y, w), "", "mean confidence - accuracy"),
        **{name: (term(name), "", "term of the Brier score") for name in plain},
    }
    if before is not None:
        named["brier_change"] = (
            lambda w: cal.brier(p, y, w) - cal.brier(before, y, w),
            "",
            "scaled - as it is, paired",
        )
        named["nll_change"] = (lambda w: cal.nll(p, y, w) - cal.nll(before, y, w), "", "scaled - as it is, paired")
    out.many(named)
    return out.rows


def _clipped(p: np.ndarray) -> str:
    out = int(((p < cal.LIMIT) | (p > 1 - cal.LIMIT)).sum())
    return f"{out} probabilities of 0 or 1 moved to {cal.LIMIT:g} from there" if out else ""


def scalings(of: Column, y: np.ndarray, rows: np.ndarray) -> list[Scaling]:
    """Temperature (of probabilities) and Platt, fitted on those rows where the signal is known; none without any."""
    values = of.values[rows]
    known = np.isfinite(values)
    if not known.any():
        return []
    fitted = [fit_temperature(values[known], y[rows][known])] if of.probability else []
    return [*fitted, fit_platt(values[known], y[rows][known])]


def reliability_lines(
    p: np.ndarray,
    of: Graded,
    where: Mapping[str, Any],
    setting: Setting,
    share: Callable[[np.ndarray, np.ndarray], stats.Interval],
) -> list[dict[str, Any]]:
    """The reliability diagram of probabilities `[n]`; `share(hit, groups)` gives a share with its interval."""
    out = []
    for b in cal.reliability(p, of.y, of.groups, setting.bins, setting.simulations, [setting.seed, 37]):
        found = share(of.y[b.rows], of.groups[b.rows])
        out.append({
            **where, "bin": b.bin, "n": len(b.rows), "confidence": b.confidence, "accuracy": b.accuracy,
            "ci_low": float(found.low), "ci_high": float(found.high), "expected_low": b.expected_low,
            "expected_high": b.expected_high,
        })  # fmt: skip
    return out


def risk_lines(values: np.ndarray, of: Graded, where: Mapping[str, Any], setting: Setting) -> list[dict[str, Any]]:
    """The risk-coverage curve at every twentieth of the rows."""
    value = risk_at(values, of.y, COVERAGES)
    low = high = np.full(len(COVERAGES), np.nan)
    if not stats.thin_class(of.y, "test") and len(np.unique(of.groups)) > 1:
        weights = stats.group_weights(of.groups, min(setting.draws, 1000), setting.seed)
        low, high = np.nanquantile(risk_at(values, of.y, COVERAGES, weights), (0.025, 0.975), axis=0)
    return [
        {**where, "coverage": float(c), "risk": float(v), "ci_low": float(a), "ci_high": float(b), "n": len(of.y)}
        for c, v, a, b in zip(COVERAGES, value, low, high, strict=True)
    ]


def spread(values: np.ndarray) -> stats.Interval:
    """Mean and central 95% of the draws of a null."""
    good = values[np.isfinite(values)]
    if not len(good):
        return stats.Interval(float("nan"))
    low, high = np.quantile(good, (0.025, 0.975))
    return stats.Interval(float(good.mean()), float(low), float(high))
