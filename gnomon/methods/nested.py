"""Nested grouped cross-validation: for few groups, every choice is redone without each fifth, which is then scored.

Site, position, kind of probe, penalty, thresholds and the combination with the baselines are chosen on four fifths of
the groups by cross-validation inside them. Pairs are compared within outer folds only. The folds share training rows,
so their scores are not independent and a bootstrap over groups is too narrow: half-widths are multiplied by
sqrt(1 + k n_test / n_train), 1.5 for k = 5 (Nadeau & Bengio 2003).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from gnomon.methods.baselines import Combined
from gnomon.methods.controls import Held, Setting, baseline_rows, held_out_rows
from gnomon.methods.folds import grouped_folds, map_threads, widening
from gnomon.methods.heldout import held_out, shuffles_of, singles_of
from gnomon.methods.probing import Candidate, Choice, Options, Problem, Read, best, kinds, scan


def nested(
    of: Problem,
    read: Read,
    candidates: Sequence[Candidate],
    options: Options,
    where: dict[str, Any],
    setting: Setting,
    done: Callable[[int], Any] | None,
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Score rows of split "cv", and the choice of each outer fold (fold, site, position, predictor, ...)."""
    k, n = options.folds, len(of.y)
    outer = grouped_folds(of.groups, k, options.seed + 1, of.level)
    trains = [np.flatnonzero(outer != i) for i in range(k)]
    news = [np.flatnonzero(outer == i) for i in range(k)]
    level = of.level
    inner = [grouped_folds(of.groups[t], k, options.seed, level[t] if level is not None else None) for t in trains]

    def work(candidate: Candidate) -> list[list[Choice]]:
        x, out = np.asarray(read(candidate, of.rows)), []
        for train, folds in zip(trains, inner, strict=True):
            every = np.ones(len(train), dtype=bool)
            labels = dict.fromkeys(kinds(of, options), of.y[train][:, None])
            scored = scan(x[train], every, folds, labels, every, options)
            out.append([Choice(candidate, kind, float(v[0]), p, s) for kind, (v, s, p) in scored.items()])
        return out

    by_candidate = map_threads(work, candidates, done)
    choices = [[c for part in by_candidate for c in part[i]] for i in range(k)]
    per_kind = {
        kind: [best([c for c in fold if c.predictor == kind]) for fold in choices] for kind in kinds(of, options)
    }
    chosen = [best([per_kind[kind][i] for kind in per_kind]) for i in range(k)]
    families = dict(per_kind)
    same = {c.predictor for c in chosen}
    name = same.pop() if len(same) == 1 else "probe"
    families[name] = chosen
    shuffles, rows = shuffles_of(of, options, None), []
    wide = replace(setting, widen=widening(k))

    def fold(i: int) -> dict[str, Held]:
        bases: dict[tuple[str, ...], np.ndarray] = {}
        done_here: dict[int, Held] = {}
        for pick in {id(family[i]): family[i] for family in families.values()}.values():
            x = np.asarray(read(pick.candidate, of.rows), dtype=np.float64)
            early = (pick.scores, of.y[trains[i]])
            held, _, _ = held_out(of, x, trains[i], news[i], pick, early, shuffles, options, bases)
            done_here[id(pick)] = held
        return {kind: done_here[id(family[i])] for kind, family in families.items()}

    parts = map_threads(fold, range(k))
    for kind in sorted(families, key=lambda f: f != name):
        picks, held = families[kind], join([p[kind] for p in parts])
        place = where | {
            "site": _one(p.candidate[0] for p in picks), "position": _one(p.candidate[1] for p in picks),
            "selected": kind == name,
            "note": f"chosen anew in each of {k} folds of all {n} rows: {_count(picks)}; interval widened 1.5x",
        }  # fmt: skip
        rows += held_out_rows(held, kind, place, wide, "increment" if kind == name else f"increment of {kind}")
        if kind == name:
            positions = {p.candidate[1] for p in picks}
            singles = singles_of(of, list(zip(trains, news, strict=True)), positions, options)
            held = replace(held, singles={b: np.concatenate([s[b] for s in singles]) for b in singles[0]})
            rows += baseline_rows(held, place | {"selected": False, "note": ""}, wide)
    table = pd.DataFrame([
        {"fold": i, "site": c.candidate[0], "position": c.candidate[1], "predictor": c.predictor, "penalty": c.penalty,
         "n_train": len(trains[i]), "n": len(news[i]), "value": c.value}
        for i, c in enumerate(chosen)
    ])  # fmt: skip
    return rows, table


def _one(values: Any) -> str:
    """The value that all folds agree on, else "per fold"."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else "per fold"


def _count(picks: Sequence[Choice]) -> str:
    names = [f"{p.predictor} at {p.candidate[0]}@{p.candidate[1]}" for p in picks]
    return ", ".join(f"{name} ({names.count(name)})" for name in dict.fromkeys(names))


def join(parts: Sequence[Held]) -> Held:
    """Outer folds, one after the other."""

    def stack(values: Sequence[np.ndarray | None], axis: int = 0) -> np.ndarray:
        return np.concatenate([v for v in values if v is not None], axis=axis)

    def nulls_of(pairs: Sequence[tuple[np.ndarray, np.ndarray] | None]) -> tuple[np.ndarray, np.ndarray] | None:
        known = [p for p in pairs if p is not None]
        if not known:
            return None
        width = min(s.shape[1] for s, _ in known)
        return stack([s[:, :width] for s, _ in known]), stack([y[:, :width] for _, y in known])

    combined = [p.combined for p in parts if p.combined is not None]
    return Held(
        y=stack([p.y for p in parts]),
        groups=stack([p.groups for p in parts]),
        scores=stack([p.scores for p in parts]),
        folds=np.repeat(np.arange(len(parts)), [len(p.y) for p in parts]),
        predicted={m: stack([p.predicted[m] for p in parts]) for m in parts[0].predicted},
        calibrated=stack([p.calibrated for p in parts]),
        combined=Combined(*(stack([getattr(c, f) for c in combined]) for f in Combined.__dataclass_fields__))
        if combined
        else None,
        singles={name: stack([p.singles[name] for p in parts]) for name in parts[0].singles},
        random=stack([p.random for p in parts]),
        shuffled=nulls_of([p.shuffled for p in parts]),
        strata=nulls_of([p.strata for p in parts]),
    )
