"""Anybody's direction through every control: what a probe of our own has to pass, for a vector from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from gnomon import nulls
from gnomon.methods.baselines import combine, take
from gnomon.methods.controls import (
    COLUMNS,
    Held,
    Setting,
    baseline_rows,
    best_threshold,
    held_out_rows,
    metric_of,
    shuffled_labels,
    signed,
    single_baselines,
)
from gnomon.methods.folds import grouped_folds


def direction_controls(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    splits: np.ndarray,
    baselines: Mapping[str, np.ndarray] | None = None,
    *,
    difficulty: np.ndarray | None = None,
    random_scores: np.ndarray | None = None,
    fit_scores: np.ndarray | None = None,
    thresholds: Mapping[str, float] | None = None,
    split: str = "test",
    predictor: str = "given",
    where: Mapping[str, Any] | None = None,
    setting: Setting | None = None,
) -> pd.DataFrame:
    """Send one fixed direction through every control: rows of the scores table (COLUMNS), for rows of `split`.

    Args:
        scores: `[n]`, activations times the direction; larger means the target is true, as the claim has it.
        labels: `[n]`, bool or real; leave unparsed rows out.
        groups, splits: `[n]`; signs and combinations are learned on rows of `fit`, thresholds on `tune` too.
        baselines: columns `[n]` by name (`baselines.choose`; a DataFrame will do); None leaves out the increment.
        difficulty: `[n]`, for the shuffles within difficulty.
        random_scores: `[n, R]`, activations times random directions (`Direction.random_controls`).
        fit_scores: `[n]` to be used for fit rows instead of `scores`: out-of-fold ones, where the direction was itself
            fitted on these rows. Without them such a direction's increment comes out too low.
        thresholds: of `f1` and `accuracy`, fixed elsewhere; else learned here.
        where: constant columns (generation, target, site, position, selected).

    The direction is not refitted, so its shuffled null shuffles the labels of the held-out rows.
    """
    setting, y = setting or Setting(what="direction"), np.asarray(labels, dtype=np.float64)
    groups, splits = np.asarray(groups), np.asarray(splits)
    held_out, fit, early = splits == split, splits == "fit", np.isin(splits, ("fit", "tune"))
    s_fit = np.asarray(scores if fit_scores is None else fit_scores, dtype=np.float64)
    used = np.where(fit, s_fit, scores)
    held = Held(y[held_out], groups[held_out], np.asarray(scores, np.float64)[held_out], np.zeros(held_out.sum(), int))
    metric = metric_of(y)
    if metric.name == "auroc" and (thresholds or early.any()):
        cuts = thresholds or {m: best_threshold(used[early], y[early], m) for m in ("f1", "accuracy")}
        held = replace(held, predicted={m: held.scores > c for m, c in cuts.items()})
    if baselines is not None:
        folds = grouped_folds(groups[fit], 5, setting.seed)
        known, new = take(baselines, fit), take(baselines, held_out)
        combined = combine(known, y[fit], folds, s_fit[fit], new, held.scores)
        singles = single_baselines(known, y[fit], folds, new)
        held = replace(held, combined=combined, singles=singles)
    if random_scores is not None:
        held = replace(held, random=signed(random_scores[fit], y[fit], random_scores[held_out]))
    shuffle = shuffled_labels(held.y, held.groups, setting.permutations, [setting.seed, 12])
    held = replace(held, null="shuffles of the held-out labels by group")
    held = replace(held, shuffled=(held.scores[:, None], shuffle))
    if difficulty is not None and np.isfinite(difficulty[held_out]).any():
        level = nulls.quantile_strata(np.asarray(difficulty, dtype=np.float64)[held_out])
        within = shuffled_labels(held.y, held.groups, setting.permutations, [setting.seed, 13], level)
        held = replace(held, strata=(held.scores[:, None], within))
    fixed = {"split": split} | dict(where or {})
    rows = held_out_rows(held, predictor, fixed, setting) + baseline_rows(held, fixed, setting)
    return pd.DataFrame(rows, columns=list(COLUMNS))
