"""A chosen probe, fitted on some rows and applied to others: scores, nulls, random directions, baselines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gnomon import nulls
from gnomon.methods.baselines import Columns, choose, combine, take
from gnomon.methods.controls import Held, best_threshold, signed, single_baselines
from gnomon.methods.folds import grouped_folds
from gnomon.methods.linear import LinearProbe, fitter
from gnomon.methods.probing import Choice, Options, Problem, kinds


def baselines_at(of: Problem, names: Sequence[str] | None, *positions: str) -> tuple[Columns, list[str]]:
    """The baselines a probe at these positions has to beat, and what was left out."""
    return choose(of.offered, names, of.target, any(p != "last_prompt" for p in positions))


def held_out(
    of: Problem,
    x: np.ndarray,
    train: np.ndarray,
    new: np.ndarray,
    choice: Choice,
    early: tuple[np.ndarray, np.ndarray],
    shuffles: Sequence[np.ndarray],
    options: Options,
    bases: dict[tuple[str, ...], np.ndarray] | None = None,
) -> tuple[Held, LinearProbe, dict[str, float]]:
    """Fit a choice on rows `train`, score rows `new` (both index the problem's rows, as does `x [n, d]`).

    `early` holds scores and targets on which thresholds are set; `choice.scores` are out-of-fold, of `train`.
    `bases` keeps what the baselines alone say, for the next choice on the same rows.
    """
    y, seed = of.y, options.seed
    folds = grouped_folds(of.groups[train], options.folds, seed, of.level[train] if of.level is not None else None)
    model = fitter(choice.predictor, x[train], options.penalties)
    probe = model.probe(y[train], choice.penalty)
    scores = probe.scores(x[new])
    base, _ = baselines_at(of, options.baselines, choice.candidate[1])
    known, fresh = take(base, train), take(base, new)
    combined = combine(known, y[train], folds, choice.scores, fresh, scores, (bases or {}).get(tuple(known)))
    if bases is not None:
        bases[tuple(known)] = combined.base
    directions = np.random.default_rng([seed, 17]).standard_normal((x.shape[1], options.random))
    centre = x[train].mean(axis=0)
    turned = signed((x[train] - centre) @ directions, y[train], (x[new] - centre) @ directions)
    refits = []
    for labels in shuffles:
        columns = labels[:, : options.shuffles(choice.predictor)]
        _, penalty = model.out_of_fold(columns[train], folds)
        refits.append((model.held_out(x[new], columns[train], penalty), columns[new]))
    thresholds = {m: best_threshold(*early, m) for m in ("f1", "accuracy")} if of.binary else {}
    slope, offset = np.polyfit(choice.scores, y[train], 1) if not of.binary else (1.0, 0.0)
    held = Held(
        y=y[new],
        groups=of.groups[new],
        scores=scores,
        folds=np.zeros(len(new), dtype=np.int64),
        predicted={m: scores > t for m, t in thresholds.items()},
        calibrated=slope * scores + offset,
        combined=combined,
        random=turned,
        shuffled=refits[0],
        strata=refits[1] if len(refits) > 1 else None,
    )
    return held, probe, thresholds


def shuffles_of(of: Problem, options: Options, strata: np.ndarray | None) -> list[np.ndarray]:
    """Label shuffles `[n, draws]` by group; a second set within difficulty where that is known."""
    most = max(options.shuffles(k) for k in kinds(of, options))
    sets = [nulls.permuted(of.y, of.groups, most, [options.seed, 2], strata)]
    if of.level is not None:
        both = of.level if strata is None else np.unique(strata, return_inverse=True)[1] * 1000 + of.level
        sets.append(nulls.permuted(of.y, of.groups, most, [options.seed, 3], both))
    return sets


def singles_of(
    of: Problem, parts: Sequence[tuple[np.ndarray, np.ndarray]], positions: set[str], options: Options
) -> list[dict[str, np.ndarray]]:
    """Each baseline alone, fitted and scored like the probes: a dict of predictions per part."""
    base, _ = baselines_at(of, options.baselines, *positions)
    out = []
    for train, new in parts:
        folds = grouped_folds(of.groups[train], options.folds, options.seed)
        out.append(single_baselines(take(base, train), of.y[train], folds, take(base, new)))
    return out
