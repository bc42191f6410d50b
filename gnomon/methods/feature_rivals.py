"""The leading latent beside its rivals: rows of `scores` and `by_difficulty`, on test and in cross-validation.

feature minus logistic = AUROC(latent) - AUROC(probe of the same activations)      paired, groups resampled
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gnomon import stats
from gnomon.methods.controls import RANDOM, Held, Rows, Setting, baseline_rows, held_out_rows, metric_of
from gnomon.methods.feature_heldout import latent_held, probe_held, towards
from gnomon.methods.feature_search import Leader, Search
from gnomon.methods.heldout import singles_of
from gnomon.methods.nested import join as joined
from gnomon.methods.probing import Options, Problem, kinds

Site = Callable[[str], np.ndarray]
"""Activations `[n, d]` of the labelled rows at a site."""


def score_rows(
    of: Problem, search: Search, labelled: np.ndarray, site: Site, position: str, options: Options, probes: bool,
    bins: list[dict[str, Any]],
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of table `scores`: for each way the leading latent, the probes and the baselines; test and, nested, cv.

    `bins` is filled with AUROC by difficulty.
    """
    rows: list[dict[str, Any]] = []
    tries = [("test", search.parts[:1])] + ([("cv", search.parts[1:])] if len(search.parts) > 1 else [])
    for way in range(2):
        mine = towards(of, way)
        for split, parts in reversed(tries):
            held = [latent_held(of, way, p, search, labelled, options, position) for p in parts]
            if not all(h is not None and len(h.y) for h in held):
                continue
            main = [search.leaders(p.name, way)[0] for p in parts]
            setting = Setting(options.draws, max(options.permutations * 10, 999), options.seed, what="features")
            if split == "cv":
                setting = replace(setting, widen=float(np.sqrt(1 + options.folds / (options.folds - 1))))
            whole = _whole([h for h in held if h is not None])
            names = {f.site for f in main}
            where = {
                "generation": of.generation, "target": mine.target, "split": split, "position": position,
                "site": names.pop() if len(names) == 1 else "per fold", "selected": split == tries[-1][0],
                "note": _named(main, split, len(of.y)),
            }  # fmt: skip
            rows += [_told(r) for r in held_out_rows(whole, "feature", where, setting)]
            plain = where | {"selected": False, "note": ""}
            bins += difficulty_bins(mine, whole, "feature", where, parts, setting)
            for kind in kinds(of, replace(options, predictors=("difference", "logistic"))) if probes else ():
                beside = _whole([
                    probe_held(of, way, p, kind, f.site, position, site(f.site), options)
                    for p, f in zip(parts, main, strict=True)
                ])  # fmt: skip
                rows += held_out_rows(beside, kind, plain, setting, f"increment of {kind}")
                rows += _against(whole, beside, kind, plain, setting)
                bins += difficulty_bins(mine, beside, kind, plain, parts, setting)
            singles = singles_of(mine, [(p.train, p.new) for p in parts], {position}, options)
            whole = replace(whole, singles={b: np.concatenate([s[b] for s in singles]) for b in singles[0]})
            rows += baseline_rows(whole, plain, setting)
    return rows


def _whole(parts: list[Held]) -> Held:
    width = min(h.random.shape[1] for h in parts if h.random is not None)  # a fold may have fewer latents to draw from
    parts = [replace(h, random=h.random[:, :width]) for h in parts if h.random is not None]
    return replace(joined(parts), null=parts[0].null)


def _named(leaders: list[Leader], split: str, n: int) -> str:
    names = [f"feature {f.latent} of {f.site}" for f in leaders]
    if split == "test":
        return names[0]
    counted = ", ".join(f"{name} ({names.count(name)})" for name in dict.fromkeys(names))
    return f"chosen anew in each of {len(names)} folds of all {n} rows: {counted}; interval widened 1.5x"


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """The random control of a latent is other latents."""
    if row["control"] == RANDOM and np.isnan(row["value"]):
        row |= {"note": "no other latent of the site to draw from"}
    elif row["control"] == RANDOM:
        count = row["note"].split("range of ")[-1].split(" ")[0]
        row |= {"note": f"mean and 95% range of {count} random latents of the site that are active as often, signed on "
                        "the training rows"}  # fmt: skip
    return row


def _against(latent: Held, probe: Held, kind: str, where: dict[str, Any], setting: Setting) -> list[dict[str, Any]]:
    """Latent minus probe, paired."""
    out, metric = Rows(latent, where, setting), metric_of(latent.y)
    y = latent.y > 0 if latent.binary else latent.y

    def gain(w: np.ndarray) -> np.ndarray:
        a, b = (metric.one(h.scores, y, w, h.folds) for h in (latent, probe))
        return a - b

    found = out.interval(gain, share=False)
    out.add(f"feature minus {kind}", metric.name, found, note="; ".join(t for t in (found.note, "paired") if t))
    return out.rows


def difficulty_bins(
    of: Problem, held: Held, predictor: str, where: dict[str, Any], parts: Any, setting: Setting
) -> list[dict[str, Any]]:
    """AUROC (or rank correlation) within quantile bins of difficulty: rows of table `by_difficulty`."""
    if of.level is None:
        return []
    new = np.concatenate([p.new for p in parts])
    level, hard, metric, out = of.level[new], of.difficulty[new], metric_of(held.y), []
    for bin_ in np.unique(level[level >= 0]).tolist():
        here = level == bin_
        y, s, f = held.y[here], held.scores[here], held.folds[here]
        target = y > 0 if held.binary else y
        small = Rows(Held(y, held.groups[here], s, f), where, setting)
        both = not held.binary or (target.any() and not target.all())
        found = small.interval(lambda w, s=s, t=target, f=f: metric.one(s, t, w, f)) if both else stats.Interval(np.nan)
        out.append({
            "target": where["target"], "split": where["split"], "predictor": predictor, "bin": int(bin_) + 1,
            "easiest": float(hard[here].min()), "hardest": float(hard[here].max()), "metric": metric.name,
            "value": found.value, "ci_low": found.low, "ci_high": found.high, "n": int(here.sum()),
            "n_pos": int(target.sum()) if held.binary else 0, "selected": bool(where["selected"]),
            "note": found.note if both else "one class only",
        })  # fmt: skip
    return out
