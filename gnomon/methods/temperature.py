"""What sampling at a temperature does to pass rates, and to predictors that were fixed at temperature 0.

    pass@k   of a problem with n graded samples, c of them right: 1 - C(n - c, k) / C(n, k), the unbiased estimate of
             "at least one of k samples is right" (Chen et al. 2021, arXiv 2107.03374, eq. 1); mean over problems
    auroc    of a score against the correctness of each sample; all pairs, of one problem and of two
    within   the same over pairs of one problem alone: sum of wins / sum of pairs over problems with both outcomes.
             A score that reads the prompt is one number for all samples of a problem: .5 by construction
    spearman rank correlation of a problem's mean score with its pass rate
    gain     auroc minus that of the strongest cheap predictor, which was chosen on fit; paired

Intervals resample groups, never samples of one problem. Shuffled: groups swap their whole label vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon import nulls, stats

COLUMNS = ("temperature", "predictor", "control", "metric", "value", "ci_low", "ci_high", "p", "q", "n", "groups",
           "note")  # fmt: skip
SHARED = "all samples of a problem share the prompt, which this score reads: .5 within a problem by construction"
NO_GRADED = "no graded sample"


@dataclass(frozen=True)
class Samples:
    """The graded samples at one temperature, `[n]` each; `scores[name]` may hold NaN where a row has none."""

    label: np.ndarray
    problem: np.ndarray
    groups: np.ndarray
    level: np.ndarray
    """Difficulty bin, -1 where unknown."""
    scores: dict[str, np.ndarray]

    def take(self, keep: np.ndarray) -> Samples:
        return Samples(self.label[keep], self.problem[keep], self.groups[keep], self.level[keep],
                       {k: v[keep] for k, v in self.scores.items()})  # fmt: skip


@dataclass(frozen=True)
class Predictor:
    """A fixed score of each sample. `reads_response`: its samples of one problem may differ."""

    name: str
    reads_response: bool
    cheap: bool
    note: str = ""


@dataclass(frozen=True)
class Setting:
    """How intervals and nulls are drawn."""

    draws: int = 2000
    permutations: int = 999
    seed: int = 0
    strongest: str = ""
    """The cheap predictor that `gain` is over; "" leaves it out."""


def pass_at_k(n: np.ndarray, c: np.ndarray, k: int) -> np.ndarray:
    """Unbiased pass@k of problems with `n [m]` samples, `c [m]` of them right; NaN where n < k."""
    n, c = np.asarray(n), np.asarray(c)
    out = np.full(len(n), np.nan)
    for i, (total, right) in enumerate(zip(n.tolist(), c.tolist(), strict=True)):
        if total >= k:
            out[i] = 1 - np.prod(1 - k / np.arange(total - right + 1, total + 1)) if total - right >= k else 1.0
    return out


def by_problem(samples: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Names, groups, number of samples and number of right ones of each problem, `[m]` each."""
    names, first, which = np.unique(samples.problem, return_index=True, return_inverse=True)
    m = len(names)
    right = np.bincount(which, weights=samples.label.astype(np.float64), minlength=m).astype(np.int64)
    return names, samples.groups[first], np.bincount(which, minlength=m), right


