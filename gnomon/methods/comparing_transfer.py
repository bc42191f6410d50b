"""Tables of a comparison site by site: probes of two models read on each other, with intervals and shuffled labels.

Folds share training rows, so what they score together scatters more than its rows do: half-widths, and shuffled labels
about their mean, grow by sqrt(1 + k n_test / n_train), 1.5 for k = 5 (Nadeau & Bengio 2003). Without that a probe of
noise is called better than shuffled labels in 11% of runs at p <= .05.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import rankdata

from gnomon import nulls, stats
from gnomon.methods.comparing import Setting
from gnomon.methods.comparing_layers import PATHS, READ, Held, Plan, Question, score, widened


def sweep_lines(of: Question, where: Plan, held: Held, setting: Setting) -> list[dict[str, Any]]:
    """Within and transfer of one site on fit and tune rows, with intervals."""
    lines = []
    for path, scores in held.sweep.items():
        known = np.flatnonzero(where.searched & np.isfinite(scores))
        line = _common(of, held.site, held.position, path)
        if len(known):
            y, folds = of.y(READ[path])[known], where.inner[known]
            found = stats.bootstrap(
                lambda w, s=scores[known], y=y, f=folds: score(of, s, y, f, w), of.groups[known],
                min(setting.draws, 200), [setting.seed, 45],
            )  # fmt: skip
            found = _wide(found, widened(folds))
            lines.append(line | _ends(found, len(known), of.groups[known]))
    return lines


def chosen(sites: Sequence[Held], fold: int) -> Held | None:
    """The site with the highest mean within-score outside an outer fold; None where nowhere is one."""
    known = [h for h in sites if np.isfinite(h.inner.get(fold, np.nan))]
    return max(known, key=lambda h: h.inner[fold]) if known else None


def transfer_lines(
    of: Question, where: Plan, sites: Sequence[Held], setting: Setting
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines of the tested rows at the chosen sites (with controls and losses), and which site each fold chose."""
    n = len(of.groups)
    scores = {f + r: np.full(n, np.nan) for f, r in PATHS}
    choices = []
    for fold in np.unique(where.outer[where.tested]).tolist():
        best = chosen(sites, fold)
        if best is None:
            continue
        here = where.outer == fold
        for path in scores:
            scores[path][here] = best.outer[path][here]
        choices.append({"of": of.of, "target": of.target, "fold": fold if where.nested else -1, "site": best.site,
                        "position": best.position, "value": best.inner[fold]})  # fmt: skip
    site = choices[0]["site"] if len({c["site"] for c in choices}) == 1 else "chosen in each fold"
    position = choices[0]["position"] if len({c["position"] for c in choices}) == 1 else ""
    folds = where.outer if where.nested else np.zeros(n, dtype=np.int64)
    out: list[dict[str, Any]] = []
    for path in scores:
        line = _common(of, site, position, path)
        known = np.flatnonzero(where.tested & np.isfinite(scores[path]))
        out += tested(of, line, scores[path], known, folds, setting, where.widen)
    for path, own in (("ab", "bb"), ("ba", "aa")):
        known = np.flatnonzero(where.tested & np.isfinite(scores[path]) & np.isfinite(scores[own]))
        line = _common(of, site, position, path) | {"metric": "loss"}
        y = of.y(READ[path])[known]
        one, two, f = scores[path][known], scores[own][known], folds[known]
        found = _interval(
            of, y, of.groups[known],
            lambda w, a=one, b=two, y=y, f=f: score(of, a, y, f, w) - score(of, b, y, f, w), setting, where.widen,
        )  # fmt: skip
        out.append(line | _ends(found, len(known), of.groups[known]))
    return out, choices


def tested(
    of: Question, line: dict[str, Any], values: np.ndarray, known: np.ndarray, folds: np.ndarray, setting: Setting,
    widen: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """A path's value on the tested rows, and beside it labels shuffled by group within the folds."""
    y, groups, f, s = of.y(line["read_on"])[known], of.groups[known], folds[known], values[known]
    found = _interval(of, y, groups, lambda w: score(of, s, y, f, w), setting, widen)
    if not len(known):
        return [line | _ends(found, 0, groups)]
    null = shuffled(of, s, y, groups, f, setting)
    null = null + (widen - 1) * (null - np.nanmean(null)) if np.isfinite(null).any() else null
    low, high = np.nanquantile(null, (0.025, 0.975)) if np.isfinite(null).any() else (np.nan, np.nan)
    p = nulls.p_value(found.value, null) if np.isfinite(found.value) else np.nan
    control = stats.Interval(float(np.nanmean(null)) if np.isfinite(null).any() else np.nan, float(low), float(high),
                             f"{len(null)} shuffles of the labels, by group")  # fmt: skip
    return [line | _ends(found, len(known), groups) | {"p": p},
            line | _ends(control, len(known), groups) | {"control": "shuffled"}]  # fmt: skip


def shuffled(
    of: Question, values: np.ndarray, y: np.ndarray, groups: np.ndarray, folds: np.ndarray, setting: Setting
) -> np.ndarray:
    """The score under labels shuffled by group within the folds: `[draws]`."""
    count, seed = min(setting.permutations, 499), [setting.seed, 46]
    if of.binary:
        return nulls.auroc_columns(values, nulls.permuted(y, groups, count, seed, folds), folds)
    left, right = centred_ranks(values, folds), centred_ranks(y, folds)  # ranks within a fold move with their rows
    scale = np.sqrt((left**2).sum() * (right**2).sum())
    return left @ nulls.permuted(right, groups, count, seed, folds) / scale if scale > 0 else np.full(count, np.nan)


def centred_ranks(values: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Mid-ranks within each fold over its size, about their mean: `[n]`; their products are Spearman's."""
    out = np.zeros(len(values))
    for fold in np.unique(folds):
        here = folds == fold
        out[here] = (rankdata(values[here]) - (here.sum() + 1) / 2) / here.sum()
    return out


def _interval(
    of: Question, y: np.ndarray, groups: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], setting: Setting,
    widen: float,
) -> stats.Interval:  # fmt: skip
    if not len(y):
        return stats.Interval(float("nan"), note="no tested rows, or one class only, or sides of another width")
    seeded: dict[str, Any] = {"draws": setting.draws, "seed": [setting.seed, 47]}
    if of.binary:
        found = stats.class_interval(statistic, y.astype(bool), groups, "test", f"transfer of {of.of}", **seeded)
    else:
        found = stats.bootstrap(statistic, groups, **seeded)
    return _wide(found, widen)


def _wide(found: stats.Interval, by: float) -> stats.Interval:
    low, high = (found.value + by * (end - found.value) for end in (found.low, found.high))
    return replace(found, low=max(low, -1.0), high=min(high, 1.0))  # a NaN stays one


def _common(of: Question, site: str, position: str, path: str) -> dict[str, Any]:
    return {"of": of.of, "target": of.target, "site": site, "position": position, "fitted_on": path[0],
            "read_on": path[1], "metric": "auroc" if of.binary else "spearman", "control": "", "p": np.nan}  # fmt: skip


def _ends(found: stats.Interval, n: int, groups: np.ndarray) -> dict[str, Any]:
    return {"value": found.value, "ci_low": found.low, "ci_high": found.high, "n": n,
            "groups": len(np.unique(groups)), "note": found.note}  # fmt: skip
