"""What the leading latents are worth on rows that had no part in choosing them: the rows of `selected` and `scores`.

Each way (predicts correct, predicts incorrect) has its own target: for the second, "incorrect" is the class, so that a
larger score always means the target. The threshold is set on tune (on the training rows, in a fold). The combination
with the baselines is learned from scores that had no part in the choice: every inner fold of the training rows is
scored by the latent that leads without it, in units of that latent's spread. The null of the whole procedure is the
latent that leads under shuffled labels, on the held-out rows with those labels.

Confirmation on test of those discovered on fit: one-sided permutation p of the search's own statistic in the direction
seen on fit, Holm over all that were looked at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from gnomon import nulls, stats
from gnomon.methods import feature_statistics as fs
from gnomon.methods.baselines import combine, take
from gnomon.methods.controls import Held, signed
from gnomon.methods.feature_search import ALPHA, WAYS, Part, Search
from gnomon.methods.folds import grouped_folds
from gnomon.methods.heldout import baselines_at, held_out
from gnomon.methods.probing import Choice, Options, Problem, scan

TARGETS = {"correct": ("correct", "incorrect"), "pass_rate": ("pass_rate", "fail_rate")}


def parts_of(of: Problem, options: Options, top: int) -> tuple[list[Part], bool]:
    """The searches: on fit, and for fewer than `nested_below` groups also without each fold of all rows."""
    nested = len(np.unique(of.groups)) < options.nested_below
    split = of.split == "fit"
    parts = [_part("fit", of, np.flatnonzero(split), np.flatnonzero(of.split == "test"), options, top, of.split)]
    if nested:
        outer = grouped_folds(of.groups, options.folds, options.seed + 1, of.level)
        for i in range(options.folds):
            train, new = np.flatnonzero(outer != i), np.flatnonzero(outer == i)
            parts.append(_part(f"fold {i}", of, train, new, options, 1, None))
    return parts, nested


def _part(
    name: str, of: Problem, train: np.ndarray, new: np.ndarray, options: Options, top: int, strata: np.ndarray | None
) -> Part:
    columns = [of.y[:, None], nulls.permuted(of.y, of.groups, options.permutations, [options.seed, 31], strata)]
    if of.level is not None:
        within = of.level if strata is None else np.unique(strata, return_inverse=True)[1] * 1000 + of.level
        columns.append(nulls.permuted(of.y, of.groups, options.permutations, [options.seed, 37], within))
    folds = inner_folds(of, train, options)
    inner = tuple(
        Part(f"{name} without {k}", train[folds != k], train[folds == k], of.y[:, None]) for k in range(options.folds)
    )
    return Part(name, train, new, np.concatenate(columns, axis=1), options.permutations, top, inner)


def inner_folds(of: Problem, train: np.ndarray, options: Options) -> np.ndarray:
    """Folds within training rows, the same for latents and probes."""
    return grouped_folds(of.groups[train], options.folds, options.seed, None if of.level is None else of.level[train])


def towards(of: Problem, way: int) -> Problem:
    """The problem with that way's class as the true one."""
    return replace(of, y=of.y if way == 0 else 1 - of.y, target=TARGETS.get(of.target, (of.target,) * 2)[way])


def threshold(a: np.ndarray, of: Problem, metric: str = "f1") -> tuple[float, str]:
    """A latent's threshold on tune, or on fit and tune where tune has under 5 rows of a class; and which it was."""
    for splits in (("tune",), ("fit", "tune")):
        here = np.isin(of.split, splits)
        if min(of.y[here].sum(), (1 - of.y[here]).sum()) >= 5:
            break
    return fs.active_threshold(a[here], of.y[here], metric), "+".join(splits)


# ---------------------------------------------------------------- the selected latents on test


def confirm(of: Problem, search: Search, labelled: np.ndarray, found: pd.DataFrame, options: Options) -> pd.DataFrame:
    """The selected latents on test, with intervals: rows of table `selected`; numbers of fit carry `fit_`."""
    part, known = search.parts[0], found.set_index(["site", "feature"]) if len(found) else found
    test, rows, draws = part.new, [], max(10 * options.permutations, 999)
    for way, name in enumerate(WAYS):
        mine = towards(of, way)
        for rank, leader in enumerate(search.leaders(part.name, way), 1):
            a = search.column(leader)[labelled]
            cut, where = threshold(a, mine)
            first = known.loc[(leader.site, leader.latent)]
            row = {
                "predictor": f"{name} {rank}", "predicts": name, "rank": rank, "site": leader.site,
                "feature": leader.latent, "threshold": cut, "threshold_on": where,
                **{f"fit_{c}": float(first[c]) for c in ("separation", "t", "auroc", "f_correct", "f_incorrect")},
                **{c: float(first[c]) for c in ("q", "max_t_p", "general_rate")},
                "discovered": bool(first["discovered"]),
            }  # fmt: skip
            row |= _measures(a[test], of.y[test], mine.y[test], of.groups[test], cut, options)
            null = nulls.permuted(mine.y[test], of.groups[test], draws, [options.seed, 41])
            row["p"] = _one_sided(a[test], mine.y[test], null, search.kind)
            rows.append(row)
    table = pd.DataFrame(rows)
    if len(table):
        looked = table["discovered"].to_numpy(dtype=bool)
        adjusted = np.full(len(table), np.nan)
        adjusted[looked] = nulls.holm(table["p"].to_numpy()[looked])
        table["holm"], table["confirmed"] = adjusted, np.nan_to_num(adjusted, nan=1.0) <= ALPHA
    return table