def within_pairs(scores: np.ndarray, label: np.ndarray, problem: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wins (ties half) and pairs of a right with a wrong sample, of each problem in sorted order: two `[m]`."""
    names, which = np.unique(problem, return_inverse=True)
    order = np.argsort(which, kind="stable")
    parts = np.split(order, np.searchsorted(which[order], np.arange(1, len(names))))
    wins, pairs = np.zeros(len(names)), np.zeros(len(names))
    for i, rows in enumerate(parts):
        right, wrong = scores[rows][label[rows]], scores[rows][~label[rows]]
        pairs[i] = len(right) * len(wrong)
        wins[i] = np.sum((right[:, None] > wrong) + 0.5 * (right[:, None] == wrong))
    return wins, pairs


def ratio(top: np.ndarray, bottom: np.ndarray) -> stats.Statistic:
    """Weighted sum of `top [m]` over that of `bottom [m]`; NaN where the latter is 0."""

    def of(w: np.ndarray) -> np.ndarray:
        total = w @ bottom
        return np.divide(w @ top, total, out=np.full(len(w), np.nan), where=total > 0)

    return of


def row(
    metric: str, found: stats.Interval, n: int, groups: int, predictor: str = "", control: str = "", **more: Any
) -> dict[str, Any]:
    """One line of the table."""
    note = "; ".join(t for t in (found.note, more.pop("note", "")) if t)
    return {"predictor": predictor, "control": control, "metric": metric, "value": float(found.value),
            "ci_low": float(found.low), "ci_high": float(found.high), "p": np.nan, "q": np.nan, "n": int(n),
            "groups": int(groups), "note": note} | more  # fmt: skip


def rate_rows(
    samples: Samples,
    ungraded: np.ndarray,
    groups: np.ndarray,
    ks: Sequence[int],
    share: Callable[..., Any],
    setting: Setting,
) -> list[dict[str, Any]]:
    """pass_rate of graded samples, pass@k, and the share of answers that could not be graded.

    `ungraded`, `groups`: of all answers, `[all]`; `share(hit, groups)` gives a share with its interval.
    """
    count = len(np.unique(groups))
    out = [row("ungraded", share(ungraded, groups), len(groups), count, note="share of all answers")]
    if not len(samples.label):
        return [row("pass_rate", stats.Interval(np.nan, note=NO_GRADED), 0, 0), *out]
    _, own, n, right = by_problem(samples)
    out.insert(0, row("pass_rate", share(samples.label, samples.groups), len(samples.label), len(np.unique(own)),
                      note="right answers among graded ones"))  # fmt: skip
    for k in ks:
        value = pass_at_k(n, right, k)
        known = np.isfinite(value)
        if not known.any():
            continue
        left = (
            f"{int((~known).sum())} problems with fewer than {k} graded samples left out; " if not known.all() else ""
        )
        if ((value[known] == 0) | (value[known] == 1)).all():
            found = share(value[known] == 1, own[known])
        else:
            found = stats.mean_interval(value[known], own[known], draws=setting.draws, seed=setting.seed)
        note = f"{left}at least one of {k} right, unbiased (Chen et al. 2021)"
        out.append(row(f"pass@{k}", found, int(known.sum()), len(np.unique(own[known])), note=note))
    return out


def predictor_rows(samples: Samples, predictor: Predictor, setting: Setting) -> list[dict[str, Any]]:
    """All lines of one predictor at one temperature; see the head of this file."""
    values = samples.scores[predictor.name]
    known = np.isfinite(values)
    s, scores = samples.take(known), values[known]
    left = f"{int((~known).sum())} samples without a score left out" if not known.all() else ""
    note = "; ".join(t for t in (predictor.note, left) if t)
    n, groups = len(scores), len(np.unique(s.groups))

    def line(metric: str, found: stats.Interval, control: str = "", **more: Any) -> dict[str, Any]:
        return row(metric, found, more.pop("n", n), more.pop("groups", groups), predictor.name, control, **more)

    if not n or s.label.all() or not s.label.any():
        which = "no samples" if not n else "all right" if s.label.all() else "all wrong"
        empty = stats.Interval(np.nan, note=f"{which}: no pair to compare")
        return [line("auroc", empty, note=note)]
    draw: dict[str, Any] = {"draws": setting.draws, "seed": setting.seed}
    found = interval(lambda w: stats.auroc(scores, s.label, w), s, predictor.name, setting)
    labels = nulls.permuted(s.label.astype(np.int8), s.groups, setting.permutations, [setting.seed, 31])
    null = nulls.auroc_columns(scores[:, None], labels)
    p = nulls.p_value(found.value, null, "greater")
    out = [line("auroc", found, p=p, note=note)]
    low, high = np.nanquantile(null, (0.025, 0.975)) if np.isfinite(null).any() else (np.nan, np.nan)
    told = f"mean and 95% range of {setting.permutations} shuffles of the labels by group"
    out.append(line("auroc", stats.Interval(float(np.nanmean(null)), float(low), float(high)), "shuffled", note=told))
    out += _within(s, scores, predictor, line, draw)
    _, own, total, right = by_problem(s)
    which = np.unique(s.problem, return_inverse=True)[1]
    mean_score = np.bincount(which, weights=scores) / total
    rank = stats.spearman(mean_score, right / total)
    if len(own) < stats.MIN_CLASS:
        ranked = stats.Interval(float(rank), note=f"{len(own)} problems: {stats.MIN_CLASS} are needed for an interval")
    else:
        ranked = stats.bootstrap(lambda w: stats.spearman(mean_score, right / total, w), own, **draw)
    out.append(line("spearman", ranked, n=len(own), note="mean score of a problem and its pass rate"))
    if setting.strongest and setting.strongest != predictor.name and not predictor.cheap:
        out += _gain(s, scores, predictor.name, line, setting)
    return out


def interval(statistic: stats.Statistic, s: Samples, what: str, setting: Setting) -> stats.Interval:
    """Bootstrap over groups; none below 20 samples of a class."""
    return stats.class_interval(statistic, s.label, s.groups, "test", what, draws=setting.draws, seed=setting.seed)


def _within(
    s: Samples, scores: np.ndarray, predictor: Predictor, line: Callable, draw: dict[str, Any]
) -> list[dict[str, Any]]:
    """Pairs of one problem alone; no line where no problem has both outcomes."""
    wins, pairs = within_pairs(scores, s.label, s.problem)
    mixed = pairs > 0
    if not mixed.any():
        return []
    about = {"n": int(mixed.sum())}
    if not predictor.reads_response:
        return [line("within", stats.Interval(0.5), note=SHARED, **about)]
    _, own, _, _ = by_problem(s)
    statistic = ratio(wins[mixed], pairs[mixed])
    if mixed.sum() < stats.MIN_CLASS:
        found = stats.Interval(
            float(statistic(np.ones((1, int(mixed.sum()))))[0]),
            note=f"{int(mixed.sum())} problems with both outcomes: {stats.MIN_CLASS} are needed for an interval",
        )
    else:
        found = stats.bootstrap(statistic, own[mixed], **draw)
    return [line("within", found, groups=len(np.unique(own[mixed])), note="pairs of one problem alone", **about)]


def _gain(s: Samples, scores: np.ndarray, name: str, line: Callable, setting: Setting) -> list[dict[str, Any]]:
    other = s.scores[setting.strongest]
    both = np.isfinite(other)
    t, a, b = s.take(both), scores[both], other[both]
    if not len(a) or t.label.all() or not t.label.any():
        return []
    found = interval(lambda w: stats.auroc(a, t.label, w) - stats.auroc(b, t.label, w), t, name, setting)
    note = f"AUROC minus that of {setting.strongest}, the strongest cheap predictor on fit; paired"
    return [line("gain", found, n=len(a), groups=len(np.unique(t.groups)), p=found.p_above_zero, note=note)]


def difficulty_rows(
    parts: dict[float, Samples],
    predictors: Sequence[Predictor],
    edges: Sequence[tuple[int, float, float, float]],
    share: Callable[..., Any],
    setting: Setting,
) -> list[dict[str, Any]]:
    """Pass rate and AUROC of each predictor inside each bin of difficulty: each temperature's, and all together.

    `edges`: (bin, lowest, highest, mean difficulty). All together, only samples of one temperature are compared.
    """
    out: list[dict[str, Any]] = []
    for at in ["all", *parts]:
        chosen = list(parts.items()) if at == "all" else [(at, parts[at])]  # type: ignore[index]
        joined = _joined([samples for _, samples in chosen])
        fold = np.concatenate([np.full(len(p.label), i) for i, (_, p) in enumerate(chosen)])
        for number, low, high, mean in edges:
            here = joined.level == number
            s, f = joined.take(here), fold[here]
            where = {
                "at": at if isinstance(at, str) else f"{at:g}",
                "bin": number,
                "low": low,
                "high": high,
                "mean": mean,
            }
            if not len(s.label):
                continue
            rate = share(s.label, s.groups)
            out.append(row("pass_rate", rate, len(s.label), len(np.unique(s.groups))) | where)
            for predictor in predictors:
                known = np.isfinite(s.scores[predictor.name])
                t, g, x = s.take(known), f[known], s.scores[predictor.name][known]
                if not len(x) or t.label.all() or not t.label.any():
                    found = stats.Interval(np.nan, note="one outcome only: no pair to compare")
                else:
                    found = interval(lambda w, x=x, t=t, g=g: stats.auroc(x, t.label, w, g), t, predictor.name, setting)
                out.append(row("auroc", found, len(x), len(np.unique(t.groups)), predictor.name) | where)
    return out


def _joined(parts: Sequence[Samples]) -> Samples:
    label, problem, groups, level = (
        np.concatenate([getattr(p, f) for p in parts]) for f in ("label", "problem", "groups", "level")
    )
    return Samples(
        label, problem, groups, level, {k: np.concatenate([p.scores[k] for p in parts]) for k in parts[0].scores}
    )


def bins_of(difficulty: np.ndarray, count: int) -> list[tuple[int, float, float, float]]:
    """Quantile bins of problems' difficulty `[m]`: (bin, lowest, highest, mean); few values get a bin each."""
    level = nulls.quantile_strata(difficulty, count)
    out = []
    for number in np.unique(level[level >= 0]).tolist():
        inside = difficulty[level == number]
        out.append((int(number), float(inside.min()), float(inside.max()), float(inside.mean())))
    return out
