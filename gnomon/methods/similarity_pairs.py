"""Two passes over the same answers: does a probe of one's stated confidence read the other's, and what sets them apart?

A ridge probe of a pass's confidence is fitted to that pass's activations and read on either pass's: within (its own
target) and across (the other's target, from the other's activations, nothing fitted again). Scores are compared by
ranks within a fold, so that a shift of all activations from one prompt to the other costs nothing. Beside each: probes
of shuffled confidence; the loss, within minus across on the same rows, paired; and of across the part that is not in
the first pass's own stated value, by the partial rank correlation

    (r_st - r_so r_ot) / sqrt((1 - r_so^2) (1 - r_ot^2)),   s the score, t the target, o the value the probe is of.

The site is chosen by the mean of both probes within, on rows the scores of which are then not used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gnomon import nulls, stats
from gnomon.methods.baselines import Columns, combine, take
from gnomon.methods.contrast_held import Options, Parts
from gnomon.methods.controls import Held, Rows, Setting, held_out_rows, spearman_columns
from gnomon.methods.folds import grouped_folds, map_threads
from gnomon.methods.increment import SMALL, knows_more
from gnomon.methods.linear import PENALTIES, Ridge
from gnomon.methods.nested import join

FEW = 49
"""Shuffles of a probe that is fitted by ridge, beside each held-out score."""


@dataclass(frozen=True)
class Pass:
    """One pass: its name, its stated confidence `[n]`, and its activations `[n, d]` at a site."""

    name: str
    told: np.ndarray
    read: Callable[[str], np.ndarray]


def curve(a: Pass, b: Pass, sites: Sequence[str], groups: np.ndarray, options: Options) -> list[dict[str, Any]]:
    """Within and across at every site, out of fold over the given rows: rows of the table `transfer`."""
    folds = grouped_folds(groups, options.folds, options.seed)

    def work(site: str) -> list[dict[str, Any]]:
        out, x = [], {p.name: np.asarray(p.read(site), dtype=np.float64) for p in (a, b)}
        for fitted, other in ((a, b), (b, a)):
            _, penalty = Ridge(x[fitted.name], PENALTIES).out_of_fold(fitted.told[:, None], folds)
            own, across = np.zeros(len(folds)), np.zeros(len(folds))
            for k in np.unique(folds):
                train, here = folds != k, folds == k
                probe = Ridge(x[fitted.name][train]).probe(fitted.told[train], float(penalty[0]))
                own[here], across[here] = probe.scores(x[fitted.name][here]), probe.scores(x[other.name][here])
            for read, scores in ((fitted, own), (other, across)):
                found = stats.bootstrap(
                    lambda w, s=scores, t=read.told: stats.spearman(s, t, w, folds), groups, options.draws // 4, 0
                )
                out.append({"probe": fitted.name, "read": read.name, "site": site, "control": "", **_ends(found)})
        return out

    return [row for part in map_threads(work, list(sites)) for row in part]


def best_site(rows: Sequence[Mapping[str, Any]]) -> str:
    """The site at which both probes read their own pass best, by the mean of the two."""
    within: dict[str, list[float]] = {}
    for row in rows:
        if row["probe"] == row["read"]:
            within.setdefault(str(row["site"]), []).append(float(row["value"]))
    return max(within, key=lambda site: float(np.nan_to_num(np.mean(within[site]), nan=-np.inf)))


def held(
    a: Pass, b: Pass, sites: Sequence[str], groups: np.ndarray, parts: Parts, chosen: str, options: Options
) -> list[dict[str, Any]]:
    """Held-out rows of the table `transfer`: within, across, loss, partial, and their shuffles.

    On the test split the site is `chosen`; outer folds choose theirs on their training rows.
    """
    made = [_part(a, b, sites, groups, train, new, chosen if parts.split == "test" else "", options)
            for train, new in parts.pairs]  # fmt: skip
    picked = [part["site"] for part in made]
    order = np.concatenate([new for _, new in parts.pairs])
    folds = np.repeat(np.arange(len(made)), [len(new) for _, new in parts.pairs])
    note = "" if parts.split == "test" else "site chosen anew in each fold: " + ", ".join(picked)
    fixed = {"site": picked[0] if len(set(picked)) == 1 else "per fold", "split": parts.split, "n": len(order)}
    scores = {key: np.concatenate([part[key] for part in made]) for key in made[0] if key != "site"}
    g, out = groups[order], []

    def interval(statistic: stats.Statistic) -> dict[str, Any]:
        found = stats.bootstrap(statistic, g, options.draws, options.seed)
        low, high = (found.value + parts.widen * (end - found.value) for end in (found.low, found.high))
        return _ends(replace(found, low=max(low, -2.0), high=min(high, 2.0)))

    def rank(score: np.ndarray, told: np.ndarray) -> stats.Statistic:
        return lambda w: stats.spearman(score, told, w, folds)

    for fitted, other in ((a, b), (b, a)):
        own, target = fitted.told[order], other.told[order]
        for read, told in ((fitted, own), (other, target)):
            name = {"probe": fitted.name, "read": read.name, "metric": "spearman"}
            row = interval(rank(scores[f"{fitted.name} on {read.name}"], told))
            null = spearman_columns(scores[f"{fitted.name} on {read.name}, shuffled"], told[:, None], folds)
            low, high = np.nanquantile(null, (0.025, 0.975))
            control = {"value": float(np.nanmean(null)), "ci_low": float(low), "ci_high": float(high),
                       "note": f"{len(null)} probes of shuffled confidence", "p": np.nan}  # fmt: skip
            p = nulls.p_value(row["value"], null)
            row = row | {"p": p, "note": "; ".join(t for t in (row["note"], note) if t)}
            out += [fixed | name | row | {"control": ""}, fixed | name | control | {"control": "shuffled"}]
        across, within = scores[f"{fitted.name} on {other.name}"], scores[f"{other.name} on {other.name}"]
        both = {"probe": fitted.name, "read": other.name, "control": ""}
        loss = interval(lambda w, s=within, t=across, y=target: rank(s, y)(w) - rank(t, y)(w))
        rest = interval(lambda w, s=across, y=target, o=own: partial(s, y, o, w, folds))
        out += [fixed | both | loss | {"metric": "loss"}, fixed | both | rest | {"metric": "partial"}]
    return out


def partial(
    score: np.ndarray, target: np.ndarray, given: np.ndarray, weights: np.ndarray, folds: np.ndarray
) -> np.ndarray:
    """Rank correlation of score and target `[n]` given a third column, for each draw: `[b]`."""
    st, so, ot = (stats.spearman(u, v, weights, folds) for u, v in ((score, target), (score, given), (given, target)))
    scale = np.sqrt(np.maximum((1 - so**2) * (1 - ot**2), 0))
    return np.divide(st - so * ot, scale, out=np.full(len(st), np.nan), where=scale > 1e-9)


def _part(
    a: Pass, b: Pass, sites: Sequence[str], groups: np.ndarray, train: np.ndarray, new: np.ndarray, chosen: str,
    options: Options,
) -> dict[str, Any]:  # fmt: skip
    folds = grouped_folds(groups[train], options.folds, options.seed)
    site = chosen

    def within(candidate: str) -> dict[str, Any]:
        rows = [stats.spearman(_own(p, candidate, train, folds), p.told[train], folds=folds) for p in (a, b)]
        return {"probe": "", "read": "", "site": candidate, "value": float(np.mean(rows))}

    if not site:
        site = best_site(map_threads(within, list(sites)))
    out: dict[str, Any] = {"site": site}
    x = {p.name: np.asarray(p.read(site), dtype=np.float64) for p in (a, b)}
    for p in (a, b):
        model = Ridge(x[p.name][train], PENALTIES)
        labels = nulls.permuted(p.told[train], groups[train], FEW, [options.seed, 51])
        columns = np.column_stack([p.told[train], labels])
        _, penalty = model.out_of_fold(columns, folds)
        for q in (a, b):
            scores = model.held_out(x[q.name][new], columns, penalty)
            out[f"{p.name} on {q.name}"], out[f"{p.name} on {q.name}, shuffled"] = scores[:, 0], scores[:, 1:]
    return out


def _own(p: Pass, site: str, train: np.ndarray, folds: np.ndarray) -> np.ndarray:
    scores, _ = Ridge(np.asarray(p.read(site))[train], PENALTIES).out_of_fold(p.told[train][:, None], folds)
    return scores[:, 0]


def _ends(found: stats.Interval) -> dict[str, Any]:
    return {"value": float(found.value), "ci_low": float(found.low), "ci_high": float(found.high), "p": np.nan,
            "note": found.note}  # fmt: skip


# ---------------------------------------------------------------- what is stated


def stated_rows(
    a: Pass, b: Pass, correct: np.ndarray, groups: np.ndarray, parts: Parts, baselines: Columns, options: Options
) -> list[dict[str, Any]]:
    """How far the two stated confidences differ, and which of them, and their difference, tell right from wrong.

    Nothing is fitted to them, so that folds stand for all rows, except in what the difference adds to the baselines.
    Args: correct `[n]` 1, 0 or NaN. Rows of the table `stated`.
    """
    rows = np.concatenate([new for _, new in parts.pairs])
    split = "test" if parts.split == "test" else "all"
    first, second, g = a.told[rows], b.told[rows], groups[rows]
    gap = f"{a.name} - {b.name}"
    setting = Setting(options.draws, options.shuffles, options.seed, 1.0, "self_other")
    made = Rows(Held(first - second, g, first - second, np.zeros(len(rows))), {"split": split}, setting)
    made.add(gap, "mean", stats.mean_interval(first - second, g, draws=options.draws, seed=options.seed))
    for name, told in ((a.name, first), (b.name, second)):
        made.add(name, "mean", stats.mean_interval(told, g, draws=options.draws, seed=options.seed))
    made.add(f"{a.name}, {b.name}", "spearman", made.interval(lambda w: stats.spearman(first, second, w), share=False))
    out, known = made.rows, np.isfinite(correct[rows])
    y, here = correct[rows][known], rows[known]
    if len(np.unique(y)) < 2:
        return out
    for name, score in ((a.name, a.told), (b.name, b.told), (gap, a.told - b.told)):
        one = Held(y, groups[here], score[here], np.zeros(len(here), dtype=np.int64))
        labels = nulls.permuted(y, groups[here], options.shuffles, [options.seed, 52])
        one = replace(one, shuffled=(np.broadcast_to(score[here][:, None], labels.shape), labels),
                      null="shuffles of right and wrong by group")  # fmt: skip
        out += [r for r in held_out_rows(one, name, {"split": split}, setting) if r["metric"] == "auroc"]
    pair = Rows(Held(y, groups[here], y, np.zeros(len(here))), {"split": split}, setting)
    right = y > 0
    better = pair.interval(
        lambda w: stats.auroc(a.told[here], right, w) - stats.auroc(b.told[here], right, w), share=False
    )
    pair.add(f"{a.name} over {b.name}", "auroc", better)
    return out + pair.rows + _beyond(a.told - b.told, correct, groups, parts, baselines, options, gap)


def _beyond(
    score: np.ndarray, correct: np.ndarray, groups: np.ndarray, parts: Parts, baselines: Columns, options: Options,
    name: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Increment and partial correlation of a fixed score over the baselines, whose combination is fitted by part."""
    held_parts = []
    if not np.ptp(score) > 0:  # both passes state the same: there is no difference
        return []
    for train, new in parts.pairs:
        early, late = train[np.isfinite(correct[train])], new[np.isfinite(correct[new])]
        if len(np.unique(correct[early])) < 2 or len(np.unique(correct[late])) < 2:
            return []
        folds = grouped_folds(groups[early], options.folds, options.seed)
        found = combine(take(baselines, early), correct[early], folds, score[early], take(baselines, late), score[late])
        held_parts.append(Held(correct[late], groups[late], score[late], np.zeros(len(late), dtype=np.int64),
                               calibrated=score[late], combined=found, random=score[late][:, None]))  # fmt: skip
    setting = Setting(options.draws, options.shuffles, options.seed, parts.widen, "self_other")
    # `join` wants random directions, which a stated difference has none of
    rows = held_out_rows(replace(join(held_parts), random=None), name, {"split": parts.split}, setting)
    return [row for row in rows if row["predictor"] in ("increment", f"baselines+{name}")]


# ---------------------------------------------------------------- verdicts


def carries(rows: Sequence[Mapping[str, Any]]) -> str:
    """Do probes carry over? both, one or none: across, the interval lies above 0 and shuffles are beaten (p <= .05)."""
    own = [r for r in rows if r["probe"] != r["read"] and (r["metric"], r["control"]) == ("spearman", "")]
    own = [r for r in own if r["split"] != "fit+tune"]
    hits = sum(r["ci_low"] > 0 and r["p"] <= 0.05 for r in own)
    return {0: "none", 1: "one", 2: "both"}[hits]


def tells(rows: Sequence[Mapping[str, Any]], smallest: float = SMALL) -> str:
    """Does the stated difference tell right from wrong beyond the baselines? yes, no or undecided; see `_beyond`."""
    found = {r["metric"]: r for r in rows if r["predictor"] == "increment"}
    return knows_more(found.get("auroc"), found.get("partial"), smallest, either=True)