def _measures(
    a: np.ndarray, y: np.ndarray, towards_y: np.ndarray, groups: np.ndarray, cut: float, options: Options
) -> dict[str, Any]:
    on, said = (a > 0).astype(np.float64), a > cut
    thin = min(float(y.sum()), float((1 - y).sum())) < stats.MIN_CLASS
    note = f"fewer than {stats.MIN_CLASS} rows of a class in test: no intervals" if thin else ""
    out: dict[str, Any] = {"n": len(y), "n_pos": round(float(y.sum())), "note": note}
    for name, statistic in (
        ("separation", lambda w: fs.soft_separation(on, y, w)), ("t", lambda w: fs.soft_t(a, y, groups, w)),
        ("auroc", lambda w: fs.soft_auroc(a, y, w)), ("f1", lambda w: fs.soft_f1(said, towards_y, w)),
        ("f1_always", lambda w: fs.soft_f1(np.ones(len(a), bool), towards_y, w)),
        ("f1_gain", lambda w: fs.soft_f1(said, towards_y, w) - fs.soft_f1(np.ones(len(a), bool), towards_y, w)),
        ("f_correct", lambda w: fs.soft_rate(on, y, w)), ("f_incorrect", lambda w: fs.soft_rate(on, 1 - y, w)),
    ):  # fmt: skip
        if not len(y):
            out |= {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
            continue
        found = stats.bootstrap(statistic, groups, options.draws, options.seed)
        low, high = (np.nan, np.nan) if thin else (found.low, found.high)
        out |= {name: found.value, f"{name}_low": low, f"{name}_high": high}
    return out


def _one_sided(a: np.ndarray, y: np.ndarray, null: np.ndarray, kind: str) -> float:
    """Permutation p of the statistic in the direction of `y`; for t of the difference in means."""
    if len(y) < 2 or not 0 < y.mean() < 1:
        return float("nan")
    if kind == "auroc":
        from scipy.stats import rankdata

        a = rankdata(a)
    values = (a > 0).astype(np.float64) if kind == "separation" else a
    return nulls.p_value(float(values @ fs.contrasts(y[:, None])[:, 0]), values @ fs.contrasts(null))


# ---------------------------------------------------------------- beside the probe and the baselines


def out_of_fold(search: Search, part: Part, way: int, labelled: np.ndarray) -> np.ndarray:
    """Scores `[len(train)]` of a part's training rows by the latents that lead without them, in units of their spread.

    A latent that was chosen as the best of many on some rows shines on these rows, and a combination learned from them
    would trust it too far.
    """
    early = np.zeros(len(part.train))
    for inner in part.inner:
        b = search.column(search.leaders(inner.name, way)[0])[labelled]
        scale = max(float(b[inner.train].std()), 1e-12)
        early[np.isin(part.train, inner.new)] = (b[inner.new] - b[inner.train].mean()) / scale
    return early


def latent_held(of: Problem, way: int, part: Part, search: Search, labelled: np.ndarray, options: Options,
                position: str) -> Held | None:  # fmt: skip
    """The part's leading latent on its held-out rows with everything that stands beside it; None without a leader."""
    leaders = [search.leaders(p.name, way)[:1] for p in (part, *part.inner)]
    if not all(leaders):
        return None
    mine, main = towards(of, way), leaders[0][0]
    a, train, new = search.column(main)[labelled], part.train, part.new
    y, folds = mine.y, inner_folds(of, train, options)
    early = out_of_fold(search, part, way, labelled)
    scaled = (a - a[train].mean()) / max(a[train].std(), 1e-12)
    base, _ = baselines_at(mine, options.baselines, position)
    combined = combine(take(base, train), y[train], folds, early, take(base, new), scaled[new])
    like = search.matched[part.name, main.site, main.latent][labelled].toarray().astype(np.float64)
    if not like.shape[1]:  # nothing else to draw from
        like = np.full((len(labelled), 1), np.nan)
    flip = part.labels if way == 0 else 1 - part.labels
    luck, last = search.by_luck(part, way, labelled[new]), 1 + part.shuffles
    predicted = {}
    if of.binary:
        for metric in ("f1", "accuracy"):
            on_tune = threshold(a, mine, metric)[0]
            predicted[metric] = a[new] > (
                on_tune if part.name == "fit" else fs.active_threshold(a[train], y[train], metric)
            )
    slope, offset = np.polyfit(scaled[train], y[train], 1) if np.ptp(a[train]) > 0 else (0.0, float(y[train].mean()))
    return Held(
        y=y[new], groups=of.groups[new], scores=scaled[new], folds=np.zeros(len(new), dtype=np.int64),
        predicted=predicted, calibrated=slope * scaled[new] + offset, combined=combined,
        random=signed(like[train], y[train], like[new]),
        shuffled=(luck[:, : part.shuffles], flip[new][:, 1:last]),
        strata=(luck[:, part.shuffles :], flip[new][:, last:]) if flip.shape[1] > last else None,
        null="searches on labels shuffled by group, scored on the held-out rows",
    )  # fmt: skip


def probe_held(
    of: Problem, way: int, part: Part, kind: str, site: str, position: str, x: np.ndarray, options: Options
) -> Held:
    """A probe of the activations that the dictionary reads, fitted on the part's training rows."""
    mine, train, last = towards(of, way), part.train, 1 + part.shuffles
    labels = {kind: mine.y[train][:, None]}
    everyone = np.ones(len(train), dtype=bool)
    found = scan(x[train], everyone, inner_folds(of, train, options), labels, everyone, options)
    value, s, penalty = found[kind]
    choice = Choice((site, position), kind, float(value[0]), penalty, s)
    flip = part.labels if way == 0 else 1 - part.labels
    sets = [flip[:, 1:last]] + ([flip[:, last:]] if flip.shape[1] > last else [])
    return held_out(mine, x, train, part.new, choice, (s, mine.y[train]), sets, options)[0]
